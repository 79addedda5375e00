//! Virtual sockets that come and go while the multiplexed serial port carries the bridge, and who may use their ports.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::{HvSocketServiceConfig as Config, HvSocketServiceId as Id, LcowOptions, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::faults::{Stopped, chain};
use crate::process::text;
use crate::qemu;
use crate::sockets::{install, output_of, run};

const PORT: u32 = 5000;

async fn greet(vm: &UtilityVm) -> TestResult {
    let mut listener = vm.listen(PORT)?;
    let arguments = ["dial", "5000", "1", "65536"];
    let serve = async {
        let mut stream = listener.accept().await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        stream.write_all(&[7; 1024]).await?;
        stream.shutdown().await?;
        TestResult::Ok(bytes.len())
    };
    let (bytes, printed) = tokio::join!(serve, run(vm, &arguments));
    assert_eq!((bytes?, printed?.trim()), (65536, "1024"));
    Ok(())
}

async fn bridge_works(vm: &UtilityVm) -> TestResult {
    let output = output_of(vm, &["echo", "still here"]).await?;
    assert_eq!(text(&output.stdout), "still here\n");
    Ok(())
}

#[tokio::test]
async fn sockets_are_plugged_in_for_a_service_and_taken_out_and_come_back() -> TestResult {
    let vm = TestVm::builder("services-hot").boot().await?;
    install(&vm).await?;
    for _ in 0..3 {
        vm.update_hvsocket_service(&Id::of_port(PORT), &Config::guest_dials()).await?;
        greet(&vm).await?;
        bridge_works(&vm).await?;
        let mut listener = vm.listen(PORT)?;
        vm.remove_virtual_sockets().await?;
        assert!(listener.accept().await.is_err(), "its device is gone");
        let error = vm.listen(PORT).err().ok_or("there is no device")?.to_string();
        assert!(error.contains("listen for programs"), "{error}");
        bridge_works(&vm).await?;
    }
    vm.close().await
}

#[tokio::test]
async fn what_qemu_answers_too_late_leaves_nothing() -> TestResult {
    let change = |options: &mut LcowOptions| options.deadlines.host_call = Duration::from_secs(2);
    let vm = TestVm::builder("services-late").with(change).boot().await?;
    let pid = qemu::pid(&vm).await?;
    let before = qemu::sockets(pid)?;
    for _ in 0..3 {
        let stopped = Stopped::new(pid)?;
        let error = vm.add_virtual_sockets().await.expect_err("it is stopped");
        let text = chain(&error);
        assert!(text.contains("QEMU's answer to getfd") && text.contains("it is stopped"), "{text}");
        drop(stopped);
        vm.add_virtual_sockets().await?;
        vm.remove_virtual_sockets().await?;
        // Of eventfds it opens more as it goes, and keeps them.
        assert_eq!(qemu::sockets(pid)?, before);
    }
    bridge_works(&vm).await?;
    vm.close().await
}

#[tokio::test]
async fn several_callers_share_one_device() -> TestResult {
    let vm = TestVm::builder("services-shared").boot().await?;
    let add = || vm.add_virtual_sockets();
    let (one, two, three) = tokio::join!(add(), add(), add());
    one.and(two).and(three)?;
    let remove = || vm.remove_virtual_sockets();
    let (one, two) = tokio::join!(remove(), remove());
    one.and(two)?;
    bridge_works(&vm).await?;
    vm.close().await
}

#[tokio::test]
async fn a_device_that_was_there_at_boot_can_be_taken_out_with_streams_open() -> TestResult {
    let vm = TestVm::builder("services-boot").with(|options| options.virtual_sockets = true).boot().await?;
    install(&vm).await?;
    vm.update_hvsocket_service(&Id::of_port(6000), &Config::host_dials()).await?;
    let mut process = vm.create_process(&uvm::ProcessSpec::new(["/tmp/guest", "echo", "6000"])).await?;
    let mut ready = [0; 6];
    process.stdout.as_mut().ok_or("asked for")?.read_exact(&mut ready).await?;
    let mut stream = vm.dial(6000).await?;
    stream.write_all(b"x").await?;
    vm.remove_virtual_sockets().await?;
    let error = stream.read_u8().await.expect_err("cut");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    assert_eq!(process.wait().await?, uvm::ProcessExit::Code(1), "it was cut, too");
    drop((stream, process));
    bridge_works(&vm).await?;
    vm.close().await
}

#[tokio::test]
async fn a_device_added_before_power_on_is_there_at_boot() -> TestResult {
    let vm = TestVm::builder("services-early").create().await?;
    vm.update_hvsocket_service(&Id::of_port(PORT), &Config::guest_dials()).await?;
    vm.start().await?;
    install(&vm).await?;
    greet(&vm).await?;
    vm.close().await
}

#[tokio::test]
async fn what_no_service_allows_is_refused_in_the_guest_and_on_the_host() -> TestResult {
    let vm = TestVm::builder("services-denied").with(|options| options.virtual_sockets = true).boot().await?;
    install(&vm).await?;
    let refused = |said: &str| said.contains("reset") || said.contains("refused");
    let dial = ["/tmp/guest", "close", "5000", "1"];
    let error = vm.listen(PORT).err().ok_or("denied")?;
    assert!(format!("{error:?}").contains("no service lets the guest dial it"), "{error:?}");
    assert!(vm.dial(6000).await.is_err());
    vm.update_hvsocket_service(&Id::of_port(PORT), &Config::guest_dials()).await?;
    let mut listener = vm.listen(PORT)?;
    assert_eq!(output_of(&vm, &dial).await?.exit, uvm::ProcessExit::Code(0));
    drop(listener.accept().await?);
    // Taken away while somebody listens.
    vm.remove_hvsocket_service(&Id::of_port(PORT)).await?;
    let output = output_of(&vm, &dial).await?;
    assert!(refused(&String::from_utf8_lossy(&output.stderr)), "{output:?}");
    assert!(listener.accept().await.is_err());
    drop(listener);
    vm.close().await
}

#[tokio::test]
async fn the_end_of_qemu_ends_the_wait_for_the_guests_driver() -> TestResult {
    let vm = TestVm::builder("services-killed").boot().await?;
    let pid = qemu::pid(&vm).await?;
    // The agent loads the driver two seconds after its start, so the wait for it has begun.
    let kill = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or("no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        TestResult::Ok(())
    };
    let (added, killed) = tokio::join!(vm.add_virtual_sockets(), kill);
    killed?;
    let error = added.expect_err("QEMU is gone");
    assert_eq!(error.kind(), uvm::ErrorKind::Exited, "{error:?}");
    vm.close().await
}
