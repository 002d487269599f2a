//! What is copied, as positions and lengths, and how it is cut into chunks.

#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// Rows of a strided (2-D) copy: `count` rows of `bytes` bytes, which begin `source_pitch` bytes apart in the
/// source and `destination_pitch` bytes apart in the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Bytes of a row.
    pub bytes: usize,
    /// Number of rows.
    pub count: usize,
    /// From the start of a row of the source to that of the next, in bytes; at least `bytes`.
    pub source_pitch: usize,
    /// The same in the destination.
    pub destination_pitch: usize,
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{} bytes", self.bytes),
            count => write!(f, "{count} rows of {} bytes", self.bytes),
        }
    }
}

impl Rows {
    /// One row of `bytes` bytes.
    pub(crate) const fn single(bytes: usize) -> Self {
        Self {
            bytes,
            count: 1,
            source_pitch: bytes,
            destination_pitch: bytes,
        }
    }

    /// Bytes that are copied.
    pub(crate) const fn total(&self) -> usize {
        self.bytes * self.count
    }

    /// The same rows, close together in the source.
    pub(crate) const fn with_packed_source(self) -> Self {
        Self {
            source_pitch: self.bytes,
            ..self
        }
    }

    /// The same rows, close together in the destination.
    pub(crate) const fn with_packed_destination(self) -> Self {
        Self {
            destination_pitch: self.bytes,
            ..self
        }
    }

    /// Bytes from the start of the first row to the end of the last, if they can be counted.
    fn span(&self, pitch: usize) -> Option<usize> {
        let before = self.count.checked_sub(1)?.checked_mul(pitch)?;
        before.checked_add(self.bytes)
    }

    /// Bytes of the destination from the start of the first row to the end of the last; the rows are in memory.
    pub(super) const fn destination_span(&self) -> usize {
        self.count.saturating_sub(1) * self.destination_pitch + self.bytes
    }

    /// The same bytes, as one row where they are consecutive on both sides.
    const fn joined(self) -> Self {
        let whole = self.source_pitch == self.bytes && self.destination_pitch == self.bytes;
        if whole || self.count == 1 {
            Self::single(self.total())
        } else {
            self
        }
    }
}

/// A part of a copy: rows, and where the first begins on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) source: usize,
    pub(crate) destination: usize,
    pub(crate) rows: Rows,
}

/// All of a copy, checked against the lengths of both sides, and how it is cut into chunks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    whole: Piece,
    cut: Cut,
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// So many bytes of a row, or so many rows.
    Even { bytes: usize, rows: usize },
    /// One row; chunks grow, each twice the one before, up to a length.
    Growing(Ramp),
    /// The same from the end.
    Shrinking(Ramp),
}

/// Lengths that double. Both are powers of two.
#[derive(Debug, Clone, Copy)]
struct Ramp {
    least: usize,
    most: usize,
}

impl Ramp {
    /// Bytes before the chunk of a number.
    const fn before(self, number: usize) -> usize {
        let steps = (self.most / self.least).ilog2() as usize;
        if number <= steps {
            return self.least * ((1 << number) - 1);
        }
        let grown = self.least * ((1 << steps) - 1);
        (number - steps)
            .saturating_mul(self.most)
            .saturating_add(grown)
    }

    /// Chunks of so many bytes.
    const fn chunks(self, bytes: usize) -> usize {
        let steps = (self.most / self.least).ilog2() as usize;
        let grown = self.before(steps);
        if bytes > grown {
            return steps + (bytes - grown).div_ceil(self.most);
        }
        // `before` is the least power of two that is not less, less one.
        let doubled = bytes.div_ceil(self.least) + 1;
        doubled.next_power_of_two().ilog2() as usize
    }

    /// Offset and length of the chunk of a number in so many bytes.
    fn chunk(self, number: usize, bytes: usize) -> (usize, usize) {
        let start = self.before(number).min(bytes);
        (start, self.before(number + 1).min(bytes) - start)
    }
}

impl Extent {
    /// `rows`, or without them as many bytes as `bytes` says, or as the source has.
    pub(crate) fn new(
        source: (usize, usize),
        destination: (usize, usize),
        bytes: Option<usize>,
        rows: Option<Rows>,
    ) -> Result<Self> {
        let rows = match (rows, bytes) {
            (Some(rows), _) => rows,
            (None, Some(bytes)) => Rows::single(bytes),
            (None, None) => Rows::single(source.1.saturating_sub(source.0)),
        };
        if rows.count > 1 && (rows.source_pitch < rows.bytes || rows.destination_pitch < rows.bytes)
        {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "rows of {} bytes that begin {} and {} bytes apart; a pitch is at least a row",
                    rows.bytes, rows.source_pitch, rows.destination_pitch
                ),
            ));
        }
        for (what, pitch, (offset, length)) in [
            ("source", rows.source_pitch, source),
            ("destination", rows.destination_pitch, destination),
        ] {
            let span = if rows.count == 0 || rows.bytes == 0 {
                Some(0)
            } else {
                rows.span(pitch)
            };
            let end = span.and_then(|span| span.checked_add(offset));
            if end.is_none_or(|end| end > length) {
                return Err(Error::with_message(
                    ErrorKind::InvalidRequest,
                    format!(
                        "a copy of {rows} from byte {offset} on does not fit the {what} of {length} bytes"
                    ),
                ));
            }
        }
        let rows = if rows.count == 0 || rows.bytes == 0 {
            Rows::single(0)
        } else {
            rows.joined()
        };
        Ok(Self {
            whole: Piece {
                source: source.0,
                destination: destination.0,
                rows,
            },
            cut: Cut::Even {
                bytes: rows.bytes,
                rows: rows.count,
            },
        })
    }

    /// All of a piece.
    pub(crate) fn of(piece: Piece) -> Self {
        let rows = piece.rows.joined();
        Self {
            whole: Piece { rows, ..piece },
            cut: Cut::Even {
                bytes: rows.bytes,
                rows: rows.count,
            },
        }
    }

    /// The same in chunks of at most `bytes` bytes.
    pub(crate) fn in_chunks_of(mut self, bytes: usize) -> Self {
        let rows = self.whole.rows;
        self.cut = Cut::Even {
            bytes: rows.bytes.min(bytes.max(1)),
            rows: match bytes.checked_div(rows.bytes) {
                Some(whole) if rows.count > 1 => whole.clamp(1, rows.count),
                _ => 1,
            },
        };
        self
    }

    /// The same in chunks of at most `most` bytes, of which the first ones are shorter, `least` and then twice as
    /// much each time, so that what comes after them can begin soon.
    pub(crate) fn in_growing_chunks(self, least: usize, most: usize) -> Self {
        self.on_a_ramp(least, most, Cut::Growing)
    }

    /// The same with the shorter ones at the end, so that what comes after them is over soon.
    pub(crate) fn in_shrinking_chunks(self, least: usize, most: usize) -> Self {
        self.on_a_ramp(least, most, Cut::Shrinking)
    }

    fn on_a_ramp(mut self, least: usize, most: usize, cut: fn(Ramp) -> Cut) -> Self {
        let most = 1 << most.max(1).ilog2();
        let least = 1 << least.clamp(1, most).ilog2();
        if self.whole.rows.count > 1 || self.bytes() == 0 {
            return self.in_chunks_of(most);
        }
        self.cut = cut(Ramp { least, most });
        self
    }

    /// All of it.
    pub(crate) const fn whole(&self) -> Piece {
        self.whole
    }

    /// Bytes that are copied.
    pub(crate) const fn bytes(&self) -> usize {
        self.whole.rows.total()
    }

    /// Number of chunks; none for an empty copy.
    pub(crate) fn chunks(&self) -> usize {
        let rows = self.whole.rows;
        match self.cut {
            _ if self.bytes() == 0 => 0,
            Cut::Even { bytes, rows: most } => {
                rows.bytes.div_ceil(bytes) * rows.count.div_ceil(most)
            }
            Cut::Growing(ramp) | Cut::Shrinking(ramp) => ramp.chunks(rows.bytes),
        }
    }

    /// The chunk of a number below [`chunks`](Self::chunks), in the order of the rows.
    pub(crate) fn chunk(&self, number: usize) -> Piece {
        let rows = self.whole.rows;
        let (row, column, count, bytes) = match self.cut {
            Cut::Even { bytes, rows: most } => {
                let parts = rows.bytes.div_ceil(bytes);
                let (row, column) = (number / parts * most, number % parts * bytes);
                let count = most.min(rows.count - row);
                (row, column, count, bytes.min(rows.bytes - column))
            }
            Cut::Growing(ramp) => {
                let (start, bytes) = ramp.chunk(number, rows.bytes);
                (0, start, 1, bytes)
            }
            Cut::Shrinking(ramp) => {
                let last = ramp.chunks(rows.bytes) - 1;
                let (start, bytes) = ramp.chunk(last - number, rows.bytes);
                (0, rows.bytes - start - bytes, 1, bytes)
            }
        };
        Piece {
            source: self.whole.source + row * rows.source_pitch + column,
            destination: self.whole.destination + row * rows.destination_pitch + column,
            rows: Rows {
                bytes,
                count,
                ..rows
            },
        }
    }

    /// The longest chunk of a copy that is not empty; none has more parts.
    pub(crate) fn longest_chunk(&self) -> Piece {
        match self.cut {
            Cut::Even { .. } => self.chunk(0),
            Cut::Growing(_) | Cut::Shrinking(_) => {
                let chunks = (0..self.chunks()).map(|number| self.chunk(number));
                let longest = chunks.max_by_key(|chunk| chunk.rows.bytes);
                longest.unwrap_or(self.whole)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(piece: &Piece) -> Vec<(usize, usize)> {
        let rows = piece.rows;
        let pairs = (0..rows.count).flat_map(|row| {
            (0..rows.bytes).map(move |byte| {
                let source = piece.source + row * rows.source_pitch + byte;
                let destination = piece.destination + row * rows.destination_pitch + byte;
                (source, destination)
            })
        });
        pairs.collect()
    }

    proptest! {
        /// Each byte is in one chunk, in order, and no chunk is longer than it may be.
        #[test]
        fn chunks_are_the_whole_in_order(
            bytes in 0usize..50, count in 0usize..8, gaps in (0usize..9, 0usize..9), chunk in 1usize..70,
            offsets in (0usize..9, 0usize..9), least in 1usize..70,
        ) {
            let rows = Rows {
                bytes,
                count,
                source_pitch: bytes + gaps.0,
                destination_pitch: bytes + gaps.1,
            };
            let extent = Extent::new((offsets.0, 1000), (offsets.1, 1000), None, Some(rows)).unwrap();
            let whole = bytes_of(&Piece { source: offsets.0, destination: offsets.1, rows });
            for extent in [
                extent.in_chunks_of(chunk),
                extent.in_growing_chunks(least, chunk),
                extent.in_shrinking_chunks(least, chunk),
            ] {
                prop_assert_eq!(extent.bytes(), whole.len());
                let mut all = Vec::new();
                for number in 0..extent.chunks() {
                    let piece = extent.chunk(number);
                    prop_assert!(piece.rows.total() <= chunk && piece.rows.total() > 0);
                    prop_assert!(piece.rows.total() <= extent.longest_chunk().rows.total());
                    all.extend(bytes_of(&piece));
                }
                prop_assert_eq!(all, whole.clone());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_without_overflow() {
        let rows = |bytes, count, source_pitch, destination_pitch| {
            Some(Rows {
                bytes,
                count,
                source_pitch,
                destination_pitch,
            })
        };
        for (source, destination, bytes, rows) in [
            ((0, 10), (0, 9), None, None),
            ((4, 10), (0, 10), Some(7), None),
            ((0, 10), (usize::MAX, 10), Some(1), None),
            ((11, 10), (0, 10), Some(0), None),
            ((0, 100), (0, 100), None, rows(10, 3, 9, 10)),
            ((0, 100), (0, 100), None, rows(10, 3, 10, 9)),
            ((0, 100), (0, 100), None, rows(10, 11, 10, 10)),
            ((0, 100), (0, 100), None, rows(2, usize::MAX, usize::MAX, 2)),
        ] {
            let error = Extent::new(source, destination, bytes, rows).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        }
    }

    #[test]
    fn chunks_double_up_to_a_length() {
        let extent = Extent::new((0, 60), (0, 60), None, None).unwrap();
        let lengths = |extent: Extent| -> Vec<usize> {
            let chunks = (0..extent.chunks()).map(|number| extent.chunk(number).rows.bytes);
            chunks.collect()
        };
        assert_eq!(lengths(extent.in_growing_chunks(4, 16)), [4, 8, 16, 16, 16]);
        assert_eq!(
            lengths(extent.in_shrinking_chunks(4, 16)),
            [16, 16, 16, 8, 4]
        );
        let short = Extent::new((0, 5), (0, 60), None, None).unwrap();
        assert_eq!(lengths(short.in_growing_chunks(4, 16)), [4, 1]);
        assert_eq!(lengths(short.in_shrinking_chunks(4, 16)), [1, 4]);
    }

    #[test]
    fn rows_without_gaps_are_one() {
        let rows = Rows {
            bytes: 10,
            count: 10,
            source_pitch: 10,
            destination_pitch: 10,
        };
        let extent = Extent::new((0, 100), (0, 100), None, Some(rows)).unwrap();
        assert_eq!(
            extent.in_chunks_of(64).chunk(0).rows,
            Rows::single(64).within(100)
        );
    }

    impl Rows {
        /// A part of one row of `bytes` bytes.
        fn within(self, bytes: usize) -> Self {
            Self {
                source_pitch: bytes,
                destination_pitch: bytes,
                ..self
            }
        }
    }
}
