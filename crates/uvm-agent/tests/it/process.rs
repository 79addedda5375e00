//! Requests about a process, and about the agent itself.

use crate::support::{Host, Over, ZERO, about, message, over_each_link, read_all, request};

over_each_link! {
    a_signal_ends_a_process_and_the_wait_says_which
    no_signal_is_a_kill
    signals_and_sizes_that_make_no_sense_fail_and_do_nothing
    processes_that_nobody_knows_are_not_found
    no_time_is_never_enough_but_a_late_wait_gets_the_code
    a_wait_keeps_nothing_else_from_being_answered
    so_many_waits_are_taken_and_no_more
    stacks_are_dumped_whatever_the_body_and_fit_what_a_host_takes
    the_vm_itself_has_no_properties
}

/// `sleep 1000`, without streams, by request 1.
async fn sleeper(host: &mut Host) -> u32 {
    host.send(&message("01 05 10 10 | e1 00 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"sleep\",\"1000\"]}","VsockStdioRelaySettings":{}}}"#)).await;
    host.expect_process(1).await
}

async fn a_signal_ends_a_process_and_the_wait_says_which(over: Over) {
    let mut host = Host::negotiated(over).await;
    let process = sleeper(&mut host).await;
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.send(&about(process, "01 07 10 10 | a9 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Options":{"Signal":15}}"#)).await;
    host.expect(
        "01 07 10 20 | 50 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    )
    .await;
    // `Signal` is the extension that this agent has announced; the protocol itself only has the exit code.
    host.expect(
        "01 06 10 20 | 72 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":4294967295,"Signal":15}"#,
    )
    .await;
    // The first wait has released the record.
    host.send(&about(process, "01 06 10 10 | a2 00 00 00 | 04 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":50}"#)).await;
    host.expect_failure(0x2010_0601, 4, 0x8007_0490).await;
    host.send(&about(process, "01 07 10 10 | 91 00 00 00 | 05 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID}"#)).await;
    host.expect_failure(0x2010_0701, 5, 0x8007_0490).await;
}

async fn no_signal_is_a_kill(over: Over) {
    let mut host = Host::negotiated(over).await;
    for request in [
        r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID}"#,
        r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Options":{}}"#,
        r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Options":{"Signal":0}}"#,
    ] {
        let process = sleeper(&mut host).await;
        let size = 16 - "$PID".len() + 10 + request.len();
        host.send(&about(process, &format!("01 07 10 10 | {size:02x} 00 00 00 | 02 00 00 00 00 00 00 00"), request))
            .await;
        host.expect(
            "01 07 10 20 | 50 00 00 00 | 02 00 00 00 00 00 00 00",
            r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
        )
        .await;
        host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
        host.expect(
            "01 06 10 20 | 71 00 00 00 | 03 00 00 00 00 00 00 00",
            r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":4294967295,"Signal":9}"#,
        )
        .await;
    }
}

async fn signals_and_sizes_that_make_no_sense_fail_and_do_nothing(over: Over) {
    let mut host = Host::negotiated(over).await;
    let process = sleeper(&mut host).await;
    host.send(&about(process, "01 07 10 10 | aa 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Options":{"Signal":999}}"#)).await;
    host.expect_failure(0x2010_0701, 2, 0x8000_4005).await;
    host.send(&about(process, "01 07 10 10 | ae 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Options":{"Signal":"CtrlC"}}"#)).await;
    host.expect_failure(0x2010_0701, 3, 0xc037_010d).await;
    host.send(&about(process, "01 08 10 10 | a9 00 00 00 | 04 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Height":40,"Width":100}"#)).await;
    host.expect_failure(0x2010_0801, 4, 0x8000_4005).await;
    host.send(&about(process, "01 08 10 10 | ac 00 00 00 | 05 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Height":70000,"Width":100}"#)).await;
    host.expect_failure(0x2010_0801, 5, 0xc037_010d).await;
    host.send(&about(process, "01 06 10 10 | a2 00 00 00 | 06 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":50}"#)).await;
    host.expect_failure(0x2010_0601, 6, 0xc037_0109).await;
    host.send(&about(process, "01 07 10 10 | a9 00 00 00 | 07 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Options":{"Signal":36}}"#)).await;
    host.expect(
        "01 07 10 20 | 50 00 00 00 | 07 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    )
    .await;
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 08 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.expect(
        "01 06 10 20 | 72 00 00 00 | 08 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":4294967295,"Signal":36}"#,
    )
    .await;
}

async fn processes_that_nobody_knows_are_not_found(over: Over) {
    let mut host = Host::negotiated(over).await;
    // This one lives, but was not started through the bridge.
    let process = std::process::id();
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.expect_failure(0x2010_0601, 1, 0x8007_0490).await;
    host.send(&about(process, "01 07 10 10 | a8 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Options":{"Signal":9}}"#)).await;
    host.expect_failure(0x2010_0701, 2, 0x8007_0490).await;
    host.send(&about(process, "01 08 10 10 | a9 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Height":40,"Width":100}"#)).await;
    host.expect_failure(0x2010_0801, 3, 0x8007_0490).await;
}

async fn no_time_is_never_enough_but_a_late_wait_gets_the_code(over: Over) {
    let mut host = Host::negotiated(over).await;
    let stdout = host.listen(0x4000_0001);
    host.send(&message("01 05 10 10 | 09 01 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"/bin/true\"],\"CreateStdOutPipe\":true}","VsockStdioRelaySettings":{"StdOut":1073741825}}}"#)).await;
    let process = host.expect_process(1).await;
    assert_eq!(read_all(stdout).await, "");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    host.send(&about(process, "01 06 10 10 | a1 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":0}"#)).await;
    host.expect_failure(0x2010_0601, 2, 0xc037_0109).await;
    host.send(&about(process, "01 06 10 10 | 91 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID}"#)).await;
    host.expect_failure(0x2010_0601, 3, 0xc037_0109).await;
    host.send(&about(process, "01 06 10 10 | a5 00 00 00 | 04 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":20000}"#)).await;
    host.expect(
        "01 06 10 20 | 5d 00 00 00 | 04 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":0}"#,
    )
    .await;
}

async fn a_wait_keeps_nothing_else_from_being_answered(over: Over) {
    let mut host = Host::negotiated(over).await;
    let process = sleeper(&mut host).await;
    let wait = about(
        process,
        "01 06 10 10 | aa 00 00 00 | 07 00 00 00 00 00 00 00",
        r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#,
    );
    // Two requests may even have the same id: each is answered under it.
    host.send(&[wait.as_slice(), &wait].concat()).await;
    host.send(&message(
        "01 02 10 10 | 7a 00 00 00 | 08 00 00 00 00 00 00 00",
        r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    ))
    .await;
    host.expect(
        "01 02 10 20 | 50 00 00 00 | 08 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    )
    .await;
    host.send(&about(process, "01 07 10 10 | a8 00 00 00 | 09 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Options":{"Signal":9}}"#)).await;
    host.expect(
        "01 07 10 20 | 50 00 00 00 | 09 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    )
    .await;
    for _ in 0..2 {
        host.expect(
            "01 06 10 20 | 71 00 00 00 | 07 00 00 00 00 00 00 00",
            r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":4294967295,"Signal":9}"#,
        )
        .await;
    }
}

async fn so_many_waits_are_taken_and_no_more(over: Over) {
    const MOST: u64 = 16_384;
    let mut host = Host::negotiated(over).await;
    let process = sleeper(&mut host).await;
    let wait =
        format!(r#"{{"ContainerId":"{ZERO}","ActivityId":"{ZERO}","ProcessId":{process},"TimeoutInMs":4294967295}}"#);
    for id in 2..MOST + 3 {
        host.send(&request(0x1010_0601, id, &wait)).await;
    }
    // All but the last one wait.
    let refused = host.expect_failure(0x2010_0601, MOST + 2, 0x8000_4005).await;
    assert!(refused.body.contains("16384 requests are open"), "{}", refused.body);
    // What takes no time is answered still, so that the rest can be, too.
    let kill = format!(r#"{{"ContainerId":"{ZERO}","ActivityId":"{ZERO}","ProcessId":{process}}}"#);
    host.send(&request(0x1010_0701, 1, &kill)).await;
    let answer = host.receive().await;
    assert_eq!((answer.kind, answer.json()["Result"].as_i64()), (0x2010_0701, Some(0)), "{}", answer.body);
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..MOST {
        let answer = host.receive().await;
        assert_eq!((answer.kind, answer.json()["Signal"].as_i64()), (0x2010_0601, Some(9)), "{}", answer.body);
        answered.insert(answer.id);
    }
    assert_eq!(answered, (2..MOST + 2).collect());
}

async fn stacks_are_dumped_whatever_the_body_and_fit_what_a_host_takes(over: Over) {
    let mut host = Host::negotiated(over).await;
    for (request, activity) in [
        (
            message(
                "01 0c 10 10 | 7a 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
            ),
            Some("00000000-0000-0000-0000-000000000000"),
        ),
        (message("01 0c 10 10 | 15 00 00 00 | 01 00 00 00 00 00 00 00", "{\"Ac\n"), None),
        (message("01 0c 10 10 | 10 00 00 00 | 01 00 00 00 00 00 00 00", ""), None),
    ] {
        host.send(&request).await;
        let answer = host.receive().await;
        let json = answer.json();
        assert_eq!((answer.kind, answer.id, json["Result"].as_i64()), (0x2010_0c01, 1, Some(0)));
        assert_eq!(json.get("ActivityId").and_then(|id| id.as_str()), activity);
        assert!(json["GuestStacks"].as_str().is_some_and(|text| text.contains("agent thread")));
    }
}

async fn the_vm_itself_has_no_properties(over: Over) {
    let mut host = Host::negotiated(over).await;
    host.send(&message("01 09 10 10 | a9 00 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Query":"{\"PropertyTypes\":[\"Statistics\"]}"}"#)).await;
    host.expect_failure(0x2010_0901, 1, 0x8000_4005).await;
    // The query is read before anything is looked up; an empty one is none.
    host.send(&message(
        "01 09 10 10 | 64 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","Query":"{"}"#,
    ))
    .await;
    host.expect_failure(0x2010_0901, 2, 0xc037_010d).await;
    host.send(&message(
        "01 09 10 10 | 63 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","Query":""}"#,
    ))
    .await;
    host.expect_failure(0x2010_0901, 3, 0xc037_010e).await;
}
