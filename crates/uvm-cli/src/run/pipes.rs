//! Unix sockets of the host, offered to the command.

use uvm::{PipeMount, UtilityVm, UvmError};

use crate::args::OfferedSocket;

/// Offers them. One ends when it is dropped, or with the VM.
pub(crate) async fn offer(vm: &UtilityVm, wanted: &[OfferedSocket]) -> Result<Vec<PipeMount>, UvmError> {
    let mut pipes = Vec::new();
    for OfferedSocket { path, guest_path } in wanted {
        pipes.push(match guest_path {
            Some(guest_path) => vm.add_pipe_at(path, guest_path).await?,
            None => vm.add_pipe(path).await?,
        });
    }
    Ok(pipes)
}
