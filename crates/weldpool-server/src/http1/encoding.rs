//! Content codings: which one a body has, which one a client would like, and compression.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::error::{Error, ErrorKind, Result};
use super::inflate::Inflater;

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentEncoding {
    /// As it is.
    Identity,
    /// The gzip format, RFC 1952.
    Gzip,
    /// The zlib format, RFC 1950, which HTTP calls `deflate`.
    Deflate,
}

impl ContentEncoding {
    /// The codings that are understood, as the value of an `Accept-Encoding` header.
    pub const SUPPORTED: &str = "gzip, deflate";

    /// The coding of a body with this `Content-Encoding`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnsupportedEncoding`] for any other coding, and for more than one at once.
    pub fn of_body(content_encoding: Option<&[u8]>) -> Result<Self> {
        let value = content_encoding.unwrap_or_default().trim_ascii();
        Self::from_name(value)
            .or(value.is_empty().then_some(Self::Identity))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::UnsupportedEncoding,
                    "the Content-Encoding must be gzip, deflate or identity",
                )
            })
    }

    /// The coding that a client with this `Accept-Encoding` likes best, by its weights and, among
    /// equals, in the order gzip, deflate, identity. A header that cannot be met, or not be
    /// read, means identity.
    #[must_use]
    pub fn negotiate(accept_encoding: Option<&[u8]>) -> Self {
        let Some(value) = accept_encoding else {
            return Self::Identity;
        };
        let mut weights = Weights::default();
        for item in value.split(|byte| *byte == b',') {
            let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let Some(weight) = weight(parts) else {
                return Self::Identity;
            };
            match Self::from_name(name) {
                Some(Self::Gzip) => weights.gzip = Some(weight),
                Some(Self::Deflate) => weights.deflate = Some(weight),
                Some(Self::Identity) => weights.identity = Some(weight),
                None if name == b"*" => weights.others = Some(weight),
                None => {}
            }
        }
        weights.best()
    }

    /// The coding's name in a header, `None` for identity, which has no header.
    #[must_use]
    pub fn header_value(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
        }
    }

    pub(crate) fn inflater(self) -> Option<Inflater> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some(Inflater::gzip()),
            Self::Deflate => Some(Inflater::zlib()),
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        let names: [(&[u8], Self); 4] = [
            (b"gzip", Self::Gzip),
            (b"x-gzip", Self::Gzip),
            (b"deflate", Self::Deflate),
            (b"identity", Self::Identity),
        ];
        names
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known))
            .map(|(_, coding)| *coding)
    }
}

/// The weights of an `Accept-Encoding`, in thousandths.
#[derive(Default)]
struct Weights {
    gzip: Option<u16>,
    deflate: Option<u16>,
    identity: Option<u16>,
    others: Option<u16>,
}

impl Weights {
    fn best(&self) -> ContentEncoding {
        let gzip = self.gzip.or(self.others).unwrap_or(0);
        let deflate = self.deflate.or(self.others).unwrap_or(0);
        // Identity is acceptable when it is not named, but is preferred to nothing that is.
        let identity = self.identity.unwrap_or(0);
        if gzip > 0 && gzip >= deflate && gzip >= identity {
            ContentEncoding::Gzip
        } else if deflate > 0 && deflate >= identity {
            ContentEncoding::Deflate
        } else {
            ContentEncoding::Identity
        }
    }
}

/// The weight among an item's parameters in thousandths; 1000 when there is none, `None` when it
/// is not a weight.
fn weight<'a>(parameters: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    for parameter in parameters {
        if let [b'q' | b'Q', b'=', value @ ..] = parameter {
            return thousandths(value);
        }
    }
    Some(1000)
}

/// Reads `0`, `1`, or either with up to three decimals, as RFC 9110 writes weights.
fn thousandths(value: &[u8]) -> Option<u16> {
    let (whole, decimals) = match value {
        [whole] | [whole, b'.'] => (whole, &[][..]),
        [whole, b'.', decimals @ ..] => (whole, decimals),
        _ => return None,
    };
    if !matches!(whole, b'0' | b'1') || decimals.len() > 3 {
        return None;
    }
    let mut sum = u16::from(whole - b'0');
    for index in 0..3 {
        let digit = decimals.get(index).copied().unwrap_or(b'0');
        sum = sum * 10 + char::from(digit).to_digit(10)? as u16;
    }
    (sum <= 1000).then_some(sum)
}

/// Compresses the concatenation of `parts`.
pub(crate) fn compress<'a>(
    coding: ContentEncoding,
    parts: impl Iterator<Item = &'a [u8]>,
) -> std::io::Result<Vec<u8>> {
    fn feed<'a, W: Write>(
        mut encoder: W,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> std::io::Result<W> {
        for part in parts {
            encoder.write_all(part)?;
        }
        Ok(encoder)
    }
    // The fastest level: a response is sent once, so time to compress counts for more than size.
    let level = Compression::fast();
    match coding {
        ContentEncoding::Gzip => feed(GzEncoder::new(Vec::new(), level), parts)?.finish(),
        ContentEncoding::Deflate => feed(ZlibEncoder::new(Vec::new(), level), parts)?.finish(),
        ContentEncoding::Identity => feed(Vec::new(), parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_decide() {
        use ContentEncoding::{Deflate, Gzip, Identity};
        let cases = [
            ("", Identity),
            ("gzip", Gzip),
            ("GZIP", Gzip),
            ("deflate", Deflate),
            ("gzip, deflate", Gzip),
            ("deflate, gzip", Gzip),
            ("gzip;q=0.5, deflate;q=0.8", Deflate),
            ("gzip ; Q=0.5 , deflate ; q=0.501", Deflate),
            ("gzip;q=0.5, identity;q=0.8", Identity),
            ("gzip;q=0.8, identity;q=0.8", Gzip),
            ("gzip;q=0", Identity),
            ("gzip;q=0, *", Deflate),
            ("*", Gzip),
            ("*;q=0.1, identity", Identity),
            ("br, zstd", Identity),
            ("br;q=1.0, gzip;q=0.001", Gzip),
            ("gzip;q=2", Identity),
            ("gzip;q=1.001", Identity),
            ("gzip;q=0.1234", Identity),
            ("gzip;q=x", Identity),
            ("gzip;q=", Identity),
            ("gzip;level=1;q=0", Identity),
            (",,gzip,,", Gzip),
        ];
        for (header, expected) in cases {
            assert_eq!(
                ContentEncoding::negotiate(Some(header.as_bytes())),
                expected,
                "{header}"
            );
        }
        assert_eq!(ContentEncoding::negotiate(None), Identity);
    }

    #[test]
    fn the_coding_of_a_body_is_one_that_is_known() {
        use ContentEncoding::{Deflate, Gzip, Identity};
        let cases = [
            (None, Identity),
            (Some("identity"), Identity),
            (Some(""), Identity),
            (Some("GZip"), Gzip),
            (Some("x-gzip"), Gzip),
            (Some("deflate"), Deflate),
        ];
        for (header, expected) in cases {
            assert_eq!(
                ContentEncoding::of_body(header.map(str::as_bytes)).unwrap(),
                expected
            );
        }
        for header in ["br", "gzip, gzip", "gzip;q=1"] {
            let error = ContentEncoding::of_body(Some(header.as_bytes())).expect_err(header);
            assert_eq!(error.kind(), ErrorKind::UnsupportedEncoding, "{header}");
        }
    }

    #[test]
    fn what_is_compressed_decodes_to_the_parts_in_order() {
        let parts: [&[u8]; 3] = [b"{\"a\":1}", b"", &[7; 10_000]];
        for coding in [ContentEncoding::Gzip, ContentEncoding::Deflate] {
            let compressed = compress(coding, parts.into_iter()).unwrap();
            let mut output = vec![0; 10_100];
            let mut inflater = coding.inflater().unwrap();
            let step = inflater.step(&compressed, &mut output).unwrap();
            assert_eq!(output[..step.produced], parts.concat());
            assert!(inflater.is_done() && compressed.len() < 200);
        }
        let same = compress(ContentEncoding::Identity, parts.into_iter()).unwrap();
        assert_eq!(same, parts.concat());
    }
}
