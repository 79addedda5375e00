//! The compressed formats that packages, modules and kernel images come in.

use std::fmt;
use std::io::{self, Read};

use liblzma::read::XzDecoder;
use liblzma::stream::Stream;

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// xz, one stream.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// The format of a file named `name`, by its suffix.
    pub fn of_name(name: &str) -> Self {
        match name.rsplit_once('.') {
            Some((_, "gz")) => Self::Gzip,
            Some((_, "xz")) => Self::Xz,
            Some((_, "zst")) => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The format of a payload, by its first bytes; or the name of one that is not supported.
    pub fn of_payload(bytes: &[u8]) -> Result<Self, &'static str> {
        match bytes {
            [0x1f, 0x8b | 0x9e, ..] => Ok(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [0x7f, b'E', b'L', b'F', ..] => Ok(Self::None),
            [0x02, 0x21, 0x4c, 0x18, ..] => Err("lz4"),
            [0x89, b'L', b'Z', b'O', ..] => Err("lzo"),
            [b'B', b'Z', b'h', ..] => Err("bzip2"),
            [0x5d, 0, 0, ..] => Err("lzma"),
            _ => Err("an unknown format"),
        }
    }

    /// What `reader` yields, decompressed. Reading more than `limit` bytes is an error: bombs end there.
    pub fn reader<'a>(self, reader: impl Read + 'a, limit: u64) -> io::Result<Limited<Box<dyn Read + 'a>>> {
        let inner: Box<dyn Read> = match self {
            Self::None => Box::new(reader),
            Self::Gzip => Box::new(flate2::read::GzDecoder::new(reader)),
            Self::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(io::Error::from)?;
                Box::new(XzDecoder::new_stream(reader, stream))
            }
            // The decoder's own limit on its window is 128 MiB.
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(reader)?.single_frame()),
        };
        Ok(Limited { inner, left: limit, limit })
    }
}

/// A reader that fails, rather than ends, past a number of bytes.
pub struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            // The end may be exactly here.
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(TooMuch { limit: self.limit }.into()),
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// There are more bytes than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch {
    limit: u64,
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it holds more than the {} bytes allowed", self.limit)
    }
}

impl std::error::Error for TooMuch {}

impl From<TooMuch> for io::Error {
    fn from(error: TooMuch) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What an xz decoder may take: the largest preset (`xz -9`) needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(format: Compression, bytes: &[u8]) -> Vec<u8> {
        match format {
            Compression::None => bytes.to_vec(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }

    const ALL: [Compression; 4] = [Compression::None, Compression::Gzip, Compression::Xz, Compression::Zstd];

    #[test]
    fn every_format_is_recognised_read_and_limited() {
        let bytes = [b"\x7fELF".as_slice(), &[b'z'; 5000]].concat();
        for format in ALL {
            let data = packed(format, &bytes);
            assert_eq!(Compression::of_payload(&data), Ok(format));
            let mut exactly = Vec::new();
            format.reader(&data[..], bytes.len() as u64).unwrap().read_to_end(&mut exactly).unwrap();
            assert_eq!(exactly, bytes, "{format:?}");
            let too_much = format.reader(&data[..], bytes.len() as u64 - 1).unwrap().read_to_end(&mut Vec::new());
            assert!(too_much.unwrap_err().to_string().contains("more than the 5003 bytes"), "{format:?}");
        }
    }

    #[test]
    fn trailing_bytes_after_a_payload_are_ignored() {
        for format in [Compression::Gzip, Compression::Xz, Compression::Zstd] {
            let mut data = packed(format, b"kernel");
            data.extend_from_slice(&[6, 0, 0, 0]);
            let mut out = String::new();
            format.reader(&data[..], 100).unwrap().read_to_string(&mut out).unwrap();
            assert_eq!(out, "kernel", "{format:?}");
        }
    }

    #[test]
    fn truncated_data_is_an_error() {
        for format in [Compression::Gzip, Compression::Xz, Compression::Zstd] {
            let data = packed(format, &vec![7; 100_000]);
            let cut = &data[..data.len() - 5];
            format.reader(cut, 1 << 20).unwrap().read_to_end(&mut Vec::new()).expect_err("cut short");
        }
    }

    #[test]
    fn formats_are_known_by_name_and_others_are_named() {
        assert_eq!(Compression::of_name("data.tar.xz"), Compression::Xz);
        assert_eq!(Compression::of_name("x.ko.zst"), Compression::Zstd);
        assert_eq!(Compression::of_name("x.ko"), Compression::None);
        assert_eq!(Compression::of_payload(&[0x02, 0x21, 0x4c, 0x18]), Err("lz4"));
        assert_eq!(Compression::of_payload(b""), Err("an unknown format"));
    }
}
