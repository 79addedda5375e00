//! By what a PCI device of the host is named in a container's specification.

use std::fmt;
use std::str::FromStr;

use uvm_wire::negotiate::GuestOs;

/// By what a device to be [assigned](crate::UtilityVm::assign_device) is named where containers ask for it. That call
/// itself takes the host's instance path, whatever led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceIdType {
    /// A GPU, by its instance path.
    Gpu,
    /// A device, by its location path.
    LocationPath,
    /// All devices of a class, by its GUID.
    ClassGuid,
    /// A device, by its instance path.
    InstanceId,
}

impl DeviceIdType {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::LocationPath => "vpci-location-path",
            Self::ClassGuid => "vpci-class-guid",
            Self::InstanceId => "vpci-instance-id",
        }
    }

    /// Whether runtimes assign such devices to VMs with this kind of guest.
    pub const fn is_for(self, os: GuestOs) -> bool {
        matches!((self, os), (Self::Gpu, GuestOs::Linux) | (Self::InstanceId, GuestOs::Windows))
    }
}

impl fmt::Display for DeviceIdType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no kind of device id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "device id type {word:?} is none: gpu, vpci-location-path, vpci-class-guid, vpci-instance-id, and the older words \
     class and vpci are allowed"
)]
pub struct UnknownDeviceIdType {
    /// The word.
    pub word: String,
}

/// Reads the words, older ones (`class`, `vpci`) too.
impl FromStr for DeviceIdType {
    type Err = UnknownDeviceIdType;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(match word {
            "gpu" => Self::Gpu,
            "vpci-location-path" => Self::LocationPath,
            "vpci-class-guid" | "class" => Self::ClassGuid,
            "vpci-instance-id" | "vpci" => Self::InstanceId,
            _ => return Err(UnknownDeviceIdType { word: word.to_owned() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_and_written() {
        use DeviceIdType::{ClassGuid, Gpu, InstanceId, LocationPath};
        for kind in [Gpu, LocationPath, ClassGuid, InstanceId] {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!(("class".parse(), "vpci".parse()), (Ok(ClassGuid), Ok(InstanceId)));
        let error = "GPU".parse::<DeviceIdType>().expect_err("words have one case");
        assert!(error.to_string().contains("\"GPU\""), "{error}");
        let is_for = |os| [Gpu, LocationPath, ClassGuid, InstanceId].map(|kind| kind.is_for(os));
        assert_eq!(is_for(GuestOs::Linux), [true, false, false, false]);
        assert_eq!(is_for(GuestOs::Windows), [false, false, false, true]);
    }
}
