//! Names of buffers: static or interned, so that carrying one costs no allocation.

use std::collections::HashSet;
use std::fmt;

use crate::sync::Mutex;

/// Distinct names that [`Name::intern`] keeps, process-wide. Interned text is never freed, so the
/// number has a bound.
const INTERNED_MAX: usize = 65_536;
/// Longest interned name, in bytes; longer ones are cut at a character boundary.
const NAME_BYTES_MAX: usize = 256;

static INTERNED: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);

/// The name of a buffer, for statistics and leak reports. `Copy`, two words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(&'static str);

impl Name {
    /// Interns `text`, which takes a lock and, the first time, an allocation that lives as long as
    /// the process. Do it once per model or tensor, not once per request. After 65,536 distinct
    /// names the result is `(other)`; text beyond 256 bytes is cut.
    #[must_use]
    pub fn intern(text: &str) -> Self {
        let mut end = text.len().min(NAME_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text[..end];
        let mut guard = INTERNED.lock();
        let names = guard.get_or_insert_with(HashSet::new);
        if let Some(name) = names.get(text) {
            return Self(name);
        }
        if names.len() >= INTERNED_MAX {
            return Self("(other)");
        }
        let name: &'static str = Box::leak(text.into());
        names.insert(name);
        Self(name)
    }

    /// The text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl Default for Name {
    fn default() -> Self {
        Self("unnamed")
    }
}

impl From<&'static str> for Name {
    fn from(text: &'static str) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interning_gives_one_text_per_name() {
        let first = Name::intern(&String::from("model/input"));
        let second = Name::intern(&String::from("model/input"));
        assert!(std::ptr::eq(first.as_str(), second.as_str()));
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let name = Name::intern(&"é".repeat(200));
        assert_eq!(name.as_str().len(), 256);
        let name = Name::intern(&format!("a{}", "é".repeat(200)));
        assert_eq!(name.as_str().len(), 255);
    }
}
