//! The build of the Windows host, which decides what its service knows. It is always handed in: no global is asked, so
//! that every build's documents can be made and tested anywhere.

use std::fmt;

/// A build number of Windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowsBuild(pub u32);

impl WindowsBuild {
    /// From here on a network adapter is named `AdapterId` to a guest; below, `AdapterInstanceId`.
    pub const RS5: Self = Self(17763);
    /// From here on a Linux kernel can be booted directly.
    pub const KERNEL_DIRECT: Self = Self(18286);
    /// From here on a 9P share can be restricted to single files; and directly mapped shares depend on the file system.
    pub const V19H1: Self = Self(18362);
    /// From here on there are cold discard hints.
    pub const COLD_DISCARD: Self = Self(18967);
    /// The last build whose directly mapped shares depend on the file system.
    pub const V20H2: Self = Self(19042);
    /// From here on a VM can be created in a CPU group.
    pub const V21H1: Self = Self(19043);

    /// Whether a shared directory has to be asked for file ids before its files may be mapped directly.
    pub fn must_probe_direct_map(self) -> bool {
        (Self::V19H1..=Self::V20H2).contains(&self)
    }
}

impl fmt::Display for WindowsBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_mapping_is_probed_on_a_range_of_builds() {
        for (build, probed) in [(17763, false), (18361, false), (18362, true), (19042, true), (19043, false)] {
            assert_eq!(WindowsBuild(build).must_probe_direct_map(), probed, "{build}");
        }
    }
}
