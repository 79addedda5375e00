//! What needs containers or mounts, which this agent does not have yet: checked as if it could, and then refused by name.

use uvm_wire::create::Create;
use uvm_wire::modify::{Modification, Resource};
use uvm_wire::{ContainerId, Failure, Hresult};

/// Why a container is not made.
pub(crate) fn create(call: &Create) -> Failure {
    match call.config.to_linux() {
        Ok(_) => Failure::wrapping(Hresult::NOT_IMPLEMENTED, "this agent makes no containers yet"),
        Err(failure) => failure,
    }
}

/// Why a resource is not changed. What is judged first decides: the type of the resource, whom it is for, the kind of change.
pub(crate) fn modify(container: &ContainerId, change: &Modification) -> Failure {
    let allowed = change.check_linux();
    let (name, kind) = (change.resource.name(), change.request_type.as_str());
    let known = !matches!(change.resource, Resource::Other { .. } | Resource::Windows(_));
    match allowed {
        Err(unknown_type) if !known => unknown_type,
        _ if !container.is_uvm() => Failure::code(Hresult::SYSTEM_NOT_FOUND),
        Err(wrong_kind) => wrong_kind,
        Ok(()) if matches!(change.resource, Resource::ContainerConstraints(_)) => {
            Failure::plain(format_args!("{name} are those of a container: the VM itself has none"))
        }
        Ok(()) => Failure::wrapping(
            Hresult::NOT_IMPLEMENTED,
            format_args!("this agent has no {name} yet, so there is nothing to {kind}"),
        ),
    }
}
