//! One name.

use rustix::io::Errno;

/// A name of a file in a directory: 1 to 255 bytes, without slash and NUL, neither `.` nor `..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component<'a>(&'a [u8]);

impl<'a> Component<'a> {
    /// Checks it.
    ///
    /// # Errors
    /// `ENAMETOOLONG` above 255 bytes, `EINVAL` for whatever else is no name.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Errno> {
        match bytes {
            b"" | b"." | b".." => Err(Errno::INVAL),
            _ if bytes.len() > 255 => Err(Errno::NAMETOOLONG),
            _ if bytes.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(Errno::INVAL),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_leads_elsewhere_is_no_name() {
        for name in ["", ".", "..", "/", "/etc", "a/b", "a/", "../a", "a\0", "\0"] {
            assert_eq!(Component::new(name.as_bytes()), Err(Errno::INVAL), "{name:?}");
        }
        assert_eq!(Component::new(&[b'a'; 256]), Err(Errno::NAMETOOLONG));
        for name in ["a", "...", "..a", ".a", "a b", "\\..\\", "\u{e9}"] {
            assert!(Component::new(name.as_bytes()).is_ok(), "{name:?}");
        }
        assert!(Component::new(&[b'a'; 255]).is_ok());
    }

    proptest! {
        #[test]
        fn a_name_is_one_step(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Component::new(&bytes) {
                use std::os::unix::ffi::OsStrExt;
                let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
                let steps: Vec<_> = path.components().collect();
                prop_assert!(matches!(steps[..], [std::path::Component::Normal(_)]), "{steps:?}");
            }
        }
    }
}
