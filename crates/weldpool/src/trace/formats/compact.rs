//! The compact binary format, version 1.
//!
//! All numbers are little endian. A file is a header of 12 bytes and a sequence of records.
//!
//! | header | bytes |
//! |---|---|
//! | magic | `WELDTRC` and a zero |
//! | version | `u16`, 1 |
//! | flags | `u16`, 0 |
//!
//! A record is a tag byte and numbers in LEB128 (seven bits a byte, lowest first, the highest bit
//! says that another byte follows; at most ten bytes). Numbers marked "difference" are signed and
//! folded, so that small ones of either sign are short (0, -1, 1, -2 are 0, 1, 2, 3).
//!
//! | tag, lowest two bits | record | numbers |
//! |---|---|---|
//! | 0 | allocation | microseconds since the event before, id as a difference to it, bytes |
//! | 1 | free | the same |
//! | 2 | events the recorder had no room for | their count |
//! | 3 | end of the trace | events, and events there was no room for |
//!
//! Bit 2 of the tag says that the thread differs from the event before: its number then stands
//! first. Bit 3 says the same of the stream, which comes second. The other bits are zero. Before the
//! first event thread, stream, id and time are zero. Events ascend in time.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use super::super::error::{TraceError, TraceErrorKind, TraceResult};
use super::super::event::{Event, Op, Skipped};

/// The first bytes of every file.
pub const MAGIC: [u8; 8] = *b"WELDTRC\0";
/// The version that is written.
pub const VERSION: u16 = 1;

const HEADER_BYTES: usize = 12;
const KIND: u8 = 0b11;
const ALLOCATE: u8 = 0;
const FREE: u8 = 1;
const DROPPED: u8 = 2;
const END: u8 = 3;
const NEW_THREAD: u8 = 0b100;
const NEW_STREAM: u8 = 0b1000;

/// What both sides remember of the event before.
#[derive(Debug, Clone, Copy, Default)]
struct Previous {
    id: u64,
    stream: u64,
    time_us: u64,
    thread: u64,
}

impl Previous {
    fn of(event: &Event) -> Self {
        Self {
            id: event.id,
            stream: event.stream,
            time_us: event.time_us,
            thread: event.thread,
        }
    }
}

/// Writes the format. Without [`finish`](Self::finish) the file lacks its end mark, which readers
/// report as [`Skipped::truncated`].
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    previous: Previous,
    events: u64,
    dropped: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn new(mut out: W) -> TraceResult<Self> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out.write_all(&header).map_err(cannot_write)?;
        Ok(Self {
            out,
            previous: Previous::default(),
            events: 0,
            dropped: 0,
        })
    }

    /// Writes one event. An event before the one written last is written with that one's time.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn write(&mut self, event: &Event) -> TraceResult<()> {
        let mut event = *event;
        event.time_us = event.time_us.max(self.previous.time_us);
        let mut record = Record::new(match event.op {
            Op::Allocate => ALLOCATE,
            Op::Free => FREE,
        });
        if event.thread != self.previous.thread {
            record.set(NEW_THREAD);
            record.number(event.thread);
        }
        if event.stream != self.previous.stream {
            record.set(NEW_STREAM);
            record.number(event.stream);
        }
        record.number(event.time_us - self.previous.time_us);
        record.number(fold(event.id.wrapping_sub(self.previous.id)));
        record.number(event.bytes);
        self.previous = Previous::of(&event);
        self.events += 1;
        self.out.write_all(record.bytes()).map_err(cannot_write)
    }

    /// Writes that `count` events were not recorded.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn dropped(&mut self, count: u64) -> TraceResult<()> {
        let mut record = Record::new(DROPPED);
        record.number(count);
        self.dropped += count;
        self.out.write_all(record.bytes()).map_err(cannot_write)
    }

    /// Writes out what is buffered; the trace goes on.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn flush(&mut self) -> TraceResult<()> {
        self.out.flush().map_err(cannot_write)
    }

    /// Writes the end mark and returns what was written to.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn finish(mut self) -> TraceResult<W> {
        self.end()?;
        self.flush()?;
        Ok(self.out)
    }

    /// Writes the end mark, after which nothing may be written.
    pub(super) fn end(&mut self) -> TraceResult<()> {
        let mut record = Record::new(END);
        record.number(self.events);
        record.number(self.dropped);
        self.out.write_all(record.bytes()).map_err(cannot_write)
    }
}

#[cfg(feature = "trace")]
impl Writer<Vec<u8>> {
    /// What was written and not yet taken out.
    pub(super) fn gathered(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }
}

impl Writer<BufWriter<File>> {
    /// Makes the file, or empties it, and writes the header.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn create(path: impl AsRef<Path>) -> TraceResult<Self> {
        let path = path.as_ref();
        let file = File::create(path)
            .map_err(|error| TraceError::io("the trace cannot be created", error).in_file(path))?;
        Self::new(BufWriter::with_capacity(1 << 16, file))
    }
}

fn cannot_write(error: std::io::Error) -> TraceError {
    TraceError::io("the trace cannot be written", error)
}

/// One record, put together on the stack: a tag and at most five numbers of ten bytes.
struct Record {
    bytes: [u8; 51],
    len: usize,
}

impl Record {
    fn new(tag: u8) -> Self {
        let mut bytes = [0; 51];
        bytes[0] = tag;
        Self { bytes, len: 1 }
    }

    fn set(&mut self, flag: u8) {
        self.bytes[0] |= flag;
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes[self.len] = (number & 0x7f) as u8 | 0x80;
            self.len += 1;
            number >>= 7;
        }
        self.bytes[self.len] = number as u8;
        self.len += 1;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Folds a difference modulo 2^64 so that small ones of either sign become small.
fn fold(difference: u64) -> u64 {
    (difference << 1) ^ (difference.cast_signed() >> 63).cast_unsigned()
}

fn unfold(folded: u64) -> u64 {
    (folded >> 1) ^ (folded & 1).wrapping_neg()
}

/// Reads the format, one event at a time. Ids are as they were written: an id may be used again
/// after its free.
#[derive(Debug)]
pub struct Reader<R: BufRead> {
    input: R,
    offset: u64,
    previous: Previous,
    skipped: Skipped,
    path: Option<Box<Path>>,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`Format`](TraceErrorKind::Format) for another kind of file,
    /// [`Unsupported`](TraceErrorKind::Unsupported) for a later version,
    /// [`Io`](TraceErrorKind::Io).
    pub fn new(mut input: R) -> TraceResult<Self> {
        let mut header = [0; HEADER_BYTES];
        input.read_exact(&mut header).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                return TraceError::new(TraceErrorKind::Format, "the file has no whole header");
            }
            cannot_read(error)
        })?;
        if header[..8] != MAGIC {
            return Err(TraceError::new(
                TraceErrorKind::Format,
                "the file does not begin as a compact trace does",
            ));
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        let flags = u16::from_le_bytes([header[10], header[11]]);
        if version != VERSION || flags != 0 {
            return Err(TraceError::new(
                TraceErrorKind::Unsupported,
                format!(
                    "the compact trace is of version {version} with flags {flags:#x}; version \
                     {VERSION} without flags can be read"
                ),
            ));
        }
        Ok(Self {
            input,
            offset: HEADER_BYTES as u64,
            previous: Previous::default(),
            skipped: Skipped::default(),
            path: None,
            ended: false,
        })
    }

    /// What was left out so far.
    #[must_use]
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// The next byte; none at the end of the file.
    fn byte(&mut self) -> TraceResult<Option<u8>> {
        let byte = loop {
            match self.input.fill_buf() {
                Ok(buffer) => break buffer.first().copied(),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot_read(error).at_offset(self.offset)),
            }
        };
        if byte.is_some() {
            self.input.consume(1);
            self.offset += 1;
        }
        Ok(byte)
    }

    /// The next number; none where the file ends within it.
    fn number(&mut self) -> TraceResult<Option<u64>> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let Some(byte) = self.byte()? else {
                return Ok(None);
            };
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(number));
            }
        }
        Err(self.wrong("a number has more than 64 bits"))
    }

    fn wrong(&self, message: impl Into<String>) -> TraceError {
        TraceError::new(TraceErrorKind::Format, message).at_offset(self.offset)
    }

    /// The next event; none at the end mark, or where the file was cut short.
    fn read(&mut self) -> TraceResult<Option<Event>> {
        loop {
            let Some(tag) = self.byte()? else {
                self.skipped.truncated = true;
                return Ok(None);
            };
            if tag & !(KIND | NEW_THREAD | NEW_STREAM) != 0
                || tag & KIND >= DROPPED && tag & !KIND != 0
            {
                return Err(self.wrong(format!("{tag:#04x} is not the tag of a record")));
            }
            let record = match tag & KIND {
                DROPPED => self.read_dropped()?,
                END => {
                    let ended = self.number()?.is_some() && self.number()?.is_some();
                    self.skipped.truncated = !ended;
                    return Ok(None);
                }
                _ => match self.read_event(tag)? {
                    Some(event) => return Ok(Some(event)),
                    None => None,
                },
            };
            if record.is_none() {
                self.skipped.truncated = true;
                return Ok(None);
            }
        }
    }

    fn read_dropped(&mut self) -> TraceResult<Option<()>> {
        let Some(count) = self.number()? else {
            return Ok(None);
        };
        self.skipped.dropped = self.skipped.dropped.saturating_add(count);
        Ok(Some(()))
    }

    fn read_event(&mut self, tag: u8) -> TraceResult<Option<Event>> {
        let mut numbers = [0; 5];
        let wanted = [
            tag & NEW_THREAD != 0,
            tag & NEW_STREAM != 0,
            true,
            true,
            true,
        ];
        for (number, _) in numbers.iter_mut().zip(wanted).filter(|(_, wanted)| *wanted) {
            let Some(read) = self.number()? else {
                return Ok(None);
            };
            *number = read;
        }
        let [thread, stream, passed_us, id, bytes] = numbers;
        let time_us = self.previous.time_us.checked_add(passed_us);
        let event = Event {
            op: if tag & KIND == FREE {
                Op::Free
            } else {
                Op::Allocate
            },
            id: self.previous.id.wrapping_add(unfold(id)),
            bytes,
            stream: if wanted[1] {
                stream
            } else {
                self.previous.stream
            },
            time_us: time_us.ok_or_else(|| self.wrong("the time has more than 64 bits"))?,
            thread: if wanted[0] {
                thread
            } else {
                self.previous.thread
            },
        };
        self.previous = Previous::of(&event);
        Ok(Some(event))
    }
}

impl Reader<BufReader<File>> {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn open(path: impl AsRef<Path>) -> TraceResult<Self> {
        let path = path.as_ref();
        let file = File::open(path)
            .map_err(|error| TraceError::io("the trace cannot be opened", error).in_file(path))?;
        let reader = Self::new(BufReader::with_capacity(1 << 16, file));
        let mut reader = reader.map_err(|error| error.in_file(path))?;
        reader.path = Some(path.into());
        Ok(reader)
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = TraceResult<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read();
        let read = read.map_err(|error| error.in_some_file(self.path.as_deref()));
        let read = read.transpose();
        self.ended = !matches!(read, Some(Ok(_)));
        read
    }
}

fn cannot_read(error: std::io::Error) -> TraceError {
    TraceError::io("the trace cannot be read", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Event> {
        let event = |op, id, bytes, stream, time_us, thread| Event {
            op,
            id,
            bytes,
            stream,
            time_us,
            thread,
        };
        vec![
            event(Op::Allocate, 0, 1, 0, 0, 0),
            event(Op::Allocate, u64::MAX, u64::MAX, u64::MAX, 7, u64::MAX),
            event(Op::Free, 0x7f00_dead_beef, 300, 2, 7, 1),
            event(Op::Allocate, 5, 128, 2, u64::MAX, 1),
        ]
    }

    fn written() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for event in &events() {
            writer.write(event).unwrap();
        }
        writer.dropped(9).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = written();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let read: Vec<_> = reader.by_ref().collect::<TraceResult<_>>().unwrap();
        assert_eq!(read, events());
        assert_eq!(reader.skipped().dropped, 9);
        assert!(!reader.skipped().truncated);
    }

    #[test]
    fn a_file_cut_anywhere_gives_its_whole_events() {
        let bytes = written();
        for cut in HEADER_BYTES..bytes.len() {
            let mut reader = Reader::new(&bytes[..cut]).unwrap();
            let read: Vec<_> = reader.by_ref().collect::<TraceResult<_>>().unwrap();
            assert!(events().starts_with(&read), "cut at {cut}");
            assert!(reader.skipped().truncated, "cut at {cut}");
        }
        for cut in 0..HEADER_BYTES {
            let error = Reader::new(&bytes[..cut]).unwrap_err();
            assert_eq!(error.kind(), TraceErrorKind::Format);
        }
    }

    #[test]
    fn wrong_contents_are_errors_with_an_offset() {
        let header = &written()[..HEADER_BYTES];
        for (wrong, kind) in [
            (&[0x40][..], TraceErrorKind::Format),
            (&[0x06, 1], TraceErrorKind::Format),
            (&[0; 1], TraceErrorKind::Format),
        ] {
            let long = [&[0], &[0xff; 11][..]].concat();
            let body = if wrong == [0] { &long[..] } else { wrong };
            let bytes = [header, body].concat();
            let error = Reader::new(&bytes[..])
                .unwrap()
                .next()
                .unwrap()
                .unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(
                error
                    .offset()
                    .is_some_and(|offset| offset > HEADER_BYTES as u64)
            );
        }
        let mut later = written();
        later[8] = 2;
        assert_eq!(
            Reader::new(&later[..]).unwrap_err().kind(),
            TraceErrorKind::Unsupported
        );
    }
}
