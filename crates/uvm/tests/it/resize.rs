//! Disks that grow, over the fake host and a guest that is played.

use uvm::platform::fake::Fault;
use uvm::platform::requests::{Change, Setting};
use uvm::wire::negotiate::{Capabilities, GuestDefinedCapabilities, NegotiateProtocolReply};
use uvm::{ErrorKind, Grow, ResourceError, ScsiDisk};

use crate::obedient::{Obedient, asked, boot};
use crate::support::{ORIGINAL, Played, TestResult, boot_files, original_capabilities, poll_once, settle, source};

#[tokio::test(start_paused = true)]
async fn the_host_makes_it_larger_and_then_the_guest_sees_it() -> TestResult {
    let (played, guest) = boot().await?;
    let (one, two) = (
        played.vm.add_scsi(&ScsiDisk::new("/a").with_guest_path("/mnt")).await?,
        played.vm.add_scsi(&ScsiDisk::new("/a")).await?,
    );
    one.resize(4096, Grow::FileSystem).await?;
    let sizes: Vec<_> = played
        .host
        .changes()
        .into_iter()
        .filter_map(|(change, _)| match change {
            Change::Update(Setting::ScsiSize(size)) => Some((size.slot.lun, size.bytes)),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [(0, 4096)]);
    // A host that refuses has changed nothing; what it has done is not taken back when the guest refuses.
    played.host.plant("update scsi size", 0, Fault::Fail);
    assert!(two.resize(8192, Grow::Disk).await.is_err());
    guest.refuse(0);
    let error = two.resize(8192, Grow::Disk).await.expect_err("the guest would not");
    assert_eq!(error.kind(), ErrorKind::Guest, "{error}");
    two.resize(8192, Grow::Disk).await?;
    let told = ["add disk 0:0 /mnt", "change size 0:0 4096 /mnt", "change size 0:0 8192 ", "change size 0:0 8192 "];
    assert_eq!(guest.words(), told);
    // Nobody's count has changed.
    one.release().await?;
    assert!(!asked(&played).contains(&"remove scsi".to_owned()));
    let error = one.resize(8192, Grow::Disk).await.expect_err("released");
    assert!(matches!(source(&error), ResourceError::NotAttached), "{error}");
    two.release().await?;
    let adds = asked(&played).into_iter().filter(|call| !call.starts_with("update")).collect::<Vec<_>>();
    assert_eq!(adds, ["add scsi", "remove scsi"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_before_it_hears_of_the_new_size_keeps_no_count() -> TestResult {
    let (played, _guest) = boot().await?;
    let disk = played.vm.add_scsi(&ScsiDisk::new("/a")).await?;
    let mut resizing = Box::pin(disk.resize(4096, Grow::Disk));
    poll_once(&mut resizing).await;
    settle().await;
    assert_eq!(asked(&played), ["add scsi", "update scsi size"], "it was made");
    drop(resizing);
    disk.release().await?;
    assert_eq!(asked(&played), ["add scsi", "update scsi size", "remove scsi"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_knows_no_sizes_or_partitions_is_not_asked() -> TestResult {
    let played = Played::create_with(|options| options.boot_files = Some(boot_files(ORIGINAL))).await?;
    let of_2021 = GuestDefinedCapabilities { update_container: true, ..GuestDefinedCapabilities::linux() };
    let reply = NegotiateProtocolReply { capabilities: Capabilities::linux(of_2021), ..original_capabilities() };
    let guest = Obedient::new(played.start(reply).await?);
    let disk = ScsiDisk::new("/a").with_guest_path("/mnt");
    let error = played.vm.add_scsi(&disk.clone().with_partition(1)).await.expect_err("it would mount the whole disk");
    assert!(matches!(source(&error), ResourceError::NotForThisAgent { .. }), "{error}");
    assert_eq!(asked(&played), Vec::<String>::new());
    let disk = played.vm.add_scsi(&disk).await?;
    let error = disk.resize(4096, Grow::Disk).await.expect_err("it knows no sizes");
    assert!(matches!(source(&error), ResourceError::NotForThisAgent { .. }), "{error}");
    assert_eq!(asked(&played), ["add scsi"], "nor is the host");
    disk.release().await?;
    assert_eq!(guest.words(), ["add disk 0:0 /mnt", "remove disk 0:0 /mnt"]);
    played.close().await
}
