//! Just enough of Rust's lexical structure to find a keyword: comments and literals are skipped.

/// Whether `keyword` stands in the code of `source`, outside comments, strings and longer names.
pub(crate) fn has_keyword(source: &str, keyword: &str) -> bool {
    let mut rest = source;
    // Whether the character before `rest` can be part of a name, so that no name starts here.
    let mut inside_name = false;
    while let Some(first) = rest.chars().next() {
        // Inside a name, a letter is no prefix of a literal.
        let skip = if inside_name && is_name(first) {
            0
        } else {
            comment_or_literal(rest)
        };
        if skip > 0 {
            rest = &rest[skip..];
            continue;
        }
        if !inside_name && is_name(first) {
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            if &rest[..length] == keyword {
                return true;
            }
        }
        inside_name = is_name(first);
        rest = &rest[first.len_utf8()..];
    }
    false
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Length in bytes of the comment or literal that `text` starts with; 0 when it starts with neither.
fn comment_or_literal(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    let quote = ["b\"", "c\"", "\""]
        .iter()
        .find(|prefix| text.starts_with(**prefix));
    if let Some(prefix) = quote {
        return prefix.len() + to_closing_quote(&text[prefix.len()..], '"');
    }
    if text.starts_with('\'') || text.starts_with("b'") {
        return character(text);
    }
    raw_string(text)
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else if let Some(c) = rest.chars().next() {
            at += c.len_utf8();
        } else {
            return at;
        }
    }
}

/// Bytes up to and including the quote that ends a literal with escapes.
fn to_closing_quote(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => (),
        }
    }
    text.len()
}

/// A character literal, or only the quote when a lifetime or a label begins here.
fn character(text: &str) -> usize {
    let start = text.find('\'').map_or(1, |at| at + 1);
    let mut inside = text[start..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => start + to_closing_quote(&text[start..], '\''),
        _ => start,
    }
}

/// `r"..."`, `r#"..."#`, also with `b` or `c` before; 0 when no raw string starts here.
fn raw_string(text: &str) -> usize {
    let prefix = ["r", "br", "cr"]
        .iter()
        .find(|prefix| text.starts_with(**prefix));
    let Some(prefix) = prefix else { return 0 };
    let after = &text[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let Some(body) = after[hashes..].strip_prefix('"') else {
        return 0;
    };
    let end = format!("\"{}", "#".repeat(hashes));
    let closed = body.find(&end).map_or(body.len(), |at| at + end.len());
    prefix.len() + hashes + 1 + closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyword_is_found_in_code_only() {
        let cases = [
            (true, "unsafe fn f() {}"),
            (true, "fn f() { unsafe{ g() } }"),
            (true, "unsafe impl Send for X {}"),
            (true, "#[unsafe(no_mangle)]"),
            (true, "// comment\nunsafe {}"),
            (true, "/* a /* b */ c */ unsafe {}"),
            (true, "let s = \"\\\"\"; unsafe {}"),
            (true, "let s = r#\"\"\"#; unsafe {}"),
            (true, "let c = '\"'; unsafe {}"),
            (true, "let c = '\\''; unsafe {}"),
            (true, "let c = b'\\\\'; unsafe {}"),
            (true, "fn f<'a>(x: &'a str) { unsafe {} }"),
            (true, "let r = bar\"\"; unsafe {}"),
            (false, ""),
            (false, "#![allow(unsafe_code)]"),
            (false, "not_unsafe(); unsafer();"),
            (false, "// unsafe"),
            (false, "//! unsafe\n/// unsafe\nfn f() {}"),
            (false, "/* /* */ unsafe */"),
            (false, "let s = \"unsafe\";"),
            (false, "let s = \"a \\\" unsafe\";"),
            (false, "let s = b\"unsafe\"; let t = c\"unsafe\";"),
            (false, "let s = r\"\\\"; let t = \" unsafe \";"),
            (false, "let s = r##\"\"# unsafe\"##;"),
            (false, "let s = br#\"unsafe\"#;"),
            (false, "let s = \"unterminated unsafe"),
            (false, "/* unterminated unsafe"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(want, source)| has_keyword(source, "unsafe") != *want)
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
