//! Which modules a guest can use, by feature.
//!
//! To support another device or file system, add its module here; what it depends on is found by itself.

/// Modules that one feature needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The feature: what the agent asks the index for.
    pub name: &'static str,
    /// The modules it names; their dependencies come on top. With `?` in front: helps where the processor can use it.
    pub modules: &'static [&'static str],
    /// Whether a kernel without them boots a guest at all.
    pub need: Need,
}

/// Whether a kernel can do without a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No guest runs without it.
    Always,
    /// The feature is missing where the kernel lacks it.
    WhereThere,
}

/// All groups. `boot` is what the agent loads first; the others it loads when they are asked for.
pub const GROUPS: &[Group] = &[
    Group { name: "boot", modules: &["virtio_pci", "virtio_console"], need: Need::Always },
    // Devices of the virtual machine.
    feature("pvpanic", &["pvpanic-pci"]),
    feature("power", &["button"]),
    feature("fw-cfg", &["qemu_fw_cfg"]),
    feature("scsi", &["virtio_scsi", "sd_mod"]),
    feature("block", &["virtio_blk"]),
    feature("balloon", &["virtio_balloon"]),
    feature("rng", &["virtio-rng"]),
    feature("net", &["virtio_net", "af_packet"]),
    feature("memory", &["virtio_mem"]),
    feature("pmem", &["virtio_pmem", "nd_pmem", "nfit"]),
    feature("vsock", &["vsock", "vmw_vsock_virtio_transport"]),
    // Asked for where no device is a PCI function: virtio's on the other bus, and virtual sockets of Hyper-V.
    feature("other-buses", &["?virtio_mmio", "?hv_sock"]),
    // File systems and what lies below them.
    feature("9p", &["9p", "9pnet_fd", "9pnet_virtio"]),
    feature("virtiofs", &["virtiofs"]),
    feature("overlay", &["overlay"]),
    feature("ext4", &["ext4"]),
    feature("xfs", &["xfs"]),
    feature("erofs", &["erofs"]),
    feature("squashfs", &["squashfs"]),
    feature("iso9660", &["isofs"]),
    feature("loop", &["loop"]),
    feature("device-mapper", &["dm-mod", "dm-verity", "dm-crypt", "xts", "essiv", "?aesni-intel"]),
    // What containers need.
    feature("binfmt", &["binfmt_misc"]),
    feature("container-net", &["bridge", "br_netfilter", "veth", "tun", "dummy", "macvlan", "8021q"]),
    feature(
        "netfilter",
        &[
            "nf_tables",
            "nft_chain_nat",
            "nft_compat",
            "nft_ct",
            "nft_fib_inet",
            "nft_limit",
            "nft_log",
            "nft_masq",
            "nft_nat",
            "nft_reject_inet",
            "ip_tables",
            "iptable_filter",
            "iptable_nat",
            "xt_MASQUERADE",
            "xt_addrtype",
            "xt_comment",
            "xt_conntrack",
            "xt_mark",
            "xt_multiport",
            "xt_nat",
        ],
    ),
];

const fn feature(name: &'static str, modules: &'static [&'static str]) -> Group {
    Group { name, modules, need: Need::WhereThere }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::modules::ModuleName;

    #[test]
    fn names_are_unique_words_and_modules_have_names() {
        let names: BTreeSet<_> = GROUPS.iter().map(|group| group.name).collect();
        assert_eq!(names.len(), GROUPS.len());
        for group in GROUPS {
            assert!(
                group.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{}",
                group.name
            );
            for module in group.modules {
                ModuleName::new(module.trim_start_matches('?')).unwrap();
            }
        }
    }
}
