//! The recorded conversations of the original guests, of January 2021 and August 2026, with our library in the place of
//! the original host: what the host wrote must come again, and what the guest wrote is written again, byte for byte but for
//! the ids of calls, where `recording` leaves one out.
//!
//! Requests are compared by their types, ids, containers and calls; the bytes of our own encoder are compared with these
//! recordings elsewhere. A closed output is not waited for: the guest's end of a process of the VM does not depend on it.

#![cfg(target_os = "linux")]

mod containers;
mod processes;
mod recording;
mod replay;
mod resources;

use std::error::Error;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use uvm::{Process, ProcessExit, ProcessSpec, UtilityVm};
use uvm_testkit::TestResult;

use recording::{Recording, YEARS};
use replay::replay;

/// The variable that all recorded processes have.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn shell(script: &str) -> ProcessSpec {
    ProcessSpec::new(["/bin/sh", "-c", script]).with_env("PATH", PATH)
}

async fn run(vm: &UtilityVm, spec: &ProcessSpec) -> TestResult<(ProcessExit, String, String)> {
    output(vm.create_process(spec).await?).await
}

/// How it ended, and what it wrote.
async fn output(process: Process) -> TestResult<(ProcessExit, String, String)> {
    let output = process.output().await?;
    Ok((output.exit, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

async fn type_in(process: &mut Process, text: &str) -> TestResult {
    process.stdin.as_mut().expect("asked for").write_all(text.as_bytes()).await?;
    process.close_stdin().await?;
    Ok(())
}

fn ended(code: u32, stdout: &str, stderr: &str) -> (ProcessExit, String, String) {
    (ProcessExit::Code(code), stdout.to_owned(), stderr.to_owned())
}

/// An error with all of its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Plays the host's part in every conversation of a year.
async fn replay_year(year: &'static str) -> TestResult {
    let recordings = Recording::all(year)?;
    assert_eq!(recordings.len(), 15);
    for recording in recordings.into_iter().map(Arc::new) {
        let r = &recording;
        match r.conversation.as_str() {
            "container-life" => Box::pin(replay(r, |vm| containers::life(vm, r))).await,
            "container-run" => Box::pin(replay(r, |vm| containers::run(vm, r))).await,
            "container-terminate" => Box::pin(replay(r, |vm| containers::terminate(vm, r))).await,
            "dump-stacks" => replay(r, processes::dump_stacks).await,
            "exec-cat-stdin" => replay(r, processes::cat_stdin).await,
            "exec-exit42" => replay(r, processes::exit42).await,
            "exec-killed" => replay(r, processes::killed).await,
            "exec-missing" => replay(r, processes::missing).await,
            "exec-output" => replay(r, processes::output).await,
            "exec-true" => replay(r, processes::run_true).await,
            "exec-tty" => replay(r, processes::tty).await,
            "modify" => replay(r, resources::modify).await,
            "negotiate" => replay(r, |_| async { Ok(()) }).await,
            "shutdown" => replay(r, processes::shutdown).await,
            "unknown-container" => replay(r, containers::unknown).await,
            other => Err(format!("nobody plays the host of {other}").into()),
        }?;
    }
    Ok(())
}

#[tokio::test]
async fn the_guest_of_january_2021_is_served_as_it_was_then() -> TestResult {
    replay_year(YEARS[0]).await
}

#[tokio::test]
async fn the_guest_of_august_2026_is_served_as_it_was_then() -> TestResult {
    replay_year(YEARS[1]).await
}
