//! All modules of one kernel, and what must be loaded for which.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::{Group, Need};
use super::modinfo::{ModInfo, ModuleError, ModuleName};

/// All modules of one kernel, loadable and built in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    modules: BTreeMap<ModuleName, Module>,
    builtin: BTreeSet<ModuleName>,
    builtin_aliases: BTreeSet<String>,
    /// Modules by alias, patterns left out.
    aliases: BTreeMap<String, Vec<ModuleName>>,
}

/// A loadable module.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// Its file, uncompressed, beneath `/lib/modules/<release>`: `kernel/fs/ext4/ext4.ko`.
    pub(crate) path: String,
    pub(crate) info: ModInfo,
}

/// One module in a load order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) name: ModuleName,
    /// Whether the rest works without it: it is a soft dependency.
    pub(crate) optional: bool,
}

/// The modules chosen from a catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The load order of each group.
    pub(crate) groups: Vec<(&'static str, Vec<Load>)>,
    /// What the kernel lacks of a group, neither loadable nor built in.
    pub(crate) absent: Vec<(&'static str, Vec<ModuleName>)>,
    /// The load order of each chosen module, itself included.
    pub(crate) modules: BTreeMap<ModuleName, Vec<Load>>,
}

impl Catalog {
    /// Adds a loadable module. Its path ends in `.ko`, whatever the file it was found in is compressed with.
    pub(crate) fn add(&mut self, name: ModuleName, path: String, info: ModInfo) {
        for alias in info.aliases.iter().filter(|alias| !is_pattern(alias)) {
            self.aliases.entry(alias.clone()).or_default().push(name.clone());
        }
        self.modules.insert(name, Module { path, info });
    }

    /// Adds what is built in: the lines of `modules.builtin`.
    pub(crate) fn add_builtin(&mut self, lines: &str) {
        let names = lines.lines().filter_map(|line| ModuleName::of_file(line.rsplit('/').next()?.trim_end()));
        self.builtin.extend(names);
    }

    /// Adds the aliases of what is built in: the contents of `modules.builtin.modinfo`.
    pub(crate) fn add_builtin_aliases(&mut self, bytes: &[u8]) {
        self.builtin_aliases.extend(super::modinfo::builtin_aliases(bytes).map(str::to_owned));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    pub(crate) fn module(&self, name: &ModuleName) -> Option<&Module> {
        self.modules.get(name)
    }

    /// Chooses what `groups` name, with all dependencies.
    ///
    /// # Errors
    /// The name of a module without which no guest runs, and why it cannot be had; `None` if it is just not there.
    pub(crate) fn select(&self, groups: &[Group]) -> Result<Selection, (ModuleName, Option<ModuleError>)> {
        let mut selection = Selection::default();
        for group in groups {
            let mut loads: Vec<Load> = Vec::new();
            let mut absent = Vec::new();
            for module in group.modules {
                let (optional, module) = module.strip_prefix('?').map_or((false, *module), |module| (true, module));
                let Ok(name) = ModuleName::new(module) else { continue };
                let order = match self.load_order(&name) {
                    Ok(order) => order,
                    Err(error) if group.need == Need::Always => return Err((name, error)),
                    Err(_) if optional => continue,
                    Err(error) => {
                        if let Some(error) = error {
                            tracing::warn!(module = %name, %error, "left out of the initramfs");
                        }
                        absent.push(name);
                        continue;
                    }
                };
                merge(&mut loads, order.into_iter().map(|load| Load { optional: optional || load.optional, ..load }));
            }
            for load in &loads {
                if !selection.modules.contains_key(&load.name) {
                    // It was in an order that was found, so its own is found, too.
                    selection.modules.insert(load.name.clone(), self.load_order(&load.name).unwrap_or_default());
                }
            }
            selection.groups.push((group.name, loads));
            if !absent.is_empty() {
                selection.absent.push((group.name, absent));
            }
        }
        Ok(selection)
    }

    /// What to load for `name`, in order; empty if it is built in. `None` as the error if the kernel does not have
    /// it.
    fn load_order(&self, name: &ModuleName) -> Result<Vec<Load>, Option<ModuleError>> {
        if !self.modules.contains_key(name) {
            return if self.builtin.contains(name) { Ok(Vec::new()) } else { Err(None) };
        }
        let mut hard = BTreeSet::new();
        self.collect_hard(name, &mut hard, 0).map_err(Some)?;
        let mut order = Vec::new();
        self.visit(name, &mut BTreeSet::new(), &mut order, 0);
        let loads = order.into_iter().map(|name| Load { optional: !hard.contains(&name), name });
        Ok(loads.collect())
    }

    /// Everything that `name` cannot do without, itself included.
    fn collect_hard(
        &self,
        name: &ModuleName,
        hard: &mut BTreeSet<ModuleName>,
        depth: usize,
    ) -> Result<(), ModuleError> {
        if depth > MAX_DEPTH {
            return Err(ModuleError::TooDeep { limit: MAX_DEPTH });
        }
        let Some(module) = self.modules.get(name) else {
            return if self.builtin.contains(name) {
                Ok(())
            } else {
                Err(ModuleError::MissingDependency { name: name.clone() })
            };
        };
        if hard.insert(name.clone()) {
            for dependency in &module.info.depends {
                self.collect_hard(dependency, hard, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Appends `name` after what should be loaded before it. What cannot be had is left out: whether that matters is
    /// known already.
    fn visit(&self, name: &ModuleName, seen: &mut BTreeSet<ModuleName>, order: &mut Vec<ModuleName>, depth: usize) {
        let Some(module) = self.modules.get(name) else { return };
        if depth > MAX_DEPTH || !seen.insert(name.clone()) {
            return;
        }
        for soft in module.info.soft_before.iter().flat_map(|wanted| self.providers(wanted)) {
            self.visit_soft(soft, seen, order, depth + 1);
        }
        for dependency in &module.info.depends {
            self.visit(dependency, seen, order, depth + 1);
        }
        order.push(name.clone());
        for soft in module.info.soft_after.iter().flat_map(|wanted| self.providers(wanted)) {
            self.visit_soft(soft, seen, order, depth + 1);
        }
    }

    /// As [`visit`](Self::visit), but not at all if something it needs is missing.
    fn visit_soft(
        &self,
        name: &ModuleName,
        seen: &mut BTreeSet<ModuleName>,
        order: &mut Vec<ModuleName>,
        depth: usize,
    ) {
        if self.collect_hard(name, &mut BTreeSet::new(), depth).is_ok() {
            self.visit(name, seen, order, depth);
        }
    }

    /// The modules that `wanted`, a name or an alias, may stand for. None if something built in serves.
    fn providers(&self, wanted: &str) -> Vec<&ModuleName> {
        if self.builtin_aliases.contains(wanted) {
            return Vec::new();
        }
        let named = ModuleName::new(wanted).ok().and_then(|name| self.modules.get_key_value(&name));
        match named {
            Some((name, _)) => vec![name],
            None => self.aliases.get(wanted).into_iter().flatten().collect(),
        }
    }
}

/// Appends what is not in `loads` yet. What one order needs and another only wants is needed.
fn merge(loads: &mut Vec<Load>, order: impl IntoIterator<Item = Load>) {
    for load in order {
        match loads.iter_mut().find(|known| known.name == load.name) {
            Some(known) => known.optional &= load.optional,
            None => loads.push(load),
        }
    }
}

fn is_pattern(alias: &str) -> bool {
    alias.contains(['*', '?', '['])
}

/// Real modules nest about ten deep.
const MAX_DEPTH: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    /// A catalog from lines `name: key=value key=value`.
    fn catalog(modules: &[(&str, &str)]) -> Catalog {
        let mut catalog = Catalog::default();
        for (name, info) in modules {
            let section: Vec<u8> = info.split(';').flat_map(|record| record.bytes().chain([0])).collect();
            let path = format!("kernel/{name}.ko");
            catalog.add(ModuleName::new(name).unwrap(), path, ModInfo::parse(&section).unwrap());
        }
        catalog
    }

    fn order(catalog: &Catalog, name: &str) -> Vec<String> {
        let loads = catalog.load_order(&ModuleName::new(name).unwrap()).unwrap();
        loads.into_iter().map(|load| format!("{}{}", if load.optional { "?" } else { "" }, load.name)).collect()
    }

    const EXT4: &[(&str, &str)] = &[
        ("ext4", "depends=jbd2,mbcache;softdep=pre: crypto-crc32c"),
        ("jbd2", "depends=mbcache"),
        ("mbcache", ""),
        ("crc32c_generic", "alias=crypto-crc32c"),
        ("crc32c-intel", "alias=crypto-crc32c;depends=helper"),
        ("helper", ""),
    ];

    #[test]
    fn dependencies_come_first_and_soft_ones_are_marked() {
        let catalog = catalog(EXT4);
        assert_eq!(order(&catalog, "ext4"), ["?crc32c_generic", "?helper", "?crc32c_intel", "mbcache", "jbd2", "ext4"]);
        assert_eq!(order(&catalog, "crc32c_intel"), ["helper", "crc32c_intel"], "hard where it is asked for itself");
    }

    #[test]
    fn what_is_built_in_is_not_loaded() {
        let mut catalog = catalog(EXT4);
        catalog.add_builtin("kernel/fs/mbcache-x.ko\nkernel/net/packet/af_packet.ko\n");
        catalog.add_builtin_aliases(b"crc.alias=crypto-crc32c\0");
        assert_eq!(order(&catalog, "ext4"), ["mbcache", "jbd2", "ext4"]);
        assert_eq!(order(&catalog, "af_packet"), [""; 0]);
    }

    #[test]
    fn a_soft_dependency_that_cannot_be_loaded_is_left_out() {
        let catalog =
            catalog(&[("a", "softdep=pre: b c nowhere post: d"), ("b", "depends=missing"), ("c", ""), ("d", "")]);
        assert_eq!(order(&catalog, "a"), ["?c", "a", "?d"]);
    }

    #[test]
    fn selections_hold_everything_once_and_say_what_is_missing() {
        let groups = [
            Group { name: "boot", modules: &["jbd2"], need: Need::Always },
            Group { name: "fs", modules: &["?helper", "?nowhere", "ext4", "xfs", "broken"], need: Need::WhereThere },
        ];
        let mut catalog = catalog(EXT4);
        catalog.add(
            ModuleName::new("broken").unwrap(),
            "kernel/b.ko".into(),
            ModInfo::parse(b"depends=missing\0").unwrap(),
        );
        let selection = catalog.select(&groups).unwrap();
        let names: Vec<_> = selection.modules.keys().map(ModuleName::as_str).collect();
        assert_eq!(names, ["crc32c_generic", "crc32c_intel", "ext4", "helper", "jbd2", "mbcache"]);
        let absent: Vec<_> = selection.absent.iter().map(|(group, names)| (*group, names.len())).collect();
        assert_eq!(absent, [("fs", 2)]);
        let loads = &selection.groups[1].1;
        let optional: Vec<_> = loads.iter().filter(|load| load.optional).map(|load| load.name.as_str()).collect();
        assert_eq!(optional, ["helper", "crc32c_generic", "crc32c_intel"]);
        assert_eq!(loads.len(), 6);
    }

    #[test]
    fn a_kernel_that_cannot_boot_a_guest_is_refused() {
        let group = |modules| [Group { name: "boot", modules, need: Need::Always }];
        let catalog = catalog(&[("half", "depends=missing")]);
        let (name, error) = catalog.select(&group(&["virtio_pci"])).unwrap_err();
        assert!(name.as_str() == "virtio_pci" && error.is_none());
        let (_, error) = catalog.select(&group(&["half"])).unwrap_err();
        assert!(matches!(error, Some(ModuleError::MissingDependency { name }) if name.as_str() == "missing"));
    }

    #[test]
    fn hostile_dependencies_end() {
        let circle = catalog(&[("a", "depends=b;softdep=pre: b"), ("b", "depends=a;softdep=pre: a post: a")]);
        assert_eq!(order(&circle, "a").len(), 2);
        let chain: Vec<_> = (0..300).map(|n| (format!("m{n}"), format!("depends=m{}", n + 1))).collect();
        let chain: Vec<_> = chain.iter().map(|(name, info)| (name.as_str(), info.as_str())).collect();
        let error = catalog(&chain).load_order(&ModuleName::new("m0").unwrap()).unwrap_err();
        assert!(matches!(error, Some(ModuleError::TooDeep { .. })));
    }
}
