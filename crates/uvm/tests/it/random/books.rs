//! What the host has and the guest has mounted, by what they were told and did.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use uvm::wire::modify::{Modification, RequestType, Resource};

use super::model::{Item, Key, Model};
use crate::scene::Scene;
use crate::support::TestResult;

/// What there is on both sides.
#[derive(Debug)]
pub(super) struct Books {
    /// The host's devices, as the Host Compute Service calls them.
    devices: BTreeSet<String>,
    /// The guest's mounts, and how often each is there.
    mounts: BTreeMap<String, usize>,
}

/// Removals of what is not there, which only an earlier one without an answer excuses.
struct Excuses(usize);

impl Excuses {
    fn take(&mut self, what: &str) -> TestResult {
        self.0 = self.0.checked_sub(1).ok_or_else(|| format!("{what} is removed, and not there"))?;
        Ok(())
    }
}

impl Books {
    /// Reads what was done. `hangs` of the host's calls and `ignored` of the guest's went without an answer, at most.
    pub(super) fn of(scene: &Scene, hangs: usize, ignored: usize) -> TestResult<Self> {
        let mut books = Self { devices: BTreeSet::new(), mounts: BTreeMap::new() };
        let mut excuses = Excuses(hangs);
        for document in scene.host.documents()? {
            books.host_did(&document, &mut excuses)?;
        }
        let mut excuses = Excuses(ignored);
        for modification in &scene.guest.told().done {
            books.guest_did(modification, &mut excuses)?;
        }
        Ok(books)
    }

    fn host_did(&mut self, document: &Value, excuses: &mut Excuses) -> TestResult {
        let path = document["ResourcePath"].as_str().unwrap_or_default();
        let path = path.trim_start_matches("VirtualMachine/Devices/");
        // Shares have one path, and names.
        let device = match document["Settings"]["Name"].as_str() {
            Some(name) => format!("{path}/{name}"),
            None => path.to_owned(),
        };
        match document["RequestType"].as_str() {
            Some("Add") if !self.devices.insert(device.clone()) => Err(format!("{device} is added twice").into()),
            Some("Remove") if !self.devices.remove(&device) => excuses.take(&device),
            Some("Add" | "Remove") => Ok(()),
            other => Err(format!("the host was asked to {other:?} {device}").into()),
        }
    }

    fn guest_did(&mut self, modification: &Modification, excuses: &mut Excuses) -> TestResult {
        let (mount, is_bare) = match &modification.resource {
            Resource::MappedVirtualDisk(disk) => {
                (format!("Scsi/{}/Attachments/{}", disk.controller, disk.lun), disk.mount_path.is_empty())
            }
            Resource::VpmemDevice(device) => (format!("VirtualPMem/Devices/{}", device.device_number), false),
            Resource::MappedDirectory(share) => (format!("Plan9/Shares/{}", share.share_name), false),
            Resource::CombinedLayers(layers) => (layers.container_root_path.clone(), false),
            // It waits for them, and is not told when they go.
            Resource::VpciDevice(_) => return Ok(()),
            other => return Err(format!("the guest was told of {other:?}").into()),
        };
        let count = self.mounts.entry(mount.clone()).or_default();
        match modification.request_type {
            RequestType::Add => {
                *count += 1;
                // Layers may be put over others at the same root.
                let is_layers = matches!(modification.resource, Resource::CombinedLayers(_));
                if *count > 1 && !is_layers { Err(format!("{mount} is mounted twice").into()) } else { Ok(()) }
            }
            RequestType::Remove if *count > 0 => {
                *count -= 1;
                Ok(())
            }
            // It is told to let go of every disk, mounted or not.
            RequestType::Remove if is_bare => Ok(()),
            RequestType::Remove => excuses.take(&mount),
            _ => Err(format!("the guest was told to {:?} {mount}", modification.request_type).into()),
        }
    }

    fn has_mounted(&self, mount: &str) -> usize {
        self.mounts.get(mount).copied().unwrap_or_default()
    }

    fn count(&self, prefix: &str) -> usize {
        self.devices.iter().filter(|device| device.starts_with(prefix)).count()
    }

    /// Passes if what people have is there, and nothing that nobody can have.
    pub(super) fn agree_with(&self, model: &Model) -> TestResult {
        // Which devices somebody is known to have, or may.
        let (mut owned, mut suspects) = (BTreeSet::new(), 0);
        let is_ignored = model.ignored() > 0;
        model.look(|key, known, having| {
            suspects += known.suspects + having.iter().filter(|item| !item.is_sound).count();
            let wrong = |what: String| Err(format!("{key:?}, {known:?}, {} have it: {what}; {self:?}", having.len()));
            // Counts may have been taken from some of them by name: then nobody knows from whom.
            let is_robbed = known.removed > 0;
            let sound: Vec<&&Item> = having.iter().filter(|item| item.is_sound && !is_robbed).collect();
            match key {
                Key::Share => {
                    let (there, most) = (self.count("Plan9/Shares/"), having.len() + known.suspects);
                    if there < sound.len() || there > most {
                        return wrong(format!("{there} shares are there, {} to {most} were expected", sound.len()));
                    }
                }
                // One that the guest does not answer is taken back by its root, which may be that of others.
                Key::Layers if is_ignored => {}
                Key::Layers => {
                    let there = self.has_mounted("/root");
                    if !is_robbed && there < sound.len() {
                        return wrong(format!("{there} are combined"));
                    }
                }
                Key::Disk(_) | Key::Layer(_) | Key::Pipe(_) | Key::Device(_) => {
                    let devices: BTreeSet<String> = sound.iter().filter_map(|item| item.handle.device()).collect();
                    // Once one could not release it, who shares it may have it no more.
                    if devices.len() > 1 && sound.len() == having.len() {
                        return wrong(format!("it is in several places: {devices:?}"));
                    }
                    for item in &sound {
                        let device = item.handle.device().unwrap_or_default();
                        if !self.devices.contains(&device) && sound.len() == having.len() {
                            return wrong(format!("the host has no {device}"));
                        }
                        let is_bare = matches!(key, Key::Pipe(_) | Key::Device(_)) || !item.handle.is_mounted();
                        if !is_bare && self.has_mounted(&device) != 1 && sound.len() == having.len() {
                            return wrong(format!("the guest has no {device}"));
                        }
                    }
                    owned.extend(having.iter().filter_map(|item| item.handle.device()));
                }
            }
            Ok(())
        })?;
        let unowned = self.devices.iter().filter(|device| !device.starts_with("Plan9/") && !owned.contains(*device));
        let unowned: Vec<&String> = unowned.collect();
        if unowned.len() > suspects {
            return Err(format!("nobody has {unowned:?}, and {suspects} may be left").into());
        }
        Ok(())
    }

    /// Passes if nothing is left.
    pub(super) fn are_empty(&self) -> TestResult {
        let mounted: Vec<&String> =
            self.mounts.iter().filter(|(_, count)| **count > 0).map(|(mount, _)| mount).collect();
        if self.devices.is_empty() && mounted.is_empty() {
            return Ok(());
        }
        Err(format!("left on the host: {:?}; in the guest: {mounted:?}", self.devices).into())
    }
}
