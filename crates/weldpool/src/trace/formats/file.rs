//! Trace files of any format.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::str::FromStr;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::ids::LiveIds;
use super::{compact, csv, pytorch, rmm, sniff, stalloc};
use crate::trace::error::{TraceError, TraceErrorKind, TraceResult};
use crate::trace::event::{Event, Skipped};

/// Most events that [`read_all`] takes into memory.
pub const EVENTS_MAX: usize = 1 << 26;

/// Bytes that are looked at to recognise a format, and the unit of reading.
const BUFFER_BYTES: usize = 1 << 18;

/// A format of trace files. Each may be compressed with gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Text with the columns `op,id,bytes,stream,t_us`, and `thread` where there are several.
    Csv,
    /// The log of RMM's logging adaptor.
    Rmm,
    /// PyTorch's memory snapshot, a Python pickle.
    PyTorch,
    /// STAlloc's text.
    Stalloc,
    /// The format of [`Recorder`](crate::trace::Recorder), see [`compact`](crate::trace::compact).
    Compact,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 5] = [
        Self::Csv,
        Self::Rmm,
        Self::PyTorch,
        Self::Stalloc,
        Self::Compact,
    ];

    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Rmm => "rmm",
            Self::PyTorch => "pytorch",
            Self::Stalloc => "stalloc",
            Self::Compact => "compact",
        }
    }

    /// The format that a file's name stands for: `.csv`, `.rmm`, `.pickle` or `.pkl`, `.txt`, and
    /// `.wpt` for the compact one, each with or without `.gz` behind.
    #[must_use]
    pub fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "rmm" | "log" => Some(Self::Rmm),
            "pickle" | "pkl" => Some(Self::PyTorch),
            "stalloc" | "txt" => Some(Self::Stalloc),
            "wpt" => Some(Self::Compact),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = TraceError;

    fn from_str(name: &str) -> TraceResult<Self> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            TraceError::new(
                TraceErrorKind::Unsupported,
                format!("{name:?} is no trace format; there are {names}"),
            )
        })
    }
}

/// How to read a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReadOptions {
    /// The format; recognised by the contents when none is given.
    pub format: Option<Format>,
    /// The device whose events are read from a file that has several. Default: the one with the
    /// most events.
    pub device: Option<usize>,
}

/// One format's reader. Ids are what the file has, such as addresses.
pub(super) trait Decode: Send {
    /// The next event; none at the end.
    fn next(&mut self, skipped: &mut Skipped) -> TraceResult<Option<Event>>;
}

/// One format's writer.
pub(super) trait Encode: Send {
    fn write(&mut self, event: &Event, out: &mut dyn Write) -> TraceResult<()>;
    fn finish(&mut self, out: &mut dyn Write) -> TraceResult<()>;
}

/// Reads a trace of any format, event by event.
///
/// Ids are given anew, in the order of the allocations. Frees of unknown memory, failed and empty
/// allocations are counted in [`skipped`](Self::skipped) and left out. A file is read as it is
/// asked for, except PyTorch's, which has to be read to its end first. After an error there are no
/// further events.
pub struct Reader {
    decode: Box<dyn Decode>,
    format: Format,
    ids: LiveIds,
    skipped: Skipped,
    path: Option<Box<Path>>,
    /// Events of the file so far.
    events: u64,
    ended: bool,
}

impl Reader {
    /// Opens a file and recognises its format, also inside gzip.
    ///
    /// # Errors
    ///
    /// As for [`open_with`](Self::open_with).
    pub fn open(path: impl AsRef<Path>) -> TraceResult<Self> {
        Self::open_with(path, ReadOptions::default())
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io); [`Unsupported`](TraceErrorKind::Unsupported) when the contents
    /// are of no known format, or of a device that the file lacks; [`Format`](TraceErrorKind::Format)
    /// or [`Limit`](TraceErrorKind::Limit) for the beginning of the file, PyTorch's whole file.
    pub fn open_with(path: impl AsRef<Path>, options: ReadOptions) -> TraceResult<Self> {
        let path = path.as_ref();
        let file = File::open(path)
            .map_err(|error| TraceError::io("the trace cannot be opened", error).in_file(path))?;
        let mut reader = Self::new(file, options).map_err(|error| error.in_file(path))?;
        reader.path = Some(path.into());
        Ok(reader)
    }

    /// Reads from anything.
    ///
    /// # Errors
    ///
    /// As for [`open_with`](Self::open_with).
    pub fn new(input: impl Read + Send + 'static, options: ReadOptions) -> TraceResult<Self> {
        let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
        let input: Box<dyn BufRead + Send> = if sniff::is_gzip(peek(&mut input)?) {
            let inner = MultiGzDecoder::new(input);
            Box::new(BufReader::with_capacity(BUFFER_BYTES, inner))
        } else {
            Box::new(input)
        };
        Self::decoder(input, options)
    }

    fn decoder(mut input: Box<dyn BufRead + Send>, options: ReadOptions) -> TraceResult<Self> {
        let format = match options.format {
            Some(format) => format,
            None => {
                let start = peek(&mut input)?;
                let (bytes, found) = (start.len(), sniff::format(start));
                if found.is_err() {
                    // A file that is cut short may end before its heading does.
                    input.consume(bytes);
                    peek(&mut input)?;
                }
                found?
            }
        };
        let mut skipped = Skipped::default();
        let decode: Box<dyn Decode> = match format {
            Format::Csv => Box::new(csv::Decoder::new(input)?),
            Format::Rmm => Box::new(rmm::Decoder::new(input)?),
            Format::Stalloc => Box::new(stalloc::Decoder::new(input)),
            Format::PyTorch => {
                Box::new(pytorch::Decoder::new(input, options.device, &mut skipped)?)
            }
            Format::Compact => Box::new(CompactDecoder(compact::Reader::new(input)?)),
        };
        Ok(Self {
            decode,
            format,
            ids: LiveIds::default(),
            skipped,
            path: None,
            events: 0,
            ended: false,
        })
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// What was left out of, or added to, the events given so far.
    #[must_use]
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// The error with where it is.
    fn place(&self, error: TraceError) -> TraceError {
        error
            .at_event(self.events)
            .in_some_file(self.path.as_deref())
    }

    fn read(&mut self) -> TraceResult<Option<Event>> {
        if let Some(event) = self.ids.waiting() {
            return Ok(Some(event));
        }
        while let Some(event) = self.decode.next(&mut self.skipped)? {
            self.events += 1;
            if let Some(event) = self.ids.renumber(event, &mut self.skipped)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

impl Iterator for Reader {
    type Item = TraceResult<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read().map_err(|error| self.place(error)).transpose();
        self.ended = !matches!(read, Some(Ok(_)));
        read
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("format", &self.format)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

/// Reads all events of a trace into memory, with what was left out.
///
/// # Errors
///
/// The first error of the reader; [`Limit`](TraceErrorKind::Limit) beyond [`EVENTS_MAX`] events.
pub fn read_all(mut reader: Reader) -> TraceResult<(Vec<Event>, Skipped)> {
    let mut events = Vec::new();
    while let Some(event) = reader.next() {
        if events.len() == EVENTS_MAX {
            let error = TraceError::new(
                TraceErrorKind::Limit,
                format!("the trace has more than {EVENTS_MAX} events; split it"),
            );
            return Err(reader.place(error));
        }
        events.push(event?);
    }
    Ok((events, reader.skipped()))
}

/// What the reader has buffered, at least one byte unless it is at its end.
fn peek(input: &mut impl BufRead) -> TraceResult<&[u8]> {
    loop {
        match input.fill_buf() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot_read(error)),
            Ok(_) => break,
        }
    }
    input.fill_buf().map_err(cannot_read)
}

pub(super) fn cannot_read(error: std::io::Error) -> TraceError {
    TraceError::io("the trace cannot be read", error)
}

pub(super) fn cannot_write(error: std::io::Error) -> TraceError {
    TraceError::io("the trace cannot be written", error)
}

struct CompactDecoder(compact::Reader<Box<dyn BufRead + Send>>);

impl Decode for CompactDecoder {
    fn next(&mut self, skipped: &mut Skipped) -> TraceResult<Option<Event>> {
        let event = self.0.next().transpose();
        let left_out = self.0.skipped();
        skipped.dropped = left_out.dropped;
        skipped.truncated = left_out.truncated;
        event
    }
}

/// Writes a trace in any format. Only [`finish`](Self::finish) makes the file whole.
pub struct Writer {
    encode: Box<dyn Encode>,
    out: Out,
    path: Option<Box<Path>>,
}

enum Out {
    Plain(Box<dyn Write + Send>),
    Gzip(Box<GzEncoder<Box<dyn Write + Send>>>),
}

impl Writer {
    /// Makes the file, or empties it. A name that ends in `.gz` is compressed.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn create(path: impl AsRef<Path>, format: Format) -> TraceResult<Self> {
        let path = path.as_ref();
        let file = File::create(path)
            .map_err(|error| TraceError::io("the trace cannot be created", error).in_file(path))?;
        let gzip = path
            .extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("gz"));
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut writer = Self::new(file, format, gzip).map_err(|error| error.in_file(path))?;
        writer.path = Some(path.into());
        Ok(writer)
    }

    /// Writes to anything, compressed with gzip or not.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn new(out: impl Write + Send + 'static, format: Format, gzip: bool) -> TraceResult<Self> {
        let out: Box<dyn Write + Send> = Box::new(out);
        let out = if gzip {
            Out::Gzip(Box::new(GzEncoder::new(out, Compression::default())))
        } else {
            Out::Plain(out)
        };
        Ok(Self {
            encode: match format {
                Format::Csv => Box::new(csv::Encoder::default()),
                Format::Rmm => Box::new(rmm::Encoder::default()),
                Format::Stalloc => Box::new(stalloc::Encoder),
                Format::PyTorch => Box::new(pytorch::Encoder::default()),
                Format::Compact => Box::new(CompactEncoder(compact::Writer::new(Vec::new())?)),
            },
            out,
            path: None,
        })
    }

    /// Writes one event.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io); [`Limit`](TraceErrorKind::Limit) beyond [`EVENTS_MAX`] events of
    /// a format that is written at the end.
    pub fn write(&mut self, event: &Event) -> TraceResult<()> {
        let out: &mut dyn Write = match &mut self.out {
            Out::Plain(out) => out,
            Out::Gzip(out) => out,
        };
        let written = self.encode.write(event, out);
        written.map_err(|error| error.in_some_file(self.path.as_deref()))
    }

    /// Completes the file.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn finish(self) -> TraceResult<()> {
        let Self { encode, out, path } = self;
        complete(encode, out).map_err(|error| error.in_some_file(path.as_deref()))
    }
}

fn complete(mut encode: Box<dyn Encode>, out: Out) -> TraceResult<()> {
    let mut out = match out {
        Out::Plain(mut out) => {
            encode.finish(&mut out)?;
            out
        }
        Out::Gzip(mut out) => {
            encode.finish(&mut out)?;
            out.finish().map_err(cannot_write)?
        }
    };
    out.flush().map_err(cannot_write)
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// Encodes into memory and hands on what has gathered.
struct CompactEncoder(compact::Writer<Vec<u8>>);

impl Encode for CompactEncoder {
    fn write(&mut self, event: &Event, out: &mut dyn Write) -> TraceResult<()> {
        self.0.write(event)?;
        if self.0.gathered().len() >= 1 << 16 {
            out.write_all(self.0.gathered()).map_err(cannot_write)?;
            self.0.gathered().clear();
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> TraceResult<()> {
        self.0.end()?;
        out.write_all(self.0.gathered()).map_err(cannot_write)
    }
}
