//! Starting processes of the VM: what they are given, and where their streams go.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Host, Over, ZERO, about, message, over_each_link, read_all, request, soon};

over_each_link! {
    a_process_has_its_arguments_environment_directory_and_streams
    a_command_line_is_split_by_the_rules_of_a_shell
    a_directory_that_is_not_absolute_is_below_the_root
    streams_that_are_not_asked_for_are_closed_whatever_their_ports
    a_console_is_a_terminal_of_the_size_that_was_given
    a_terminal_that_the_host_reads_no_more_keeps_nobody_from_ending
    what_cannot_start_fails_with_its_errno
    what_names_no_program_does_not_decode
    a_stream_that_the_host_does_not_accept_fails_the_request
    a_process_of_the_vm_may_be_asked_for_under_a_containers_name
    a_process_has_the_sockets_themselves_or_else_pipes
    a_process_has_ended_though_another_holds_its_output
    output_that_the_host_reads_no_more_is_a_broken_pipe
}

async fn a_process_has_its_arguments_environment_directory_and_streams(over: Over) {
    let mut host = Host::negotiated(over).await;
    let (stdin, stdout, stderr) = (host.listen(0x4000_0001), host.listen(0x4000_0002), host.listen(0x4000_0003));
    host.send(&message("01 05 10 10 | 08 02 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"/bin/sh\",\"-c\",\"pwd; echo $0 $A; env | sort; cat; echo wrong >&2; exit 42\",\"zero\"],\"WorkingDirectory\":\"/usr\",\"Environment\":{\"A\":\"b c\",\"PATH\":\"/usr/bin:/bin\"},\"CreateStdInPipe\":true,\"CreateStdOutPipe\":true,\"CreateStdErrPipe\":true}","VsockStdioRelaySettings":{"StdIn":1073741825,"StdOut":1073741826,"StdErr":1073741827}}}"#)).await;
    let mut input = soon(stdin).await.expect("joined");
    let process = host.expect_process(1).await;
    input.write_all(b"typed\n").await.expect("written");
    input.shutdown().await.expect("half-closed");
    let (output, errors) = tokio::join!(read_all(stdout), read_all(stderr));
    assert_eq!(output, "/usr\nzero b c\nA=b c\nPATH=/usr/bin:/bin\nPWD=/usr\ntyped\n");
    assert_eq!(errors, "wrong\n");
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.expect(
        "01 06 10 20 | 5e 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":42}"#,
    )
    .await;
}

async fn a_command_line_is_split_by_the_rules_of_a_shell(over: Over) {
    let mut host = Host::negotiated(over).await;
    let stdout = host.listen(0x4000_0001);
    host.send(&message("01 05 10 10 | 18 01 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandLine\":\"printf '%s|' 'a b' c\\\\ d\",\"CreateStdOutPipe\":true}","VsockStdioRelaySettings":{"StdOut":1073741825}}}"#)).await;
    host.expect_process(1).await;
    assert_eq!(read_all(stdout).await, "a b|c d|");
}

async fn a_directory_that_is_not_absolute_is_below_the_root(over: Over) {
    let mut host = Host::negotiated(over).await;
    let stdout = host.listen(0x4000_0001);
    host.send(&message("01 05 10 10 | 24 01 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"bin/pwd\"],\"WorkingDirectory\":\"usr\",\"CreateStdOutPipe\":true}","VsockStdioRelaySettings":{"StdOut":1073741825}}}"#)).await;
    host.expect_process(1).await;
    assert_eq!(read_all(stdout).await, "/usr\n");
}

async fn streams_that_are_not_asked_for_are_closed_whatever_their_ports(over: Over) {
    let mut host = Host::negotiated(over).await;
    let stdout = host.listen(0x4000_0002);
    host.send(&message("01 05 10 10 | 6f 01 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"sh\",\"-c\",\"for n in 0 1 2; do test -e /proc/$$/fd/$n && echo $n; done\"],\"CreateStdOutPipe\":true}","VsockStdioRelaySettings":{"StdIn":1073741825,"StdOut":1073741826,"StdErr":1073741827}}}"#)).await;
    host.expect_process(1).await;
    assert_eq!(read_all(stdout).await, "1\n");
}

async fn a_console_is_a_terminal_of_the_size_that_was_given(over: Over) {
    let mut host = Host::negotiated(over).await;
    let (stdin, stdout) = (host.listen(0x4000_0001), host.listen(0x4000_0002));
    host.send(&message("01 05 10 10 | ee 01 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"sh\",\"-c\",\"trap 'stty size; exit 7' WINCH; stty -echo; test -t 0 \\u0026\\u0026 test -t 2 \\u0026\\u0026 stty size; while :; do read line; done\"],\"EmulateConsole\":true,\"CreateStdInPipe\":true,\"CreateStdOutPipe\":true,\"ConsoleSize\":[30,90]}","VsockStdioRelaySettings":{"StdIn":1073741825,"StdOut":1073741826}}}"#)).await;
    let _input = soon(stdin).await.expect("joined");
    let mut output = soon(stdout).await.expect("joined");
    let process = host.expect_process(1).await;
    let mut line = [0; 7];
    soon(output.read_exact(&mut line)).await.expect("a line");
    assert_eq!(line, *b"30 90\r\n");
    host.send(&about(process, "01 08 10 10 | a9 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"Height":40,"Width":100}"#)).await;
    host.expect(
        "01 08 10 20 | 50 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    )
    .await;
    let mut rest = String::new();
    soon(output.read_to_string(&mut rest)).await.expect("read");
    assert_eq!(rest, "40 100\r\n");
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.expect(
        "01 06 10 20 | 5d 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":7}"#,
    )
    .await;
}

async fn a_terminal_that_the_host_reads_no_more_keeps_nobody_from_ending(over: Over) {
    let mut host = Host::negotiated(over).await;
    let (stdin, stdout) = (host.listen(0x4000_0001), host.listen(0x4000_0002));
    host.send(&message("01 05 10 10 | 7e 01 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"sh\",\"-c\",\"read line; head -c 1000000 /dev/zero; exit 5\"],\"EmulateConsole\":true,\"CreateStdInPipe\":true,\"CreateStdOutPipe\":true}","VsockStdioRelaySettings":{"StdIn":1073741825,"StdOut":1073741826}}}"#)).await;
    let mut input = soon(stdin).await.expect("joined");
    drop(soon(stdout).await.expect("joined"));
    let process = host.expect_process(1).await;
    input.write_all(b"go on\n").await.expect("written");
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.expect(
        "01 06 10 20 | 5d 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":5}"#,
    )
    .await;
}

async fn what_cannot_start_fails_with_its_errno(over: Over) {
    let mut host = Host::negotiated(over).await;
    for (request, result, errno) in [
        (
            message(
                "01 05 10 10 | e3 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"/no/such/program\"]}","VsockStdioRelaySettings":{}}}"#,
            ),
            0x8000_4005,
            2,
        ),
        (
            message(
                "01 05 10 10 | e2 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"no-such-program\"]}","VsockStdioRelaySettings":{}}}"#,
            ),
            0x8000_4005,
            2,
        ),
        (
            message(
                "01 05 10 10 | de 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"/etc/passwd\"]}","VsockStdioRelaySettings":{}}}"#,
            ),
            0x8000_4005,
            13,
        ),
        (
            message(
                "01 05 10 10 | fe 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"/bin/true\"],\"WorkingDirectory\":\"/no/such\"}","VsockStdioRelaySettings":{}}}"#,
            ),
            // The directory is an argument, and not the program.
            0x8007_0057,
            2,
        ),
    ] {
        host.send(&request).await;
        let failure = host.expect_failure(0x2010_0501, 1, result).await;
        assert_eq!(failure.json()["Errno"], errno, "{}", failure.body);
    }
}

async fn what_names_no_program_does_not_decode(over: Over) {
    let mut host = Host::negotiated(over).await;
    for request in [
        message(
            "01 05 10 10 | bd 00 00 00 | 01 00 00 00 00 00 00 00",
            r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{}","VsockStdioRelaySettings":{}}}"#,
        ),
        message(
            "01 05 10 10 | dc 00 00 00 | 01 00 00 00 00 00 00 00",
            r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandLine\":\"'unfinished\"}","VsockStdioRelaySettings":{}}}"#,
        ),
        message(
            "01 05 10 10 | 9e 00 00 00 | 01 00 00 00 00 00 00 00",
            r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":""}}"#,
        ),
        message(
            "01 05 10 10 | b9 00 00 00 | 01 00 00 00 00 00 00 00",
            r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":{"CommandArgs":["/bin/true"]}}}"#,
        ),
        message(
            "01 05 10 10 | 7a 00 00 00 | 01 00 00 00 00 00 00 00",
            r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
        ),
    ] {
        host.send(&request).await;
        host.expect_failure(0x2010_0501, 1, 0xc037_010d).await;
    }
}

async fn a_stream_that_the_host_does_not_accept_fails_the_request(over: Over) {
    let mut host = Host::negotiated(over).await;
    let _stdout = host.listen(0x4000_0001);
    host.send(&message("01 05 10 10 | 37 01 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"/bin/true\"],\"CreateStdOutPipe\":true,\"CreateStdErrPipe\":true}","VsockStdioRelaySettings":{"StdOut":1073741825,"StdErr":1073741826}}}"#)).await;
    host.expect_failure(0x2010_0501, 1, 0x8000_4005).await;
    // A stream without a port: 0 is none.
    host.send(&message("01 05 10 10 | 00 01 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"/bin/true\"],\"CreateStdErrPipe\":true}","VsockStdioRelaySettings":{"StdErr":0}}}"#)).await;
    host.expect_failure(0x2010_0501, 2, 0x8000_4005).await;
}

async fn a_process_of_the_vm_may_be_asked_for_under_a_containers_name(over: Over) {
    let mut host = Host::negotiated(over).await;
    host.send(&message("01 05 10 10 | d6 00 00 00 | 01 00 00 00 00 00 00 00", r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"/bin/false\"],\"CreateInUtilityVM\":true}","VsockStdioRelaySettings":{}}}"#)).await;
    let process = host.expect_process(1).await;
    // It is waited for with the id of the VM, whatever id started it.
    host.send(&about(process, "01 06 10 10 | 88 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.expect_failure(0x2010_0601, 2, 0xc037_010e).await;
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.expect(
        "01 06 10 20 | 5d 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":1}"#,
    )
    .await;
}

async fn a_process_has_the_sockets_themselves_or_else_pipes(over: Over) {
    let mut host = Host::negotiated(over).await;
    let (stdin, stdout, stderr) = (host.listen(0x4000_0001), host.listen(0x4000_0002), host.listen(0x4000_0003));
    let script = "for n in 0 1 2; do readlink /proc/$$/fd/$n; done; grep flags /proc/self/fdinfo/0";
    let parameters = serde_json::json!({
        "CommandArgs": ["sh", "-c", script],
        "CreateStdInPipe": true, "CreateStdOutPipe": true, "CreateStdErrPipe": true,
    });
    host.send(&execute(1, &parameters, r#"{"StdIn":1073741825,"StdOut":1073741826,"StdErr":1073741827}"#)).await;
    host.expect_process(1).await;
    let _input = soon(stdin).await.expect("joined");
    let (output, errors) = tokio::join!(read_all(stdout), read_all(stderr));
    let [first, second, third, flags] = output.lines().collect::<Vec<_>>()[..] else { panic!("{output}") };
    let what = match over {
        Over::Mux => "pipe:",
        Over::Sockets => "socket:",
    };
    assert!([first, second, third].iter().all(|link| link.starts_with(what)), "{output}");
    assert_ne!(second, third, "a stream each");
    let flags = flags.split_whitespace().nth(1).map(|octal| u32::from_str_radix(octal, 8));
    assert_eq!(flags.expect("a number").expect("octal") & 0o4000, 0, "programs expect that it blocks: {output}");
    assert_eq!(errors, "");
}

async fn a_process_has_ended_though_another_holds_its_output(over: Over) {
    let mut host = Host::negotiated(over).await;
    let stdout = host.listen(0x4000_0001);
    let parameters = serde_json::json!({
        "CommandArgs": ["sh", "-c", "sleep 1000 & echo $!; exit 4"], "CreateStdOutPipe": true,
    });
    host.send(&execute(1, &parameters, r#"{"StdOut":1073741825}"#)).await;
    let process = host.expect_process(1).await;
    let mut output = soon(stdout).await.expect("joined");
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    host.expect(
        "01 06 10 20 | 5d 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000","ExitCode":4}"#,
    )
    .await;
    let mut line = [0; 64];
    let count = soon(output.read(&mut line)).await.expect("read");
    let holder: i32 = std::str::from_utf8(&line[..count]).expect("text").trim().parse().expect("a number");
    // Its end is the end of the stream, and was not before.
    let holder = rustix::process::Pid::from_raw(holder).expect("a process");
    rustix::process::test_kill_process(holder).expect("it runs");
    rustix::process::kill_process(holder, rustix::process::Signal::KILL).expect("killed");
    assert_eq!(soon(output.read(&mut line)).await.expect("end of file"), 0);
}

async fn output_that_the_host_reads_no_more_is_a_broken_pipe(over: Over) {
    let mut host = Host::negotiated(over).await;
    let stdout = host.listen(0x4000_0001);
    let parameters = serde_json::json!({ "CommandArgs": ["sh", "-c", "exec cat /dev/zero"], "CreateStdOutPipe": true });
    host.send(&execute(1, &parameters, r#"{"StdOut":1073741825}"#)).await;
    let process = host.expect_process(1).await;
    drop(soon(stdout).await.expect("joined"));
    host.send(&about(process, "01 06 10 10 | aa 00 00 00 | 02 00 00 00 00 00 00 00", r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":$PID,"TimeoutInMs":4294967295}"#)).await;
    let answer = host.receive().await.json();
    assert_eq!(answer["Signal"], 13, "{answer}");
}

/// A request for a process of the VM.
fn execute(id: u64, parameters: &serde_json::Value, ports: &str) -> Vec<u8> {
    let parameters = serde_json::Value::String(parameters.to_string());
    let body = format!(
        r#"{{"ContainerId":"{ZERO}","ActivityId":"{ZERO}","Settings":{{"ProcessParameters":{parameters},"VsockStdioRelaySettings":{ports}}}}}"#
    );
    request(0x1010_0501, id, &body)
}
