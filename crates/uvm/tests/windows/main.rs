//! The library on Windows, from its public interface down to the functions of the compute core library. A stand-in for
//! that checks what it is given, has a guest, and keeps books, which are empty in the end.
#![cfg(windows)]

mod example;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, from_str};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::platform::Platform;
use uvm::wire::notification::ExitType;
use uvm::{
    ContainerEnd, ContainerOptions, ContainerStdio, ErrorKind, ExitStatus, GuestConnection, LcowOptions, ProcessExit,
    ProcessSpec, ScsiDisk, UtilityVm, UvmError, UvmId,
};
use uvm_hcs::host::ServiceProperties;
use uvm_hcs::{ComputeCore, HcsPlatform, WindowsBuild};
use uvm_testkit::TestResult;

/// One test: the books are those of the whole process.
#[tokio::test]
async fn a_vm_is_used_through_the_library_and_nothing_is_left() -> TestResult {
    let host = Host::new().await?;
    tokio::time::timeout(LONG, async {
        processes_run(&host).await?;
        disks_come_and_go(&host).await?;
        streams_go_both_ways(&host).await?;
        failures_say_why(&host).await?;
        the_service_reaches_the_guest(&host).await?;
        a_guest_crashes(&host).await?;
        the_service_is_lost(&host).await
    })
    .await??;
    host.nothing_left().await
}

/// The stand-in, and files that its VMs boot from.
struct Host {
    core: Arc<ComputeCore>,
    platform: Arc<dyn Platform>,
    files: tempfile::TempDir,
}

impl Host {
    async fn new() -> TestResult<Self> {
        // Beside the test's program, where cargo puts it.
        let program = std::env::current_exe()?;
        let core = ComputeCore::from_directory(program.parent().ok_or("no directory")?)?;
        // This Windows may be of any build, also one that the library is not for.
        let core = Arc::new(core.with_build(WindowsBuild(19041)));
        let platform = Arc::new(HcsPlatform::connect(Arc::clone(&core) as Arc<_>).await?);
        let files = tempfile::tempdir()?;
        put_boot_files(files.path())?;
        Ok(Self { core, platform, files })
    }

    async fn create(&self, id: &str) -> Result<UtilityVm, UvmError> {
        self.create_with(id, |options| options.virtual_sockets = true).await
    }

    async fn create_with(&self, id: &str, change: impl FnOnce(&mut LcowOptions)) -> Result<UtilityVm, UvmError> {
        let mut options = LcowOptions::default().with_boot_files(self.files.path());
        options.id = UvmId::new(id).ok();
        change(&mut options);
        UtilityVm::create_lcow_on(Arc::clone(&self.platform), &options).await
    }

    async fn boot(&self, id: &str) -> TestResult<UtilityVm> {
        let vm = self.create(id).await?;
        vm.start().await?;
        Ok(vm)
    }

    /// Passes once the books are empty. Listeners are closed by threads that nobody waits for.
    async fn nothing_left(&self) -> TestResult {
        let mut books = Value::Null;
        for _ in 0..3000 {
            let report = self.core.service_properties(r#"{"PropertyTypes":["StandIn"]}"#).await?;
            books = from_str(&report)?;
            if is_empty(&books) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("left behind: {books}").into())
    }
}

fn is_empty(books: &Value) -> bool {
    let counts = ["Systems", "Processes", "Operations", "Sockets", "Unfreed"];
    counts.iter().all(|count| books[*count] == 0) && books["Violations"] == Value::Array(Vec::new())
}

/// They are empty: nothing boots from them. Older builds of Windows take the compressed kernel.
fn put_boot_files(directory: &Path) -> TestResult {
    for name in [uvm::KERNEL_FILE, uvm::UNCOMPRESSED_KERNEL_FILE, uvm::INITRD_FILE] {
        std::fs::write(directory.join(name), "")?;
    }
    Ok(())
}

fn chain(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| (*e).source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn processes_run(host: &Host) -> TestResult {
    let vm = host.boot("processes").await?;
    assert_eq!(vm.properties().await?.state, "running");
    let run = async |words: &[&str]| vm.create_process(&ProcessSpec::new(words.iter().copied())).await?.output().await;
    let output = run(&["echo", "to", "the", "host"]).await?;
    assert_eq!(
        (output.exit, output.stdout.as_slice(), output.stderr.as_slice()),
        (CODE_0, &b"to the host\n"[..], &[][..])
    );
    let output = run(&["complain", "loudly"]).await?;
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&[][..], &b"loudly\n"[..]));
    assert_eq!(run(&["exit", "42"]).await?.exit, ProcessExit::Code(42));

    // More than all buffers on the way hold.
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut cat = vm.create_process(&ProcessSpec::new(["cat"]).with_stdin()).await?;
    let mut stdin = cat.stdin.take().ok_or("no input")?;
    let feed = async {
        stdin.write_all(&sent).await?;
        stdin.finish().await
    };
    let (written, output) = tokio::join!(feed, cat.output());
    written?;
    assert!(output?.stdout == sent);

    let sleeper = vm.create_process(&ProcessSpec::new(["sleep"])).await?;
    sleeper.kill().await?;
    assert_eq!(sleeper.wait().await?, ProcessExit::Signal(None));
    let error = vm.create_process(&ProcessSpec::new(["absent"])).await.expect_err("there is none");
    assert!(chain(&error).contains("there is no such program"), "{}", chain(&error));
    vm.pause().await?;
    assert_eq!(vm.properties().await?.state, "paused");
    vm.resume().await?;
    vm.shutdown().await?;
    assert_eq!(vm.wait().await?, ExitStatus::PoweredOff);
    Ok(vm.close().await?)
}

async fn disks_come_and_go(host: &Host) -> TestResult {
    let vm = host.boot("disks").await?;
    let path = host.files.path().join("disk.vhdx");
    std::fs::write(&path, "")?;
    // The stand-in refuses to plug into a place that is taken, and to empty one that is not.
    for _ in 0..3 {
        let disk = ScsiDisk::new(&path).with_guest_path("/disk");
        let (one, other) = (vm.add_scsi(&disk).await?, vm.add_scsi(&disk).await?);
        assert_eq!((one.controller(), one.lun()), (other.controller(), other.lun()));
        one.release().await?;
        other.release().await?;
    }
    Ok(vm.close().await?)
}

async fn streams_go_both_ways(host: &Host) -> TestResult {
    let vm = host.boot("streams").await?;
    let mut listener = vm.create_process(&ProcessSpec::new(["listen", "5000"])).await?;
    let mut ready = [0; 10];
    listener.stdout.take().ok_or("no output")?.read_exact(&mut ready).await?;
    let mut stream = vm.dial(5000).await?;
    stream.write_all(b"there and back").await?;
    stream.shutdown().await?;
    let mut back = String::new();
    stream.read_to_string(&mut back).await?;
    assert_eq!(back, "there and back");
    assert_eq!(listener.wait().await?, CODE_0);

    let mut port = vm.listen(6000)?;
    let dialler = vm.create_process(&ProcessSpec::new(["dial", "6000", "from", "the", "guest"])).await?;
    let mut said = String::new();
    port.accept().await?.read_to_string(&mut said).await?;
    assert_eq!((said.as_str(), dialler.wait().await?), ("from the guest\n", CODE_0));
    drop(port);
    let error = vm.dial(5001).await.expect_err("nobody listens");
    assert!(chain(&error).contains("0x8007274d"), "{}", chain(&error));
    Ok(vm.close().await?)
}

async fn failures_say_why(host: &Host) -> TestResult {
    let vm = host.boot("twice").await?;
    let error = host.create("twice").await.expect_err("it is taken");
    let taken = "a utility VM twice already exists (the compute service has a system of this id)";
    assert!(error.kind() == ErrorKind::AlreadyExists && chain(&error).ends_with(taken), "{}", chain(&error));
    vm.close().await?;
    // Once it is closed its id is free.
    Ok(host.boot("twice").await?.close().await?)
}

/// The service starts no programs, but processes that write a word and wait.
async fn the_service_reaches_the_guest(host: &Host) -> TestResult {
    let held = |options: &mut LcowOptions| options.guest_connection = GuestConnection::HostService;
    let vm = host.create_with("hosted", held).await?;
    vm.start().await?;
    let web = vm.create_container(&ContainerOptions::new("web", r#"{"process":{},"root":{},"linux":{}}"#)).await?;
    let stdio = ContainerStdio { stdin: true, stdout: true, stderr: false };
    let mut init = web.start(stdio).await?;
    let mut word = [0; 5];
    init.stdout.as_mut().ok_or("no output")?.read_exact(&mut word).await?;
    assert_eq!(&word, b"hello");
    init.stdin.as_mut().ok_or("no input")?.write_all(b"some input").await?;
    init.close_stdin().await?;
    assert!(init.kill().await?);
    assert_eq!(init.output().await?.exit, ProcessExit::Code(137));
    web.terminate().await?;
    assert_eq!(web.wait().await, ContainerEnd::Notified(ExitType::ForcedExit));
    let process = vm.create_process(&ProcessSpec::new(["sleep"])).await?;
    vm.close().await?;
    assert!(matches!(process.wait().await, Err(UvmError::Exited { .. })));
    Ok(())
}

async fn a_guest_crashes(host: &Host) -> TestResult {
    let vm = host.boot("crashes").await?;
    let mut process = vm.create_process(&ProcessSpec::new(["crash"]).with_stdin()).await?;
    process.close_stdin().await?;
    let unexpected = ExitStatus::Abnormal("it exited unexpectedly (0xc0370106)".into());
    assert_eq!(vm.wait().await?, unexpected);
    assert!(matches!(process.wait().await, Err(UvmError::Exited { .. })));
    Ok(vm.close().await?)
}

async fn the_service_is_lost(host: &Host) -> TestResult {
    let vm = host.boot("lost").await?;
    drop(vm.create_process(&ProcessSpec::new(["disconnect"]).with_stdin()).await?);
    let lost = ExitStatus::Abnormal("lost communication with the compute service".into());
    // Its guest lives on, with its end of the log open.
    assert_eq!(vm.wait().await?, lost);
    Ok(vm.close().await?)
}

const CODE_0: ProcessExit = ProcessExit::Code(0);
/// Longer than all of it takes.
const LONG: Duration = Duration::from_secs(120);
