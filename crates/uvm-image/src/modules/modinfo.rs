//! What a kernel module says about itself: the `.modinfo` section of its ELF file.

use std::fmt;

use crate::elf::{Elf, ElfError};

/// Why a kernel module cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// It is no ELF file.
    #[error("it is no ELF file")]
    NotElf(#[from] ElfError),
    /// It has no `.modinfo` section.
    #[error("it has no .modinfo section")]
    NoInfo,
    /// The section is larger than any module's.
    #[error("its .modinfo section has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// The section's size.
        size: usize,
        /// The most allowed.
        limit: usize,
    },
    /// A name holds what no module's name may hold.
    #[error("it names the module {name:?}, which is no module name")]
    BadName {
        /// The name.
        name: String,
    },
    /// A module it needs is neither in the package nor built in.
    #[error("it needs the module {name}, which is not there")]
    MissingDependency {
        /// The module needed.
        name: ModuleName,
    },
    /// Its dependencies are nested deeper than any real module's.
    #[error("its dependencies are nested more than {limit} deep")]
    TooDeep {
        /// The deepest allowed.
        limit: usize,
    },
    /// It could not be decompressed.
    #[error("it cannot be decompressed")]
    Decompress(#[source] std::io::Error),
}

/// A module's name, in its only form: the kernel takes `-` and `_` for the same, so this holds `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleName(String);

impl ModuleName {
    /// Checks `text`: letters, digits, `_`, `-`, `.` and `+`, at most 63.
    pub fn new(text: &str) -> Result<Self, ModuleError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
        if (1..64).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('.') {
            Ok(Self(text.replace('-', "_")))
        } else {
            Err(ModuleError::BadName { name: text.chars().take(64).collect() })
        }
    }

    /// The name of the module in a file of this name: `dm-mod.ko.xz` holds `dm_mod`.
    pub fn of_file(file_name: &str) -> Option<Self> {
        let (stem, suffix) = file_name.split_once(".ko")?;
        if matches!(suffix, "" | ".gz" | ".xz" | ".zst") { Self::new(stem).ok() } else { None }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a kernel module says about itself, as far as loading it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// Modules that must be loaded before it.
    pub depends: Vec<ModuleName>,
    /// Modules or aliases that should be loaded before it, if they are there.
    pub soft_before: Vec<String>,
    /// Modules or aliases that should be loaded after it, if they are there.
    pub soft_after: Vec<String>,
    /// Names and patterns under which the kernel asks for it.
    pub aliases: Vec<String>,
    /// The release it was built for.
    pub release: Option<String>,
}

impl ModInfo {
    /// Reads the section in the module `elf`.
    pub fn of_module(elf: &[u8]) -> Result<Self, ModuleError> {
        Self::parse(Elf::parse(elf)?.section(".modinfo").ok_or(ModuleError::NoInfo)?)
    }

    /// Reads a `.modinfo` section: texts `key=value`, each ended by a zero byte, with more zero bytes between.
    pub fn parse(section: &[u8]) -> Result<Self, ModuleError> {
        if section.len() > MAX_SECTION {
            return Err(ModuleError::TooLarge { size: section.len(), limit: MAX_SECTION });
        }
        let mut info = Self::default();
        for (key, value) in records(section) {
            match key {
                "depends" => {
                    for name in value.split(',').filter(|name| !name.is_empty()) {
                        info.depends.push(ModuleName::new(name)?);
                    }
                }
                "softdep" => info.add_soft(value),
                "alias" if is_alias(value) => info.aliases.push(value.to_owned()),
                "vermagic" => info.release = value.split(' ').next().map(str::to_owned),
                _ => {}
            }
        }
        Ok(info)
    }

    /// `pre: a b post: c`; names before the first keyword count as `pre`.
    fn add_soft(&mut self, value: &str) {
        let mut after = false;
        for word in value.split_ascii_whitespace() {
            match word {
                "pre:" => after = false,
                "post:" => after = true,
                name if !is_alias(name) => {}
                name if after => self.soft_after.push(name.to_owned()),
                name => self.soft_before.push(name.to_owned()),
            }
        }
    }
}

/// The aliases of modules that are built in, from the package's `modules.builtin.modinfo`: texts `module.key=value`.
pub(crate) fn builtin_aliases(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let aliases = records(bytes).filter(|(key, _)| key.rsplit('.').next() == Some("alias"));
    aliases.map(|(_, alias)| alias).filter(|alias| is_alias(alias))
}

fn records(bytes: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    bytes.split(|byte| *byte == 0).filter_map(|record| std::str::from_utf8(record).ok()?.split_once('='))
}

/// Whether this can stand in a line of words.
fn is_alias(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_ALIAS && text.chars().all(|c| c.is_ascii_graphic())
}

/// The largest of Debian's has 60 KiB (the aliases of `hid-…` drivers).
const MAX_SECTION: usize = 1 << 20;
const MAX_ALIAS: usize = 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::ElfBuilder;

    fn names(list: &[ModuleName]) -> Vec<&str> {
        list.iter().map(ModuleName::as_str).collect()
    }

    #[test]
    fn dependencies_aliases_and_soft_dependencies_are_read() {
        let module = ElfBuilder::module(&[
            "license=GPL",
            "softdep=pre: crypto-crc32c other post: later",
            "softdep=sha512",
            "alias=fs-ext4",
            "alias=ext3",
            "depends=jbd2,mbcache,libnvdimm-x",
            "parm=debug:an = in the value",
            "vermagic=6.1.0-56-amd64 SMP preempt mod_unload modversions ",
        ]);
        let info = ModInfo::of_module(&module).unwrap();
        assert_eq!(names(&info.depends), ["jbd2", "mbcache", "libnvdimm_x"]);
        assert_eq!(info.soft_before, ["crypto-crc32c", "other", "sha512"]);
        assert_eq!(info.soft_after, ["later"]);
        assert_eq!(info.aliases, ["fs-ext4", "ext3"]);
        assert_eq!(info.release.as_deref(), Some("6.1.0-56-amd64"));
    }

    #[test]
    fn a_module_without_dependencies_has_none() {
        assert_eq!(ModInfo::parse(b"depends=\0\0\0name=x\0").unwrap(), ModInfo::default());
        assert_eq!(ModInfo::parse(b"").unwrap(), ModInfo::default());
    }

    #[test]
    fn what_would_break_a_line_of_words_is_refused_or_left_out() {
        assert!(matches!(ModInfo::parse(b"depends=a b\0"), Err(ModuleError::BadName { .. })));
        assert!(matches!(ModInfo::parse(b"depends=../../x\0"), Err(ModuleError::BadName { .. })));
        let info = ModInfo::parse(b"alias=two words\0alias=new\nline\0alias=fine\0").unwrap();
        assert_eq!(info.aliases, ["fine"]);
        let large = vec![b'x'; MAX_SECTION + 1];
        assert!(matches!(ModInfo::parse(&large), Err(ModuleError::TooLarge { .. })));
    }

    #[test]
    fn names_are_those_of_their_files() {
        let name = |file| ModuleName::of_file(file).map(|name| name.to_string());
        assert_eq!(name("dm-mod.ko").as_deref(), Some("dm_mod"));
        assert_eq!(name("9p.ko.xz").as_deref(), Some("9p"));
        for other in ["dm-mod.o", "x.ko.lzma", ".ko", "modules.dep"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn aliases_of_built_in_modules_are_read() {
        let text = b"crc32c.license=GPL\0crc32c.alias=crypto-crc32c\0x.file=lib/x\0";
        assert_eq!(builtin_aliases(text).collect::<Vec<_>>(), ["crypto-crc32c"]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = (ModInfo::parse(&bytes), ModInfo::of_module(&bytes), builtin_aliases(&bytes).count());
        }

        #[test]
        fn whatever_is_read_stands_in_a_line_of_words(
            records in proptest::collection::vec("(depends|softdep|alias|vermagic)=[ -~\\n\\t,:é]{0,40}", 0..20)
        ) {
            let section: Vec<u8> = records.iter().flat_map(|record| record.bytes().chain([0])).collect();
            if let Ok(info) = ModInfo::parse(&section) {
                let words = info.aliases.iter().chain(&info.soft_before).chain(&info.soft_after);
                for word in words.map(String::as_str).chain(names(&info.depends)) {
                    prop_assert!(!word.is_empty() && word.chars().all(|c| c.is_ascii_graphic()), "{word:?}");
                }
            }
        }
    }
}
