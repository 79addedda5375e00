//! The bridge: one call's trouble is its own; what breaks the bridge is told to every call.

use std::time::Duration;

use tokio::time::Instant;
use uvm::platform::vm::VmEvent;
use uvm::wire::header::Header;
use uvm::wire::notification::ExitType;
use uvm::wire::system::{DumpStacks, DumpStacksReply};
use uvm::wire::{ContainerNotification, MessageType, Rpc, encode_response};
use uvm::{BridgeClosed, BridgeError, Deadlines, ErrorKind, ExitStatus, ProcessSpec, Refusal, UtilityVm, UvmError};
use uvm_testkit::guest::{Guest, Received};

use crate::support::{
    GuestProcess, Played, TestResult, bridge_error, chain, executes, poll_once, settle, silence, within_a_day,
};

/// A call that is open.
type Open = tokio::task::JoinHandle<Result<String, UvmError>>;

fn dump(vm: &UtilityVm) -> Open {
    let vm = vm.clone();
    tokio::spawn(async move { vm.dump_stacks().await })
}

fn stacks(text: &str) -> DumpStacksReply {
    DumpStacksReply { guest_stacks: text.into() }
}

/// Passes if the guest can be called.
async fn works(played: &Played, guest: &mut Guest) -> TestResult {
    let (dumped, served) = tokio::join!(played.vm.dump_stacks(), guest.answer::<DumpStacks>(stacks("it works")));
    served?;
    assert_eq!(dumped?, "it works");
    Ok(())
}

/// A frame with any body.
fn frame(message_type: MessageType, id: u64, body: &str) -> Vec<u8> {
    let header = Header { message_type, size: (Header::LEN + body.len()) as u32, id };
    [&header.to_bytes(), body.as_bytes()].concat()
}

#[tokio::test(start_paused = true)]
async fn answers_may_come_in_any_order() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let calls: Vec<Open> = (0..100).map(|_| dump(&played.vm)).collect();
    let mut asked = Vec::new();
    for _ in 0..100 {
        asked.push(guest.expect::<DumpStacks>().await?);
    }
    let ids: Vec<u64> = asked.iter().map(|received| received.id).collect();
    assert_eq!(ids, (1..=100).collect::<Vec<u64>>(), "0 was negotiation");
    for received in asked.iter().rev() {
        guest.reply::<DumpStacks>(received, Ok(stacks(&received.id.to_string()))).await?;
    }
    for (id, call) in (1..).zip(calls) {
        assert_eq!(call.await??, id.to_string());
    }
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d71_an_answer_that_comes_too_late_or_was_never_asked_for_is_dropped() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let began = Instant::now();
    let (dumped, asked) =
        within_a_day(async { tokio::join!(played.vm.dump_stacks(), guest.expect::<DumpStacks>()) }).await?;
    let error = dumped.expect_err("no answer");
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Timeout, Deadlines::default().rpc));
    assert!(chain(&error).ends_with("no answer to DumpStacks request within 30s"), "{}", chain(&error));
    let open = dump(&played.vm);
    let second = guest.expect::<DumpStacks>().await?;
    guest.reply::<DumpStacks>(&asked?, Ok(stacks("too late"))).await?;
    guest.write(&encode_response::<DumpStacks>(7777, None, Ok(stacks("never asked for")))).await?;
    guest.write(&encode_response::<DumpStacks>(u64::MAX, None, Ok(stacks("never asked for")))).await?;
    settle().await;
    assert!(!open.is_finished());
    guest.reply::<DumpStacks>(&second, Ok(stacks("in time"))).await?;
    assert_eq!(open.await??, "in time");
    // An answer twice.
    guest.reply::<DumpStacks>(&second, Ok(stacks("again"))).await?;
    works(&played, &mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_makes_no_sense_fails_its_call_only() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let other = dump(&played.vm);
    let asked_other = guest.expect::<DumpStacks>().await?;
    let good = DumpStacks::MESSAGE_TYPE.response();
    for (message_type, body) in [
        (good, ""),
        (good, "{"),
        (good, "[]"),
        (good, r#"{"GuestStacks":"no result"}"#),
        (good, r#"{"Result":"0"}"#),
        (good, r#"{"Result":0,"ActivityId":""}"#),
        (good, r#"{"Result":0,"GuestStacks":7}"#),
        (MessageType::CREATE.response(), r#"{"Result":0}"#),
        (DumpStacks::MESSAGE_TYPE, r#"{"Result":0}"#),
    ] {
        let open = dump(&played.vm);
        let asked = guest.expect::<DumpStacks>().await?;
        guest.write(&frame(message_type, asked.id, body)).await?;
        let error = open.await?.expect_err(body);
        assert!(matches!(bridge_error(&error), Some(BridgeError::Answer { .. })), "{body}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Guest);
    }
    guest.reply::<DumpStacks>(&asked_other, Ok(stacks("fine"))).await?;
    assert_eq!(other.await??, "fine");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d71_a_request_that_cannot_be_sent_fails_its_call_only() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let open = dump(&played.vm);
    let asked = guest.expect::<DumpStacks>().await?;
    let error = played.vm.create_process(&ProcessSpec::new(["x".repeat(17 << 20)])).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(matches!(bridge_error(&error), Some(BridgeError::Encode { .. })), "{error:?}");
    assert!(chain(&error).contains("but at most 16777216 may be sent"), "{}", chain(&error).len());
    assert_eq!(played.host.leftovers().get("ports"), None);
    silence(&mut guest).await?;
    guest.reply::<DumpStacks>(&asked, Ok(stacks("fine"))).await?;
    assert_eq!(open.await??, "fine");
    works(&played, &mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d74_both_directions_have_a_limit_and_what_is_within_it_arrives() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let argument = "x".repeat(8 << 20);
    let spec = ProcessSpec::new(["echo", &argument]);
    let (created, served) = tokio::join!(played.vm.create_process(&spec), GuestProcess::begin(&mut guest, 7));
    assert!(served?.asked.settings.parameters.command_args[1] == argument);
    drop(created?);
    // The other way: the largest frame, and one byte more.
    for (size, fits) in [(0x1_0000, true), (0x1_0001, false)] {
        let open = dump(&played.vm);
        let asked = guest.expect::<DumpStacks>().await?;
        let (begin, end) = (r#"{"Result":0,"GuestStacks":""#, r#""}"#);
        let text = "y".repeat(size - Header::LEN - begin.len() - end.len());
        let answer = frame(DumpStacks::MESSAGE_TYPE.response(), asked.id, &format!("{begin}{text}{end}"));
        // One that is too long is not read to its end.
        let written = guest.write(&answer).await;
        assert!(written.is_ok() || !fits);
        match within_a_day(open).await?? {
            Ok(dumped) => assert!(fits && dumped == text),
            Err(error) => {
                assert!(!fits, "{error}");
                let expected = "DumpStacks response announces 65537 bytes, but at most 65536 are taken";
                assert!(chain(&error).ends_with(expected), "{}", chain(&error));
            }
        }
    }
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d82_whatever_breaks_the_bridge_is_told_to_old_and_new_calls() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let spec = ProcessSpec::new(["sleep"]);
    let (created, served) = tokio::join!(played.vm.create_process(&spec), GuestProcess::begin(&mut guest, 7));
    let (process, _served) = (created?, served?);
    let old = [dump(&played.vm), dump(&played.vm)];
    for _ in &old {
        guest.expect::<DumpStacks>().await?;
    }
    guest.write(&[1, 1, 0x10, 0x20, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await?;
    settle().await;
    let new = dump(&played.vm);
    let mut errors = Vec::new();
    for call in old.into_iter().chain([new]) {
        errors.push(within_a_day(call).await??.expect_err("the bridge is broken"));
    }
    errors.push(process.wait().await.expect_err("the bridge is broken"));
    for error in errors {
        let Some(BridgeError::Closed { source, .. }) = bridge_error(&error) else { panic!("{error:?}") };
        assert!(matches!(**source, BridgeClosed::Frame(_)), "{source:?}");
        let cause = "the guest broke the protocol: Create response announces 8 bytes, but a header alone takes 16";
        assert!(chain(&error).ends_with(cause), "{}", chain(&error));
        assert_eq!(error.kind(), ErrorKind::Guest, "the VM still runs");
    }
    drop(process);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_bridge_is_lost_is_soon_known_to_be_broken() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    guest.hang_up().await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let began = Instant::now();
    let error = played.vm.dump_stacks().await.expect_err("nobody answers");
    assert!(matches!(error, UvmError::Refused { why: Refusal::Broken, .. }), "{error}");
    assert_eq!(began.elapsed(), Duration::ZERO);
    played.vm.terminate().await?;
    assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_ends_with_its_vm_breaks_nothing() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let open = dump(&played.vm);
    guest.expect::<DumpStacks>().await?;
    guest.hang_up().await?;
    // The end of the VM follows.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!open.is_finished(), "whether the VM ends is worth a moment");
    played.end.exit(ExitStatus::PoweredOff);
    let error = within_a_day(open).await??.expect_err("it has ended");
    assert!(matches!(error, UvmError::Exited { status: ExitStatus::PoweredOff, .. }), "{error}");
    let error = played.vm.dump_stacks().await.expect_err("it has ended");
    assert!(matches!(error, UvmError::Exited { status: ExitStatus::PoweredOff, .. }), "{error}");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d71_notifications_that_nobody_waits_for_are_dropped() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    guest.notify(&ContainerNotification::new("nobody".into(), None, ExitType::UnexpectedExit)).await?;
    for (bits, body) in [
        (0x3010_0101, r#"{"ContainerId":"c","Type":"Novel"}"#),
        (0x3010_0101, "{"),
        (0x3010_0201, "{}"),
        (0x3020_0101, ""),
    ] {
        guest.write(&frame(MessageType::from_bits(bits), 0, body)).await?;
    }
    works(&played, &mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_notification_may_come_before_the_protocol_is_agreed_on() -> TestResult {
    let played = Played::create().await?;
    let serve = async {
        let mut guest = Guest::boot(&played.end).await?;
        guest.notify(&ContainerNotification::new("old".into(), None, ExitType::UnexpectedExit)).await?;
        guest.negotiate().await?;
        TestResult::Ok(guest)
    };
    let (started, guest) = tokio::join!(played.vm.start(), serve);
    started?;
    works(&played, &mut guest?).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_reads_nothing_holds_up_no_call_beyond_its_limit() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let began = Instant::now();
    // More than the stream, and the queue before it, take.
    let big = ProcessSpec::new(["x".repeat(4096)]);
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let (vm, spec) = (played.vm.clone(), big.clone());
            tokio::spawn(async move { vm.create_process(&spec).await.map(drop) })
        })
        .collect();
    for call in calls {
        assert_eq!(within_a_day(call).await??.expect_err("nobody reads it").kind(), ErrorKind::Timeout);
    }
    assert_eq!(began.elapsed(), Deadlines::default().rpc);
    assert_eq!(played.host.leftovers().get("ports"), None);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_gave_up_leaves_the_next_ones_alone() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let mut dumping = Box::pin(played.vm.dump_stacks());
    poll_once(&mut dumping).await;
    drop(dumping);
    let given_up: Received = guest.expect::<DumpStacks>().await?;
    let open = dump(&played.vm);
    let asked = guest.expect::<DumpStacks>().await?;
    guest.reply::<DumpStacks>(&given_up, Ok(stacks("for nobody"))).await?;
    guest.reply::<DumpStacks>(&asked, Ok(stacks("for somebody"))).await?;
    assert_eq!(open.await??, "for somebody");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_is_lost_ends_open_calls_in_time() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let spec = ProcessSpec::new(["sleep"]);
    let (created, received) = within_a_day(async {
        let lose = async {
            let received = guest.expect::<uvm::wire::execute::ExecuteProcess>().await?;
            played.end.tell(VmEvent::Broken { why: "a test".into() });
            guest.hang_up().await?;
            TestResult::Ok(received)
        };
        tokio::join!(played.vm.create_process(&spec), lose)
    })
    .await?;
    assert_eq!(executes(&received?).settings.parameters.command_args, ["sleep"]);
    let error = created.expect_err("the bridge is gone");
    assert!(matches!(bridge_error(&error), Some(BridgeError::Closed { .. })), "{error:?}");
    played.close().await
}
