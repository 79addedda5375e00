//! Unix sockets of the host, offered to the command.

use uvm::{PipeMount, UtilityVm, UvmError};

use super::layers::seen_at;
use crate::args::RunArgs;
use crate::paths::OfferedSocket;

/// Offers one, which ends when it is dropped, or with the VM.
pub(crate) async fn offer(vm: &UtilityVm, args: &RunArgs, socket: &OfferedSocket) -> Result<PipeMount, UvmError> {
    let OfferedSocket { path, guest_path } = socket;
    vm.add_pipe_at(path, &seen_at(&args.layers, guest_path)).await
}
