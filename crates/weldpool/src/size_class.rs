//! Size classes: the block sizes that small requests are rounded up to.

#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::request::DEFAULT_ALIGNMENT;

/// Most classes a table may have.
const CLASSES_MAX: usize = 4096;

/// Significant bits, below the leading one, by which the index tells sizes apart.
const INDEX_BITS: u32 = 7;

/// One size class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct SizeClass {
    /// Size of its blocks in bytes; a multiple of 256.
    pub bytes: usize,
    /// Blocks made when the allocator is built.
    pub initial: usize,
    /// Idle blocks that stay with the class, as far as there are so many, when idle memory is collected and
    /// when caches are emptied into the arenas so that blocks can be joined. They go back to the device like
    /// others when memory is out, when a limit says so, and by [`clear`](crate::Allocator::clear).
    pub kept: usize,
    /// Most idle blocks that all threads share; further ones go back to the arena.
    pub cached_max: usize,
    /// Most idle blocks that each thread keeps in each of its caches; at most 128.
    pub thread_max: u8,
}

/// An ascending table of size classes. Requests above the largest class are exact ranges of an
/// arena, split and coalesced.
#[derive(Clone, PartialEq, Eq)]
pub struct SizeClasses {
    classes: Box<[SizeClass]>,
    index: ClassIndex,
}

impl fmt::Debug for SizeClasses {
    /// How many there are, and their ends: a configuration is shown in logs and records, and there can be thousands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |class: Option<&SizeClass>| class.map_or(0, |class| class.bytes);
        f.debug_struct("SizeClasses")
            .field("count", &self.classes.len())
            .field("smallest", &bytes(self.classes.first()))
            .field("largest", &bytes(self.classes.last()))
            .finish()
    }
}

/// Finds the class of a size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ClassIndex {
    /// By leading bits of a size, the first class that may hold it. Empty if that class need not be the
    /// one.
    exact: Box<[u16]>,
    /// What to search where classes are finer than the leading bits tell.
    near: Option<Box<Near>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Near {
    index: Box<[u16]>,
    /// Of each class.
    sizes: Box<[usize]>,
}

impl ClassIndex {
    /// The smallest class whose blocks have a byte of this number, counted from zero.
    #[inline]
    pub(crate) fn index_of_last(&self, last: usize) -> Option<usize> {
        match self.exact.get(code(last)) {
            Some(&class) => Some(usize::from(class)),
            None => self.search(last),
        }
    }

    #[cold]
    #[inline(never)]
    fn search(&self, last: usize) -> Option<usize> {
        let Near { index, sizes } = self.near.as_deref()?;
        let first = usize::from(*index.get(code(last))?);
        let further = sizes.get(first..)?.iter().position(|&bytes| bytes > last)?;
        Some(first + further)
    }
}

impl SizeClasses {
    /// The preset `fine`, the default: multiples of 256 bytes up to 32 KiB, then 128 classes per
    /// doubling up to 256 MiB, made on demand. Above 16 KiB rounding costs at most 1.6 %, above
    /// 32 KiB at most 0.8 %, half of that on average; above 256 MiB sizes are exact to 256 bytes.
    #[must_use]
    pub fn fine() -> Self {
        let doublings = (15..28).flat_map(|power| {
            let step = 1usize << (power - 7);
            (1..=128).map(move |number| (1usize << power) + number * step)
        });
        let classes = (1..=128)
            .map(|step| step * 256)
            .chain(doublings)
            .map(|bytes| SizeClass {
                bytes,
                initial: 0,
                kept: 0,
                // Larger ones go from thread to thread through the arena, which joins neighbours.
                cached_max: if bytes <= 64 << 10 {
                    ((4 << 20) / bytes).min(1024)
                } else {
                    0
                },
                // 64 live and what a batch leaves over; above 64 KiB blocks do not come in batches.
                thread_max: if bytes <= 64 << 10 { 128 } else { 64 },
            })
            .collect();
        Self::indexed(classes)
    }

    /// The preset `seed`: powers of two from 256 B to 64 MB; 64 blocks made at first, and kept, for the
    /// smallest class down to 1 for the largest, at most 256 down to 1 idle, besides the few that
    /// each thread keeps.
    #[must_use]
    pub fn seed() -> Self {
        let classes = (0..=18)
            .map(|step: u8| SizeClass {
                bytes: 256 << step,
                initial: 64 >> (step / 3),
                kept: 64 >> (step / 3),
                cached_max: if step < 18 { 256 >> (step * 8 / 18) } else { 0 },
                thread_max: 64 >> (step / 3),
            })
            .collect();
        Self::indexed(classes)
    }

    /// The preset `pooling`: powers of two from 256 B to 256 MB, made on demand; of each at most 32 blocks
    /// idle, for all threads together, in each storage mode and on each node of memory, of which 4 are kept.
    /// Threads keep none for themselves, so that 32 is exact, and every allocation takes the class's lock.
    /// Beyond 256 MB sizes are exact to 256 bytes.
    #[must_use]
    pub fn pooling() -> Self {
        let classes = (8..=28).map(|power| SizeClass {
            bytes: 1 << power,
            initial: 0,
            kept: 4,
            cached_max: 32,
            thread_max: 0,
        });
        Self::indexed(classes.collect())
    }

    /// A table of one's own, in ascending order of size.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] when a size is zero, not a multiple of 256 or not above the one
    /// before, when a class starts with more blocks, or keeps more, than may be idle, or beyond 4096 classes.
    pub fn new(classes: Vec<SizeClass>) -> Result<Self> {
        let fail = |message: String| Err(Error::with_message(ErrorKind::InvalidConfig, message));
        if classes.len() > CLASSES_MAX {
            return fail(format!(
                "{} size classes; at most {CLASSES_MAX}",
                classes.len()
            ));
        }
        let mut previous = 0;
        for class in &classes {
            if class.bytes <= previous || class.bytes % DEFAULT_ALIGNMENT != 0 {
                return fail(format!(
                    "size class of {} bytes after {previous}: sizes ascend in multiples of 256",
                    class.bytes
                ));
            }
            let idle_max = class.cached_max.saturating_add(class.thread_max.into());
            if class.initial.max(class.kept) > idle_max {
                return fail(format!(
                    "size class of {} bytes starts with {} blocks and keeps {}, of which {idle_max} may be idle",
                    class.bytes, class.initial, class.kept
                ));
            }
            previous = class.bytes;
        }
        Ok(Self::indexed(classes))
    }

    fn indexed(classes: Vec<SizeClass>) -> Self {
        let last = classes.last().map_or(0, |class| code(class.bytes - 1) + 1);
        let mut first = 0;
        let index: Box<[u16]> = (0..last)
            .map(|wanted| {
                while code(classes[first].bytes - 1) < wanted {
                    first += 1;
                }
                // A table has at most 4096 classes.
                u16::try_from(first).unwrap_or(u16::MAX)
            })
            .collect();
        // Then no two classes share a code, and a class ends where its code does.
        let ends = |class: &SizeClass| code(class.bytes) != code(class.bytes - 1);
        let codes = classes
            .windows(2)
            .all(|pair| code(pair[0].bytes - 1) != code(pair[1].bytes - 1));
        let index = if codes && classes.iter().all(ends) {
            ClassIndex {
                exact: index,
                near: None,
            }
        } else {
            let sizes = classes.iter().map(|class| class.bytes).collect();
            ClassIndex {
                exact: Box::default(),
                near: Some(Box::new(Near { index, sizes })),
            }
        };
        Self {
            classes: classes.into_boxed_slice(),
            index,
        }
    }

    pub(crate) fn index(&self) -> &ClassIndex {
        &self.index
    }

    /// The classes, in ascending order of size.
    #[must_use]
    pub fn as_slice(&self) -> &[SizeClass] {
        &self.classes
    }

    /// The smallest class that holds `bytes`; none above the largest. A table look-up, unless the
    /// classes are finer than 128 per doubling.
    #[must_use]
    #[inline]
    pub fn index_of(&self, bytes: usize) -> Option<usize> {
        self.index.index_of_last(bytes.saturating_sub(1))
    }

    /// Size of the largest class in bytes; zero when there is none.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.classes.last().map_or(0, |class| class.bytes)
    }
}

/// An ascending number of at most [`INDEX_BITS`] significant bits after the leading one.
#[inline]
const fn code(bytes: usize) -> usize {
    // Sizes are multiples of 256, so the bits below never tell two classes apart.
    let units = bytes >> 8;
    if units < 2 << INDEX_BITS {
        return units;
    }
    // A floating-point number begins with its exponent and leading bits. Counting leading zeros, where
    // processors since 2013 cannot be presumed, waits for whatever its register held before.
    let float = (units.cast_signed() as f64).to_bits() >> (f64::MANTISSA_DIGITS - 1 - INDEX_BITS);
    // 1023 is the exponent's zero; numbers of `INDEX_BITS` + 1 bits are their own codes.
    float as usize - ((1023 + INDEX_BITS as usize - 1) << INDEX_BITS)
}

impl Default for SizeClasses {
    fn default() -> Self {
        Self::fine()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_shown_without_the_hundreds_of_its_classes() {
        let shown = format!("{:?}", SizeClasses::fine());
        assert_eq!(
            shown,
            "SizeClasses { count: 1792, smallest: 256, largest: 268435456 }"
        );
        let config = format!("{:?}", crate::Config::default());
        assert!(config.contains(&shown) && config.len() < 2048, "{config}");
    }

    #[test]
    fn seed_has_the_documented_sizes_and_counts() {
        let seed = SizeClasses::seed();
        let first = seed.as_slice()[0];
        let last = seed.as_slice()[18];
        assert_eq!(
            (first.bytes, first.initial, first.cached_max),
            (256, 64, 256)
        );
        assert_eq!(
            (last.bytes, last.initial, last.cached_max, last.thread_max),
            (64 << 20, 1, 0, 1),
            "the one block lies with the thread that frees it"
        );
        assert!(seed.as_slice().is_sorted_by_key(|class| class.bytes));
    }

    #[test]
    fn pooling_has_the_documented_sizes_and_counts() {
        let pooling = SizeClasses::pooling();
        let sizes = pooling.as_slice().iter().map(|class| class.bytes);
        assert!(sizes.eq((0..21).map(|step| 256 << step)));
        assert_eq!(pooling.largest(), 256 << 20);
        for class in pooling.as_slice() {
            assert_eq!((class.cached_max, class.kept), (32, 4));
            assert_eq!((class.initial, class.thread_max), (0, 0));
        }
    }

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        for table in [
            SizeClasses::fine(),
            SizeClasses::seed(),
            SizeClasses::pooling(),
        ] {
            let near = |bytes: usize| [bytes.saturating_sub(1).max(1), bytes, bytes + 1];
            let sizes = table.as_slice().iter().flat_map(|class| near(class.bytes));
            let spread = (1..=table.largest()).step_by(97).take(100_000);
            for bytes in sizes
                .chain(spread)
                .filter(|&bytes| bytes <= table.largest())
            {
                let index = table.index_of(bytes).unwrap();
                assert!(table.as_slice()[index].bytes >= bytes);
                assert!(index == 0 || table.as_slice()[index - 1].bytes < bytes);
            }
            assert_eq!(table.index_of(table.largest() + 1), None);
        }
    }

    #[test]
    fn the_presets_are_found_by_one_look() {
        assert!(SizeClasses::fine().index.near.is_none());
        assert!(SizeClasses::seed().index.near.is_none());
        assert!(SizeClasses::pooling().index.near.is_none());
        let class = |bytes| SizeClass {
            bytes,
            initial: 0,
            kept: 0,
            cached_max: 0,
            thread_max: 0,
        };
        let near = SizeClasses::new(vec![class(1 << 20), class((1 << 20) + 256)]).unwrap();
        assert!(near.index.near.is_some());
        assert_eq!(near.index_of((1 << 20) + 1), Some(1));
        assert_eq!(near.index_of((1 << 20) + 257), None);
    }

    #[test]
    fn fine_wastes_little() {
        let fine = SizeClasses::fine();
        for bytes in 16 * 1024..=1024 * 1024 {
            let class = fine.as_slice()[fine.index_of(bytes).unwrap()].bytes;
            assert!(
                (class - bytes) as f64 / (class as f64) < 0.0157,
                "{bytes} in {class}"
            );
        }
    }

    #[test]
    fn wrong_tables_are_refused() {
        let class = |bytes, initial, cached_max| SizeClass {
            bytes,
            initial,
            kept: 0,
            cached_max,
            thread_max: 1,
        };
        let keeps = |kept| SizeClass {
            kept,
            ..class(256, 0, 1)
        };
        assert!(SizeClasses::new(vec![keeps(2)]).is_ok());
        for classes in [
            vec![class(0, 0, 1)],
            vec![class(300, 0, 1)],
            vec![class(512, 0, 1), class(256, 0, 1)],
            vec![class(256, 3, 1)],
            vec![keeps(3)],
            (1..=5000).map(|step| class(step * 256, 0, 1)).collect(),
        ] {
            assert_eq!(
                SizeClasses::new(classes).unwrap_err().kind(),
                ErrorKind::InvalidConfig
            );
        }
        assert!(
            SizeClasses::new(Vec::new()).is_ok(),
            "no classes: arenas serve everything"
        );
    }
}
