//! The command line of a QEMU, taken from one that the library started, so that a reference runs on the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::RawFd;

use anyhow::Context;

/// Arguments of QEMU, without the program: flags, most with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine(Vec<(String, Option<String>)>);

/// The descriptors that take the place of those in a command line.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) kernel: RawFd,
    pub(crate) initrd: RawFd,
    /// By the id of the character device.
    pub(crate) channels: BTreeMap<String, RawFd>,
}

/// The character device that carries the multiplexer.
pub(crate) const MUX: &str = "mux";
/// The one of the device for virtual sockets.
pub(crate) const VSOCK: &str = "vsock";
/// The one of the serial console.
pub(crate) const CONSOLE: &str = "con";
/// The one of the monitor.
pub(crate) const QMP: &str = "qmp";

impl CommandLine {
    /// The one that process `pid` runs with.
    pub(crate) fn of_process(pid: u32) -> anyhow::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cmdline")).context("QEMU's command line")?;
        Ok(Self::parse(text.split_terminator('\0').skip(1)))
    }

    fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut arguments: Vec<(String, Option<String>)> = Vec::new();
        for word in words {
            match arguments.last_mut() {
                Some((_, value @ None)) if !word.starts_with('-') => *value = Some(word.to_owned()),
                _ => arguments.push((word.to_owned(), None)),
            }
        }
        Self(arguments)
    }

    /// With plain serial ports, on the same device, in the place of the multiplexer's.
    #[must_use]
    pub(crate) fn with_plain_ports(self, names: &[&str]) -> Self {
        let is_mux = |value: &str| value.starts_with("socket,id=mux,") || value.contains(",chardev=mux,");
        let kept = self.0.into_iter().filter(|(_, value)| !value.as_deref().is_some_and(is_mux));
        let ports = names.iter().flat_map(|name| {
            let device = format!("virtserialport,bus=vser.0,chardev={name},name={name}");
            [("-chardev".to_owned(), Some(format!("socket,id={name},fd=0"))), ("-device".to_owned(), Some(device))]
        });
        Self(kept.chain(ports).collect())
    }

    /// With these arguments besides.
    #[must_use]
    pub(crate) fn and(mut self, arguments: &[(&str, String)]) -> Self {
        self.0.extend(arguments.iter().map(|(flag, value)| ((*flag).to_owned(), Some(value.clone()))));
        self
    }

    /// Without any device but the board's own, and running at once: there is no monitor to start it by.
    #[must_use]
    pub(crate) fn without_devices(self) -> Self {
        let board = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "-machine",
            "-cpu",
            "-smp",
            "-m",
            "-kernel",
            "-initrd",
            "-append",
        ];
        let is_kept = |(flag, value): &(String, Option<String>)| {
            board.contains(&flag.as_str()) || value.as_deref().is_some_and(|v| v.starts_with("memory-backend-"))
        };
        Self(self.0.into_iter().filter(is_kept).collect())
    }

    /// The ids of the character devices that are sockets.
    pub(crate) fn channels(&self) -> Vec<String> {
        let sockets = self.0.iter().filter_map(|(_, value)| value.as_deref()?.strip_prefix("socket,id="));
        sockets.filter_map(|rest| rest.split(',').next()).map(ToOwned::to_owned).collect()
    }

    /// The arguments with these descriptors.
    pub(crate) fn with(&self, descriptors: &Descriptors) -> anyhow::Result<Vec<String>> {
        let mut words = Vec::new();
        for (flag, value) in &self.0 {
            words.push(flag.clone());
            let Some(value) = value else { continue };
            words.push(match flag.as_str() {
                "-kernel" => format!("/dev/fd/{}", descriptors.kernel),
                "-initrd" => format!("/dev/fd/{}", descriptors.initrd),
                "-chardev" => {
                    let id = value.split(',').find_map(|part| part.strip_prefix("id=")).unwrap_or_default();
                    let fd = descriptors.channels.get(id).with_context(|| format!("no descriptor for {id}"))?;
                    format!("socket,id={id},fd={fd}")
                }
                _ => value.clone(),
            });
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "-nodefaults -S -display none -machine q35,accel=tcg,memory-backend=mem -smp 1 -m 512M \
        -object memory-backend-memfd,id=mem,size=512M,share=on -kernel /dev/fd/7 -initrd /dev/fd/8 -append console=ttyS0 \
        -chardev socket,id=qmp,fd=9 -mon chardev=qmp,mode=control -chardev socket,id=mux,fd=12 -device \
        virtserialport,id=mux-port,bus=vser.0,chardev=mux,name=uvm.mux -device pvpanic-pci";

    fn ours() -> CommandLine {
        CommandLine::parse(OURS.split_whitespace())
    }

    fn filled(line: &CommandLine) -> String {
        let channels = line.channels().into_iter().zip(40..).collect();
        line.with(&Descriptors { kernel: 30, initrd: 31, channels }).expect("complete").join(" ")
    }

    #[test]
    fn only_descriptors_change() {
        let wanted = OURS
            .split_whitespace()
            .map(|word| match word {
                "/dev/fd/7" => "/dev/fd/30".to_owned(),
                "/dev/fd/8" => "/dev/fd/31".to_owned(),
                word => word.replace("fd=9", "fd=40").replace("fd=12", "fd=41"),
            })
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(filled(&ours()), wanted);
    }

    #[test]
    fn plain_ports_take_the_place_of_the_multiplexer() {
        let line = ours().with_plain_ports(&["a", "b"]);
        assert_eq!(line.channels(), ["qmp", "a", "b"]);
        let text = filled(&line);
        assert!(text.contains("-device virtserialport,bus=vser.0,chardev=b,name=b") && !text.contains("mux"), "{text}");
        assert!(text.contains("pvpanic-pci"), "{text}");
    }

    #[test]
    fn without_devices_the_board_and_its_memory_are_left() {
        let line = ours().without_devices();
        assert_eq!(
            filled(&line),
            "-nodefaults -display none -machine q35,accel=tcg,memory-backend=mem -smp 1 -m 512M -object \
             memory-backend-memfd,id=mem,size=512M,share=on -kernel /dev/fd/30 -initrd /dev/fd/31 -append console=ttyS0"
        );
    }
}
