//! The README's example as it is: a program that knows nothing of a stand-in.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use uvm_hcs::ComputeCore;
use uvm_hcs::host::ServiceProperties;
use uvm_testkit::TestResult;

/// With the service that the system itself has: in the place of its library must be the stand-in.
#[tokio::test]
#[ignore = "needs the stand-in in the system's directory, where `cargo xtask ci` puts it in a prefix of wine"]
async fn the_readmes_example_runs_and_leaves_nothing() -> TestResult {
    let report = ComputeCore::new()?.service_properties(r#"{"PropertyTypes":["StandIn"]}"#).await?;
    assert!(report.contains("Violations"), "this is a real service: {report}");
    let built = std::env::var_os(EXAMPLE).ok_or("the example's program is not named")?;
    let directory = tempfile::tempdir()?;
    let (program, books) = (directory.path().join("hello.exe"), directory.path().join("books.json"));
    std::fs::copy(built, &program)?;
    let boot_files = directory.path().join("LinuxBootFiles");
    std::fs::create_dir(&boot_files)?;
    crate::put_boot_files(&boot_files)?;

    let mut child = Command::new(program)
        .env("UVM_STAND_IN_BOOKS", &books)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > LONG {
            child.kill()?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = (text(&output.stdout), text(&output.stderr), output.status.code());
    assert_eq!(said, ("hello from $(uname -sr)\n(exit code 0)\n".into(), String::new(), Some(0)));
    // Threads that only close a listener's socket may have been ended with the program.
    let mut books: Value = serde_json::from_slice(&std::fs::read(books)?)?;
    books["Sockets"] = 0.into();
    assert!(crate::is_empty(&books), "left behind: {books}");
    Ok(())
}

/// Names the file of the example's program.
const EXAMPLE: &str = "UVM_EXAMPLE_HELLO";
/// Longer than it takes.
const LONG: Duration = Duration::from_secs(60);
