//! Starting: how far it came is told, whatever ends it; nothing of it is left.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use uvm::platform::fake::{FakeGuestEnd, FakePlatform, FakeStream, Fault};
use uvm::platform::vm::VmEvent;
use uvm::platform::{Capabilities, Feature, Port};
use uvm::wire::ports::{BRIDGE_PORT, ENTROPY_PORT, LOG_PORT};
use uvm::{
    Deadlines, ErrorKind, ExitStatus, GuestConnection, ProcessSpec, Refusal, ScsiDisk, StartError, StartPhase, UvmError,
};
use uvm_testkit::guest::Guest;

use crate::support::{Played, TestResult, chain, create_on, nothing_left, options, poll_once, settle, within_a_day};

/// Every phase, and how an error names it.
const PHASES: [(StartPhase, &str); 5] = [
    (StartPhase::PowerOn, "the host did not power it on"),
    (StartPhase::Entropy, "its init did not connect for entropy"),
    (StartPhase::Log, "its agent did not connect its log"),
    (StartPhase::Bridge, "its agent did not connect"),
    (StartPhase::Negotiation, "its agent did not complete the handshake"),
];

/// Boots until the start waits for what `phase` names. The result holds the connections that were made.
async fn boot_until(end: &FakeGuestEnd, phase: StartPhase) -> TestResult<Vec<FakeStream>> {
    let mut connections = Vec::new();
    if phase == StartPhase::PowerOn {
        return Ok(connections);
    }
    end.powered_on().await;
    for (port, waits_for) in
        [(ENTROPY_PORT, StartPhase::Entropy), (LOG_PORT, StartPhase::Log), (BRIDGE_PORT, StartPhase::Bridge)]
    {
        if phase == waits_for {
            break;
        }
        connections.push(end.dial(Port(port)).await?);
    }
    Ok(connections)
}

/// A VM whose start hangs in `phase`, and the connections of its guest.
async fn stuck_in(phase: StartPhase) -> TestResult<(Played, Starting, Vec<FakeStream>)> {
    let played = Played::create().await?;
    if phase == StartPhase::PowerOn {
        played.host.plant("start", 0, Fault::Hang);
    }
    let starting = tokio::spawn({
        let vm = played.vm.clone();
        async move { vm.start().await }
    });
    let connections = boot_until(&played.end, phase).await?;
    settle().await;
    assert!(!starting.is_finished());
    Ok((played, starting, connections))
}

type Starting = tokio::task::JoinHandle<Result<(), UvmError>>;

/// What a failed start says: how far it came, and why it ended.
pub(crate) fn start_error(error: UvmError) -> (StartPhase, StartError) {
    match error {
        UvmError::Start { phase, source, .. } => (phase, *source),
        other => panic!("no error of a start: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_says_how_far_it_came() -> TestResult {
    for (phase, text) in PHASES {
        let began = Instant::now();
        let (played, starting, connections) = stuck_in(phase).await?;
        let error = within_a_day(starting).await??.expect_err("nothing comes");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let deadlines = Deadlines::default();
        // The last phase is one call to the guest, which has a limit of its own.
        let limit = if phase == StartPhase::Negotiation { deadlines.rpc } else { deadlines.start };
        assert!((limit..limit + Duration::from_secs(3)).contains(&began.elapsed()), "{phase:?}: {:?}", began.elapsed());
        assert!(error.to_string().contains(&format!("did not start: {text};")), "{error}");
        assert!(chain(&error).contains(&format!("within {limit:?}")), "{}", chain(&error));
        let state = if phase == StartPhase::PowerOn { "is not started" } else { "is running" };
        assert!(error.to_string().ends_with(state), "its last words are from before it was terminated: {error}");
        assert_eq!(start_error(error).0, phase);
        assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
        assert_eq!(played.host.leftovers().get("ports"), None);
        drop(connections);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d22_a_vm_that_ends_while_it_boots_ends_the_start_at_once() -> TestResult {
    for (phase, _) in PHASES {
        let (played, starting, connections) = stuck_in(phase).await?;
        let began = Instant::now();
        played.end.exit(ExitStatus::Panicked);
        let error = within_a_day(starting).await??.expect_err("the VM is gone");
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(error.kind(), ErrorKind::Exited);
        let (at, why) = start_error(error);
        assert_eq!(at, phase);
        assert!(matches!(why, StartError::Exited(ExitStatus::Panicked)), "{phase:?}: {why}");
        assert_eq!(played.host.leftovers().get("ports"), None);
        assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Panicked);
        drop(connections);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_is_lost_while_the_vm_boots_ends_the_start() -> TestResult {
    for (phase, _) in PHASES {
        let (played, starting, connections) = stuck_in(phase).await?;
        let began = Instant::now();
        played.end.tell(VmEvent::Broken { why: "it was unplugged".into() });
        let error = within_a_day(starting).await??.expect_err("nobody can reach the guest");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(error.kind(), ErrorKind::Host);
        assert!(chain(&error).ends_with("cannot reach the guest: it was unplugged"), "{}", chain(&error));
        assert_eq!(start_error(error).0, phase);
        assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
        drop(connections);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d23_a_vm_that_ends_in_its_first_moment_ends_the_start() -> TestResult {
    let host = FakePlatform::new().with_guest(|_| async {});
    let vm = create_on(&host, &options(|_| ())).await?;
    let began = Instant::now();
    let (phase, why) = start_error(vm.start().await.expect_err("the VM is gone"));
    assert_eq!((phase, began.elapsed()), (StartPhase::Entropy, Duration::ZERO));
    assert!(matches!(why, StartError::Exited(ExitStatus::PoweredOff)), "{why}");
    drop(vm);
    nothing_left(&host).await
}

#[tokio::test(start_paused = true)]
async fn d24_cleaning_up_after_a_start_that_took_too_long_has_time_of_its_own() -> TestResult {
    let (played, starting, _) = stuck_in(StartPhase::Entropy).await?;
    let takes = Duration::from_secs(4);
    played.host.plant("terminate", 0, Fault::Slow(takes));
    let began = Instant::now();
    let error = within_a_day(starting).await??.expect_err("nothing comes");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(began.elapsed() + Duration::from_millis(1) >= Deadlines::default().start + takes, "{:?}", began.elapsed());
    assert_eq!(played.vm.exit_status(), Some(ExitStatus::Terminated), "it was not left running");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_that_could_not_be_terminated_can_still_be() -> TestResult {
    for fault in [Fault::Fail, Fault::Hang] {
        let played = Played::create().await?;
        played.host.plant("start", 0, Fault::Fail);
        played.host.plant("terminate", 0, fault);
        let error = within_a_day(played.vm.start()).await?.expect_err("planted");
        assert!(chain(&error).ends_with("cannot start: a planted fault"), "{}", chain(&error));
        assert_eq!(played.vm.exit_status(), None, "it is still there");
        played.vm.terminate().await?;
        assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d25_a_close_during_the_start_closes_every_listener() -> TestResult {
    for (phase, _) in PHASES {
        let (played, starting, connections) = stuck_in(phase).await?;
        let began = Instant::now();
        played.vm.close().await?;
        let (at, why) = start_error(within_a_day(starting).await??.expect_err("it was closed"));
        assert_eq!((at, began.elapsed()), (phase, Duration::ZERO));
        assert!(matches!(why, StartError::Cancelled), "{phase:?}: {why}");
        assert_eq!(played.host.leftovers().get("ports"), None);
        for mut connection in connections {
            let mut rest = Vec::new();
            // What was given is still read, then the end.
            let _ = connection.read_to_end(&mut rest).await;
        }
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_terminate_during_the_start_gives_it_up() -> TestResult {
    for (phase, _) in PHASES {
        let (played, starting, connections) = stuck_in(phase).await?;
        let began = Instant::now();
        played.vm.terminate().await?;
        let error = within_a_day(starting).await??.expect_err("it was terminated");
        assert_eq!((error.kind(), began.elapsed()), (ErrorKind::WrongState, Duration::ZERO));
        assert!(matches!(start_error(error), (at, StartError::Cancelled) if at == phase));
        assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
        let again = played.vm.start().await.expect_err("it has ended");
        assert!(matches!(again, UvmError::Exited { .. }), "{again}");
        drop(connections);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_gives_a_start_up() -> TestResult {
    for (phase, _) in PHASES {
        let (played, starting, connections) = stuck_in(phase).await?;
        starting.abort();
        drop(played.vm);
        let began = Instant::now();
        nothing_left(&played.host).await?;
        assert!(began.elapsed() < Duration::from_secs(1), "{phase:?}: {:?}", began.elapsed());
        drop(connections);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_caller_gave_up_goes_on() -> TestResult {
    let (played, starting, connections) = stuck_in(StartPhase::Entropy).await?;
    starting.abort();
    settle().await;
    drop(connections);
    let mut guest = Guest::boot(&played.end).await?;
    guest.negotiate().await?;
    settle().await;
    assert!(played.vm.capabilities().is_some());
    assert!(matches!(played.vm.start().await, Err(UvmError::Refused { why: Refusal::AlreadyStarted, .. })));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d31_a_connection_that_comes_with_the_cancellation_is_closed() -> TestResult {
    for dial_first in [false, true] {
        let (played, starting, connections) = stuck_in(StartPhase::Bridge).await?;
        // It is not the end of the VM that closes the connection: it does not end.
        for _ in 0..2 {
            played.host.plant("terminate", 0, Fault::Hang);
        }
        let mut terminate = Box::pin(played.vm.terminate());
        // In the same moment: nobody else runs between the two.
        let mut stream = if dial_first {
            let stream = played.end.dial(Port(BRIDGE_PORT)).await?;
            poll_once(&mut terminate).await;
            stream
        } else {
            poll_once(&mut terminate).await;
            played.end.dial(Port(BRIDGE_PORT)).await?
        };
        let error = within_a_day(starting).await??.expect_err("it was terminated");
        assert!(matches!(start_error(error), (_, StartError::Cancelled)));
        assert_eq!(terminate.await.expect_err("the host hangs").kind(), ErrorKind::Timeout);
        // The first that came over it may be there, but nobody serves it any more.
        let mut said = Vec::new();
        let _cut = within_a_day(stream.read_to_end(&mut said)).await?;
        assert!(played.vm.capabilities().is_none());
        drop(connections);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_host_that_fails_to_power_on_is_quoted() -> TestResult {
    let played = Played::create().await?;
    played.host.plant("start", 0, Fault::Fail);
    let error = played.vm.start().await.expect_err("planted");
    assert_eq!(error.kind(), ErrorKind::Host);
    assert!(chain(&error).ends_with("cannot start: a planted fault"), "{}", chain(&error));
    assert_eq!(start_error(error).0, StartPhase::PowerOn);
    assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_guest_gets_512_bytes_of_entropy_and_their_end() -> TestResult {
    let (played, guest) = Played::boot().await?;
    let (other, other_guest) = Played::boot().await?;
    assert_eq!((guest.entropy.len(), other_guest.entropy.len()), (512, 512));
    assert_ne!(guest.entropy, other_guest.entropy);
    assert_eq!(played.end.dial(Port(ENTROPY_PORT)).await.map(drop).expect_err("once").kind(), REFUSED);
    assert_eq!(played.end.dial(Port(LOG_PORT)).await.map(drop).expect_err("once").kind(), REFUSED);
    assert_eq!(played.end.dial(Port(BRIDGE_PORT)).await.map(drop).expect_err("once").kind(), REFUSED);
    played.close().await?;
    other.close().await
}

const REFUSED: std::io::ErrorKind = std::io::ErrorKind::ConnectionRefused;

#[tokio::test(start_paused = true)]
async fn a_vm_without_a_guest_connection_only_runs() -> TestResult {
    let played = Played::create_with(|options| options.guest_connection = GuestConnection::None).await?;
    let boot = async {
        played.end.powered_on().await;
        let entropy = played.end.dial(Port(ENTROPY_PORT)).await?;
        TestResult::Ok((entropy, played.end.dial(Port(LOG_PORT)).await?))
    };
    let (started, streams) = tokio::join!(played.vm.start(), boot);
    started?;
    streams?;
    assert_eq!(played.end.dial(Port(BRIDGE_PORT)).await.map(drop).expect_err("nobody listens").kind(), REFUSED);
    assert_eq!(played.vm.capabilities(), None);
    for error in [
        played.vm.shutdown().await.expect_err("nobody to ask"),
        played.vm.create_process(&ProcessSpec::new(["true"])).await.map(drop).expect_err("nobody to ask"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    // What the guest has to be told of is not even begun; what it need not know can be had.
    let mounted = ScsiDisk::new("/a").with_guest_path("/mnt");
    let error = played.vm.add_scsi(&mounted).await.expect_err("nobody to tell");
    assert!(chain(&error).ends_with("nobody holds the connection to the guest, which has to be told"), "{error:?}");
    assert!(!played.host.calls().contains(&"add scsi".to_owned()));
    played.vm.add_scsi(&ScsiDisk::new("/a")).await?.release().await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_log_nobody_wants_does_not_wait_for_it() -> TestResult {
    let (played, guest) = Played::boot_with(|options| options.forward_stderr = false).await?;
    assert!(guest.log.is_none());
    played.end.exit(ExitStatus::PoweredOff);
    assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::PoweredOff);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn without_a_log_the_phase_after_entropy_is_the_bridge() -> TestResult {
    let played = Played::create_with(|options| options.forward_stderr = false).await?;
    let (started, entropy) = tokio::join!(played.vm.start(), async {
        played.end.powered_on().await;
        played.end.dial(Port(ENTROPY_PORT)).await
    });
    entropy?;
    assert_eq!(start_error(started.expect_err("no agent comes")).0, StartPhase::Bridge);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_connection_owned_by_the_host_needs_a_host_that_can() -> TestResult {
    let without = Capabilities::all("fake").without(Feature::HostOwnedGuestConnection, "a test");
    let host = FakePlatform::new().with_capabilities(without);
    let options = options(|options| options.guest_connection = GuestConnection::HostService);
    let error = create_on(&host, &options).await.expect_err("it cannot");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(host.calls().is_empty(), "{:?}", host.calls());
    Ok(())
}
