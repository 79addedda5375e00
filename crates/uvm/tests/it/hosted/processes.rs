//! Processes: the same meaning as over the bridge.

use tokio::io::AsyncWriteExt;
use uvm::wire::Hresult;
use uvm::{ErrorKind, GuestConnection, ProcessExit, ProcessSpec, TerminalSize, UvmError};
use uvm_hcs::recording::Fault;

use super::{boot, boot_with, host, plain_host, summaries};
use crate::support::{TestResult, chain, settle};

#[tokio::test(start_paused = true)]
async fn a_process_is_fed_read_and_waited_for_by_the_hosts_service() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    let spec = ProcessSpec::new(["cat", "-"]).with_env("A", "b").with_stdin();
    let mut cat = vm.create_process(&spec).await?;
    assert_eq!((cat.id(), cat.exit()), (201, None));
    cat.stdin.as_mut().ok_or("no input")?.write_all(b"some input").await?;
    cat.close_stdin().await?;
    cat.close_stdin().await?;
    assert!(host.exit_process(201, 0));
    let output = cat.output().await?;
    assert_eq!((output.exit, output.stdout.as_slice()), (ProcessExit::Code(0), &b"hello"[..]));
    assert_eq!(host.input_of(201), b"some input");
    let calls = host.take_calls();
    let parameters = r#"{"CommandArgs":["cat","-"],"WorkingDirectory":"/","Environment":{"A":"b"},"#;
    assert!(calls[0].text().starts_with(parameters), "{}", calls[0].text());
    assert_eq!(calls[1].text(), r#"{"Operation":"CloseHandle","CloseHandle":{"Handle":"StdIn"}}"#);
    Ok(vm.close().await?)
}

#[tokio::test(start_paused = true)]
async fn an_input_that_is_dropped_has_ended() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    let mut cat = vm.create_process(&ProcessSpec::new(["cat"]).with_stdin()).await?;
    drop(cat.stdin.take());
    settle().await;
    assert_eq!(summaries(&host), ["hcs create_process vm", "hcs modify_process 201"]);
    // So has that of a process whose handle is dropped.
    drop(vm.create_process(&ProcessSpec::new(["cat"]).with_stdin()).await?);
    settle().await;
    assert_eq!(summaries(&host), ["hcs create_process vm", "hcs modify_process 202", "hcs close_process 202"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn signals_reach_a_process_until_it_has_ended() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    let size = TerminalSize { rows: 40, columns: 120 };
    let shell = vm.create_process(&ProcessSpec::new(["sh"]).with_terminal(size)).await?;
    assert!(shell.stderr.is_none());
    assert!(shell.signal(15).await?);
    shell.resize(size).await?;
    assert!(shell.kill().await?);
    assert_eq!(shell.wait().await?, ProcessExit::Code(137));
    assert_eq!(shell.exit(), Some(ProcessExit::Code(137)));
    for op in ["signal_process", "terminate_process", "modify_process"] {
        host.plant(Fault::on("hcs", op).code(Hresult::NOT_FOUND));
    }
    assert!(!shell.signal(15).await?);
    assert!(!shell.kill().await?);
    shell.resize(size).await?;
    // 0 is none, and a kill.
    assert!(shell.signal(0).await?);
    let calls = host.take_calls();
    assert_eq!(calls[1].text(), r#"{"Signal":15}"#);
    assert_eq!(calls[2].text(), r#"{"Operation":"ConsoleSize","ConsoleSize":{"Height":40,"Width":120}}"#);
    let ops: Vec<&str> = calls.iter().map(|call| call.op.as_str()).collect();
    assert_eq!(ops[3..5], ["terminate_process", "get_process_properties"]);
    assert_eq!(ops.last(), Some(&"terminate_process"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_agents_word_for_a_process_that_was_killed_is_no_exit_code() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    let sleep = vm.create_process(&ProcessSpec::new(["sleep"])).await?;
    assert!(host.exit_process(201, u32::MAX));
    assert_eq!(sleep.wait().await?, ProcessExit::Signal(None));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_end_cannot_be_learnt_is_lost() -> TestResult {
    let host = host(super::CAPABLE, |asked| (asked.op == "get_process_properties").then(|| "no JSON".to_owned()));
    let vm = boot(&host).await?;
    let sleep = vm.create_process(&ProcessSpec::new(["sleep"])).await?;
    assert!(host.exit_process(201, 0));
    let error = sleep.wait().await.expect_err("it cannot be read");
    assert!(matches!(error, UvmError::Operation { .. }), "{error:?}");
    assert_eq!(sleep.exit(), None);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn nobody_starts_anything_in_a_guest_that_nobody_is_connected_to() -> TestResult {
    // The service tells nothing of it.
    let host = plain_host().with_answers(|_| None);
    let vm = boot_with(&host, GuestConnection::None).await?;
    let error = vm.create_process(&ProcessSpec::new(["sh"])).await.expect_err("nobody can ask it");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", chain(&error));
    assert_eq!(host.take_calls(), []);
    Ok(())
}
