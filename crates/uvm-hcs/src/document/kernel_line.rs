//! The command line of a Linux guest's kernel on Hyper-V.

use std::fmt::Write as _;

use uvm_platform::spec::{Console, InitArguments, RootFs, VmSpec};

/// The kernel's command line, with the arguments of init behind `--`. `initrd` is the initramfs's name where the
/// kernel's own boot stub has to load it.
pub(super) fn kernel_line(spec: &VmSpec, initrd: Option<&str>) -> String {
    let mut line = match (&spec.boot.root, initrd) {
        (RootFs::Disk(_), _) => "root=/dev/pmem0 ro rootwait init=/init".to_owned(),
        (RootFs::Initrd(_), Some(name)) => format!("initrd=/{name}"),
        // The service loads it.
        (RootFs::Initrd(_), None) => String::new(),
    };
    let has_serial_console = spec.console != Console::Ring;
    line.push_str(if has_serial_console {
        " 8250_core.nr_uarts=1 8250_core.skip_txen_test=1 console=ttyS0,115200"
    } else {
        " 8250_core.nr_uarts=0"
    });
    let has_console = has_serial_console || spec.graphics_console;
    if spec.graphics_console {
        line.push_str(" console=tty");
    }
    if !has_console {
        line.push_str(" panic=-1 quiet");
    }
    if !spec.boot.kernel_options.is_empty() {
        line.push(' ');
        line.push_str(&spec.boot.kernel_options);
    }
    if !spec.boot.pci {
        line.push_str(" pci=off");
    }
    let init = if has_console { with_shell(&spec.boot.init) } else { spec.boot.init.to_line() };
    // Writing to a String does not fail.
    let _ = write!(line, " nr_cpus={} brd.rd_nr=0 pmtmr=0 -- {init}", spec.processors.count);
    line
}

/// The arguments of init that also leave a shell on the console. Where init finds its entropy stays outside of the
/// shell's command.
fn with_shell(init: &InitArguments) -> String {
    let entropy = init.entropy_port.map(|port| format!("-e {port} ")).unwrap_or_default();
    let command = InitArguments { entropy_port: None, ..init.clone() }.to_line().replace('"', "\\\"");
    format!("{entropy}sh -c \"{command} & exec sh\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_spec::spec;

    #[test]
    fn pieces_come_in_the_order_the_original_has_them() {
        let mut spec = spec();
        assert_eq!(
            kernel_line(&spec, None),
            "root=/dev/pmem0 ro rootwait init=/init 8250_core.nr_uarts=0 panic=-1 quiet pci=off nr_cpus=2 brd.rd_nr=0 \
             pmtmr=0 -- -e 1 /bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel info"
        );
        spec.boot.root = RootFs::Initrd(r"C:\boot\initrd.img".into());
        assert!(kernel_line(&spec, None).starts_with(" 8250_core.nr_uarts=0 panic"));
        spec.boot.pci = true;
        spec.boot.kernel_options = "debug a=b".into();
        assert_eq!(
            kernel_line(&spec, Some("initrd.img")),
            "initrd=/initrd.img 8250_core.nr_uarts=0 panic=-1 quiet debug a=b nr_cpus=2 brd.rd_nr=0 pmtmr=0 -- -e 1 \
             /bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel info"
        );
    }

    #[test]
    fn d3_the_processors_are_those_the_guest_gets() {
        let mut spec = spec();
        spec.processors.count = 7;
        assert!(kernel_line(&spec, None).contains(" nr_cpus=7 "));
    }

    #[test]
    fn d4_entropy_stays_outside_of_the_consoles_shell() {
        let mut spec = spec();
        spec.console = Console::Socket(r"\\.\pipe\c".into());
        spec.boot.init.exec_command_line = r#"/bin/sh -c 'echo "hi"'"#.into();
        spec.boot.init.forward_stdout = true;
        assert_eq!(
            kernel_line(&spec, None),
            "root=/dev/pmem0 ro rootwait init=/init 8250_core.nr_uarts=1 8250_core.skip_txen_test=1 \
             console=ttyS0,115200 pci=off nr_cpus=2 brd.rd_nr=0 pmtmr=0 -- -e 1 sh -c \
             \"/bin/vsockexec -o 109 -e 109 /bin/sh -c 'echo \\\"hi\\\"' & exec sh\""
        );
        spec.console = Console::Ring;
        spec.graphics_console = true;
        spec.boot.init.entropy_port = None;
        let line = kernel_line(&spec, None);
        assert!(line.contains(" 8250_core.nr_uarts=0 console=tty pci=off ") && !line.contains("panic"), "{line}");
        assert!(line.contains(" -- sh -c \"/bin/vsockexec "), "{line}");
    }
}
