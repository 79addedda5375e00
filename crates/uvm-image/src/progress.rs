//! What a long operation tells its caller meanwhile, and how the caller stops it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::ImageError;

/// Something that happened during an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A step began.
    Started {
        /// Which.
        step: Step,
        /// What it works on, for people: `linux-image-6.1.0-56-amd64 (67 MiB)`.
        detail: String,
    },
    /// A step came further.
    Advanced {
        /// Which.
        step: Step,
        /// How far: bytes; of [`Step::ConfiguringKernel`] and [`Step::CompilingKernel`], lines in the build's log.
        done: u64,
        /// How far it will be, where known.
        total: Option<u64>,
    },
    /// A step succeeded. A step that fails is ended by the operation's error.
    Finished {
        /// Which.
        step: Step,
    },
    /// Something the user should know, though it is no failure.
    Note {
        /// A sentence.
        text: String,
    },
}

/// A step of an operation. Its text is a phrase for people: `downloading`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Another process makes the same thing.
    Waiting,
    /// apt refreshes private package lists.
    UpdatingPackageLists,
    /// apt downloads a package.
    Downloading,
    /// A package is unpacked (not installed).
    Unpacking,
    /// The kernel's ELF file is taken out of a bzImage.
    ExtractingKernel,
    /// Modules are chosen and their dependencies resolved.
    ChoosingModules,
    /// The initramfs is written.
    BuildingInitramfs,
    /// Files are compared with their recorded hashes.
    Verifying,
    /// The kernel's configuration is made.
    ConfiguringKernel,
    /// The kernel is compiled.
    CompilingKernel,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting for",
            Self::UpdatingPackageLists => "updating package lists",
            Self::Downloading => "downloading",
            Self::Unpacking => "unpacking",
            Self::ExtractingKernel => "extracting the kernel",
            Self::ChoosingModules => "choosing kernel modules",
            Self::BuildingInitramfs => "building the initramfs",
            Self::Verifying => "verifying",
            Self::ConfiguringKernel => "configuring the kernel",
            Self::CompilingKernel => "compiling the kernel",
        })
    }
}

/// Who is told of [`Progress`]. Called on the thread that runs the operation, so it must not block for long.
#[derive(Clone, Default)]
pub struct ProgressSink(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl ProgressSink {
    /// Calls `sink` for each event.
    pub fn new(sink: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(sink)))
    }

    pub(crate) fn send(&self, progress: Progress) {
        if let Some(sink) = &self.0 {
            sink(progress);
        }
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::info!("{text}");
        self.send(Progress::Note { text });
    }

    /// Runs one step, with its beginning and end reported.
    pub(crate) fn step<T>(
        &self,
        step: Step,
        detail: impl Into<String>,
        work: impl FnOnce() -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let detail = detail.into();
        tracing::info!("{step} {detail}");
        self.send(Progress::Started { step, detail });
        let value = work()?;
        self.send(Progress::Finished { step });
        Ok(value)
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "ProgressSink(set)" } else { "ProgressSink(none)" })
    }
}

/// Stops an operation that runs on another thread: it returns [`ImageError::Cancelled`] soon and cleans up behind
/// itself.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks for the stop. Cannot be taken back.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<(), ImageError> {
        if self.is_cancelled() { Err(ImageError::Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_step_reports_its_end_only_when_it_succeeds() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = ProgressSink::new({
            let seen = Arc::clone(&seen);
            move |progress| seen.lock().unwrap().push(progress)
        });
        sink.step(Step::Verifying, "x", || Ok(())).unwrap();
        sink.step::<()>(Step::Unpacking, "y", || Err(ImageError::Cancelled)).unwrap_err();
        assert_eq!(
            *seen.lock().unwrap(),
            [
                Progress::Started { step: Step::Verifying, detail: "x".into() },
                Progress::Finished { step: Step::Verifying },
                Progress::Started { step: Step::Unpacking, detail: "y".into() },
            ]
        );
    }
}
