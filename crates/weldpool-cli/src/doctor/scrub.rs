//! Takes out of texts what tells who and where somebody is: reports are made to be shown.

/// Words to leave out of texts, besides paths.
#[derive(Debug, Clone, Default)]
pub(super) struct Scrub {
    names: Vec<(String, &'static str)>,
}

/// Names as short as this are parts of too many words, and tell nobody.
const SHORT: usize = 3;

/// What ends a path in a text.
fn ends_path(character: char) -> bool {
    character.is_whitespace() || matches!(character, '"' | '\'' | '`' | ')' | ']' | '}' | ',' | ';')
}

fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

impl Scrub {
    /// Leaves out the names of this machine and of whoever runs the program.
    pub(super) fn of_this_machine() -> Self {
        let user = ["USER", "LOGNAME"].map(|name| std::env::var(name).ok());
        let home = std::env::home_dir();
        let home = home.and_then(|home| Some(home.file_name()?.to_string_lossy().into_owned()));
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy().into_owned();
        let first = host.split('.').next().map(str::to_owned);
        let hosts = [Some(host.clone()), first].into_iter().flatten();
        let users = user.into_iter().chain([home]).flatten();
        Self::new(hosts, users)
    }

    fn new(hosts: impl Iterator<Item = String>, users: impl Iterator<Item = String>) -> Self {
        let hosts = hosts.map(|name| (name, "<host>"));
        let users = users.map(|name| (name, "<user>"));
        let mut names: Vec<_> = hosts.chain(users).collect();
        names.retain(|(name, _)| name.len() > SHORT && name != "root" && name != "localhost");
        // A name before its beginning.
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Self { names }
    }

    /// The text without names; of each path its last part is left.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = without_folders(text);
        for (name, instead) in &self.names {
            text = without_word(&text, name, instead);
        }
        text
    }
}

/// Every absolute path, and every one below the home folder, cut down to its last part.
fn without_folders(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(character) = rest.chars().next() {
        let path_end = rest.find(ends_path).unwrap_or(rest.len());
        let path = &rest[..path_end];
        let begins = !is_of_word(before) && !matches!(before, '/' | '.' | '>');
        let is_path = (path.starts_with('/') || path.starts_with("~/")) && path.len() > 2;
        if begins && is_path {
            let last = path.trim_end_matches('/').rsplit('/').next();
            result.push_str("<path>/");
            result.push_str(last.unwrap_or_default());
            rest = &rest[path_end..];
            before = '>';
        } else {
            result.push(character);
            rest = &rest[character.len_utf8()..];
            before = character;
        }
    }
    result
}

fn without_word(text: &str, word: &str, instead: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let inside = before.chars().next_back().is_some_and(is_of_word)
            || after.chars().next().is_some_and(is_of_word);
        result.push_str(before);
        result.push_str(if inside { word } else { instead });
        rest = after;
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrub() -> Scrub {
        let hosts = ["box.example.org", "box", "build-7"].map(str::to_owned);
        let users = ["alice", "root", "al"].map(str::to_owned);
        Scrub::new(hosts.into_iter(), users.into_iter())
    }

    #[test]
    fn of_a_path_its_last_part_is_left() {
        for (text, expected) in [
            ("at /a/alice/x/src/lib.rs:12: no", "at <path>/lib.rs:12: no"),
            ("(/usr/lib/libcuda.so.1)", "(<path>/libcuda.so.1)"),
            ("\"~/models/a b\"", "\"<path>/a b\""),
            ("in /tmp/, /var/log/", "in <path>/tmp, <path>/log"),
            (
                "crates/weldpool/src/lib.rs:3",
                "crates/weldpool/src/lib.rs:3",
            ),
            ("3 / 4 and 5/6 MiB/s, a/b", "3 / 4 and 5/6 MiB/s, a/b"),
            ("/", "/"),
            ("", ""),
            ("file:///etc/passwd", "file:<path>/passwd"),
        ] {
            assert_eq!(scrub().text(text), expected, "{text}");
        }
    }

    #[test]
    fn names_are_left_out_as_words_only() {
        for (text, expected) in [
            ("alice at box.example.org", "<user> at <host>"),
            (
                "malice on build-7: root cause",
                "malice on <host>: root cause",
            ),
            ("al, boxes and box", "al, boxes and box"),
        ] {
            assert_eq!(scrub().text(text), expected, "{text}");
        }
    }
}
