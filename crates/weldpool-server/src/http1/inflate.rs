//! Undoes the content codings `gzip` (RFC 1952) and `deflate` (RFC 1950) in pieces of any size,
//! writing straight into the caller's memory.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::error::{Error, Result};

/// Bytes of optional fields that the header of one gzip member may hold.
const GZIP_HEADER_BYTES_MAX: u32 = 70 << 10;

const FLAG_CHECKSUM: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const FLAGS_RESERVED: u8 = 0b1110_0000;

/// What one [`Inflater::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes of the input that are done with.
    pub(crate) consumed: usize,
    /// Bytes written to the front of the output.
    pub(crate) produced: usize,
}

/// A decoder of one body.
#[derive(Debug)]
pub(crate) struct Inflater {
    raw: Decompress,
    stage: Stage,
    gzip: bool,
    checksum: Crc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In the header of a gzip member.
    Header(Header),
    /// In compressed data.
    Data,
    /// Behind the data of a gzip member, with this many bytes of the trailer read so far.
    Trailer { read: u8, value: u64 },
    /// At the end of the stream, or between two gzip members.
    Done,
}

/// Progress through a gzip header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    field: Field,
    flags: u8,
    read: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Fixed(u8),
    ExtraLengthLow,
    ExtraLengthHigh(u8),
    Extra(u16),
    Name,
    Comment,
    Checksum(u8),
}

impl Inflater {
    /// A decoder for `gzip`.
    pub(crate) fn gzip() -> Self {
        Self {
            raw: Decompress::new(false),
            stage: Stage::Header(Header::START),
            gzip: true,
            checksum: Crc::new(),
        }
    }

    /// A decoder for `deflate`, which in HTTP means the zlib format.
    pub(crate) fn zlib() -> Self {
        Self {
            raw: Decompress::new(true),
            stage: Stage::Data,
            gzip: false,
            checksum: Crc::new(),
        }
    }

    /// Whether the input may end here.
    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Decodes from the front of `input` to the front of `output` until one of them is used up.
    /// Zero bytes both consumed and produced means that one of them was empty, or too short for
    /// progress.
    pub(crate) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let mut step = Step {
            consumed: 0,
            produced: 0,
        };
        loop {
            let rest = &input[step.consumed..];
            match self.stage {
                Stage::Data => {
                    let (read, written) = self.inflate(rest, &mut output[step.produced..])?;
                    step.consumed += read;
                    step.produced += written;
                    if self.stage == Stage::Data {
                        return Ok(step);
                    }
                }
                Stage::Header(header) => {
                    let Some(&byte) = rest.first() else {
                        return Ok(step);
                    };
                    self.stage = header.next(byte)?.map_or(Stage::Data, Stage::Header);
                    step.consumed += 1;
                }
                Stage::Trailer { read, value } => {
                    let Some(&byte) = rest.first() else {
                        return Ok(step);
                    };
                    self.read_trailer(read, value | u64::from(byte) << (8 * read))?;
                    step.consumed += 1;
                }
                Stage::Done if rest.is_empty() => return Ok(step),
                Stage::Done if self.gzip => {
                    self.raw.reset(false);
                    self.checksum.reset();
                    self.stage = Stage::Header(Header::START);
                }
                Stage::Done => {
                    return Err(Error::malformed(
                        "the compressed body goes on behind its end",
                    ));
                }
            }
        }
    }

    fn inflate(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize)> {
        let (in_before, out_before) = (self.raw.total_in(), self.raw.total_out());
        let status = self
            .raw
            .decompress(input, output, FlushDecompress::None)
            .map_err(|_| Error::malformed("the compressed body is damaged"))?;
        // Both differences are bounded by the lengths of the slices.
        let read = (self.raw.total_in() - in_before) as usize;
        let written = (self.raw.total_out() - out_before) as usize;
        if self.gzip {
            self.checksum.update(&output[..written]);
        }
        if status == Status::StreamEnd {
            self.stage = if self.gzip {
                Stage::Trailer { read: 0, value: 0 }
            } else {
                Stage::Done
            };
        }
        Ok((read, written))
    }

    /// Takes the trailer with the byte at index `read` in place: checksum, then length, each of
    /// four bytes, the lowest first.
    fn read_trailer(&mut self, read: u8, value: u64) -> Result<()> {
        if read < 7 {
            self.stage = Stage::Trailer {
                read: read + 1,
                value,
            };
            return Ok(());
        }
        let expected = u64::from(self.checksum.sum()) | u64::from(self.checksum.amount()) << 32;
        if value != expected {
            return Err(Error::malformed(
                "the compressed body does not match its checksum",
            ));
        }
        self.stage = Stage::Done;
        Ok(())
    }
}

impl Header {
    const START: Self = Self {
        field: Field::Fixed(0),
        flags: 0,
        read: 0,
    };

    /// The state behind `byte`, or `None` if it was the header's last.
    fn next(mut self, byte: u8) -> Result<Option<Self>> {
        let broken = || Error::malformed("the body is not gzip, which its Content-Encoding says");
        self.read += 1;
        if self.read > GZIP_HEADER_BYTES_MAX {
            return Err(Error::malformed("the header of the gzip body is too long"));
        }
        self.field = match self.field {
            Field::Fixed(index) => {
                match index {
                    0 if byte != 0x1f => return Err(broken()),
                    1 if byte != 0x8b => return Err(broken()),
                    2 if byte != 8 => return Err(broken()),
                    3 if byte & FLAGS_RESERVED != 0 => return Err(broken()),
                    3 => self.flags = byte,
                    _ => {}
                }
                if index < 9 {
                    self.field = Field::Fixed(index + 1);
                    return Ok(Some(self));
                }
                return Ok(self.after(0));
            }
            Field::ExtraLengthLow => Field::ExtraLengthHigh(byte),
            Field::ExtraLengthHigh(low) => match u16::from_le_bytes([low, byte]) {
                0 => return Ok(self.after(FLAG_EXTRA)),
                length => Field::Extra(length),
            },
            Field::Extra(1) => return Ok(self.after(FLAG_EXTRA)),
            Field::Extra(left) => Field::Extra(left - 1),
            Field::Name if byte == 0 => return Ok(self.after(FLAG_NAME)),
            Field::Comment if byte == 0 => return Ok(self.after(FLAG_COMMENT)),
            Field::Checksum(0) => Field::Checksum(1),
            Field::Checksum(_) => return Ok(None),
            text => text,
        };
        Ok(Some(self))
    }

    /// The next field that the flags announce behind the one of flag `done`.
    fn after(mut self, done: u8) -> Option<Self> {
        let fields = [
            (FLAG_EXTRA, Field::ExtraLengthLow),
            (FLAG_NAME, Field::Name),
            (FLAG_COMMENT, Field::Comment),
            (FLAG_CHECKSUM, Field::Checksum(0)),
        ];
        let passed = fields
            .iter()
            .position(|(flag, _)| *flag == done)
            .map_or(0, |at| at + 1);
        let (_, field) = fields[passed..]
            .iter()
            .find(|(flag, _)| self.flags & flag != 0)?;
        self.field = *field;
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn sample() -> Vec<u8> {
        (0..5000u32)
            .flat_map(|n| (n * n / 7).to_le_bytes())
            .collect()
    }

    /// Decodes in pieces of `read` bytes of input and `write` bytes of output.
    fn decode(mut inflater: Inflater, input: &[u8], read: usize, write: usize) -> Result<Vec<u8>> {
        let (mut data, mut position) = (Vec::new(), 0);
        let mut output = vec![0; write];
        loop {
            let end = input.len().min(position + read);
            let step = inflater.step(&input[position..end], &mut output)?;
            position += step.consumed;
            data.extend_from_slice(&output[..step.produced]);
            if position == input.len() && step.produced < write {
                return if inflater.is_done() {
                    Ok(data)
                } else {
                    Err(Error::disconnected())
                };
            }
            assert!(
                step.consumed + step.produced > 0,
                "no progress at {position}"
            );
        }
    }

    #[test]
    fn any_split_gives_the_same_data() {
        let data = sample();
        for (read, write) in [
            (1, 1),
            (1, 64),
            (7, 3),
            (64, 1 << 16),
            (1 << 16, 1),
            (1 << 16, 100),
        ] {
            assert_eq!(
                decode(Inflater::gzip(), &gzip(&data), read, write).unwrap(),
                data
            );
            assert_eq!(
                decode(Inflater::zlib(), &zlib(&data), read, write).unwrap(),
                data
            );
        }
        assert_eq!(decode(Inflater::gzip(), &gzip(b""), 1, 1).unwrap(), b"");
        assert_eq!(decode(Inflater::zlib(), &zlib(b""), 100, 1).unwrap(), b"");
    }

    #[test]
    fn a_gzip_body_may_have_several_members_and_every_optional_field() {
        let both = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(decode(Inflater::gzip(), &both, 5, 2).unwrap(), b"one two");

        let plain = gzip(b"data");
        let mut full = plain[..10].to_vec();
        full[3] = FLAG_CHECKSUM | FLAG_EXTRA | FLAG_NAME | FLAG_COMMENT;
        full.extend_from_slice(b"\x03\x00abcname\0comment\0\x12\x34");
        full.extend_from_slice(&plain[10..]);
        assert_eq!(decode(Inflater::gzip(), &full, 1, 8).unwrap(), b"data");
        full[3] = FLAG_EXTRA;
        let mut empty_extra = full[..10].to_vec();
        empty_extra.extend_from_slice(b"\x00\x00");
        empty_extra.extend_from_slice(&plain[10..]);
        assert_eq!(
            decode(Inflater::gzip(), &empty_extra, 64, 8).unwrap(),
            b"data"
        );
    }

    #[test]
    fn damage_is_noticed() {
        let data = sample();
        for end in [0, 1, 9, 10, 50, gzip(&data).len() - 1] {
            assert!(
                decode(Inflater::gzip(), &gzip(&data)[..end], 64, 64).is_err(),
                "{end}"
            );
        }
        for end in [0, 1, 2, 50, zlib(&data).len() - 1] {
            assert!(
                decode(Inflater::zlib(), &zlib(&data)[..end], 64, 64).is_err(),
                "{end}"
            );
        }
        for position in [0, 1, 2, 3, 20] {
            let mut input = gzip(&data);
            input[position] ^= 0xff;
            assert!(
                decode(Inflater::gzip(), &input, 64, 64).is_err(),
                "{position}"
            );
        }
        for from_end in [1, 5, 8] {
            let mut input = gzip(&data);
            let position = input.len() - from_end;
            input[position] ^= 1;
            assert!(
                decode(Inflater::gzip(), &input, 64, 64).is_err(),
                "{from_end}"
            );
        }
        let behind = [zlib(b"data"), b"x".to_vec()].concat();
        assert!(decode(Inflater::zlib(), &behind, 64, 64).is_err());
        assert!(decode(Inflater::gzip(), &zlib(b"data"), 64, 64).is_err());
        assert!(decode(Inflater::zlib(), &gzip(b"data"), 64, 64).is_err());
    }

    #[test]
    fn an_endless_header_is_refused() {
        let mut input = gzip(b"data")[..10].to_vec();
        input[3] = FLAG_NAME;
        input.extend(std::iter::repeat_n(b'n', 80 << 10));
        assert!(decode(Inflater::gzip(), &input, 1 << 16, 64).is_err());
    }
}
