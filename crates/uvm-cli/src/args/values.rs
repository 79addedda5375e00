//! What an option's value may be.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// A port of virtual sockets, and where its connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VirtualSocket {
    pub(crate) port: u32,
    pub(crate) socket: PathBuf,
}

/// A way of sharing directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShareBy {
    /// virtio-fs where host and guest have it, else 9P.
    Auto,
    /// virtio-fs, or not at all: a process of its own for each share; faster.
    #[value(name = "virtio-fs")]
    VirtioFs,
    /// 9P: a server in this process, over the guest's transport.
    #[value(name = "9p")]
    Plan9,
}

/// An accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// KVM where it works, else TCG.
    Auto,
    /// The Linux kernel's hypervisor.
    Kvm,
    /// QEMU's translator: works everywhere, slowly.
    Tcg,
}

pub(super) fn memory(text: &str) -> Result<uvm::MemoryMib, String> {
    let (digits, factor) = match (text.strip_suffix(['M', 'm']), text.strip_suffix(['G', 'g'])) {
        (Some(digits), _) => (digits, 1),
        (_, Some(digits)) => (digits, 1024),
        (None, None) => (text, 1),
    };
    let number: u64 =
        digits.parse().map_err(|_| "a number of MiB, or with a unit (512M, 2G), is allowed".to_owned())?;
    let mib = number.checked_mul(factor).ok_or("more than any machine has")?;
    uvm::MemoryMib::new(mib).map_err(|e| e.to_string())
}

pub(super) fn variable(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('=') {
        return Err("NAME=VALUE, or the NAME of one to pass on, is allowed".into());
    }
    Ok(text.to_owned())
}

pub(super) fn virtual_socket(text: &str) -> Result<VirtualSocket, String> {
    let Some((port, socket)) = text.split_once(':') else {
        return Err("PORT:SOCKET is allowed, as 5000:/run/service.sock".into());
    };
    let port = match port.parse() {
        // The last one means any port.
        Ok(port) if port != u32::MAX => port,
        _ => return Err(format!("port {port:?}: a number from 0 to {} is allowed", u32::MAX - 1)),
    };
    if socket.is_empty() {
        return Err("the socket's path is empty: PORT:SOCKET is allowed, as 5000:/run/service.sock".into());
    }
    Ok(VirtualSocket { port, socket: socket.into() })
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (digits, factor) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(digits) if text.ends_with('m') => (digits, 60),
        Some(digits) if text.ends_with('h') => (digits, 3600),
        Some(digits) => (digits, 1),
        None => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "a time as 90, 90s, 5m or 1h is allowed".to_owned())?;
    match number.checked_mul(factor) {
        Some(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err("a time from 1s on is allowed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse;

    #[test]
    fn sizes_and_times_have_units() {
        let mib = |text: &str| memory(text).map(uvm::MemoryMib::get);
        assert_eq!((mib("512"), mib("512M"), mib("2G")), (Ok(512), Ok(512), Ok(2048)));
        for bad in ["", "G", "1.5G", "7", "-2", "99999999999999999999", "18446744073709551615G"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "s", "0", "1d", "-1", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_guest_has_a_processor_and_a_variable_a_name() {
        let given = |option: &str, value: &str| parse(["uvm", "run", option, value].map(Into::into));
        for good in ["A=b=c", "A=", "A"] {
            assert!(given("--env", good).is_ok(), "{good}");
        }
        for (option, bad, allowed) in
            [("--cpus", "0", "1.."), ("--env", "=b", "NAME=VALUE"), ("--env", "", "NAME=VALUE")]
        {
            let error = given(option, bad).expect_err(bad).to_string();
            assert!(error.contains(option) && error.contains(allowed), "{error}");
        }
    }

    #[test]
    fn virtual_sockets_are_ports_and_paths() {
        let good = |port, socket: &str| Ok(VirtualSocket { port, socket: socket.into() });
        assert_eq!(virtual_socket("5000:/run/a:b"), good(5000, "/run/a:b"));
        assert_eq!(virtual_socket("0:a"), good(0, "a"));
        assert_eq!(virtual_socket("4294967294:a"), good(4_294_967_294, "a"));
        for (bad, named, allowed) in [
            ("4294967295:a", "\"4294967295\"", "4294967294"),
            (":a", "\"\"", "0 to"),
            ("x:a", "\"x\"", "0 to"),
            ("5000:", "path is empty", "PORT:SOCKET"),
            ("5000", "PORT:SOCKET", "is allowed"),
        ] {
            let error = parse(["uvm", "run", "--vsock", bad].map(Into::into)).expect_err(bad).to_string();
            assert!(error.contains(bad) && error.contains(named) && error.contains(allowed), "{bad}: {error}");
        }
    }
}
