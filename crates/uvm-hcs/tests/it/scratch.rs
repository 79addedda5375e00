//! What a Windows guest boots from: found, made ready, and undone when the VM does not come to be.

use std::time::Duration;

use serde_json::{Value, from_str};
use uvm_hcs::WinPath;
use uvm_hcs::recording::{Fault, RecordingHcs};
use uvm_platform::PlatformVm;

use crate::platform::{platform, summaries};
use crate::specs::{add_layers, wcow};

const DISK: &str = r"C:\new\deep\scratch\sandbox.vhdx";

fn host() -> RecordingHcs {
    let host = RecordingHcs::new();
    add_layers(&host);
    host
}

/// How often the VM was let open its disk, less how often that was taken back.
fn granted(calls: &[String]) -> usize {
    let count = |what: &str| calls.iter().filter(|call| *call == what).count();
    count("grant vm vm-under-test") - count("grant revoke vm vm-under-test")
}

#[tokio::test]
async fn a_missing_scratch_is_made_from_the_template() {
    let host = host();
    let (vm, _events) = platform(&host).await.create_wcow(&wcow()).await.expect("created");
    let document: Value = from_str(host.calls()[6].text()).expect("JSON");
    let devices = &document["VirtualMachine"]["Devices"];
    assert_eq!(devices["Scsi"]["0"]["Attachments"]["0"]["Path"], DISK);
    assert_eq!(devices["VirtualSmb"]["Shares"][0]["Path"], r"C:\layers\base\UtilityVM\Files");
    assert_eq!(
        summaries(&host),
        [
            r"files create_directory C:\new",
            r"files create_directory C:\new\deep",
            r"files create_directory C:\new\deep\scratch",
            r"files copy C:\new\deep\scratch\sandbox.vhdx",
            "grant vm vm-under-test",
            "hcs get_service_properties",
            "hcs create_system vm-under-test",
            "hcs get_properties vm-under-test",
        ]
    );
    vm.close().await.expect("closed");
    // What the guest wrote stays, its access does not.
    assert!(host.files().contains(&WinPath::new(DISK)));
    assert_eq!(
        summaries(&host),
        ["hcs terminate_system vm-under-test", "hcs close_system vm-under-test", "grant revoke vm vm-under-test"]
    );
}

#[tokio::test]
async fn a_scratch_that_is_there_is_used_as_it_is() {
    let host = host();
    host.add_file(&WinPath::new(DISK), 9);
    let _vm = platform(&host).await.create_wcow(&wcow()).await.expect("created");
    assert_eq!(summaries(&host)[0], "grant vm vm-under-test");
}

#[tokio::test(start_paused = true)]
async fn d20_whatever_fails_nothing_is_left() {
    let steps = [
        ("files", "create_directory", 0),
        ("files", "create_directory", 1),
        ("files", "create_directory", 2),
        ("files", "copy", 0),
        ("grant", "vm", 0),
        ("hcs", "get_service_properties", 0),
        ("hcs", "create_system", 0),
        ("hcs", "get_properties", 0),
    ];
    for (to, op, nth) in steps {
        let host = host();
        let before = host.files();
        let platform = platform(&host).await;
        host.plant(Fault::on(to, op).after(nth));
        assert!(platform.create_wcow(&wcow()).await.is_err(), "{to} {op} {nth}");
        assert_eq!(host.files(), before, "{to} {op} {nth}");
        assert_eq!(host.open_systems(), 0, "{to} {op} {nth}");
        let calls = summaries(&host);
        // A grant that fails gave nothing.
        assert_eq!(granted(&calls), usize::from(op == "vm"), "{calls:?}");
        platform.create_wcow(&wcow()).await.expect("the next one is not in its way");
    }
}

#[tokio::test(start_paused = true)]
async fn d20_a_creation_that_nobody_waits_for_leaves_nothing() {
    for op in ["get_service_properties", "create_system", "get_properties"] {
        let host = host();
        let before = host.files();
        let platform = platform(&host).await;
        host.plant(Fault::on("hcs", op).hang());
        let given_up = tokio::time::timeout(Duration::from_secs(1), platform.create_wcow(&wcow())).await;
        assert!(given_up.is_err(), "{op}");
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!((host.files(), host.open_systems()), (before, 0), "{op}");
        assert_eq!(granted(&summaries(&host)), 0, "{op}");
    }
}

#[tokio::test]
async fn d20_what_is_wrong_with_the_options_is_found_before_anything_is_made() {
    let host = host();
    let platform = platform(&host).await;
    let mut no_processors = wcow();
    no_processors.processors.count = 0;
    let mut no_layers = wcow();
    no_layers.boot.layers.clear();
    let mut no_system = wcow();
    no_system.boot.layers.pop();
    for (spec, message) in [
        (no_processors, "processors \"0\" cannot be used: "),
        (no_layers, "layer folders \"\" cannot be used: at least 2 LayerFolders must be supplied"),
        (no_system, "layer folders \"C:\\\\layers\\\\top\" cannot be used: none of them holds a UtilityVM"),
    ] {
        let error = platform.create_wcow(&spec).await.err().expect("refused").to_string();
        assert!(error.starts_with(message), "{error}");
    }
    assert_eq!(summaries(&host), Vec::<String>::new());
}

#[tokio::test]
async fn d20_what_was_made_for_a_document_that_cannot_be_merged_is_undone() {
    let host = host();
    let before = host.files();
    let mut spec = wcow();
    spec.additional_document = Some("{".into());
    let error = platform(&host).await.create_wcow(&spec).await.err().expect("no JSON").to_string();
    assert!(error.starts_with("additional JSON \"{\" cannot be used: "), "{error}");
    assert_eq!((host.files(), host.open_systems()), (before, 0));
    assert!(summaries(&host).contains(&"grant revoke vm vm-under-test".to_owned()));
}

#[tokio::test]
async fn a_file_in_the_way_of_the_scratch_folder_is_told() {
    let host = host();
    host.add_file(&WinPath::new(r"C:\new\deep"), 1);
    let error = platform(&host).await.create_wcow(&wcow()).await.err().expect("no directory");
    assert_eq!(error.to_string(), format!("cannot create scratch {DISK}"));
}
