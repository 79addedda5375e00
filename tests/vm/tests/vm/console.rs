//! The serial console and the guest's log.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt;
use uvm::platform::GuestStream;
use uvm::{Console, OutputHandler, ProcessSpec};
use uvm_testkit::{TestResult, TestVm};

fn say(word: &str) -> ProcessSpec {
    ProcessSpec::new(["sh", "-c", &format!("echo {word} >/dev/console")])
}

/// All there is, however it ends: with the VM, or before.
async fn read(stream: &mut GuestStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        text += &String::from_utf8_lossy(&buffer[..count]);
    }
    text
}

#[tokio::test]
async fn the_console_goes_to_a_file_and_into_last_words() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("console.log");
    let console = Console::File(path.clone());
    let vm = TestVm::builder("confile").with(move |options| options.console = console).boot().await?;
    assert!(vm.create_process(&say("watchword")).await?.wait().await?.is_success());
    let seen = || vm.last_words().console.iter().any(|line| line.contains("watchword"));
    let heard = async {
        while !seen() || !std::fs::read_to_string(&path).unwrap_or_default().contains("watchword") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), heard).await?;
    vm.close().await
}

#[tokio::test]
async fn d4_a_vm_with_a_console_socket_starts_and_the_socket_goes_with_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("console.sock");
    let console = Console::Socket(path.clone());
    let vm = TestVm::builder("consock").with(move |options| options.console = console).boot().await?;
    let mut client = UnixStream::connect(&path)?;
    client.set_read_timeout(Some(std::time::Duration::from_secs(60)))?;
    assert!(vm.create_process(&say("watchword")).await?.wait().await?.is_success());
    let mut seen = String::new();
    while !seen.contains("watchword") {
        let mut buffer = [0; 4096];
        let count = client.read(&mut buffer)?;
        assert!(count > 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..count]);
    }
    vm.close().await?;
    assert!(!path.exists());
    Ok(())
}

#[tokio::test]
async fn an_output_handler_gets_the_agents_log() -> TestResult {
    let log = Arc::new(Mutex::new(Vec::new()));
    let handler = OutputHandler::new({
        let log = Arc::clone(&log);
        move |id, mut stream| {
            let log = Arc::clone(&log);
            async move {
                let text = read(&mut stream).await;
                log.lock().expect("not poisoned").push((id, text));
            }
        }
    });
    let change = move |options: &mut uvm::LcowOptions| {
        options.output_handler = Some(handler);
        options.exec_command_line = Some("/bin/gcs -v4 -log-format json -loglevel info".into());
    };
    let vm = TestVm::builder("log").with(change).boot().await?;
    let id = vm.id().clone();
    // In order: what the agent has to say comes behind what the bridge carries, and close does not wait for it.
    vm.shutdown().await?;
    vm.close().await?;
    let log = log.lock().expect("not poisoned");
    let [(logged, text)] = &log[..] else { panic!("one stream, not {}", log.len()) };
    assert_eq!(*logged, id);
    assert!(text.contains("\"msg\":\"bridge connected\""), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_program_in_the_agents_place_has_its_output_read() -> TestResult {
    let log = Arc::new(Mutex::new(String::new()));
    let handler = OutputHandler::new({
        let log = Arc::clone(&log);
        move |_, mut stream| {
            let log = Arc::clone(&log);
            async move {
                *log.lock().expect("not poisoned") = read(&mut stream).await;
            }
        }
    });
    let change = move |options: &mut uvm::LcowOptions| {
        options.output_handler = Some(handler);
        options.guest_connection = uvm::GuestConnection::None;
        options.forward_stdout = true;
        options.forward_stderr = false;
        options.exec_command_line = Some("/bin/echo no agent here".into());
    };
    let vm = TestVm::builder("other").with(change).boot().await?;
    assert_eq!(vm.wait().await?, uvm::ExitStatus::PoweredOff);
    assert_eq!(*log.lock().expect("not poisoned"), "no agent here\n");
    vm.close().await
}
