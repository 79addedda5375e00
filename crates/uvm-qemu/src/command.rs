//! The QEMU command line, typed. Everything QEMU uses comes to it as a descriptor: it opens no path but its firmware.

use std::os::fd::RawFd;

use uvm_platform::Accelerator;
use uvm_platform::spec::MemoryBacking;

use crate::layers::Room;
use crate::slots::AT_BOOT;

/// What one QEMU process is told. Descriptor numbers are those of the owner: the child inherits them unchanged.
#[derive(Clone, Debug)]
pub(crate) struct QemuCommand<'a> {
    pub(crate) id: &'a str,
    /// A GUID drawn for this process: what gc knows it by, and what the guest's firmware tables say.
    pub(crate) runtime_id: &'a str,
    pub(crate) accelerator: Accelerator,
    pub(crate) memory_mib: u64,
    pub(crate) backing: MemoryBacking,
    pub(crate) processors: u32,
    pub(crate) scsi_controllers: u32,
    /// For layers that are plugged in later.
    pub(crate) layers: Room,
    pub(crate) kernel_line: &'a str,
    pub(crate) kernel: RawFd,
    pub(crate) initrd: Option<RawFd>,
    pub(crate) qmp: RawFd,
    pub(crate) console: RawFd,
    /// The multiplexer's end; `None` for an agent that does not know it.
    pub(crate) mux: Option<RawFd>,
    /// Ports that PCI devices of the host can be plugged into.
    pub(crate) pci_ports: u32,
    /// The connection to the device for virtual sockets.
    pub(crate) vsock: Option<RawFd>,
    /// The root disk, and how much of it is mapped.
    pub(crate) root: Option<(RawFd, u64)>,
}

/// QEMU's name of that port in its events.
pub(crate) const MUX_DEVICE: &str = "mux-port";
/// The name the guest sees of the port that carries the multiplexer.
pub(crate) const MUX_PORT_NAME: &str = "uvm.mux";
/// QEMU's name of the device for virtual sockets, and of its connection.
pub(crate) const VSOCK_DEVICE: &str = "vsock";
/// The bus that devices can be added to while the VM runs; it has 32 slots.
pub(crate) const HOT_PLUG_BUS: &str = "pb0";
/// QEMU's name of a port for a PCI device of the host, and of its bus.
pub(crate) fn pci_port(number: u32) -> String {
    format!("rp{number}")
}

/// Where such a port is on the first bus: the guest's address of it.
pub(crate) fn pci_port_address(number: u32) -> String {
    format!("0000:00:{:02x}.0", FIRST_PCI_PORT + number)
}

/// The slot of the first of them, behind the bridges of layers; QEMU gives what says none slots from 1 on, and 0x1f is the
/// chipset's.
const FIRST_PCI_PORT: u32 = 0x16;
/// The adapter of all SCSI disks, and the bus it has.
const SCSI_ADAPTER: &str = "scsi0";
pub(crate) const SCSI_BUS: &str = "scsi0.0";
/// Address space beyond memory, root disk and layers: what maps them begins at a multiple of 1 GiB.
const ROOM_MIB: u64 = 2048;

impl QemuCommand<'_> {
    /// The arguments, without the program.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut args = Args::default();
        args.flags("-nodefaults -no-user-config -no-reboot -S");
        args.pair("-display", "none");
        args.pair("-name", format!("{},debug-threads=on", self.id));
        args.pair("-uuid", self.runtime_id);
        args.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        self.machine(&mut args);
        args.pair("-kernel", format!("/dev/fd/{}", self.kernel));
        if let Some(initrd) = self.initrd {
            args.pair("-initrd", format!("/dev/fd/{initrd}"));
        }
        args.pair("-append", self.kernel_line);
        self.channels(&mut args);
        self.devices(&mut args);
        args.0
    }

    fn machine(&self, args: &mut Args) {
        let (accel, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            _ => ("tcg", "qemu64"),
        };
        args.pair(
            "-machine",
            format!("q35,accel={accel},memory-backend=mem,sata=off,smbus=off,vmport=off,graphics=off,usb=off"),
        );
        args.pair("-cpu", cpu);
        args.pair("-smp", self.processors.to_string());
        let mapped_mib = self.layers.mib + self.root.map_or(0, |(_, bytes)| bytes >> 20);
        let room = match mapped_mib {
            0 => String::new(),
            mapped => format!(",maxmem={}M", self.memory_mib + mapped + ROOM_MIB),
        };
        args.pair("-m", format!("{}M{room}", self.memory_mib));
        let prealloc = if self.backing == MemoryBacking::Physical { ",prealloc=on" } else { "" };
        args.pair("-object", format!("memory-backend-memfd,id=mem,size={}M,share=on{prealloc}", self.memory_mib));
    }

    fn channels(&self, args: &mut Args) {
        args.pair("-chardev", format!("socket,id=qmp,fd={}", self.qmp));
        args.pair("-mon", "chardev=qmp,mode=control");
        args.pair("-chardev", format!("socket,id=con,fd={}", self.console));
        args.pair("-serial", "chardev:con");
        if let Some(mux) = self.mux {
            args.pair("-device", "virtio-serial-pci,id=vser");
            args.pair("-chardev", format!("socket,id=mux,fd={mux}"));
            let port = format!("virtserialport,id={MUX_DEVICE},bus=vser.0,chardev=mux,name={MUX_PORT_NAME}");
            args.pair("-device", port);
        }
    }

    fn devices(&self, args: &mut Args) {
        args.pair("-device", format!("pcie-pci-bridge,id={HOT_PLUG_BUS},bus=pcie.0,addr=0x11"));
        for (id, slot) in self.layers.bridges() {
            args.pair("-device", format!("pcie-pci-bridge,id={id},bus=pcie.0,addr={slot:#x}"));
        }
        for number in 0..self.pci_ports {
            let (name, slot, place) = (pci_port(number), number + 1, FIRST_PCI_PORT + number);
            let port = format!("pcie-root-port,id={name},chassis={slot},slot={slot},bus=pcie.0,addr={place:#x}");
            args.pair("-device", port);
        }
        if let Some(vsock) = self.vsock {
            args.pair("-chardev", format!("socket,id={VSOCK_DEVICE},fd={vsock}"));
            let name = VSOCK_DEVICE;
            args.pair(
                "-device",
                format!("vhost-user-vsock-pci,id={name},chardev={name},bus={HOT_PLUG_BUS},addr={AT_BOOT:#x}"),
            );
        }
        if let Some((fd, bytes)) = self.root {
            let memory = format!("memory-backend-file,id=root,size={bytes},mem-path=/proc/self/fd/{fd}");
            args.pair("-object", format!("{memory},share=on,readonly=on"));
            args.pair("-device", "virtio-pmem-pci,memdev=root");
        }
        args.pair("-device", "pvpanic-pci");
        if self.scsi_controllers > 0 {
            // Our agent has the kernel look when a disk has come, and let go before one is taken away. What the adapter says
            // by itself the kernel may heed late: when the agent has let go of that disk, or the next one is at its place.
            // The original agent depends on it.
            let events = if self.mux.is_some() { "off" } else { "on" };
            args.pair("-device", format!("virtio-scsi-pci,id={SCSI_ADAPTER},num_queues=1,hotplug={events}"));
        }
        args.pair("-object", "rng-builtin,id=rng0");
        args.pair("-device", "virtio-rng-pci,rng=rng0");
        args.pair("-device", "virtio-balloon-pci,id=bal,free-page-reporting=on,deflate-on-oom=on");
    }
}

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn flags(&mut self, flags: &str) {
        self.0.extend(flags.split(' ').map(str::to_owned));
    }

    fn pair(&mut self, flag: &str, value: impl Into<String>) {
        self.0.extend([flag.to_owned(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> QemuCommand<'static> {
        QemuCommand {
            id: "vm-1",
            runtime_id: "8d3a2c51-7f60-4b1e-9c42-5e8f00000001",
            accelerator: Accelerator::Tcg,
            memory_mib: 512,
            backing: MemoryBacking::Overcommit,
            processors: 2,
            scsi_controllers: 1,
            layers: Room::default(),
            kernel_line: "console=ttyS0 -- -e 1 /bin/gcs",
            kernel: 10,
            initrd: Some(11),
            qmp: 12,
            console: 13,
            mux: Some(14),
            pci_ports: 0,
            vsock: None,
            root: None,
        }
    }

    /// One flag with its value a line, as a reviewer wants to read it.
    fn lines(command: &QemuCommand<'_>) -> String {
        command.arguments().join(" ").replace(" -", "\n-")
    }

    #[test]
    fn golden_tcg() {
        insta::assert_snapshot!(lines(&command()));
    }

    #[test]
    fn golden_kvm_physical_vsock_no_disks() {
        let command = QemuCommand {
            accelerator: Accelerator::Kvm,
            backing: MemoryBacking::Physical,
            processors: 1,
            scsi_controllers: 0,
            initrd: None,
            vsock: Some(15),
            ..command()
        };
        insta::assert_snapshot!(lines(&command));
    }

    #[test]
    fn ports_for_pci_devices_are_where_the_guest_looks() {
        let command = QemuCommand { pci_ports: 2, ..command() };
        let ports: Vec<_> = command.arguments().into_iter().filter(|word| word.starts_with("pcie-root-port")).collect();
        assert_eq!(
            ports,
            [
                "pcie-root-port,id=rp0,chassis=1,slot=1,bus=pcie.0,addr=0x16",
                "pcie-root-port,id=rp1,chassis=2,slot=2,bus=pcie.0,addr=0x17"
            ]
        );
        assert_eq!(pci_port_address(1), "0000:00:17.0");
    }

    #[test]
    fn golden_original_agent_on_a_root_disk() {
        let command = QemuCommand { initrd: None, mux: None, vsock: Some(15), root: Some((16, 6 << 20)), ..command() };
        insta::assert_snapshot!(lines(&command));
    }

    #[test]
    fn golden_room_for_layers() {
        let command = QemuCommand { layers: Room { bridges: 2, mib: 128 << 10 }, ..command() };
        insta::assert_snapshot!(lines(&command));
    }
}
