//! The calls of the kernel that serving a share takes: seccomp.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::ConfineError;

/// What memory, threads, events and the connection take, and what files take, whatever is asked by it. No sockets, no
/// programs, no other processes, no mounts, no files by handles. Calls that do many things are in [`rules`].
const ALLOWED: &[libc::c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, their end and that of the process. The first is refused by a filter of its own.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // The connection, and its events.
    libc::SYS_accept4,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    // Who makes a file.
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_umask,
    // Files.
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_faccessat,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_removexattr,
    libc::SYS_renameat2,
    libc::SYS_setxattr,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_syncfs,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Namespaces that a new thread could have of its own.
const NEW_NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// What descriptors are asked for. Not whom they signal (`F_SETOWN`, `F_SETSIG`), nor locks.
const DESCRIPTOR_COMMANDS: &[libc::c_int] =
    &[libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];

/// Refuses every other call (`EPERM`), to this thread and to those it starts. Refused, not killed: what a newer C library
/// tries first, it does otherwise then.
pub(crate) fn filter_calls() -> Result<(), ConfineError> {
    let failed = |source: io::Error| ConfineError { step: "filter system calls by seccomp", source };
    // After the second one, there is no other.
    for program in [without_clone3(), program()] {
        let program = program.map_err(|e| failed(io::Error::other(e)))?;
        seccompiler::apply_filter(&program).map_err(|e| failed(io::Error::other(e)))?;
    }
    Ok(())
}

fn program() -> Result<BpfProgram, BackendError> {
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules()?, refused, SeccompAction::Allow, arch()?)?.try_into()
}

/// A filter cannot see what `clone3` is asked for. Where it is not implemented, C libraries start threads by `clone`.
fn without_clone3() -> Result<BpfProgram, BackendError> {
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    SeccompFilter::new(rules, SeccompAction::Allow, missing, arch()?)?.try_into()
}

fn arch() -> Result<TargetArch, BackendError> {
    TargetArch::try_from(std::env::consts::ARCH)
}

/// Every call that is allowed, with what it may be asked for.
fn rules() -> Result<BTreeMap<libc::c_long, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<_, _> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    // Signals to its own threads, for its abort: those of the same user have the same rights.
    let own = rustix::process::getpid().as_raw_pid();
    rules.insert(libc::SYS_tgkill, vec![rule(&[(0, SeccompCmpOp::Eq, own)])?]);
    // Threads, never processes.
    let flags = NEW_NAMESPACES | libc::CLONE_THREAD;
    let thread = SeccompCmpOp::MaskedEq(flags.cast_unsigned().into());
    rules.insert(libc::SYS_clone, vec![rule(&[(0, thread, libc::CLONE_THREAD)])?]);
    // A thread's name, and which capabilities there are, for the library that changes them.
    let (name, bounding, ambient) = (libc::PR_SET_NAME, libc::PR_CAPBSET_READ, libc::PR_CAP_AMBIENT);
    let is_set = libc::PR_CAP_AMBIENT_IS_SET;
    let of_process = vec![
        rule(&[(0, SeccompCmpOp::Eq, name)])?,
        rule(&[(0, SeccompCmpOp::Eq, bounding)])?,
        rule(&[(0, SeccompCmpOp::Eq, ambient), (1, SeccompCmpOp::Eq, is_set)])?,
    ];
    rules.insert(libc::SYS_prctl, of_process);
    let commands = DESCRIPTOR_COMMANDS.iter().map(|&command| rule(&[(1, SeccompCmpOp::Eq, command)]));
    rules.insert(libc::SYS_fcntl, commands.collect::<Result<_, _>>()?);
    // Whether the standard library's sockets wait.
    rules.insert(libc::SYS_ioctl, vec![rule(&[(1, SeccompCmpOp::Eq, FIONBIO)])?]);
    Ok(rules)
}

/// `FIONBIO`, whose type differs between C libraries.
const FIONBIO: libc::c_int = 0x5421;

/// Holds where each of these arguments is as it is said to be. The kernel takes all of them as 32 bits, or, as for the flags
/// of `clone` and the second argument of `prctl`, takes no bits above those that are asked about for anything.
fn rule(arguments: &[(u8, SeccompCmpOp, libc::c_int)]) -> Result<SeccompRule, BackendError> {
    let conditions = arguments.iter().map(|(at, how, value)| {
        SeccompCondition::new(*at, SeccompCmpArgLen::Dword, how.clone(), value.cast_unsigned().into())
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use virtiofsd::passthrough::PassthroughFs;

    use super::*;
    use crate::guard::{Access, Guarded, Owners};
    use crate::raw::Guest;
    use crate::sys;

    #[test]
    fn the_filter_is_one() {
        assert!(!program().expect("a filter").is_empty());
    }

    #[test]
    fn what_leads_out_is_not_in_it() {
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_ptrace,
            libc::SYS_open_by_handle_at,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_kill,
            libc::SYS_io_uring_setup,
            libc::SYS_process_vm_writev,
        ] {
            assert!(!rules().expect("rules").contains_key(&call), "{call}");
        }
    }

    /// Set in a process of its own, which is filtered for good.
    const CHILD: &str = "UVM_FS_TEST_FILTERED";

    #[test]
    fn calls_that_do_many_things_do_what_is_used() {
        if std::env::var_os(CHILD).is_some() {
            return in_filtered_process();
        }
        let name = "confine::filter::tests::calls_that_do_many_things_do_what_is_used";
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", name, "--test-threads=1"]).env(CHILD, "1").stdin(Stdio::null());
        let output = child.output().expect("started");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    fn in_filtered_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let owners = Owners::One { uid: 0, gid: 0 };
        let guest = Guest::of(dir.path(), Access::ReadWrite, owners, 100).expect("a share");
        let parent = rustix::process::getppid().expect("it has one").as_raw_pid().into();
        filter_calls().expect("filtered");
        let own = libc::c_long::from(rustix::process::getpid().as_raw_pid());
        let thread = libc::c_long::from(rustix::thread::gettid().as_raw_pid());
        let errno = |call, arguments| sys::call(call, arguments).expect_err("refused").raw_os_error();
        for arguments in [[parent, parent, 0], [1, 1, 0], [own + 1, thread, 0]] {
            assert_eq!(errno(libc::SYS_tgkill, arguments), Some(libc::EPERM), "tgkill {arguments:?}");
        }
        let thread_flags = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        for flags in [
            libc::SIGCHLD,
            libc::CLONE_VM | libc::CLONE_VFORK,
            thread_flags | libc::CLONE_NEWUSER,
            thread_flags | libc::CLONE_NEWNS,
        ] {
            assert_eq!(errno(libc::SYS_clone, [flags.into(), 0, 0]), Some(libc::EPERM), "clone {flags:x}");
        }
        assert_eq!(errno(libc::SYS_clone3, [0, 0, 0]), Some(libc::ENOSYS));
        for [option, value] in [
            [libc::PR_SET_DUMPABLE, 1],
            [libc::PR_SET_PDEATHSIG, 0],
            [libc::PR_SET_PTRACER, 1],
            [libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL],
        ] {
            let arguments = [option.into(), value.into(), 0];
            assert_eq!(errno(libc::SYS_prctl, arguments), Some(libc::EPERM), "prctl {option}");
        }
        for command in [libc::F_SETOWN, F_SETSIG, libc::F_NOTIFY, libc::F_ADD_SEALS, libc::F_SETPIPE_SZ] {
            assert_eq!(errno(libc::SYS_fcntl, [0, command.into(), 0]), Some(libc::EPERM), "fcntl {command}");
        }
        for request in [FIOSETOWN, FIOASYNC, TIOCSTI] {
            assert_eq!(errno(libc::SYS_ioctl, [0, request, 0]), Some(libc::EPERM), "ioctl {request:x}");
        }
        // No program is begun, however the standard library goes about it.
        let began = Command::new("/proc/self/exe").spawn().expect_err("refused");
        assert_eq!(began.raw_os_error(), Some(libc::EPERM));

        // What is used works: signals to its own threads, threads with names, and a share.
        sys::call(libc::SYS_tgkill, [own, thread, 0]).expect("its own");
        let named = std::thread::Builder::new().name("served".into());
        let served = named.spawn(move || serve_some(&guest)).expect("a thread");
        served.join().expect("served");
        assert_eq!(std::fs::read(dir.path().join("f")).expect("it was made"), b"");
        assert!(dir.path().join("d").is_dir());
    }

    /// A directory and a file are made, and the file is opened again.
    fn serve_some(guest: &Guest<Guarded<PassthroughFs>>) {
        let own_name = std::fs::read_to_string("/proc/thread-self/comm").expect("its name");
        assert_eq!(own_name.trim(), "served");
        let bytes = |numbers: &[u32], name: &[u8]| {
            let numbers = numbers.iter().flat_map(|number| number.to_ne_bytes());
            numbers.chain(name.iter().copied()).collect::<Vec<u8>>()
        };
        let root = 1;
        guest.ask(26, 0, &bytes(&[7, 38, 0x2_0000, u32::MAX, u32::MAX], &[0; 44])).expect("negotiated");
        guest.ask(9, root, &bytes(&[0o755, 0], b"d\0")).expect("a directory");
        guest.ask(35, root, &bytes(&[2, 0o100_644, 0, 0], b"f\0")).expect("a file");
        let found = guest.ask(1, root, b"f\0").expect("it is found");
        let node = u64::from_ne_bytes(found[..8].try_into().expect("eight bytes"));
        guest.ask(14, node, &bytes(&[2, 0], b"")).expect("opened");
        guest.ask(27, root, &bytes(&[0, 0], b"")).expect("the directory is opened");
    }

    /// `F_SETSIG`, `FIOSETOWN`, `FIOASYNC` and `TIOCSTI`: not all of them are in every C library's headers.
    const F_SETSIG: libc::c_int = 10;
    const FIOSETOWN: libc::c_long = 0x8901;
    const FIOASYNC: libc::c_long = 0x5452;
    const TIOCSTI: libc::c_long = 0x5412;
}
