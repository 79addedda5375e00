//! Agreeing on the protocol: once a connection, before anything else.

use crate::support::{Host, NEGOTIATE, Over, ZERO, message, over_each_link};

over_each_link! {
    the_example_of_the_protocol_is_answered_with_version_4
    without_version_4_it_fails_and_may_be_tried_again
    a_range_around_version_4_is_agreed_on
    nothing_else_is_served_before_and_this_not_again_after
    each_connection_begins_without_a_version
    the_answer_waits_until_the_guest_is_complete
    an_answer_that_a_host_did_not_wait_for_does_not_reach_the_next_one
}

/// What this agent can do. The last seven keys are extensions; hosts that do not know them read past them.
fn capabilities() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        concat!(
            r#"{{"SupportedSchemaVersions":[{{"Major":2,"Minor":1}}],"RuntimeOsType":"Linux","GuestDefinedCapabilities":"#,
            r#"{{"SignalProcessSupported":true,"DumpStacksSupported":true,"DeleteContainerStateSupported":true,"#,
            r#""ExternalProcessSignalSupported":true,"ExitDetailSupported":true,"MappedSocketSupported":true,"#,
            r#""DiskSizeSupported":true,"VirtioFsSupported":true,"PCIPortSupported":true,"UvmAgentVersion":"{version}"}}}}"#
        ),
        version = version
    )
}

async fn the_example_of_the_protocol_is_answered_with_version_4(over: Over) {
    let mut host = Host::connected(over).await;
    host.send(&message("01 0b 10 10 | 7d 00 00 00 | 00 00 00 00 00 00 00 00", NEGOTIATE)).await;
    let answer = host.receive().await;
    let capabilities = capabilities();
    let body = format!(r#"{{"Result":0,"ActivityId":"{ZERO}","Version":4,"Capabilities":{capabilities}}}"#);
    assert_eq!(answer.body, body);
    assert_eq!(answer.bytes[..4], [0x01, 0x0b, 0x10, 0x20]);
    assert_eq!(answer.bytes[8..16], [0; 8]);
}

async fn without_version_4_it_fails_and_may_be_tried_again(over: Over) {
    let mut host = Host::connected(over).await;
    let too_low = "{\"ContainerId\":\"\",\"ActivityId\":\"00000000-0000-0000-0000-000000000000\",\"MinimumVersion\":1,\"MaximumVersion\":3}\n";
    host.send(&message("01 0b 10 10 | 7d 00 00 00 | 05 00 00 00 00 00 00 00", too_low)).await;
    let failure = host.expect_failure(0x2010_0b01, 5, 0xc037_010c).await;
    assert!(failure.json()["ErrorMessage"].as_str().is_some_and(|text| text.starts_with("HRESULT 0xc037010c: ")));
    let too_high = "{\"ContainerId\":\"\",\"ActivityId\":\"00000000-0000-0000-0000-000000000000\",\"MinimumVersion\":5,\"MaximumVersion\":9}\n";
    host.send(&message("01 0b 10 10 | 7d 00 00 00 | 06 00 00 00 00 00 00 00", too_high)).await;
    host.expect_failure(0x2010_0b01, 6, 0xc037_010c).await;
    // None given are versions 0 to 0.
    host.send(&message("01 0b 10 10 | 12 00 00 00 | 07 00 00 00 00 00 00 00", "{}")).await;
    let failure = host.expect_failure(0x2010_0b01, 7, 0xc037_010c).await;
    assert_eq!(failure.json().get("ActivityId"), None, "there was none to repeat");
    host.negotiate().await;
}

async fn a_range_around_version_4_is_agreed_on(over: Over) {
    let mut host = Host::connected(over).await;
    let wide = r#"{"minimumversion":1,"MAXIMUMVERSION":9,"Unknown":[{}]}"#;
    host.send(&message("01 0b 10 10 | 46 00 00 00 | 01 00 00 00 00 00 00 00", wide)).await;
    let answer = host.receive().await;
    assert_eq!(answer.body, format!(r#"{{"Result":0,"Version":4,"Capabilities":{}}}"#, capabilities()));
}

async fn nothing_else_is_served_before_and_this_not_again_after(over: Over) {
    let mut host = Host::connected(over).await;
    let of_the_vm = "{\"ContainerId\":\"00000000-0000-0000-0000-000000000000\",\"ActivityId\":\"00000000-0000-0000-0000-000000000000\"}\n";
    for (number, id) in (1..=15).filter(|number| *number != 0x0b).zip(0x20..) {
        let header = format!("01 {number:02x} 10 10 | 7b 00 00 00 | {id:02x} 00 00 00 00 00 00 00");
        host.send(&message(&header, of_the_vm)).await;
        let failure = host.expect_failure(0x2010_0001 | number << 8, id, 0x8000_4001).await;
        assert_eq!(failure.json()["ActivityId"], ZERO);
        assert_eq!(failure.json().get("Errno"), None, "an extension that nobody has heard of yet");
    }
    host.negotiate().await;
    host.send(&message("01 0b 10 10 | 7d 00 00 00 | 09 00 00 00 00 00 00 00", NEGOTIATE)).await;
    host.expect_failure(0x2010_0b01, 9, 0x8000_4001).await;
}

async fn each_connection_begins_without_a_version(over: Over) {
    let mut host = Host::negotiated(over).await;
    host.hang_up();
    host.pick_up().await;
    let start = "{\"ContainerId\":\"00000000-0000-0000-0000-000000000000\",\"ActivityId\":\"00000000-0000-0000-0000-000000000000\"}\n";
    host.send(&message("01 02 10 10 | 7b 00 00 00 | 01 00 00 00 00 00 00 00", start)).await;
    host.expect_failure(0x2010_0201, 1, 0x8000_4001).await;
    host.negotiate().await;
}

async fn the_answer_waits_until_the_guest_is_complete(over: Over) {
    let (mut host, ready) = Host::before_ready(over).await;
    host.send(&message("01 0b 10 10 | 7d 00 00 00 | 00 00 00 00 00 00 00 00", NEGOTIATE)).await;
    host.expect_silence().await;
    ready.send(()).expect("the agent waits");
    assert_eq!(host.receive().await.json()["Version"], 4);
}

async fn an_answer_that_a_host_did_not_wait_for_does_not_reach_the_next_one(over: Over) {
    let (mut host, ready) = Host::before_ready(over).await;
    host.send(&message("01 0b 10 10 | 7d 00 00 00 | 00 00 00 00 00 00 00 00", NEGOTIATE)).await;
    host.expect_silence().await;
    host.hang_up();
    host.pick_up().await;
    ready.send(()).expect("the agent waits");
    // Its ids begin at 0 as well: a second answer to that id would be a breach of the protocol.
    host.negotiate().await;
    host.expect_silence().await;
}
