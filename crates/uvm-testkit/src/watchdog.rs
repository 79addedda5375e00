//! A VM that hangs: what it was doing is told, and the tests end.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use uvm::UtilityVm;

/// How long a VM of a test may run, unless it is part of a campaign. The longest takes two minutes on a busy machine.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// How long its guest may take to tell what it does.
const ASKED: Duration = Duration::from_secs(30);

/// Watches a VM until it is dropped, and lets go of it then.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// Its end is the sign.
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to watch. After the limit it prints what is known of the VM and ends the process: whoever waits for the VM
    /// would wait for ever, and the VM ends with its owner.
    pub(crate) fn watch(vm: UtilityVm) -> std::io::Result<Self> {
        if std::env::var_os("UVM_SOAK").is_some() {
            return Ok(Self { over: None, thread: None });
        }
        let (over, is_over) = mpsc::channel();
        let watch = move || {
            if is_over.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                // Past the test harness, which would keep it until the end.
                let _ = writeln!(std::io::stderr(), "{}", diagnosis(&vm));
                std::process::exit(101);
            }
        };
        let thread = thread::Builder::new().name("test watchdog".into()).spawn(watch)?;
        Ok(Self { over: Some(over), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // It only has to let go of the VM, so that nobody has it once this is dropped.
            let _ = thread.join();
        }
    }
}

fn diagnosis(vm: &UtilityVm) -> String {
    let asked = async { tokio::time::timeout(ASKED, vm.dump_stacks()).await };
    let stacks = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(asked) {
            Ok(Ok(stacks)) => stacks,
            Ok(Err(error)) => format!("its guest does not tell its stacks: {error}"),
            Err(_) => format!("its guest did not tell its stacks within {ASKED:?}"),
        },
        Err(error) => format!("its guest cannot be asked: {error}"),
    };
    format!("the test of VM {} hangs: it runs for {LIMIT:?}\n{}\n{stacks}", vm.id(), vm.last_words())
}
