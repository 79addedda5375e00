//! Virtual sockets: the device, the services, and programs at both ends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::wire::negotiate::GuestOs;
use uvm::{ErrorKind, HvSocketServiceConfig as Config, HvSocketServiceId as Id, ProcessExit, ProcessSpec};
use uvm_platform::{Feature, PlatformError};

use super::subject::{cause, failure};
use super::{GUEST_PROGRAM, Host, Subject, Wanted};
use crate::TestResult;

const UP: u32 = 5000;
const DOWN: u32 = 6000;

pub(super) async fn a_vm_without_sockets_says_so(host: &dyn Host) -> TestResult<usize> {
    let wanted = Wanted { name: "socketless", os: GuestOs::Linux, virtual_sockets: false };
    let vm = Subject::create(host, wanted).await?;
    let error = failure("listen", vm.listen(UP))?;
    assert!(
        matches!(cause(&error), Some(PlatformError::Unsupported { feature: Feature::VirtualSockets, .. })),
        "{error:?}"
    );
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    // The host does not dial a guest that does not run.
    assert_eq!(failure("dial", vm.dial(DOWN).await)?.kind(), ErrorKind::WrongState);
    vm.close().await
}

pub(super) async fn programs_and_host_dial_each_other(host: &dyn Host) -> TestResult<usize> {
    let vm = Subject::boot(host, Wanted { name: "sockets", os: GuestOs::Linux, virtual_sockets: true }).await?;
    host.install(&vm).await?;
    if vm.ways().gates_sockets {
        let error = failure("listen where no service allows it", vm.listen(UP))?;
        assert!(matches!(cause(&error), Some(PlatformError::NotAllowed { .. })), "{error:?}");
        let error = failure("dial where no service allows it", vm.dial(DOWN).await)?;
        assert!(matches!(cause(&error), Some(PlatformError::NotAllowed { .. })), "{error:?}");
    }
    vm.update_hvsocket_service(&Id::of_port(UP), &Config::guest_dials()).await?;
    vm.update_hvsocket_service(&Id::of_port(DOWN), &Config::host_dials()).await?;
    the_guest_dials(&vm).await?;
    the_host_dials(&vm).await?;
    let mut listener = vm.listen(UP)?;
    let error = failure("a port that is taken", vm.listen(UP))?;
    assert_eq!(error.kind(), ErrorKind::Host, "{error:?}");
    if vm.ways().removes_sockets {
        vm.remove_virtual_sockets().await?;
        assert!(listener.accept().await.is_err(), "its device is gone");
        drop(listener);
        vm.add_virtual_sockets().await?;
        // Services stay.
        the_guest_dials(&vm).await?;
    } else {
        let error = failure("take the device out", vm.remove_virtual_sockets().await)?;
        assert!(matches!(cause(&error), Some(PlatformError::NotAllowed { .. })), "{error:?}");
        vm.add_virtual_sockets().await?;
        drop(listener);
    }
    let mut listener = vm.listen(UP)?;
    vm.remove_hvsocket_service(&Id::of_port(UP)).await?;
    vm.remove_hvsocket_service(&Id::of_port(UP)).await?;
    if vm.ways().gates_sockets {
        assert!(listener.accept().await.is_err(), "it is not allowed any more");
    }
    (*vm).close().await?;
    assert!(listener.accept().await.is_err(), "its VM is gone");
    drop(listener);
    vm.gone().await
}

async fn the_guest_dials(vm: &Subject) -> TestResult {
    let mut listener = vm.listen(UP)?;
    let serve = async {
        let mut stream = listener.accept().await?;
        let mut came = Vec::new();
        stream.read_to_end(&mut came).await?;
        // It has half-closed: the other direction goes on.
        stream.write_all(&[7; 1024]).await?;
        stream.shutdown().await?;
        TestResult::Ok(came.len())
    };
    let command = [GUEST_PROGRAM, "dial", "5000", "1", "65536"];
    let (came, output) = tokio::join!(serve, vm.output(&command));
    let output = output?;
    assert_eq!((came?, output.exit, output.stdout.as_slice()), (65536, ProcessExit::Code(0), &b"1024\n"[..]));
    Ok(())
}

async fn the_host_dials(vm: &Subject) -> TestResult {
    let mut echo = vm.create_process(&ProcessSpec::new([GUEST_PROGRAM, "echo", "6000"])).await?;
    let mut ready = [0; 6];
    echo.stdout.as_mut().ok_or("no output")?.read_exact(&mut ready).await?;
    assert_eq!(&ready, b"ready\n");
    let mut stream = vm.dial(DOWN).await?;
    stream.write_all(b"hello").await?;
    stream.shutdown().await?;
    let mut came = Vec::new();
    stream.read_to_end(&mut came).await?;
    assert_eq!(came, b"hello");
    assert_eq!(echo.output().await?.exit, ProcessExit::Code(0));
    let error = failure("nobody listens", vm.dial(DOWN).await)?;
    assert_eq!(error.kind(), ErrorKind::Host, "{error:?}");
    Ok(())
}
