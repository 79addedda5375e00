//! The bridge lost and found again, and its end.

use std::time::Duration;

use uvm_agent::shutdown::Shutdown;

use crate::support::{Host, Over, about, message, over_each_link, read_all, soon};

over_each_link! {
    what_is_owed_when_the_bridge_is_lost_is_delivered_on_the_next_one
    a_process_outlives_the_bridge_and_so_do_its_streams
    a_message_cut_off_by_the_loss_is_forgotten
    a_bridge_lost_again_and_again_is_dialled_again
    the_wish_to_end_is_answered_by_the_end_alone
    how_processes_ended_is_told_before_the_end
}

async fn what_is_owed_when_the_bridge_is_lost_is_delivered_on_the_next_one(over: Over) {
    let mut host = Host::negotiated(over).await;
    host.send(&message("01 05 10 10 | f2 00 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"sh\",\"-c\",\"sleep 0.2; exit 9\"]}","VsockStdioRelaySettings":{}}}"#)).await;
    let process = host.expect_process(1).await;
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.send(&message(
        "01 02 10 10 | 7a 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    ))
    .await;
    // This answer says that the wait was read, too.
    host.expect(
        "01 02 10 20 | 50 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    )
    .await;
    host.hang_up();
    // It falls due while there is no bridge.
    tokio::time::sleep(Duration::from_millis(500)).await;
    host.pick_up().await;
    // Under its old id, before the new connection has agreed on anything.
    host.expect(
        "01 06 10 20 | 5d 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":9}"#,
    )
    .await;
    host.negotiate().await;
    host.expect_silence().await;
}

async fn a_process_outlives_the_bridge_and_so_do_its_streams(over: Over) {
    let mut host = Host::negotiated(over).await;
    let stdout = host.listen(0x4000_0001);
    host.send(&message("01 05 10 10 | 28 01 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"sh\",\"-c\",\"sleep 0.5; echo still here\"],\"CreateStdOutPipe\":true}","VsockStdioRelaySettings":{"StdOut":1073741825}}}"#)).await;
    let process = host.expect_process(1).await;
    host.hang_up();
    host.pick_up().await;
    host.negotiate().await;
    assert_eq!(read_all(stdout).await, "still here\n");
    // Nobody has waited yet: the code is kept.
    host.send(&about(process, "01 06 10 10 | a5 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":20000}"#)).await;
    host.expect(
        "01 06 10 20 | 5d 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":0}"#,
    )
    .await;
}

async fn a_message_cut_off_by_the_loss_is_forgotten(over: Over) {
    let mut host = Host::negotiated(over).await;
    host.send(&message("01 02 10 10 | 7a 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#)[..40]).await;
    host.hang_up();
    host.pick_up().await;
    host.negotiate().await;
    host.expect_silence().await;
}

async fn a_bridge_lost_again_and_again_is_dialled_again(over: Over) {
    let mut host = Host::negotiated(over).await;
    for _ in 0..5 {
        host.hang_up();
        host.pick_up().await;
        host.negotiate().await;
    }
}

async fn the_wish_to_end_is_answered_by_the_end_alone(over: Over) {
    for (request, how) in [
        (
            message(
                "01 03 10 10 | 7a 00 00 00 | 03 00 00 00 00 00 00 00",
                r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
            ),
            Shutdown::Graceful,
        ),
        (
            message(
                "01 04 10 10 | 7a 00 00 00 | 03 00 00 00 00 00 00 00",
                r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
            ),
            Shutdown::Forced,
        ),
    ] {
        let mut host = Host::negotiated(over).await;
        // What comes behind it, in the same piece or a later one, is not looked at.
        let start = message(
            "01 02 10 10 | 7a 00 00 00 | 04 00 00 00 00 00 00 00",
            r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
        );
        host.send(&[request.as_slice(), &start].concat()).await;
        assert_eq!(soon(host.agent.shutdown_wanted()).await, how);
        host.send(&start).await;
        host.expect_silence().await;
        host.agent.last_call();
        host.expect_end().await;
    }
}

async fn how_processes_ended_is_told_before_the_end(over: Over) {
    let mut host = Host::negotiated(over).await;
    host.send(&message("01 05 10 10 | f2 00 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"sh\",\"-c\",\"sleep 0.3; exit 3\"]}","VsockStdioRelaySettings":{}}}"#)).await;
    let process = host.expect_process(1).await;
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.send(&message(
        "01 03 10 10 | 7a 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    ))
    .await;
    host.expect(
        "01 06 10 20 | 5d 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":3}"#,
    )
    .await;
    host.agent.last_call();
    host.expect_end().await;
}
