//! QEMU's first words.

use std::time::Duration;

use uvm_platform::{LastWords, PlatformError};

use crate::exit::{self, Evidence};
use crate::process_info::ProcessInfo;
use crate::qmp::{CallError, QemuVersion, Qmp};
use crate::ring::Ring;
use crate::spawn::ChildProcess;

/// The oldest QEMU whose behaviour this crate knows.
const OLDEST: QemuVersion = QemuVersion(7, 2, 0);
/// How long what belongs together (the end of a process and of its output) may lie apart.
const SETTLE: Duration = Duration::from_secs(1);
/// Lines of QEMU's own output in an error.
const QUOTED_LINES: usize = 12;

/// Waits for QEMU's greeting. An error says what QEMU did instead.
pub(super) async fn greet(qmp: &Qmp, child: &ChildProcess, output: &Ring) -> Result<(), PlatformError> {
    let last_words = |phase: Option<String>| {
        let mut words = LastWords::default();
        words.phase = phase;
        words.host_output = output.last_lines(QUOTED_LINES);
        Box::new(words)
    };
    match qmp.negotiate().await {
        Ok(version) if version >= OLDEST => Ok(()),
        Ok(version) => Err(PlatformError::BadInput {
            what: "QEMU version",
            value: version.to_string(),
            why: format!("{OLDEST} or newer is needed"),
        }),
        Err(CallError::Timeout { waited, .. }) => {
            let why = ProcessInfo::of(child.id()).and_then(|info| info.standstill());
            let phase = why.map(|why| format!("QEMU (pid {}) does not run: {why}", child.id()));
            let what = "QEMU's greeting".to_owned();
            Err(PlatformError::Timeout { what, waited, last_words: last_words(phase) })
        }
        Err(e) => match child.wait(SETTLE).await {
            Some(exit) => {
                let status = exit::classify(exit, &Evidence::default());
                Err(PlatformError::Ended { what: "start QEMU".into(), status, last_words: last_words(None) })
            }
            None => Err(PlatformError::host("speak with QEMU", e)),
        },
    }
}
