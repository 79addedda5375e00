//! What becomes of networks when a call of the host or the guest fails, each in turn.

use uvm::platform::fake::Fault;
use uvm::{ErrorKind, ResourceError};

use crate::networked::{Answer, NAMESPACE, Networked, endpoint};
use crate::support::{TestResult, poll_once, settle, source};

/// Makes this call fail: one of the host by its name, or one of the guest after those before it in `sequence`.
fn plant(net: &Networked, sequence: &[&str], failing: usize) {
    let before = &sequence[..failing];
    let line = sequence[failing];
    if let Some(call) = line.strip_prefix("host: ") {
        net.host.plant(call, before.iter().filter(|other| **other == line).count(), Fault::Fail);
    } else {
        net.misbehave(before.iter().filter(|other| other.starts_with("guest: ")).count(), Answer::Refused);
    }
}

const LOOK: &str = "host: look at namespace b1b2b3b4-0000-4000-9000-00000000000a";
const ADD: &str = r#"guest: Add NetworkNamespace {"Type":"Guest"}"#;
const REMOVE: &str = r#"guest: Remove NetworkNamespace {"Type":"Guest"}"#;

#[tokio::test(start_paused = true)]
async fn a_namespace_that_cannot_be_added_is_not_there() -> TestResult {
    let net = Networked::windows().await?;
    let sequence = [LOOK, ADD];
    for failing in 0..sequence.len() {
        plant(&net, &sequence, failing);
        net.vm.add_network_namespace(NAMESPACE).await.expect_err("it is planted");
        assert_eq!(net.asked(), sequence[..=failing]);
        let error = net.vm.add_endpoints(NAMESPACE, &[endpoint("e1")]).await.expect_err("it is not there");
        assert!(matches!(source(&error), ResourceError::NamespaceNotFound), "{error:?}");
    }
    net.vm.add_network_namespace(NAMESPACE).await?;
    assert_eq!(net.asked(), sequence);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d56_what_a_windows_guest_was_told_before_is_taken_back() -> TestResult {
    let net = Networked::windows().await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    let add = |n: usize| {
        [format!("guest: PreAdd Network {n}"), "host: add network".into(), format!("guest: Add Network {n}")]
    };
    let whole: Vec<String> = [add(1), add(2)].concat();
    let sequence: Vec<&str> = whole.iter().map(String::as_str).collect();
    // What undoes each: a guest that refuses to hear of an adapter knows nothing of it.
    let (taken_back, undo) = ("guest: Remove Network", "host: undo network");
    let undone = |n: usize, at: usize| match at {
        0 => Vec::new(),
        1 => vec![format!("{taken_back} {n}")],
        _ => vec![format!("{taken_back} {n}"), undo.to_owned()],
    };
    for failing in 0..sequence.len() {
        net.start_anew();
        plant(&net, &sequence, failing);
        let added = net.vm.add_endpoints(NAMESPACE, &[endpoint("e1"), endpoint("e2")]).await;
        let error = added.expect_err("it is planted");
        assert!(matches!(source(&error), ResourceError::Host(_) | ResourceError::Guest(_)), "{error:?}");
        let mut expected = whole[..=failing].to_vec();
        expected.extend(undone(1 + failing / 3, failing % 3));
        if failing >= 3 {
            // The first had been added.
            expected.extend(["guest: Remove Network 1".to_owned(), "host: remove network".to_owned()]);
        }
        assert_eq!(net.asked(), expected, "{failing}");
    }
    // Nothing is left: both are added from the start.
    net.start_anew();
    net.vm.add_endpoints(NAMESPACE, &[endpoint("e1"), endpoint("e2")]).await?;
    assert_eq!(net.asked(), sequence);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_was_not_answered_may_have_been_done_and_is_taken_back() -> TestResult {
    let sequence = ["guest: PreAdd Network 1", "host: add network", "guest: Add Network 1"];
    for silent in 0..sequence.len() {
        let net = Networked::windows().await?;
        net.vm.add_network_namespace(NAMESPACE).await?;
        net.asked();
        match silent {
            1 => net.host.plant("add network", 0, Fault::Hang),
            _ => net.misbehave(silent / 2, Answer::Nothing),
        }
        let error = net.vm.add_endpoints(NAMESPACE, &[endpoint("e1")]).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        let mut expected = sequence[..=silent].to_vec();
        expected.push("guest: Remove Network 1");
        expected.extend((silent > 0).then_some("host: undo network"));
        assert_eq!(net.asked(), expected);
        net.vm.remove_network_namespace(NAMESPACE).await?;
        assert_eq!(net.asked(), [LOOK, REMOVE], "nothing is left");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_there_stays_when_another_cannot_be_added() -> TestResult {
    let net = Networked::windows().await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    net.vm.add_endpoints(NAMESPACE, &[endpoint("e1")]).await?;
    net.asked();
    net.host.plant("add network", 0, Fault::Fail);
    net.vm.add_endpoints(NAMESPACE, &[endpoint("e1"), endpoint("e2")]).await.expect_err("it is planted");
    assert_eq!(net.asked(), ["guest: PreAdd Network 2", "host: add network", "guest: Remove Network 2"]);
    net.vm.remove_endpoints(NAMESPACE, &["e1"]).await?;
    assert_eq!(net.asked(), ["guest: Remove Network 1", "host: remove network"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d54_a_removal_that_failed_goes_on_where_it_was() -> TestResult {
    let sequence = [
        "guest: Remove Network 1",
        "host: remove network",
        "guest: Remove Network 2",
        "host: remove network",
        LOOK,
        REMOVE,
    ];
    for failing in 0..sequence.len() {
        let net = Networked::windows().await?;
        net.vm.add_network_namespace(NAMESPACE).await?;
        net.vm.add_endpoints(NAMESPACE, &[endpoint("e1"), endpoint("e2")]).await?;
        net.asked();
        plant(&net, &sequence, failing);
        net.vm.remove_network_namespace(NAMESPACE).await.expect_err("it is planted");
        assert_eq!(net.asked(), sequence[..=failing]);
        net.vm.remove_network_namespace(NAMESPACE).await?;
        // What the guest has let go of it is not asked again; a namespace is described as it is then.
        let from = if failing == 5 { 4 } else { failing };
        assert_eq!(net.asked(), sequence[from..], "{failing}");
        // Nothing is left of it.
        net.start_anew();
        net.vm.add_network_namespace(NAMESPACE).await?;
        net.vm.add_endpoints(NAMESPACE, &[endpoint("e1")]).await?;
        let again = [LOOK, ADD, "guest: PreAdd Network 1", "host: add network", "guest: Add Network 1"];
        assert_eq!(net.asked(), again);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_nobody_waits_for_go_in_the_background() -> TestResult {
    let net = Networked::windows().await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    net.asked();
    // The second hangs for a while, in the host's hands.
    net.host.plant("add network", 1, Fault::Slow(std::time::Duration::from_millis(10)));
    {
        let endpoints = [endpoint("e1"), endpoint("e2")];
        let mut adding = Box::pin(net.vm.add_endpoints(NAMESPACE, &endpoints));
        poll_once(&mut adding).await;
        tokio::select! {
            added = &mut adding => panic!("it is not done: {added:?}"),
            () = settle() => {}
        }
        // It cannot go while they are on their way.
        let error = net.vm.remove_network_namespace(NAMESPACE).await.expect_err("an adapter is on its way");
        assert!(matches!(source(&error), ResourceError::NamespaceInUse { adapters: 1 }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::WrongState);
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let asked = net.asked();
    let count = |line: &str| asked.iter().filter(|asked| *asked == line).count();
    assert_eq!((count("host: add network"), count("host: remove network")), (2, 2), "{asked:?}");
    net.vm.remove_network_namespace(NAMESPACE).await?;
    assert_eq!(net.asked(), [LOOK, REMOVE]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_the_guest_refuses_is_tried_once_more_and_by_hand() -> TestResult {
    let net = Networked::windows().await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    net.asked();
    net.host.plant("add network", 1, Fault::Slow(std::time::Duration::from_millis(10)));
    let endpoints = [endpoint("e1"), endpoint("e2")];
    let adding = net.vm.add_endpoints(NAMESPACE, &endpoints);
    let refusing = async {
        settle().await;
        net.refuse_all(true);
    };
    let (added, ()) = tokio::join!(adding, refusing);
    added.expect_err("the guest refuses the second, and everything after it");
    settle().await;
    let rollback = ["guest: Remove Network 1", "guest: Remove Network 1"];
    assert!(net.asked().ends_with(&rollback.map(str::to_owned)));
    net.refuse_all(false);
    net.vm.remove_network_namespace(NAMESPACE).await?;
    assert_eq!(net.asked(), ["guest: Remove Network 1", "host: remove network", LOOK, REMOVE]);
    Ok(())
}
