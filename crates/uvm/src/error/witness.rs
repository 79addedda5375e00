//! Errors about a guest that does not answer: they quote its VM.

use uvm_platform::{LastWords, PlatformVm, UvmId};

use super::{ContainerError, ProgramError, UvmError};
use crate::bridge::BridgeError;

/// Makes the errors that quote a VM whose guest does not answer.
pub(crate) struct Witness<'a> {
    /// The VM.
    pub(crate) id: &'a UvmId,
    /// The same.
    pub(crate) vm: &'a dyn PlatformVm,
}

impl Witness<'_> {
    pub(crate) fn guest(&self, intent: &'static str, source: BridgeError) -> UvmError {
        let last_words = Box::new(self.last_words_if(source.is_silence()));
        UvmError::Guest { id: self.id.clone(), intent, last_words, source }
    }

    pub(crate) fn program(&self, program: String, source: ProgramError) -> UvmError {
        let last_words = Box::new(self.last_words_if(source.is_silence()));
        UvmError::Program { id: self.id.clone(), program, last_words, source: Box::new(source) }
    }

    pub(crate) fn container(&self, container: String, intent: &'static str, source: ContainerError) -> UvmError {
        let is_silent = matches!(&source, ContainerError::Guest(source) if source.is_silence());
        let last_words = Box::new(self.last_words_if(is_silent));
        UvmError::Container { id: self.id.clone(), container, intent, last_words, source }
    }

    fn last_words_if(&self, is_silent: bool) -> LastWords {
        if is_silent { self.vm.last_words() } else { LastWords::default() }
    }
}

impl BridgeError {
    /// Whether the guest did not answer: what keeps it is for its VM to tell.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }
}

impl ProgramError {
    /// As [`BridgeError::is_silence`].
    fn is_silence(&self) -> bool {
        match self {
            Self::Guest(source) => source.is_silence(),
            Self::StreamNotDialled { .. } => true,
            // The host's own errors say what the VM did meanwhile.
            Self::Host(_) | Self::Port { .. } => false,
        }
    }
}
