//! Names of buffers: static or interned, so that carrying one costs no allocation.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;

use crate::sync::{Mutex, OnceLock};

/// Distinct names, process-wide. Interned text is never freed, so the number has a bound.
const NAMES_MAX: usize = 65_536;
/// Longest interned name, in bytes; longer ones are cut at a character boundary.
const NAME_BYTES_MAX: usize = 256;
/// Texts are kept in pages that are made when needed.
const PAGE: usize = 1024;
const PAGES: usize = NAMES_MAX / PAGE;
/// Static texts that each thread remembers the numbers of.
const REMEMBERED: usize = 16;

static NUMBERS: Mutex<Option<HashMap<&'static str, u32>>> = Mutex::new(None);
static TEXTS: [OnceLock<Box<[OnceLock<&'static str>]>>; PAGES] = [const { OnceLock::new() }; PAGES];

thread_local! {
    static SEEN: [Cell<(usize, usize, u32)>; REMEMBERED] = const { [const { Cell::new((0, 0, 0)) }; REMEMBERED] };
}

/// The name of a buffer, for statistics and leak reports. `Copy`; a number that stands for a text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Name(u32);

/// Number of the name that buffers have unless told otherwise.
const UNNAMED: (u32, &str) = (0, "unnamed");
/// Number of the name that stands for all beyond the bound.
const OTHER: (u32, &str) = (1, "(other)");

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
        Self::number(text, || Box::leak(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self.0 {
            0 => UNNAMED.1,
            1 => OTHER.1,
            number => {
                let number = number as usize;
                let page = TEXTS.get(number / PAGE).and_then(OnceLock::get);
                page.and_then(|page| page[number % PAGE].get())
                    .copied()
                    .unwrap_or(OTHER.1)
            }
        }
    }

    /// The number behind it, for records that hold only numbers.
    pub(crate) const fn to_number(self) -> u32 {
        self.0
    }

    /// The name of a number that [`to_number`](Self::to_number) gave.
    pub(crate) const fn of_number(number: u32) -> Self {
        Self(number)
    }

    fn number(text: &str, keep: impl FnOnce() -> &'static str) -> Self {
        let mut guard = NUMBERS.lock();
        let numbers = guard
            .get_or_insert_with(|| HashMap::from([(UNNAMED.1, UNNAMED.0), (OTHER.1, OTHER.0)]));
        if let Some(&number) = numbers.get(text) {
            return Self(number);
        }
        let next = numbers.len();
        let (Some(page), Ok(number)) = (TEXTS.get(next / PAGE), u32::try_from(next)) else {
            return Self(OTHER.0);
        };
        let kept = keep();
        let page = page.get_or_init(|| (0..PAGE).map(|_| OnceLock::new()).collect());
        // The lock makes this the only writer of the number.
        let _first = page[next % PAGE].set(kept);
        numbers.insert(kept, number);
        Self(number)
    }
}

impl From<&'static str> for Name {
    fn from(text: &'static str) -> Self {
        let (start, length) = (text.as_ptr().addr(), text.len());
        let remembered = (start >> 3 ^ length) % REMEMBERED;
        SEEN.with(|seen| {
            let (known_start, known_length, number) = seen[remembered].get();
            if (known_start, known_length) == (start, length) && length > 0 {
                return Self(number);
            }
            let name = Self::number(text, || text);
            seen[remembered].set((start, length, name.0));
            name
        })
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interning_gives_one_name_per_text() {
        let first = Name::intern(&String::from("model/input"));
        let second = Name::intern(&String::from("model/input"));
        assert!(std::ptr::eq(first.as_str(), second.as_str()));
        assert_eq!(first, Name::from("model/input"));
        assert_ne!(first, Name::from("model/output"));
    }

    #[test]
    fn a_buffer_without_a_name_says_so() {
        assert_eq!(Name::default().as_str(), "unnamed");
        assert_eq!(Name::from("unnamed"), Name::default());
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let name = Name::intern(&"é".repeat(200));
        assert_eq!(name.as_str().len(), 256);
        let name = Name::intern(&format!("a{}", "é".repeat(200)));
        assert_eq!(name.as_str().len(), 255);
    }
}
