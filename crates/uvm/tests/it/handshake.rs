//! The handshake: versions of agent and protocol, and guests that break it.

use uvm::wire::negotiate::{NegotiateProtocol, NegotiateProtocolReply};
use uvm::wire::{Failure, Hresult};
use uvm::{BridgeClosed, BridgeError, ErrorKind, ExitStatus, StartError, StartPhase, UvmError};
use uvm_testkit::guest::{Guest, Received};

use crate::start::start_error;
use crate::support::{ORIGINAL, Played, TestResult, boot_files, chain, original_capabilities, within_a_day};

/// How a start ends with a guest that answers negotiation so.
async fn answered_with(played: &Played, reply: NegotiateProtocolReply) -> Result<(), UvmError> {
    let serve = async {
        let mut guest = Guest::boot(&played.end).await.expect("the host listens");
        guest.negotiate_as(reply).await.expect("the host asks");
        guest
    };
    let (started, _guest) = tokio::join!(played.vm.start(), serve);
    started
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_another_version_is_named() -> TestResult {
    let mut other = Guest::capabilities();
    other.capabilities.guest_defined.uvm_agent_version = "0.0.0".into();
    for (reply, theirs) in [(other, "0.0.0"), (original_capabilities(), "")] {
        let played = Played::create().await?;
        let error = answered_with(&played, reply).await.expect_err("it is another version");
        assert_eq!(error.kind(), ErrorKind::Guest);
        let expected = format!("agent version {theirs:?}, this library needs {:?}", env!("CARGO_PKG_VERSION"));
        assert!(chain(&error).contains(&expected), "{}", chain(&error));
        assert_eq!(start_error(error).0, StartPhase::Negotiation);
        assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn boot_files_of_the_original_may_hold_any_agent() -> TestResult {
    for reply in [original_capabilities(), Guest::capabilities()] {
        let played = Played::create_with(|options| options.boot_files = Some(boot_files(ORIGINAL))).await?;
        answered_with(&played, reply).await?;
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_protocol_version_that_was_not_offered_is_refused() -> TestResult {
    for version in [0, 3, 5] {
        let played = Played::create().await?;
        let reply = NegotiateProtocolReply { version, ..Guest::capabilities() };
        let error = answered_with(&played, reply).await.expect_err("not offered");
        assert_eq!(error.kind(), ErrorKind::Guest);
        assert!(chain(&error).contains(&format!("chose protocol version {version}")), "{}", chain(&error));
        assert_eq!(start_error(error).0, StartPhase::Negotiation);
        played.close().await?;
    }
    Ok(())
}

/// How a start ends with a guest that does this when it is asked for the protocol.
async fn negotiating<F>(misbehave: F) -> TestResult<UvmError>
where
    F: AsyncFnOnce(&mut Guest, Received) -> std::io::Result<()>,
{
    let played = Played::create().await?;
    let serve = async {
        let mut guest = Guest::boot(&played.end).await?;
        let asked = guest.expect::<NegotiateProtocol>().await?;
        misbehave(&mut guest, asked).await?;
        TestResult::Ok(guest)
    };
    let (started, guest) = tokio::join!(played.vm.start(), serve);
    let _guest = guest?;
    let error = started.expect_err("the guest misbehaves");
    assert!(matches!(error, UvmError::Start { phase: StartPhase::Negotiation, .. }), "{error}");
    assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
    played.close().await?;
    Ok(error)
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_breaks_the_handshake_is_told_apart() -> TestResult {
    let refused = negotiating(async |guest, asked| guest.fail(&asked, Failure::code(Hresult::FAIL)).await).await?;
    assert!(chain(&refused).contains("guest RPC failure"), "{}", chain(&refused));
    let garbled = negotiating(async |guest, asked| {
        let answer = [&[0x01, 0x0b, 0x10, 0x20, 18, 0, 0, 0][..], &asked.id.to_le_bytes(), b"[]"].concat();
        guest.write(&answer).await
    })
    .await?;
    assert!(chain(&garbled).contains("makes no sense"), "{}", chain(&garbled));
    let cut = negotiating(async |guest, _| guest.hang_up().await).await?;
    assert!(chain(&cut).ends_with("the guest closed it"), "{}", chain(&cut));
    let too_small =
        negotiating(async |guest, _| guest.write(&[1, 11, 16, 32, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await);
    let (_, why) = start_error(too_small.await?);
    let StartError::Bridge(BridgeError::Closed { source, .. }) = why else { panic!("{why:?}") };
    assert!(matches!(*source, BridgeClosed::Frame(_)), "{source:?}");
    Ok(())
}
