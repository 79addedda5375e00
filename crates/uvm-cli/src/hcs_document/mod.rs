//! `uvm hcs-document`: the document that would create a VM on the Host Compute Service, from a service in memory.

mod args;

use std::sync::Arc;

use anyhow::Context;
use uvm::UtilityVm;
use uvm::platform::Platform;
use uvm_hcs::recording::RecordingHcs;
use uvm_hcs::{HcsPlatform, WinPath, WindowsBuild};

pub(crate) use args::HcsDocumentArgs;

use args::{Guest, LcowArgs, WcowArgs};

use crate::report;

pub(crate) fn run(args: &HcsDocumentArgs) -> anyhow::Result<()> {
    report::line(document(args)?)
}

/// The document as it would be sent, made readable.
fn document(args: &HcsDocumentArgs) -> anyhow::Result<String> {
    let host =
        RecordingHcs::new().with_build(WindowsBuild(args.build)).with_logical_processors(args.host_processors.get());
    match &args.guest {
        Guest::Lcow(lcow) => add_boot_files(&host, lcow),
        Guest::Wcow(wcow) => add_layers(&host, wcow),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(create(host.clone(), &args.guest))?;
    let created = host.calls().into_iter().find(|call| call.op == "create_system");
    let created = created.context("the service was asked for no VM")?;
    let document: serde_json::Value = serde_json::from_str(created.text())?;
    Ok(serde_json::to_string_pretty(&document)?)
}

async fn create(host: RecordingHcs, guest: &Guest) -> anyhow::Result<()> {
    let platform: Arc<dyn Platform> = Arc::new(HcsPlatform::connect(Arc::new(host)).await?.on_current_runtime());
    let vm = match guest {
        Guest::Lcow(args) => UtilityVm::create_lcow_on(platform, &args.options()?).await?,
        Guest::Wcow(args) => UtilityVm::create_wcow_on(platform, &args.options()?).await?,
    };
    vm.close().await?;
    Ok(())
}

fn add_boot_files(host: &RecordingHcs, args: &LcowArgs) {
    let (directory, names) = args.boot_files();
    let directory = WinPath::new(directory);
    for name in names {
        host.add_file(&directory.join(&name), 0);
    }
}

fn add_layers(host: &RecordingHcs, args: &WcowArgs) {
    let folders: Vec<WinPath> = args.layer_folders.iter().map(WinPath::new).collect();
    for folder in &folders {
        host.add_directory(folder);
    }
    if let [.., base, _scratch] = folders.as_slice() {
        host.add_file(&base.join("UtilityVM").join("SystemTemplate.vhdx"), 0);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: HcsDocumentArgs,
    }

    fn printed(words: &[&str]) -> anyhow::Result<Value> {
        let cli = Cli::try_parse_from(std::iter::once("uvm").chain(words.iter().copied()))?;
        Ok(serde_json::from_str(&document(&cli.args)?)?)
    }

    #[test]
    fn a_linux_guest_by_default() {
        let document = printed(&["lcow", "--owner", "me"]).expect("a document");
        assert_eq!(
            document,
            json!({
                "Owner": "me",
                "SchemaVersion": {"Major": 2, "Minor": 1},
                "ShouldTerminateOnLastHandleClosed": true,
                "VirtualMachine": {
                    "StopOnReset": true,
                    "Chipset": {"LinuxKernelDirect": {
                        "KernelFilePath": r"C:\Program Files\Linux Containers\vmlinux",
                        "KernelCmdLine": "root=/dev/pmem0 ro rootwait init=/init 8250_core.nr_uarts=0 panic=-1 quiet \
                            pci=off nr_cpus=2 brd.rd_nr=0 pmtmr=0 -- -e 1 /bin/vsockexec -e 109 /bin/gcs -v4 \
                            -log-format json -loglevel info"
                    }},
                    "ComputeTopology": {"Memory": {"SizeInMB": 1024, "AllowOvercommit": true}, "Processor": {"Count": 2}},
                    "Devices": {
                        "Scsi": {"0": {}},
                        "VirtualPMem": {
                            "Devices": {"0": {
                                "HostPath": r"C:\Program Files\Linux Containers\rootfs.vhd", "ReadOnly": true,
                                "ImageFormat": "Vhd1"
                            }},
                            "MaximumCount": 64, "MaximumSizeBytes": 4_294_967_296_u64
                        },
                        "HvSocket": {"HvSocketConfig": {"DefaultBindSecurityDescriptor": "D:P(A;;FA;;;SY)(A;;FA;;;BA)"}},
                        "Plan9": {}
                    }
                }
            })
        );
    }

    #[test]
    fn a_windows_guest_by_default() {
        let folders = r"C:\l\top,C:\l\base,C:\scratch";
        let document = printed(&["wcow", "--owner", "me", "--layer-folders", folders]).expect("a document");
        let devices = &document["VirtualMachine"]["Devices"];
        assert_eq!(devices["Scsi"]["0"]["Attachments"]["0"]["Path"], r"C:\scratch\sandbox.vhdx");
        assert_eq!(devices["VirtualSmb"]["Shares"][0]["Path"], r"C:\l\base\UtilityVM\Files");
        assert_eq!(document["VirtualMachine"].get("GuestConnection"), None);
    }

    /// Every option with a value that is not the default, and where it shows in the document.
    #[test]
    fn every_option_shows_in_the_document() {
        let vm = "/VirtualMachine";
        let line = |what: &str| (format!("{vm}/Chipset/LinuxKernelDirect/KernelCmdLine"), json!(what));
        let at = |path: &str, value: Value| (format!("{vm}{path}"), value);
        let direct = "/Chipset/LinuxKernelDirect";
        let linux: Vec<(&[&str], (String, Value))> = vec![
            (&["--owner=x"], ("/Owner".into(), json!("x"))),
            (&["--addition-hcs-document-json={\"Owner\":\"y\"}"], ("/Owner".into(), json!("y"))),
            (&["--memory-size-in-mb=2047"], at("/ComputeTopology/Memory/SizeInMB", json!(2048))),
            (&["--low-mmio-gap-in-mb=8"], at("/ComputeTopology/Memory/LowMmioGapInMB", json!(8))),
            (&["--high-mmio-base-in-mb=9"], at("/ComputeTopology/Memory/HighMmioBaseInMB", json!(9))),
            (&["--high-mmio-gap-in-mb=7"], at("/ComputeTopology/Memory/HighMmioGapInMB", json!(7))),
            (&["--allow-overcommit=false"], at("/ComputeTopology/Memory/AllowOvercommit", Value::Null)),
            (&["--enable-deferred-commit"], at("/ComputeTopology/Memory/EnableDeferredCommit", json!(true))),
            (&["--processor-count=3"], at("/ComputeTopology/Processor/Count", json!(3))),
            (&["--processor-count=64", "--host-processors=5"], at("/ComputeTopology/Processor/Count", json!(5))),
            (&["--processor-limit=6"], at("/ComputeTopology/Processor/Limit", json!(6))),
            (&["--processor-weight=5"], at("/ComputeTopology/Processor/Weight", json!(5))),
            (&["--storage-qos-iops-maximum=4"], at("/StorageQoS/IopsMaximum", json!(4))),
            (&["--storage-qos-bandwidth-maximum=4"], at("/StorageQoS/BandwidthMaximum", json!(4))),
            (&["--external-guest-connection=false"], at("/GuestConnection/UseVsock", json!(true))),
            (
                &["--external-guest-connection=false", "--use-guest-connection=false"],
                at("/GuestConnection", Value::Null),
            ),
            (&["--cpu-group-id=g", "--build=20348"], at("/ComputeTopology/Processor/CpuGroup/Id", json!("g"))),
            (&["--cpu-group-id=g"], at("/ComputeTopology/Processor/CpuGroup", Value::Null)),
            (&[r"--boot-files-path=D:\b"], at(&format!("{direct}/KernelFilePath"), json!(r"D:\b\vmlinux"))),
            (
                &["--kernel-file=k"],
                at(&format!("{direct}/KernelFilePath"), json!(r"C:\Program Files\Linux Containers\k")),
            ),
            (&["--kernel-direct=false"], at("/Chipset/Uefi/BootThis/DevicePath", json!(r"\kernel"))),
            (&["--build=17763"], at("/Chipset/Uefi/BootThis/DevicePath", json!(r"\kernel"))),
            (&["--root-fs-file=r"], at(&format!("{direct}/InitRdPath"), json!(r"C:\Program Files\Linux Containers\r"))),
            (
                &["--preferred-root-fs-type=initrd"],
                at(&format!("{direct}/InitRdPath"), json!(r"C:\Program Files\Linux Containers\initrd.img")),
            ),
            (&["--kernel-boot-options=a=b"], line(" a=b pci=off ")),
            (&["--enable-graphics-console"], at("/Devices/Keyboard", json!({}))),
            (&[r"--console-pipe=\\.\pipe\c"], at("/Devices/ComPorts/0/NamedPipe", json!(r"\\.\pipe\c"))),
            (&["--scsi-controller-count=0"], at("/Devices/Scsi", Value::Null)),
            (&["--exec-command-line=/bin/x"], line(" -e 109 /bin/x")),
            (&["--forward-stdout"], line(" -o 109 -e 109 ")),
            (&["--forward-stderr=false"], line("/bin/vsockexec /bin/gcs")),
            (&["--vpmem-device-count=3"], at("/Devices/VirtualPMem/MaximumCount", json!(3))),
            (&["--vpmem-size-bytes=4096"], at("/Devices/VirtualPMem/MaximumSizeBytes", json!(4096))),
            (&["--enable-cold-discard-hint"], at("/ComputeTopology/Memory/EnableColdDiscardHint", json!(true))),
            (&["--vpci-enabled"], line("quiet nr_cpus=2")),
        ];
        let windows: Vec<(&[&str], (String, Value))> = vec![
            (&["--disable-compartment-namespace"], at("/RegistryChanges", json!({}))),
            (&["--external-guest-connection=false"], at("/GuestConnection", json!({}))),
            (
                &["--fully-physically-backed", "--allow-overcommit=false"],
                at("/Devices/VirtualSmb/Shares/0/Options/NoDirectmap", json!(true)),
            ),
            (&["--processor-count=3"], at("/ComputeTopology/Processor/Count", json!(3))),
        ];
        for (guest, options) in [("lcow", linux), ("wcow", windows)] {
            let layers: &[&str] = if guest == "wcow" { &[r"--layer-folders=C:\b,C:\s"] } else { &[] };
            for (words, (path, wanted)) in options {
                let all = [&[guest][..], layers, words].concat();
                let document = printed(&all).unwrap_or_else(|error| panic!("{all:?}: {error:#}"));
                let found = document.pointer(&path).unwrap_or(&Value::Null);
                let is_line = path.ends_with("KernelCmdLine");
                let holds =
                    |text: &Value| text.as_str().is_some_and(|text| text.contains(wanted.as_str().unwrap_or("?")));
                assert!(if is_line { holds(found) } else { *found == wanted }, "{all:?}: {path}: {found}");
            }
        }
    }

    #[test]
    fn what_cannot_be_created_is_told() {
        for (words, said) in [
            (&["lcow", "--scsi-controller-count=9"][..], "UVM options incorrect"),
            (&["lcow", "--enable-cold-discard-hint", "--build=17763"], "cannot create utility VM"),
            (&["lcow", "--fully-physically-backed"], "FullyPhysicallyBacked"),
            (&["lcow", "--processor-count=-3"], "-3 processors"),
            (&["wcow", r"--layer-folders=C:\only"], "UVM options incorrect"),
            (&["wcow"], "--layer-folders"),
        ] {
            let error = format!("{:#}", printed(words).expect_err("it cannot be"));
            assert!(error.contains(said), "{words:?}: {error}");
        }
    }
}
