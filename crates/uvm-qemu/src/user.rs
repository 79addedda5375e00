//! The user QEMU runs as: never root, and a different one for each VM.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Once;

use uvm_platform::UvmId;

use crate::spawn::RunAs;

/// The first of the user ids that VMs run as: above what distributions, containers and their managers give out.
const FIRST_UID: u32 = 1_900_000_000;
/// How many follow. Two VMs get the same one about once in as many pairs.
const UIDS: u32 = 1 << 26;
/// The user without rights, for namespaces that do not map the ids above.
const NOBODY: u32 = 65_534;

/// Whom to run the VM `id` as: `None` if this process cannot change its user, and then QEMU runs as the same one.
pub(crate) fn choose(id: &UvmId, needs_kvm: bool) -> Option<RunAs> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let groups = if needs_kvm { kvm_group() } else { Vec::new() };
    let user = pick(id, &read("/proc/self/uid_map"), &read("/proc/self/gid_map"), groups);
    if let Some(why) = user_shared_by_all(user.as_ref()) {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| tracing::warn!("{why}"));
    }
    user
}

/// Why VMs are not kept apart by their users, if they are not.
fn user_shared_by_all(user: Option<&RunAs>) -> Option<String> {
    let who = match user {
        Some(RunAs { uid: NOBODY, .. }) => "as nobody (65534)",
        Some(_) => return None,
        None => "as root of this user namespace",
    };
    Some(format!(
        "the QEMU of every VM runs {who}: this user namespace maps none of the user ids from {FIRST_UID} that each VM gets \
         one of; a QEMU that its guest has broken into can reach the others"
    ))
}

fn pick(id: &UvmId, uid_map: &str, gid_map: &str, groups: Vec<u32>) -> Option<RunAs> {
    [FIRST_UID + hash(id.as_str()) % UIDS, NOBODY]
        .into_iter()
        .find(|&uid| maps(uid_map, uid) && maps(gid_map, uid))
        .map(|uid| RunAs { uid, gid: uid, groups })
}

/// The group that may use KVM, where it is one and not everybody.
fn kvm_group() -> Vec<u32> {
    let group = fs::metadata("/dev/kvm").ok().filter(|kvm| kvm.mode() & 0o006 != 0o006 && kvm.mode() & 0o060 == 0o060);
    group.map(|kvm| kvm.gid()).into_iter().collect()
}

/// Whether a user namespace's map has `id`. Each line: first id inside, first outside, count.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
        let (Some(first), Some(count)) = (numbers.next(), numbers.nth(1)) else { return false };
        (first..first + count).contains(&u64::from(id))
    })
}

/// FNV-1a: spreads ids; needs to be the same in every run, not to resist anyone.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "         0          0 4294967295\n";
    const CONTAINER: &str = "0 1000 1\n1 100000 65536\n";
    const ROOT_ONLY: &str = "0 1000 1\n";

    fn id(text: &str) -> UvmId {
        UvmId::new(text).expect("a valid id")
    }

    #[test]
    fn each_vm_gets_an_unprivileged_user_of_its_own() {
        let user = |name| pick(&id(name), ALL, ALL, vec![7]).expect("everything is mapped");
        let (one, two) = (user("vm-1"), user("vm-2"));
        assert_ne!(one.uid, two.uid);
        assert!((FIRST_UID..FIRST_UID + UIDS).contains(&one.uid));
        assert_eq!((one.gid, one.groups.as_slice()), (one.uid, &[7][..]));
        assert_eq!(user("vm-1").uid, one.uid);
    }

    #[test]
    fn a_namespace_with_few_ids_falls_back_to_what_it_has() {
        let user = |map| pick(&id("vm-1"), map, map, vec![]).map(|user| user.uid);
        assert_eq!(user(CONTAINER), Some(NOBODY));
        assert_eq!(user(ROOT_ONLY), None);
        assert_eq!(user("garbage\n1 2\n"), None);
    }

    #[test]
    fn vms_that_share_a_user_are_told_of() {
        let why = |map| user_shared_by_all(pick(&id("vm-1"), map, map, vec![]).as_ref());
        assert_eq!(why(ALL), None);
        assert!(why(CONTAINER).is_some_and(|why| why.contains("nobody") && why.contains("1900000000")));
        assert!(why(ROOT_ONLY).is_some_and(|why| why.contains("as root")));
    }
}
