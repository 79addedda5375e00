//! Packets between the device and the guest's rings.
//!
//! A ring is the guest's memory: what is in it may change at any time and may be nonsense. virtio-queue checks indices,
//! addresses and the length of chains; a chain is read in any number of descriptors, since Linux scatters what is longer
//! than 32 KiB.

use std::io::{Read, Write};

use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Reader};
use vm_memory::GuestMemoryMmap;

use crate::device::{Device, Payload};
use crate::header::{HEADER_LEN, Header};

/// Packets taken from the guest before others get their turn under the lock.
const BATCH: usize = 64;
/// Buffers of the guest that are filled before others get their turn: an honest guest has no more than 128 at once, but
/// one that gives new ones meanwhile, each for a few bytes, would keep the lock.
const FILLED: usize = 1024;

/// What a turn at a ring came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Chains that were given back to the guest: it is to be told.
    pub used: usize,
    /// There is more, for another turn.
    pub more: bool,
}

/// What makes a ring nonsense: the guest's driver is of no more use.
#[derive(Debug, Error)]
pub enum BadRing {
    /// Its indices or addresses are.
    #[error(transparent)]
    Queue(#[from] virtio_queue::Error),
    /// More buffers than the ring is long, all put there while they were being used, and not one to put a packet into.
    #[error("more than {limit} buffers in a row have no room for a packet; a ring of {limit} cannot hold them")]
    NoRoom {
        /// Entries of the ring.
        limit: u16,
    },
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

/// Sends packets while the guest has room for them. If it has none, it is asked to kick when it has.
///
/// # Errors
/// The ring itself is nonsense.
pub fn send(device: &mut Device, queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<Turn, BadRing> {
    let (mut used, mut useless) = (0, 0);
    while device.has_packet() {
        if used == FILLED {
            return Ok(Turn { used, more: true });
        }
        if useless > queue.size() {
            // The guest moves its index as fast as its buffers come back. The packet would wait here for ever.
            return Err(BadRing::NoRoom { limit: queue.size() });
        }
        useless += 1;
        if let Some(chain) = next(queue, memory)? {
            let head = chain.head_index();
            let written = fill(device, chain, memory);
            if written > 0 {
                useless = 0;
            }
            queue.add_used(memory, head, written)?;
            used += 1;
        } else if !queue.enable_notification(memory)? {
            break;
        }
        // Else room came before the guest was asked to kick: it is used. A guest may take it away again.
    }
    Ok(Turn { used, more: false })
}

/// Puts the next packet into a chain, and gives its length: 0 if there is no room for it.
fn fill(device: &mut Device, chain: DescriptorChain<&GuestMemoryMmap>, memory: &GuestMemoryMmap) -> u32 {
    let Ok(mut writer) = chain.writer(memory) else { return 0 };
    // A buffer for less than one byte of payload is of no use to anybody; an honest guest gives 4 KiB.
    let room = writer.available_bytes().saturating_sub(HEADER_LEN);
    if room == 0 {
        return 0;
    }
    let Some(packet) = device.next_packet(room) else { return 0 };
    let (first, second) = device.payload(&packet);
    let write = writer
        .write_all(&packet.header.encode())
        .and_then(|()| writer.write_all(first))
        .and_then(|()| writer.write_all(second));
    if write.is_err() {
        return 0;
    }
    device.sent(&packet);
    HEADER_LEN as u32 + packet.header.length
}

fn next<'a>(
    queue: &mut Queue,
    memory: &'a GuestMemoryMmap,
) -> Result<Option<DescriptorChain<&'a GuestMemoryMmap>>, virtio_queue::Error> {
    Ok(queue.iter(memory)?.next())
}
