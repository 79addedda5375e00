//! Virtual sockets of programs in the guest.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::platform::fake::Fault;
use uvm::platform::{Feature, PlatformError, Port};
use uvm::{ErrorKind, HvSocketServiceConfig as Config, HvSocketServiceId as Id, UvmError};

use crate::support::{Played, TestResult, poll_once};

fn unsupported(error: &UvmError) -> bool {
    matches!(
        error,
        UvmError::Operation { source: PlatformError::Unsupported { feature: Feature::VirtualSockets, .. }, .. }
    )
}

fn denied(error: &UvmError) -> bool {
    matches!(error, UvmError::Operation { source: PlatformError::NotAllowed { .. }, .. })
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_was_not_asked_for_sockets_has_none() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    assert!(unsupported(&played.vm.listen(5000).err().ok_or("listens")?));
    assert!(unsupported(&played.vm.dial(5000).await.err().ok_or("dials")?));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn programs_reach_what_the_host_listens_on_and_nothing_else() -> TestResult {
    let (played, _guest) = Played::boot_with(|options| options.virtual_sockets = true).await?;
    assert!(denied(&played.vm.listen(5000).err().ok_or("listens")?), "denied by default");
    played.vm.update_hvsocket_service(&Id::of_port(5000), &Config::guest_dials()).await?;
    assert!(denied(&played.vm.dial(5000).await.err().ok_or("dials")?), "that is the other side");
    let mut listener = played.vm.listen(5000)?;
    assert!(played.vm.listen(5000).is_err(), "taken");
    for agents_own in [1, 109, 0x4000_0000] {
        assert!(played.end.dial_socket(Port(agents_own)).await.is_err(), "port {agents_own} is the agent's");
    }
    let mut program = played.end.dial_socket(Port(5000)).await?;
    let mut stream = listener.accept().await?;
    program.write_all(b"question").await?;
    let mut question = [0; 8];
    stream.read_exact(&mut question).await?;
    assert_eq!(&question, b"question");
    drop(listener);
    assert!(played.end.dial_socket(Port(5000)).await.is_err(), "closed");
    drop((program, stream));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn the_host_dials_programs_within_a_limit() -> TestResult {
    let (played, _guest) = Played::boot_with(|options| {
        options.virtual_sockets = true;
        options.deadlines.stdio_dial = Duration::from_secs(3);
    })
    .await?;
    played.vm.update_hvsocket_service(&Id::of_port(7), &Config::host_dials()).await?;
    let refused = played.vm.dial(7).await.err().ok_or("nobody listens")?;
    assert_eq!(refused.kind(), ErrorKind::Host, "{refused}");
    let mut program = played.end.listen_socket(Port(7));
    let stream = played.vm.dial(7).await?;
    assert!(program.recv().await.is_some());
    // A program that never accepts: its queue is full after a while.
    let mut waiting = Vec::new();
    let error = loop {
        match played.vm.dial(7).await {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    // One that is given up does not keep the VM.
    let mut given_up = Box::pin(played.vm.dial(7));
    poll_once(&mut given_up).await;
    drop((given_up, waiting, stream, program));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_service_adds_the_sockets_and_its_removal_ends_its_listener() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let (vm, id) = (&played.vm, Id::of_port(5000));
    // A service that is removed, or is none, adds nothing.
    vm.remove_hvsocket_service(&id).await?;
    let removal = Config { disabled: true, ..Config::default() };
    vm.update_hvsocket_service(&id, &removal).await?;
    let nonsense = Config { bind_security_descriptor: "everybody".into(), ..Config::default() };
    let error = vm.update_hvsocket_service(&id, &nonsense).await.expect_err("no descriptor");
    assert!(matches!(&error, UvmError::Operation { source: PlatformError::BadInput { .. }, .. }), "{error}");
    assert!(unsupported(&vm.listen(5000).err().ok_or("listens")?));

    vm.update_hvsocket_service(&id, &Config::both_dial()).await?;
    let mut listener = vm.listen(5000)?;
    let _program = played.end.dial_socket(Port(5000)).await?;
    listener.accept().await?;
    vm.remove_hvsocket_service(&id).await?;
    assert!(matches!(listener.accept().await, Err(PlatformError::NotAllowed { .. })));
    assert!(played.end.dial_socket(Port(5000)).await.is_err(), "refused");

    vm.remove_virtual_sockets().await?;
    vm.remove_virtual_sockets().await?;
    assert!(unsupported(&vm.dial(5000).await.err().ok_or("dials")?));
    vm.add_virtual_sockets().await?;
    assert!(denied(&vm.dial(5000).await.err().ok_or("dials")?), "its service was removed");
    drop(listener);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_device_cannot_be_had_allows_nothing() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let (vm, id) = (&played.vm, Id::of_port(5000));
    played.host.plant("add sockets", 0, Fault::Fail);
    let error = vm.update_hvsocket_service(&id, &Config::both_dial()).await.expect_err("planted");
    assert_eq!(error.kind(), ErrorKind::Host, "{error}");
    vm.add_virtual_sockets().await?;
    assert!(denied(&vm.listen(5000).err().ok_or("listens")?));
    played.host.plant("add sockets", 0, Fault::Hang);
    let error = vm.update_hvsocket_service(&id, &Config::both_dial()).await.expect_err("planted");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    played.close().await
}
