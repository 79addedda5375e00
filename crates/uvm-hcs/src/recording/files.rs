//! Files in memory, with the ways of Windows: letter case does not count.

use std::collections::BTreeMap;
use std::io;

use crate::host::{FileKind, FileStat};
use crate::win_path::WinPath;

/// Files by path; the key is the shortest spelling in lower case, the spelling is that of who made it.
#[derive(Default)]
pub(super) struct MemoryFiles {
    entries: BTreeMap<String, (WinPath, FileStat)>,
}

fn key(path: &WinPath) -> String {
    path.clean().as_str().to_lowercase()
}

impl MemoryFiles {
    pub(super) fn add_file(&mut self, path: &WinPath, size: u64) {
        if let Some(parent) = path.parent() {
            self.add_directory(&parent);
        }
        self.entries.insert(key(path), (path.clone(), FileStat { kind: FileKind::File, size }));
    }

    pub(super) fn add_directory(&mut self, path: &WinPath) {
        let directory = FileStat { kind: FileKind::Directory, size: 0 };
        let mut next = Some(path.clone());
        while let Some(path) = next {
            self.entries.entry(key(&path)).or_insert_with(|| (path.clone(), directory));
            next = path.parent();
        }
    }

    pub(super) fn paths(&self) -> Vec<WinPath> {
        self.entries.values().map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn stat(&self, path: &WinPath) -> Option<FileStat> {
        self.entries.get(&key(path)).map(|(_, stat)| *stat)
    }

    pub(super) fn create_directory(&mut self, path: &WinPath) -> io::Result<()> {
        let parent = path.parent().ok_or(io::ErrorKind::AlreadyExists)?;
        if self.stat(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        match self.stat(&parent) {
            Some(FileStat { kind: FileKind::Directory, .. }) => {
                self.add_directory(path);
                Ok(())
            }
            Some(_) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn copy_new(&mut self, from: &WinPath, to: &WinPath) -> io::Result<()> {
        let source = self.stat(from).filter(|stat| stat.kind == FileKind::File).ok_or(io::ErrorKind::NotFound)?;
        if self.stat(to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.add_file(to, source.size);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &WinPath, kind: FileKind) -> io::Result<()> {
        let is_it = self.stat(path).is_some_and(|stat| stat.kind == kind);
        let below = format!("{}\\", key(path));
        if !is_it {
            return Err(io::ErrorKind::NotFound.into());
        }
        if kind == FileKind::Directory && self.entries.keys().any(|key| key.starts_with(&below)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.entries.remove(&key(path));
        Ok(())
    }
}
