//! Processes in the guest.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::{ErrorKind, ProcessExit, ProcessOutput, ProcessSpec, TerminalSize};

use super::Subject;
use super::subject::failure;
use crate::TestResult;

pub(super) async fn a_process_tells_its_output_and_code(vm: &Subject) -> TestResult {
    let output = vm.output(&["echo", "to", "the", "host"]).await?;
    assert_eq!((output.exit, output.stdout.as_slice()), (ProcessExit::Code(0), &b"to the host\n"[..]));
    for code in [0, 1, 42, 255] {
        let process = vm.create_process(&ProcessSpec::new(["sh", "-c", &format!("exit {code}")])).await?;
        assert_eq!(process.wait().await?, ProcessExit::Code(code));
        // It may be asked again.
        assert_eq!((process.wait().await?, process.exit()), (ProcessExit::Code(code), Some(ProcessExit::Code(code))));
    }
    Ok(())
}

pub(super) async fn outputs_are_kept_apart(vm: &Subject) -> TestResult {
    let output = vm.output(&["sh", "-c", "echo out; echo err >&2"]).await?;
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let mut spec = ProcessSpec::new(["echo", "unheard"]);
    (spec.stdout, spec.stderr) = (false, false);
    let process = vm.create_process(&spec).await?;
    assert!(process.stdin.is_none() && process.stdout.is_none() && process.stderr.is_none());
    assert_eq!(process.output().await?.stdout, b"");
    Ok(())
}

pub(super) async fn what_is_written_comes_back_to_the_end(vm: &Subject) -> TestResult {
    // More than what is under way at a time.
    let sent: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let mut cat = vm.create_process(&ProcessSpec::new(["cat"]).with_stdin()).await?;
    let (mut stdin, mut stdout) = (cat.stdin.take().ok_or("no input")?, cat.stdout.take().ok_or("no output")?);
    let mut came = Vec::new();
    let feed = async {
        stdin.write_all(&sent).await?;
        stdin.finish().await
    };
    let (written, read) = tokio::join!(feed, stdout.read_to_end(&mut came));
    written?;
    read?;
    assert!(came == sent, "{} of {} bytes came, or other ones", came.len(), sent.len());
    assert_eq!(cat.wait().await?, ProcessExit::Code(0));
    Ok(())
}

pub(super) async fn a_signal_ends_a_process_and_finds_it_gone_then(vm: &Subject) -> TestResult {
    for signal in [15, 1] {
        let sleeper = vm.create_process(&ProcessSpec::new(["sleep", "1000"])).await?;
        assert_eq!(sleeper.exit(), None);
        assert!(sleeper.signal(signal).await?, "it was there");
        assert_eq!(sleeper.wait().await?, ProcessExit::Signal(Some(signal.cast_unsigned())));
        assert!(!sleeper.signal(signal).await? && !sleeper.kill().await?, "it is gone");
    }
    let sleeper = vm.create_process(&ProcessSpec::new(["sleep", "1000"])).await?;
    assert!(sleeper.kill().await?);
    assert_eq!(sleeper.wait().await?, ProcessExit::Signal(Some(9)));
    Ok(())
}

pub(super) async fn a_program_that_is_not_there_is_told(vm: &Subject) -> TestResult {
    let error = failure("no program", vm.create_process(&ProcessSpec::new(["no-such-program"])).await)?;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.to_string().contains("no-such-program"), "{error}");
    Ok(())
}

pub(super) async fn a_terminal_has_a_size_that_can_be_changed(vm: &Subject) -> TestResult {
    let script = ["sh", "-c", "stty size; read line; stty size; exit 3"];
    let size = TerminalSize { rows: 30, columns: 90 };
    let spec = ProcessSpec::new(script).with_stdin().with_terminal(size);
    let mut process = vm.create_process(&spec).await?;
    let mut stdout = process.stdout.take().ok_or("no terminal")?;
    let mut seen = String::new();
    // A terminal echoes what is typed: that must not come in the middle of what is looked for.
    read_until(&mut stdout, &mut seen, "30 90\r\n").await?;
    process.resize(TerminalSize { rows: 40, columns: 100 }).await?;
    process.stdin.as_mut().ok_or("no input")?.write_all(b"word\n").await?;
    read_until(&mut stdout, &mut seen, "40 100\r\n").await?;
    assert_eq!(process.wait().await?, ProcessExit::Code(3));
    Ok(())
}

async fn read_until(stdout: &mut ProcessOutput, seen: &mut String, words: &str) -> TestResult {
    while !seen.contains(words) {
        let mut buffer = [0; 256];
        let count = stdout.read(&mut buffer).await?;
        if count == 0 {
            return Err(format!("it ended with {seen:?}, without {words:?}").into());
        }
        *seen += &String::from_utf8_lossy(&buffer[..count]);
    }
    Ok(())
}
