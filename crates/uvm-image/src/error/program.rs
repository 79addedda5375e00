//! Why a program is of no use in the guest.

/// Why a program cannot run in the guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadProgram {
    /// It is not an ELF file.
    #[error("it is not an ELF executable ({0})")]
    NotElf(crate::elf::ElfError),
    /// It is for another processor.
    #[error("it is for another processor than x86-64 (ELF machine {0})")]
    WrongMachine(u16),
    /// It is a library or an object file.
    #[error("it is no executable (ELF type {0})")]
    NotExecutable(u16),
    /// It needs a dynamic loader, which the guest does not have.
    #[error(
        "it is dynamically linked (needs {interpreter}), but nothing in the guest could load it: link it statically \
         (target x86_64-unknown-linux-musl)"
    )]
    Dynamic {
        /// The loader it asks for.
        interpreter: String,
    },
    /// It carries no version.
    #[error(
        "it carries no version (no text `{}<version>` ended by a zero byte): it is no uvm agent",
        crate::agent::VERSION_MARKER
    )]
    NoVersion,
    /// It is larger than any agent could be.
    #[error("it has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The most allowed.
        limit: u64,
    },
}
