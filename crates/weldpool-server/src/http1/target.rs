//! The request target: its path, its query, and percent-decoding on demand.

use std::borrow::Cow;

use super::error::{Error, Result};

/// Where path and query lie in a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// First byte of the path.
    pub(crate) path_start: usize,
    /// One past the last byte of the path.
    pub(crate) path_end: usize,
    /// First byte of the query, behind its question mark.
    pub(crate) query_start: Option<usize>,
}

/// Finds path and query in a target of origin form (`/v2?x=1`), absolute form
/// (`http://host/v2`) or, if `asterisk` allows it, in `*`.
pub(crate) fn split(target: &str, asterisk: bool) -> Result<Split> {
    if !target.is_ascii() || target.contains('#') {
        return Err(Error::malformed(
            "the request target holds a character that must be encoded",
        ));
    }
    if target == "*" && asterisk {
        return Ok(Split {
            path_start: 0,
            path_end: 1,
            query_start: None,
        });
    }
    let path_start = if target.starts_with('/') {
        0
    } else {
        authority_end(target).ok_or_else(|| {
            Error::malformed("the request target is neither a path nor an http address")
        })?
    };
    let question_mark = target[path_start..]
        .find('?')
        .map(|offset| path_start + offset);
    Ok(Split {
        path_start,
        path_end: question_mark.unwrap_or(target.len()),
        query_start: question_mark.map(|position| position + 1),
    })
}

/// The end of `scheme://authority` in an absolute target.
fn authority_end(target: &str) -> Option<usize> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.find(['/', '?']).unwrap_or(rest.len());
    (authority > 0).then_some(scheme.len() + "://".len() + authority)
}

/// Undoes the percent-encoding of a path segment or of a query's key or value; borrows when there
/// is none.
///
/// # Errors
///
/// [`ErrorKind::Malformed`](super::ErrorKind::Malformed) if a `%` is not followed by two
/// hexadecimal digits, or the result is not UTF-8.
pub fn percent_decode(text: &str) -> Result<Cow<'_, str>> {
    let Some(first) = text.find('%') else {
        return Ok(Cow::Borrowed(text));
    };
    let mut decoded = Vec::with_capacity(text.len());
    decoded.extend_from_slice(&text.as_bytes()[..first]);
    let mut rest = &text.as_bytes()[first..];
    while let Some((&byte, behind)) = rest.split_first() {
        if byte == b'%' {
            let value = match behind {
                [high, low, ..] => hex_digit(*high).zip(hex_digit(*low)),
                _ => None,
            };
            let (high, low) = value.ok_or_else(|| {
                Error::malformed("a % in the request target needs two hexadecimal digits behind it")
            })?;
            decoded.push(high << 4 | low);
            rest = &behind[2..];
        } else {
            decoded.push(byte);
            rest = behind;
        }
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| Error::malformed("the request target does not decode to UTF-8"))
}

/// The value of one hexadecimal digit.
pub(crate) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_split_into_path_and_query() {
        let cases = [
            ("/", "/", None),
            ("/v2/models/a%20b", "/v2/models/a%20b", None),
            ("/v2?x=1&y", "/v2", Some("x=1&y")),
            ("/v2?", "/v2", Some("")),
            ("/v2?a?b", "/v2", Some("a?b")),
            ("http://host:8000/v2?q", "/v2", Some("q")),
            ("HTTPS://host/v2", "/v2", None),
            ("http://host", "", None),
            ("http://host?q", "", Some("q")),
            ("*", "*", None),
        ];
        for (target, path, query) in cases {
            let found = split(target, true).expect(target);
            assert_eq!(&target[found.path_start..found.path_end], path, "{target}");
            assert_eq!(
                found.query_start.map(|start| &target[start..]),
                query,
                "{target}"
            );
        }
    }

    #[test]
    fn other_targets_are_refused() {
        for target in [
            "v2",
            "*x",
            "ftp://host/",
            "http://",
            "http:///v2",
            "/a#b",
            "/é",
            "host:80",
        ] {
            assert!(split(target, true).is_err(), "{target}");
        }
        assert!(split("*", false).is_err());
    }

    #[test]
    fn percent_encoding_is_undone() {
        assert!(matches!(
            percent_decode("plain+text").unwrap(),
            Cow::Borrowed("plain+text")
        ));
        assert_eq!(percent_decode("a%20b%2Fc%c3%a9").unwrap(), "a b/cé");
        for text in ["%", "%1", "%zz", "a%2", "%ff", "%c3x"] {
            assert!(percent_decode(text).is_err(), "{text}");
        }
    }
}
