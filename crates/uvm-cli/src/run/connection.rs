//! When all that a command sent over one connection has been passed on to the host.

use uvm_mux::relay::Progress;

use super::settle::{Settling, TICK};

/// So many ticks in which the host takes nothing of what waits for it are too many (10 s).
const STALLED_TICKS: u32 = 200;

/// The command has ended: waits until all that was on its way has come and was taken. Whether it was.
pub(super) async fn settled(progress: &Progress) -> bool {
    let mut settling = Settling::from(progress.came());
    let (mut taken, mut stalled) = (progress.taken(), 0);
    while !progress.is_over() {
        tokio::time::sleep(TICK).await;
        let waits = progress.waits();
        if settling.tick(progress.came(), waits) {
            break;
        }
        let before = std::mem::replace(&mut taken, progress.taken());
        stalled = if waits && taken == before { stalled + 1 } else { 0 };
        if stalled >= STALLED_TICKS {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;
    use uvm_mux::relay::relay;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_takes_nothing_is_not_waited_for_for_ever() {
        let (mut program, guest) = tokio::io::duplex(1 << 20);
        let (host, ours) = UnixStream::pair().expect("a pair");
        program.write_all(&vec![b'g'; 1 << 20]).await.expect("there is room");
        let progress = Progress::default();
        tokio::select! {
            _ = relay(guest, ours, &progress) => panic!("it has not ended"),
            all_taken = settled(&progress) => assert!(!all_taken),
        }
        drop((host, program));
    }
}
