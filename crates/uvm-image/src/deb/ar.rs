//! The `ar` archive around a Debian package.

use std::io::{self, Read};

use super::DebError;

/// Reads the members of an `ar` archive in order.
pub(super) struct ArReader<R> {
    reader: R,
}

/// The header of one member.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ArMember {
    pub(super) name: String,
    pub(super) size: u64,
}

impl<R: Read> ArReader<R> {
    /// Checks the archive's magic number.
    pub(super) fn new(mut reader: R) -> Result<Self, DebError> {
        let mut magic = [0; 8];
        match reader.read_exact(&mut magic) {
            Ok(()) if &magic == b"!<arch>\n" => Ok(Self { reader }),
            Ok(()) => Err(DebError::NoArchive),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(DebError::NoArchive),
            Err(error) => Err(error.into()),
        }
    }

    /// The next member's header; `None` at the end. Its contents come from [`contents`](Self::contents), or are
    /// skipped by [`skip`](Self::skip): one of them must be called before the next header.
    pub(super) fn next_member(&mut self) -> Result<Option<ArMember>, DebError> {
        let mut header = Vec::with_capacity(60);
        (&mut self.reader).take(60).read_to_end(&mut header)?;
        match header.len() {
            0 => return Ok(None),
            60 => {}
            _ => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
        if header[58..] != *b"`\n" {
            return Err(DebError::BadMember);
        }
        let text = |range: std::ops::Range<usize>| {
            std::str::from_utf8(&header[range]).map(str::trim_end).map_err(|_| DebError::BadMember)
        };
        let name = text(0..16)?;
        let name = name.strip_suffix('/').unwrap_or(name).to_owned();
        let size = text(48..58)?;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DebError::BadMember);
        }
        let size = size.parse().map_err(|_| DebError::BadMember)?;
        Ok(Some(ArMember { name, size }))
    }

    /// Skips the contents of `member` and its padding.
    pub(super) fn skip(&mut self, member: &ArMember) -> Result<(), DebError> {
        let padded = member.size + member.size % 2;
        let skipped = io::copy(&mut (&mut self.reader).take(padded), &mut io::sink())?;
        // The last member's padding may be missing.
        if skipped < member.size { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(()) }
    }

    /// The contents of `member`; the archive cannot be read on from there.
    pub(super) fn contents(self, member: &ArMember) -> io::Take<R> {
        self.reader.take(member.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ar;

    #[test]
    fn members_are_read_in_order_with_either_style_of_name() {
        let bytes = ar(&[("debian-binary", b"2.0\n"), ("odd/", b"x"), ("data.tar", b"contents")]);
        let mut reader = ArReader::new(&bytes[..]).unwrap();
        for name in ["debian-binary", "odd"] {
            let member = reader.next_member().unwrap().unwrap();
            assert_eq!(member.name, name);
            reader.skip(&member).unwrap();
        }
        let member = reader.next_member().unwrap().unwrap();
        let mut text = String::new();
        reader.contents(&member).read_to_string(&mut text).unwrap();
        assert_eq!(text, "contents");
    }

    #[test]
    fn the_end_is_the_end_and_not_an_error() {
        let mut reader = ArReader::new(&b"!<arch>\n"[..]).unwrap();
        assert_eq!(reader.next_member().unwrap(), None);
    }

    #[test]
    fn damaged_headers_are_refused() {
        assert!(matches!(ArReader::new(&b"!<arch"[..]), Err(DebError::NoArchive)));
        assert!(matches!(ArReader::new(&b"PK\x03\x04xxxx"[..]), Err(DebError::NoArchive)));
        let good = ar(&[("a", b"b")]);
        for (at, byte) in [(8 + 58, b'x'), (8 + 48, b'-'), (8 + 48, b'+'), (8 + 48, b' '), (8, 0xff)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert!(
                matches!(ArReader::new(&bytes[..]).unwrap().next_member(), Err(DebError::BadMember)),
                "{at} {byte}"
            );
        }
        let cut = ArReader::new(&good[..40]).unwrap().next_member();
        assert!(matches!(cut, Err(DebError::Read(_))));
        let mut short = ArReader::new(&good[..68]).unwrap();
        let member = short.next_member().unwrap().unwrap();
        assert!(matches!(short.skip(&member), Err(DebError::Read(_))));
    }
}
