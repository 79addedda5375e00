//! Hosts in memory, for tests that say the same of each: the fake one, and the Host Compute Service over a host that
//! records what it is sent.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, from_str, json};
use tempfile::TempDir;
use uvm::{LcowOptions, UtilityVm, UvmError, UvmId, WcowOptions};
use uvm_hcs::document::modify::modify;
use uvm_hcs::host::HcsHost;
use uvm_hcs::recording::{self, RecordedCall, RecordingHcs};
use uvm_hcs::{HcsPlatform, WinPath, WindowsBuild};
use uvm_platform::fake::{self, FakePlatform};
use uvm_platform::network::Endpoint;
use uvm_platform::{Platform, UvmId as PlatformId};

use crate::TestResult;
use crate::guest_end::{GuestEnd, RecordedEnd};

/// Which host it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`FakePlatform`].
    Fake,
    /// [`HcsPlatform`] over [`RecordingHcs`].
    Recording,
}

/// Both.
pub const KINDS: [Kind; 2] = [Kind::Fake, Kind::Recording];

/// How a planted fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails.
    Fail,
    /// The call never answers.
    Hang,
}

/// One call of a host, as a test compares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCall {
    /// The call in words; of the Host Compute Service with the document that was sent.
    pub words: String,
    recorded: Option<RecordedCall>,
}

impl HostCall {
    fn fake(words: String) -> Self {
        Self { words, recorded: None }
    }

    fn recorded(call: RecordedCall) -> Self {
        let text = call.text();
        let words = if text.is_empty() { call.summary() } else { format!("{} {text}", call.summary()) };
        Self { words, recorded: Some(call) }
    }
}

/// A host in memory for one VM, with files that guests boot from, a file and a directory to give to it.
pub struct MemoryHost {
    host: Host,
    platform: Arc<dyn Platform>,
    /// The fake host's files are real ones.
    files: TempDir,
}

enum Host {
    Fake(FakePlatform),
    Recording(RecordingHcs),
}

impl MemoryHost {
    /// A host of this kind.
    ///
    /// # Errors
    /// Its files cannot be made.
    pub async fn new(kind: Kind) -> TestResult<Self> {
        let files = tempfile::tempdir()?;
        for name in BOOT_FILES.into_iter().chain([FILE]) {
            std::fs::write(files.path().join(name), "")?;
        }
        // Any agent is taken.
        std::fs::write(files.path().join("manifest.json"), r#"{"format":1,"agent":{"kind":"original"}}"#)?;
        let (host, platform): (_, Arc<dyn Platform>) = match kind {
            Kind::Fake => {
                let fake = FakePlatform::new();
                let mut endpoint = Endpoint::new(ENDPOINT, NAMESPACE);
                MAC_ADDRESS.clone_into(&mut endpoint.mac_address);
                fake.add_endpoint(endpoint);
                (Host::Fake(fake.clone()), Arc::new(fake))
            }
            Kind::Recording => {
                let recording = recording();
                let platform = HcsPlatform::connect(Arc::new(recording.clone())).await?.on_current_runtime();
                recording.take_calls();
                (Host::Recording(recording), Arc::new(platform))
            }
        };
        Ok(Self { host, platform, files })
    }

    /// Which host it is.
    pub fn kind(&self) -> Kind {
        match self.host {
            Host::Fake(_) => Kind::Fake,
            Host::Recording(_) => Kind::Recording,
        }
    }

    /// The host as the library sees it.
    pub fn platform(&self) -> &Arc<dyn Platform> {
        &self.platform
    }

    /// Creates a VM with a Linux guest, powered off.
    ///
    /// # Errors
    /// As [`UtilityVm::create_lcow_on`].
    pub async fn create_lcow(&self, name: &str, change: impl FnOnce(&mut LcowOptions) + Send) -> TestResult<UtilityVm> {
        let mut options = LcowOptions::default().with_id(UvmId::new(name)?).with_boot_files(self.directory());
        change(&mut options);
        Ok(UtilityVm::create_lcow_on(Arc::clone(&self.platform), &options).await?)
    }

    /// Creates a VM with a Windows guest, powered off.
    ///
    /// # Errors
    /// As [`UtilityVm::create_wcow_on`].
    pub async fn create_wcow(&self, name: &str) -> TestResult<UtilityVm> {
        let mut options = WcowOptions::new(WINDOWS_LAYERS);
        options.id = Some(PlatformId::new(name)?);
        let created: Result<_, UvmError> = UtilityVm::create_wcow_on(Arc::clone(&self.platform), &options).await;
        Ok(created?)
    }

    /// The guest's end of the VM, which was created last.
    ///
    /// # Panics
    /// No VM was created.
    pub fn guest_end(&self, vm: &UtilityVm) -> Arc<dyn GuestEnd> {
        match &self.host {
            Host::Fake(fake) => Arc::new(fake.guest().expect("a VM was created")),
            Host::Recording(recording) => {
                Arc::new(RecordedEnd::new(recording, vm.id().as_str(), RecordingHcs::RUNTIME_ID))
            }
        }
    }

    /// A directory of the host.
    pub fn directory(&self) -> PathBuf {
        match self.host {
            Host::Fake(_) => self.files.path().to_owned(),
            Host::Recording(_) => WINDOWS_FILES.into(),
        }
    }

    /// A file in it, empty.
    pub fn file(&self) -> PathBuf {
        self.path(FILE)
    }

    /// Something in the directory, whether it is there or not.
    pub fn path(&self, name: &str) -> PathBuf {
        match self.host {
            Host::Fake(_) => self.files.path().join(name),
            Host::Recording(_) => WinPath::new(WINDOWS_FILES).join(name).as_str().into(),
        }
    }

    /// Puts an empty file there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_file(&self, name: &str) -> TestResult<PathBuf> {
        match &self.host {
            Host::Fake(_) => std::fs::write(self.files.path().join(name), "")?,
            Host::Recording(recording) => recording.add_file(&WinPath::new(WINDOWS_FILES).join(name), 0),
        }
        Ok(self.path(name))
    }

    /// All calls so far, in order. Temporary names are replaced.
    pub fn calls(&self) -> Vec<HostCall> {
        match &self.host {
            Host::Fake(fake) => {
                let files = self.files.path().display().to_string();
                fake.calls().into_iter().map(|call| HostCall::fake(call.replace(&files, "files"))).collect()
            }
            Host::Recording(recording) => recording.calls().into_iter().map(HostCall::recorded).collect(),
        }
    }

    /// Makes this call go wrong the next time, after `skip` times.
    ///
    /// # Panics
    /// The call is another host's.
    pub fn plant(&self, call: &HostCall, skip: usize, fault: Fault) {
        match (&self.host, &call.recorded) {
            (Host::Fake(fake), None) => {
                let files = self.files.path().display().to_string();
                let fault = if fault == Fault::Hang { fake::Fault::Hang } else { fake::Fault::Fail };
                fake.plant(&call.words.replace("files", &files), skip, fault);
            }
            (Host::Recording(recording), Some(call)) => {
                let planted = recording::Fault::on(call.to, &call.op).containing(call.text()).after(skip);
                recording.plant(if fault == Fault::Hang { planted.hang() } else { planted });
            }
            _ => panic!("no call of this host: {}", call.words),
        }
    }

    /// Makes the next call of these words go wrong. Of the Host Compute Service: the next change whose document holds the
    /// text, or, after the word `grant`, the next change of a file's access.
    pub fn plant_next(&self, words: &str, fault: Fault) {
        match &self.host {
            Host::Fake(fake) => {
                let fault = if fault == Fault::Hang { fake::Fault::Hang } else { fake::Fault::Fail };
                fake.plant(words, 0, fault);
            }
            Host::Recording(recording) => {
                let planted = match words.strip_prefix("grant ") {
                    Some(op) => recording::Fault::on("grant", op),
                    None => recording::Fault::on("hcs", "modify_system").containing(words),
                };
                recording.plant(if fault == Fault::Hang { planted.hang() } else { planted });
            }
        }
    }

    /// The changes of its VM that went well, in order, each as the document that the Host Compute Service is sent. Of that
    /// host, those that were never answered are among them: they may have been made.
    ///
    /// # Errors
    /// No such document can be made of a change.
    pub fn documents(&self) -> TestResult<Vec<Value>> {
        match &self.host {
            Host::Fake(fake) => {
                let document = |change| TestResult::Ok(from_str(&modify(change, None, recording_build())?)?);
                fake.changes().iter().map(|(change, _)| document(change)).collect()
            }
            Host::Recording(recording) => {
                let calls = recording.calls().into_iter();
                let made = calls.filter(|call| call.op == "modify_system" && call.failure.is_none());
                made.map(|call| Ok(from_str(call.text())?)).collect()
            }
        }
    }

    /// What is left of VMs, in words; empty if nothing is.
    pub fn leftovers(&self) -> Vec<String> {
        match &self.host {
            Host::Fake(fake) => fake.leftovers().iter().map(|(kind, count)| format!("{count} {kind}")).collect(),
            Host::Recording(recording) => {
                let systems = (recording.open_systems() > 0).then(|| "a system".to_owned());
                let services = recording.listened_services(RecordingHcs::RUNTIME_ID);
                systems.into_iter().chain(services.iter().map(|service| format!("service {service}"))).collect()
            }
        }
    }

    /// Passes once nothing is left of any VM. What ends in the background is given a minute.
    ///
    /// # Errors
    /// What is left then.
    pub async fn nothing_left(&self) -> TestResult {
        for _ in 0..LOOKS {
            if self.leftovers().is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("left behind: {:?}", self.leftovers()).into())
    }
}

fn recording_build() -> WindowsBuild {
    RecordingHcs::new().build()
}

/// A Windows host with the same files, which knows the endpoint and tells figures.
fn recording() -> RecordingHcs {
    let host = RecordingHcs::new().with_answers(answer);
    let directory = WinPath::new(WINDOWS_FILES);
    for name in BOOT_FILES.into_iter().chain([FILE]) {
        host.add_file(&directory.join(name), 0);
    }
    host.add_directory(&WinPath::new(r"C:\layers\top\Files"));
    host.add_file(&WinPath::new(r"C:\layers\base\UtilityVM\SystemTemplate.vhdx"), 0);
    host.set_working_set(RecordingHcs::RUNTIME_ID, WORKING_SET);
    host
}

/// What a service answers of a VM that runs, and of the endpoint.
fn answer(asked: &RecordedCall) -> Option<String> {
    match (asked.to, asked.op.as_str()) {
        ("hcs", "get_properties") => {
            let wanted: Value = from_str(asked.text()).unwrap_or_default();
            let memory = json!({ "VirtualNodeCount": 1, "VirtualMachineMemory": { "AssignedMemory": 2 } });
            wanted.get("PropertyTypes").is_some().then(|| {
                json!({ "Memory": memory, "Statistics": { "Processor": { "TotalRuntime100ns": 1 } } }).to_string()
            })
        }
        ("hns", "GET") => asked.id.as_deref().is_some_and(|path| path.ends_with(ENDPOINT)).then(|| {
            json!({ "ID": ENDPOINT, "MacAddress": MAC_ADDRESS, "Namespace": { "ID": NAMESPACE } }).to_string()
        }),
        _ => None,
    }
}

/// The id of an endpoint that every host in memory has.
pub const ENDPOINT: &str = "a1b2c3d4-0000-4000-9000-0000000000e1";
/// The namespace that it is in.
pub const NAMESPACE: &str = "b1b2b3b4-0000-4000-9000-00000000000a";
const MAC_ADDRESS: &str = "00-15-5D-00-00-01";
const FILE: &str = "file";
const BOOT_FILES: [&str; 3] = [uvm::KERNEL_FILE, uvm::UNCOMPRESSED_KERNEL_FILE, uvm::INITRD_FILE];
const WINDOWS_FILES: &str = r"C:\files";
const WINDOWS_LAYERS: [&str; 3] = [r"C:\layers\top", r"C:\layers\base", r"C:\scratch"];
const WORKING_SET: u64 = 4096;
/// How often, and how far apart, is looked before something is taken for left.
const LOOKS: u32 = 6000;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
