//! Unix sockets of the host, offered to the command.

use uvm::{PipeMount, UtilityVm, UvmError};

use super::layers::seen_at;
use crate::args::RunArgs;
use crate::paths::OfferedSocket;

/// Offers them. One ends when it is dropped, or with the VM.
pub(crate) async fn offer(vm: &UtilityVm, args: &RunArgs) -> Result<Vec<PipeMount>, UvmError> {
    let mut pipes = Vec::new();
    for OfferedSocket { path, guest_path } in &args.sockets {
        pipes.push(vm.add_pipe_at(path, &seen_at(&args.layers, guest_path)).await?);
    }
    Ok(pipes)
}
