//! JSON of anything that is `Serialize` and has text for its keys; only what reports need.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Write};

use serde::ser::{self, Serialize};

/// The value as JSON, on one line. Numbers that JSON lacks are null.
pub(crate) fn to_string(value: &impl Serialize) -> String {
    let mut writer = Writer(String::new());
    match value.serialize(&mut writer) {
        Ok(()) => writer.0,
        // Statistics have nothing in them that could not be written.
        Err(Unsupported) => "null".to_owned(),
    }
}

struct Writer(String);

/// Something reports do not have: bytes, or keys that are no text.
#[derive(Debug)]
struct Unsupported;

impl Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not to be written as JSON")
    }
}

impl std::error::Error for Unsupported {}

impl ser::Error for Unsupported {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

type Written<T = ()> = Result<T, Unsupported>;

impl Writer {
    fn plain(&mut self, value: impl Display) -> Written {
        write!(self.0, "{value}").map_err(|_| Unsupported)
    }

    fn text(&mut self, text: &str) -> Written {
        self.0.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                letter if letter < ' ' => self.plain(format_args!("\\u{:04x}", letter as u32))?,
                letter => self.0.push(letter),
            }
        }
        self.0.push('"');
        Ok(())
    }

    fn open<'a>(&'a mut self, bracket: char, close: &'static str) -> List<'a> {
        self.0.push(bracket);
        List {
            writer: self,
            close,
            any: false,
        }
    }

    /// An object of one key, as variants with values are.
    fn variant(&mut self, name: &str) -> Written {
        self.0.push('{');
        self.text(name)?;
        self.0.push(':');
        Ok(())
    }
}

/// A list or an object under way.
struct List<'a> {
    writer: &'a mut Writer,
    close: &'static str,
    any: bool,
}

impl List<'_> {
    fn comma(&mut self) {
        if std::mem::replace(&mut self.any, true) {
            self.writer.0.push(',');
        }
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.comma();
        value.serialize(&mut *self.writer)
    }

    fn field<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Written {
        self.comma();
        self.writer.text(key)?;
        self.writer.0.push(':');
        value.serialize(&mut *self.writer)
    }

    fn close(self) -> Written {
        self.writer.0.push_str(self.close);
        Ok(())
    }
}

macro_rules! plain {
    ($($name:ident: $type:ty,)*) => {
        $(
            fn $name(self, value: $type) -> Written {
                self.plain(value)
            }
        )*
    };
}

/// Lists and objects, by their brackets.
macro_rules! lists {
    ($($name:ident($($argument:ty),*): $open:literal, $close:literal;)*) => {
        $(
            fn $name(self, $(_: $argument),*) -> Written<List<'a>> {
                Ok(self.open($open, $close))
            }
        )*
    };
}

/// The same inside an object of one key.
macro_rules! variants {
    ($($name:ident: $open:literal, $close:literal;)*) => {
        $(
            fn $name(
                self,
                _: &'static str,
                _: u32,
                variant: &'static str,
                _: usize,
            ) -> Written<List<'a>> {
                self.variant(variant)?;
                Ok(self.open($open, $close))
            }
        )*
    };
}

impl<'a> ser::Serializer for &'a mut Writer {
    type Ok = ();
    type Error = Unsupported;
    type SerializeSeq = List<'a>;
    type SerializeTuple = List<'a>;
    type SerializeTupleStruct = List<'a>;
    type SerializeTupleVariant = List<'a>;
    type SerializeMap = ser::Impossible<(), Unsupported>;
    type SerializeStruct = List<'a>;
    type SerializeStructVariant = List<'a>;

    plain! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
    }

    fn serialize_f32(self, value: f32) -> Written {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Written {
        if value.is_finite() {
            self.plain(format_args!("{value:?}"))
        } else {
            self.serialize_unit()
        }
    }

    fn serialize_char(self, value: char) -> Written {
        self.text(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Written {
        self.text(value)
    }

    fn serialize_bytes(self, _: &[u8]) -> Written {
        Err(Unsupported)
    }

    fn serialize_none(self) -> Written {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Written {
        self.plain("null")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.text(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Written {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Written {
        self.variant(variant)?;
        value.serialize(&mut *self)?;
        self.0.push('}');
        Ok(())
    }

    fn serialize_map(self, _: Option<usize>) -> Written<Self::SerializeMap> {
        Err(Unsupported)
    }

    lists! {
        serialize_seq(Option<usize>): '[', "]";
        serialize_tuple(usize): '[', "]";
        serialize_tuple_struct(&'static str, usize): '[', "]";
        serialize_struct(&'static str, usize): '{', "}";
    }

    variants! {
        serialize_tuple_variant: '[', "]}";
        serialize_struct_variant: '{', "}}";
    }
}

macro_rules! elements {
    ($($trait:ident: $method:ident($($key:ident)?) => $put:ident;)*) => {
        $(
            impl ser::$trait for List<'_> {
                type Ok = ();
                type Error = Unsupported;

                fn $method<T: Serialize + ?Sized>(
                    &mut self,
                    $($key: &'static str,)?
                    value: &T,
                ) -> Written {
                    self.$put($($key,)? value)
                }

                fn end(self) -> Written {
                    self.close()
                }
            }
        )*
    };
}

elements! {
    SerializeSeq: serialize_element() => element;
    SerializeTuple: serialize_element() => element;
    SerializeTupleStruct: serialize_field() => element;
    SerializeTupleVariant: serialize_field() => element;
    SerializeStruct: serialize_field(key) => field;
    SerializeStructVariant: serialize_field(key) => field;
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    enum Kind {
        Unit,
        New(u8),
        Pair(u8, i8),
        Named { a: f64 },
    }

    #[derive(Serialize)]
    struct All {
        text: &'static str,
        none: Option<u8>,
        some: Option<u64>,
        not_a_number: f64,
        whole: f64,
        small: f64,
        empty: Vec<u8>,
        kinds: Vec<Kind>,
        pair: (char, bool),
    }

    #[test]
    fn what_is_written_is_read_the_same_by_others() {
        let all = All {
            text: "a\"b\\c\n\u{1}\u{1f600}é",
            none: None,
            some: Some(u64::MAX),
            not_a_number: f64::NAN,
            whole: 3.0,
            small: 1e-9,
            empty: Vec::new(),
            kinds: vec![
                Kind::Unit,
                Kind::New(7),
                Kind::Pair(1, -1),
                Kind::Named { a: -0.5 },
            ],
            pair: ('"', true),
        };
        let ours: serde_json::Value = serde_json::from_str(&to_string(&all)).unwrap();
        assert_eq!(ours, serde_json::to_value(&all).unwrap());
    }

    #[test]
    fn what_reports_lack_is_null() {
        let map = std::collections::HashMap::from([("a", 1)]);
        assert_eq!(to_string(&map), "null");
    }
}
