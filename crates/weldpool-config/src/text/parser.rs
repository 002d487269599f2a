//! From tokens to a message, as its descriptor says.
//!
//! A field's name is followed by a colon, which may be left out before a message or a list of
//! messages. Lists may be written as one list or one element at a time. A field may end with a
//! comma or a semicolon.

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};

use super::lexer::{Lexer, Token, TokenKind, Wrong};

/// Reads a whole text as one message.
pub(super) fn parse(text: &str, descriptor: MessageDescriptor) -> Result<DynamicMessage, Wrong> {
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut parser = Parser { lexer, token };
    let mut message = DynamicMessage::new(descriptor);
    while parser.token.kind != TokenKind::End {
        parser.field(&mut message)?;
    }
    Ok(message)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token that is looked at.
    token: Token<'a>,
}

impl<'a> Parser<'a> {
    /// Steps to the next token and returns the one it was.
    fn take(&mut self) -> Result<Token<'a>, Wrong> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// Steps over a symbol if it is there.
    fn take_symbol(&mut self, symbol: char) -> Result<bool, Wrong> {
        let is_there = self.token.kind == TokenKind::Symbol(symbol);
        if is_there {
            self.take()?;
        }
        Ok(is_there)
    }

    fn expected<T>(&self, what: impl std::fmt::Display) -> Result<T, Wrong> {
        Err(Wrong::new(
            format!("expected {what}, but found {}", self.token.kind),
            self.token.start,
        ))
    }

    fn field(&mut self, message: &mut DynamicMessage) -> Result<(), Wrong> {
        let start = self.token.start;
        let TokenKind::Identifier(name) = self.token.kind else {
            return self.expected("the name of a field");
        };
        let descriptor = message.descriptor();
        let Some(field) = descriptor.get_field_by_name(name) else {
            return Err(Wrong::new(
                format!("{} has no field '{name}'", descriptor.name()),
                start,
            ));
        };
        self.take()?;
        let is_message = matches!(field.kind(), Kind::Message(_));
        if !self.take_symbol(':')? && !is_message {
            return self.expected(format_args!("':' after '{name}'"));
        }
        if field.is_list() || field.is_map() {
            self.elements(message, &field)?;
        } else {
            check_unset(message, &field, start)?;
            let value = self.value(&field)?;
            message.set_field(&field, value);
        }
        if !self.take_symbol(',')? {
            self.take_symbol(';')?;
        }
        Ok(())
    }

    /// Reads one element or a list of them.
    fn elements(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
    ) -> Result<(), Wrong> {
        if !self.take_symbol('[')? {
            return self.element(message, field);
        }
        if self.take_symbol(']')? {
            return Ok(());
        }
        loop {
            self.element(message, field)?;
            if self.take_symbol(']')? {
                return Ok(());
            }
            if !self.take_symbol(',')? {
                return self.expected("',' or ']'");
            }
        }
    }

    fn element(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
    ) -> Result<(), Wrong> {
        let start = self.token.start;
        let value = self.value(field)?;
        match message.get_field_mut(field) {
            Value::List(values) => values.push(value),
            Value::Map(entries) => {
                let entry = match value {
                    Value::Message(entry) => map_entry(&entry),
                    _ => None,
                };
                let Some((key, value)) = entry else {
                    return Err(Wrong::new("expected a key and a value", start));
                };
                entries.insert(key, value);
            }
            other => *other = value,
        }
        Ok(())
    }

    /// Reads one value of the field's type.
    fn value(&mut self, field: &FieldDescriptor) -> Result<Value, Wrong> {
        match field.kind() {
            Kind::Message(descriptor) => self.message(descriptor).map(Value::Message),
            Kind::Enum(descriptor) => self.enumeration(&descriptor).map(Value::EnumNumber),
            Kind::Bool => self.truth().map(Value::Bool),
            Kind::String => self.string().map(Value::String),
            Kind::Bytes => self.bytes().map(|bytes| Value::Bytes(bytes.into())),
            Kind::Float => {
                // Rounded as C++ does it: through double precision.
                #[expect(clippy::cast_possible_truncation, reason = "overflow is infinity")]
                let value = self.float()? as f32;
                Ok(Value::F32(value))
            }
            Kind::Double => self.float().map(Value::F64),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                self.integer("a 32-bit integer").map(Value::I32)
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                self.integer("a 64-bit integer").map(Value::I64)
            }
            Kind::Uint32 | Kind::Fixed32 => {
                self.integer("an unsigned 32-bit integer").map(Value::U32)
            }
            Kind::Uint64 | Kind::Fixed64 => {
                self.integer("an unsigned 64-bit integer").map(Value::U64)
            }
        }
    }

    fn message(&mut self, descriptor: MessageDescriptor) -> Result<DynamicMessage, Wrong> {
        let start = self.token.start;
        let end = if self.take_symbol('{')? {
            '}'
        } else if self.take_symbol('<')? {
            '>'
        } else {
            return self.expected("'{'");
        };
        let mut message = DynamicMessage::new(descriptor);
        while !self.take_symbol(end)? {
            match self.token.kind {
                TokenKind::Identifier(_) => self.field(&mut message)?,
                TokenKind::End => {
                    return Err(Wrong::new(
                        format!("no '{end}' closes the message that begins here"),
                        start,
                    ));
                }
                _ => return self.expected(format_args!("the name of a field or '{end}'")),
            }
        }
        Ok(message)
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor) -> Result<i32, Wrong> {
        let TokenKind::Identifier(name) = self.token.kind else {
            return self.integer(&format!("a value of {}", descriptor.name()));
        };
        let Some(value) = descriptor.get_value_by_name(name) else {
            return Err(Wrong::new(
                format!("{} has no value '{name}'", descriptor.name()),
                self.token.start,
            ));
        };
        self.take()?;
        Ok(value.number())
    }

    fn truth(&mut self) -> Result<bool, Wrong> {
        let value = match self.token.kind {
            TokenKind::Identifier("true" | "True" | "t") => true,
            TokenKind::Identifier("false" | "False" | "f") => false,
            TokenKind::Number(number) => match whole(number) {
                Some(0) => false,
                Some(1) => true,
                _ => return self.expected("true or false"),
            },
            _ => return self.expected("true or false"),
        };
        self.take()?;
        Ok(value)
    }

    fn string(&mut self) -> Result<String, Wrong> {
        let start = self.token.start;
        String::from_utf8(self.bytes()?)
            .map_err(|_| Wrong::new("the string is not valid UTF-8", start))
    }

    /// Reads strings that follow each other as one.
    fn bytes(&mut self) -> Result<Vec<u8>, Wrong> {
        if !matches!(self.token.kind, TokenKind::String(_)) {
            return self.expected("a string");
        }
        let mut bytes = Vec::new();
        while let TokenKind::String(part) = &mut self.token.kind {
            bytes.append(part);
            self.take()?;
        }
        Ok(bytes)
    }

    fn integer<T: TryFrom<i128>>(&mut self, what: &str) -> Result<T, Wrong> {
        let start = self.token.start;
        let negative = self.take_symbol('-')?;
        let TokenKind::Number(number) = self.token.kind else {
            return self.expected(what);
        };
        let Some(size) = whole(number) else {
            return self.expected(what);
        };
        let value = if negative { -size } else { size };
        let value = T::try_from(value).map_err(|_| {
            let sign = if negative { "-" } else { "" };
            Wrong::new(format!("{sign}{number} is not {what}"), start)
        })?;
        self.take()?;
        Ok(value)
    }

    fn float(&mut self) -> Result<f64, Wrong> {
        let negative = self.take_symbol('-')?;
        let value = match self.token.kind {
            TokenKind::Number(number) => decimal(number),
            TokenKind::Identifier(name) => match name.to_ascii_lowercase().as_str() {
                "inf" | "infinity" => Some(f64::INFINITY),
                "nan" => Some(f64::NAN),
                _ => None,
            },
            _ => None,
        };
        let Some(value) = value else {
            return self.expected("a number");
        };
        self.take()?;
        Ok(if negative { -value } else { value })
    }
}

/// Refuses a field that was given already, or another alternative of the same choice.
fn check_unset(
    message: &DynamicMessage,
    field: &FieldDescriptor,
    start: usize,
) -> Result<(), Wrong> {
    if message.has_field(field) {
        return Err(Wrong::new(
            format!("'{}' is given more than once", field.name()),
            start,
        ));
    }
    let Some(choice) = field.containing_oneof() else {
        return Ok(());
    };
    match choice.fields().find(|other| message.has_field(other)) {
        Some(other) => Err(Wrong::new(
            format!(
                "'{}' cannot be given beside '{}'",
                field.name(),
                other.name()
            ),
            start,
        )),
        None => Ok(()),
    }
}

fn map_entry(entry: &DynamicMessage) -> Option<(MapKey, Value)> {
    let descriptor = entry.descriptor();
    let key = entry.get_field(&descriptor.map_entry_key_field());
    let value = entry.get_field(&descriptor.map_entry_value_field());
    Some((key.into_owned().into_map_key()?, value.into_owned()))
}

/// A whole number: decimal, hexadecimal after `0x`, octal after `0`.
fn whole(number: &str) -> Option<i128> {
    let (digits, radix) =
        if let Some(digits) = number.strip_prefix("0x").or(number.strip_prefix("0X")) {
            (digits, 16)
        } else if let Some(digits) = number.strip_prefix('0').filter(|digits| !digits.is_empty()) {
            (digits, 8)
        } else {
            (number, 10)
        };
    // Beyond 64 bits it is out of every range, whatever the exact value.
    let is_number = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    is_number.then(|| i128::from_str_radix(digits, radix).unwrap_or(i128::MAX))
}

/// A decimal number with or without a fraction, an exponent, or an `f` at the end.
fn decimal(number: &str) -> Option<f64> {
    if number.starts_with("0x") || number.starts_with("0X") {
        return None;
    }
    let is_octal = number.len() > 1
        && number.starts_with('0')
        && number.chars().all(|digit| digit.is_ascii_digit());
    if is_octal {
        return None;
    }
    number.trim_end_matches(['f', 'F']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_notation() {
        for (text, expected) in [
            ("0", Some(0)),
            ("42", Some(42)),
            ("0x2a", Some(42)),
            ("052", Some(42)),
            ("08", None),
            ("0x", None),
            ("4.0", None),
            ("4abc", None),
            (
                "99999999999999999999999999999999999999999999",
                Some(i128::MAX),
            ),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
        for (text, expected) in [
            ("1", Some(1.0)),
            ("1.5f", Some(1.5)),
            (".5", Some(0.5)),
            ("2e-1", Some(0.2)),
            ("0", Some(0.0)),
            ("0.1.2", None),
            ("0x1", None),
            ("017", None),
            ("e", None),
        ] {
            assert_eq!(decimal(text), expected, "{text}");
        }
    }
}
