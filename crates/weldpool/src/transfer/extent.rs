//! What is copied, as positions and lengths, and how it is cut into chunks.

#![forbid(unsafe_code)]

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

/// All of a copy, checked against the lengths of both sides, and the length of its chunks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    whole: Piece,
    /// Bytes of a row that one chunk takes, and rows.
    part_bytes: usize,
    part_rows: usize,
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
                        "a copy of {} x {} bytes from byte {offset} on does not fit the {what} of {length} bytes",
                        rows.count, rows.bytes
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
            part_bytes: rows.bytes,
            part_rows: rows.count,
        })
    }

    /// All of a piece.
    pub(crate) fn of(piece: Piece) -> Self {
        let rows = piece.rows.joined();
        Self {
            whole: Piece { rows, ..piece },
            part_bytes: rows.bytes,
            part_rows: rows.count,
        }
    }

    /// The same in chunks of at most `bytes` bytes.
    pub(crate) fn in_chunks_of(mut self, bytes: usize) -> Self {
        let rows = self.whole.rows;
        self.part_bytes = rows.bytes.min(bytes.max(1));
        self.part_rows = match bytes.checked_div(rows.bytes) {
            Some(whole) if rows.count > 1 => whole.clamp(1, rows.count),
            _ => 1,
        };
        self
    }

    /// Bytes that are copied.
    pub(crate) const fn bytes(&self) -> usize {
        self.whole.rows.total()
    }

    /// Number of chunks; none for an empty copy.
    pub(crate) fn chunks(&self) -> usize {
        if self.bytes() == 0 {
            return 0;
        }
        self.parts_of_row() * self.whole.rows.count.div_ceil(self.part_rows)
    }

    fn parts_of_row(&self) -> usize {
        self.whole.rows.bytes.div_ceil(self.part_bytes)
    }

    /// The chunk of a number below [`chunks`](Self::chunks), in the order of the rows.
    pub(crate) fn chunk(&self, number: usize) -> Piece {
        let rows = self.whole.rows;
        let parts = self.parts_of_row();
        let (row, column) = (
            number / parts * self.part_rows,
            number % parts * self.part_bytes,
        );
        Piece {
            source: self.whole.source + row * rows.source_pitch + column,
            destination: self.whole.destination + row * rows.destination_pitch + column,
            rows: Rows {
                bytes: self.part_bytes.min(rows.bytes - column),
                count: self.part_rows.min(rows.count - row),
                ..rows
            },
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
            offsets in (0usize..9, 0usize..9),
        ) {
            let rows = Rows {
                bytes,
                count,
                source_pitch: bytes + gaps.0,
                destination_pitch: bytes + gaps.1,
            };
            let extent = Extent::new((offsets.0, 1000), (offsets.1, 1000), None, Some(rows)).unwrap();
            let extent = extent.in_chunks_of(chunk);
            let whole = bytes_of(&Piece { source: offsets.0, destination: offsets.1, rows });
            prop_assert_eq!(extent.bytes(), whole.len());
            let mut all = Vec::new();
            for number in 0..extent.chunks() {
                let piece = extent.chunk(number);
                prop_assert!(piece.rows.total() <= chunk && piece.rows.total() > 0);
                all.extend(bytes_of(&piece));
            }
            prop_assert_eq!(all, whole);
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
