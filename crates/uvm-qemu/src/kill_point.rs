//! Moments at which a test kills the owner: just before, half-way and just after a host object comes to exist.

/// Ends this process by SIGKILL if `UVM_KILL_POINT` names this moment. Compiled out without the feature `kill-points`.
pub(crate) fn kill_point(moment: &str) {
    #[cfg(feature = "kill-points")]
    if std::env::var("UVM_KILL_POINT").is_ok_and(|wanted| wanted == moment) {
        // It cannot fail for the own process, and there is nothing to do if it did.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
    #[cfg(not(feature = "kill-points"))]
    let _ = moment;
}

/// All moments there are, in the order in which a VM's creation passes them.
#[cfg(feature = "kill-points")]
pub const KILL_POINTS: &[&str] = &[
    "before:state-dir",
    "half:state-dir",
    "after:state-dir",
    "before:cgroup",
    "after:cgroup",
    "before:console",
    "after:console",
    "before:process",
    "after:process",
];

/// Those of a share that is added to a running VM.
#[cfg(feature = "kill-points")]
pub const KILL_POINTS_OF_SHARES: &[&str] = &["before:helper", "after:helper"];
