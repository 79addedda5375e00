//! Packets between the device and the guest's rings.
//!
//! A ring is the guest's memory: what is in it may change at any time and may be nonsense. virtio-queue checks indices,
//! addresses and the length of chains; a chain is read in any number of descriptors, since Linux scatters what is longer
//! than 32 KiB.

use std::io::{Read, Write};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Reader};
use vm_memory::GuestMemoryMmap;

use crate::device::{Device, Payload};
use crate::header::{HEADER_LEN, Header};

/// Packets taken from the guest before others get their turn under the lock.
const BATCH: usize = 64;

/// What a turn at a ring came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Chains that were given back to the guest: it is to be told.
    pub used: usize,
    /// There is more, for another turn.
    pub more: bool,
}

impl Payload for Reader<'_> {
    fn available(&self) -> usize {
        self.available_bytes()
    }
}

/// Takes packets that the guest sent.
///
/// # Errors
/// The ring itself is nonsense: the guest's driver is of no more use.
pub fn receive(device: &mut Device, queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<Turn, virtio_queue::Error> {
    let mut used = 0;
    while used < BATCH && device.can_receive() {
        let Some(chain) = next(queue, memory)? else { return Ok(Turn { used, more: false }) };
        let head = chain.head_index();
        // A chain that is none is given back, and nothing more: there is nobody to tell.
        if let Ok(mut reader) = chain.reader(memory) {
            let mut header = [0; HEADER_LEN];
            if reader.read_exact(&mut header).is_ok() {
                device.receive(&Header::decode(&header), &mut reader);
            }
        }
        queue.add_used(memory, head, 0)?;
        used += 1;
    }
    Ok(Turn { used, more: device.can_receive() })
}

/// Sends packets while the guest has room for them.
///
/// # Errors
/// The ring itself is nonsense.
pub fn send(device: &mut Device, queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<usize, virtio_queue::Error> {
    let mut used = 0;
    while device.has_packet() {
        let Some(chain) = next(queue, memory)? else { break };
        let head = chain.head_index();
        let mut written = 0;
        if let Ok(mut writer) = chain.writer(memory) {
            // A buffer for less than one byte of payload is of no use to anybody; an honest guest gives 4 KiB.
            let room = writer.available_bytes().saturating_sub(HEADER_LEN);
            if room > 0
                && let Some(packet) = device.next_packet(room)
            {
                let (first, second) = device.payload(&packet);
                let write = writer
                    .write_all(&packet.header.encode())
                    .and_then(|()| writer.write_all(first))
                    .and_then(|()| writer.write_all(second));
                if write.is_ok() {
                    written = HEADER_LEN + packet.header.length as usize;
                    device.sent(&packet);
                }
            }
        }
        queue.add_used(memory, head, written as u32)?;
        used += 1;
    }
    Ok(used)
}

fn next<'a>(
    queue: &mut Queue,
    memory: &'a GuestMemoryMmap,
) -> Result<Option<DescriptorChain<&'a GuestMemoryMmap>>, virtio_queue::Error> {
    Ok(queue.iter(memory)?.next())
}
