//! Whatever a guest sends and a host does, the limits hold.

use proptest::prelude::*;

use super::{CID, accept, device, packets, read, write};
use crate::device::{MAX_RESETS, Slot};
use crate::header::{HOST_CID, Header, TYPE_STREAM};

proptest! {
    /// Whatever a guest sends and a host does, nothing panics and the limits hold.
    #[test]
    fn no_sequence_breaks_the_bounds(steps in prop::collection::vec(any::<(u8, u8, u16, u32)>(), 1..200)) {
        let mut device = device();
        device.listen(0).expect("free");
        let mut slots = Vec::new();
        for (what, port, length, number) in steps {
            let pick = |slots: &Vec<Slot>| slots.get(number as usize % slots.len().max(1)).copied();
            match what % 12 {
                0..=5 => {
                    let mut bytes = [0; crate::header::HEADER_LEN];
                    bytes[30] = what % 9;
                    let mut header = Header::decode(&bytes);
                    (header.from_cid, header.to_cid, header.kind) = (CID, HOST_CID, TYPE_STREAM);
                    header.to_port = u32::from(port % 2) * 0x8000_0000;
                    header.from_port = u32::from(port / 2 % 4);
                    (header.length, header.window, header.consumed) = (u32::from(length), number, number / 3);
                    header.flags = number;
                    if device.can_receive() {
                        device.receive(&header, &mut &vec![0; usize::from(length)][..]);
                    }
                }
                6 => slots.extend(device.dial(u32::from(port % 4)).ok()),
                7 => slots.extend(accept(&mut device, 0)),
                8 => if let Some(slot) = pick(&slots) { let _ = write(&mut device, slot, &vec![1; usize::from(length)]); },
                9 => if let Some(slot) = pick(&slots) { let _ = read(&mut device, slot, usize::from(length)); },
                10 => if let Some(slot) = pick(&slots) {
                    if port % 2 == 0 { device.shut_down(slot) } else { slots.retain(|&other| other != slot); device.release(slot) }
                },
                _ => { packets(&mut device); }
            }
            prop_assert!(device.by_ports.len() <= 4);
            prop_assert!(device.conns.len() <= 4);
            prop_assert!(device.control.len() + device.bulk.len() <= device.conns.len());
            prop_assert!(device.resets.len() <= MAX_RESETS + 8);
            for conn in device.conns.values() {
                prop_assert!(conn.received.len() <= conn.window as usize && conn.unsent.len() <= conn.window as usize);
            }
        }
        for slot in slots {
            device.release(slot);
        }
        device.unlisten(0);
        device.driver_started();
        prop_assert_eq!((device.conns.len(), device.by_ports.len(), device.large), (0, 0, 0));
    }
}
