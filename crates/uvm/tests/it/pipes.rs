//! Pipes of the host; where guests do not reach them by themselves, their agent is told to offer a socket.

use uvm::platform::fake::{FakePlatform, Fault};
use uvm::{ErrorKind, ResourceError};
use uvm_testkit::guest::Guest;

use crate::obedient::{Obedient, asked, boot};
use crate::support::{ORIGINAL, Played, TestResult, boot_files, original_capabilities, source};

#[tokio::test(start_paused = true)]
async fn d53_a_socket_that_the_agent_offers_is_shared_at_one_path() -> TestResult {
    let played = Played::create_on(FakePlatform::new().with_carried_pipes(), |_| ()).await?;
    let guest = Obedient::new(played.start(Guest::capabilities()).await?);
    let error = played.vm.add_pipe_at("/run/a", "relative").await.expect_err("no path of the guest");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    guest.refuse(0);
    assert!(played.vm.add_pipe("/run/a").await.is_err(), "the guest would not have it");
    let (one, two) = (played.vm.add_pipe_at("/run/a", "/b").await?, played.vm.add_pipe("/run/a").await?);
    assert_eq!((one.guest_path(), two.guest_path()), (Some("/b"), Some("/b")));
    let error = played.vm.add_pipe_at("/run/a", "/c").await.expect_err("it is elsewhere");
    assert!(matches!(source(&error), ResourceError::AttachedOtherwise { .. }), "{error}");
    one.release().await?;
    two.release().await?;
    let told = ["add socket /run/a 0x30000000", "add socket /b 0x30000001", "remove socket /b 0x30000001"];
    assert_eq!(guest.words(), told);
    assert_eq!(asked(&played), ["add pipe", "undo pipe", "add pipe", "remove pipe"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_offers_no_sockets_is_not_asked_to() -> TestResult {
    let host = FakePlatform::new().with_carried_pipes();
    let played = Played::create_on(host, |options| options.boot_files = Some(boot_files(ORIGINAL))).await?;
    let guest = Obedient::new(played.start(original_capabilities()).await?);
    let error = played.vm.add_pipe("/run/a").await.expect_err("it cannot");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!((guest.words(), asked(&played)), (Vec::new(), Vec::new()));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_reaches_pipes_has_them_at_no_path() -> TestResult {
    let (played, _guest) = boot().await?;
    let error = played.vm.add_pipe_at("x", "/b").await.expect_err("it has a name");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let pipe = played.vm.add_pipe("x").await?;
    assert_eq!(pipe.guest_path(), None);
    pipe.release().await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d53_a_pipe_is_there_as_long_as_somebody_has_it_in_guests_of_both_kinds() -> TestResult {
    let (played, guest) = boot().await?;
    let pipe = r"\\.\pipe\x";
    played.host.plant("add pipe", 0, Fault::Fail);
    assert!(played.vm.add_pipe(pipe).await.is_err());
    let (one, two) = (played.vm.add_pipe(pipe).await?, played.vm.add_pipe(pipe).await?);
    one.release().await?;
    assert!(asked(&played).iter().all(|call| call != "remove pipe"));
    two.release().await?;
    assert_eq!(played.vm.remove_pipe(pipe).await.expect_err("nobody's").kind(), ErrorKind::NotFound);
    assert_eq!(asked(&played), ["add pipe", "add pipe", "remove pipe"]);
    assert_eq!(guest.words(), Vec::<String>::new());
    played.close().await
}
