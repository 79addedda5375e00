//! Whether a file can run as a program in the guest.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::digest::Sha256;
use crate::elf::{EM_X86_64, ET_DYN, ET_EXEC, Elf};
use crate::error::{BadProgram, ImageError, Intent, IoContext};

/// A static x86-64 program, read into memory once, so that what is checked is what goes into the image.
pub(crate) struct Program {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sha256: Sha256,
}

impl Program {
    /// Reads and checks the program at `path`; `what` it is for, for messages.
    pub(crate) fn read(path: &Path, what: &'static str) -> Result<Self, ImageError> {
        let bad = |why| ImageError::BadProgram { what, path: path.to_owned(), why };
        let file = File::open(path).at(Intent::Read, path)?;
        let size = file.metadata().at(Intent::Read, path)?.len();
        if size > MAX_PROGRAM {
            return Err(bad(BadProgram::TooLarge { size, limit: MAX_PROGRAM }));
        }
        let mut bytes = Vec::new();
        file.take(MAX_PROGRAM).read_to_end(&mut bytes).at(Intent::Read, path)?;
        check(&bytes).map_err(bad)?;
        Ok(Self { sha256: Sha256::of(&bytes), bytes })
    }
}

/// Whether `bytes` are a program that needs nothing but the kernel.
fn check(bytes: &[u8]) -> Result<(), BadProgram> {
    let elf = Elf::parse(bytes).map_err(BadProgram::NotElf)?;
    if elf.machine() != EM_X86_64 {
        return Err(BadProgram::WrongMachine(elf.machine()));
    }
    if !matches!(elf.kind(), ET_EXEC | ET_DYN) {
        return Err(BadProgram::NotExecutable(elf.kind()));
    }
    match elf.interpreter() {
        Some(interpreter) => Err(BadProgram::Dynamic { interpreter }),
        None => Ok(()),
    }
}

/// A static agent has a few MiB.
const MAX_PROGRAM: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ElfBuilder;

    #[test]
    fn only_static_programs_for_this_processor_pass() {
        let static_program = ElfBuilder::executable();
        assert_eq!(check(&static_program.build()), Ok(()));
        assert_eq!(check(&ElfBuilder::executable().kind(ET_DYN).build()), Ok(()), "static and at any address");
        let dynamic = ElfBuilder::executable().interpreter("/lib64/ld-linux-x86-64.so.2").build();
        let error = check(&dynamic).unwrap_err();
        assert!(error.to_string().contains("needs /lib64/ld-linux-x86-64.so.2"), "{error}");
        assert_eq!(check(&ElfBuilder::executable().machine(183).build()), Err(BadProgram::WrongMachine(183)));
        assert_eq!(check(&ElfBuilder::executable().kind(1).build()), Err(BadProgram::NotExecutable(1)));
        assert!(matches!(check(b"#!/bin/sh\n"), Err(BadProgram::NotElf(_))));
    }

    #[test]
    fn this_test_is_dynamic_and_says_so() {
        let own = Program::read(&std::env::current_exe().unwrap(), "agent").err().unwrap();
        assert!(matches!(own, ImageError::BadProgram { why: BadProgram::Dynamic { .. }, .. }), "{own}");
    }
}
