//! The share's tree, and nothing beside it: landlock.

use std::io;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::ConfineError;
use crate::guard::Access;

/// The newest rules that are used; a kernel that knows fewer enforces those.
const RULES: ABI = ABI::V6;

/// Lets the process, from now on, open and change files beneath `directory` alone, and there run none and make no device;
/// and neither bind nor connect, nor send signals to others. Every thread that it starts later is held to the same.
///
/// # Errors
/// The kernel has no landlock.
pub(crate) fn restrict_to(directory: &OwnedFd, access: Access) -> Result<(), ConfineError> {
    let failed = |source: io::Error| ConfineError { step: "restrict files to the share by landlock", source };
    let status = restrict(directory, access).map_err(|e| failed(io::Error::other(e)))?;
    if status == RulesetStatus::NotEnforced {
        return Err(failed(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no landlock")));
    }
    Ok(())
}

fn restrict(directory: &OwnedFd, access: Access) -> Result<RulesetStatus, landlock::RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?;
    let rule = PathBeneath::new(directory, allowed(access)).set_compatibility(CompatLevel::BestEffort);
    let status = ruleset.create()?.add_rule(rule)?.restrict_self()?;
    Ok(status.ruleset)
}

fn allowed(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    match access {
        Access::ReadOnly => read,
        Access::ReadWrite => AccessFs::from_all(RULES) & !never,
    }
}
