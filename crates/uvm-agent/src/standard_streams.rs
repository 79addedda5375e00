//! What the ports are for that the agent is given as its standard streams.

use std::collections::BTreeSet;

use crate::flags::AgentFlags;
use crate::link::{DialError, Link, ReadHalf, WriteHalf};

/// The agent's standard streams, as far as they are ports of the host.
pub(crate) struct StandardStreams {
    /// Input, output, error.
    ports: [Option<u32>; 3],
    bridge_on_stdio: bool,
}

impl StandardStreams {
    pub(crate) fn new(ports: [Option<u32>; 3], flags: &AgentFlags) -> Self {
        Self { ports, bridge_on_stdio: flags.bridge_on_stdio }
    }

    /// Where the log goes: standard error, or output where that is all there is.
    pub(crate) fn log(&self) -> Option<u32> {
        let [_, output, error] = self.ports;
        error.or(output.filter(|_| !self.bridge_on_stdio))
    }

    /// Ports that are for nothing, but whose listeners wait to be connected.
    pub(crate) fn unused(&self) -> BTreeSet<u32> {
        let used = self.log();
        let idle = if self.bridge_on_stdio { &[] } else { &self.ports[..2] };
        idle.iter().copied().flatten().filter(|port| Some(*port) != used).collect()
    }

    /// The bridge on standard input and output: ports where they are given, else what this process was started with.
    pub(crate) async fn bridge(&self, link: &Link) -> Result<(ReadHalf, WriteHalf), DialError> {
        let [input, output, _] = self.ports;
        if let (Some(input), Some(output)) = (input, output)
            && input == output
        {
            return Ok(link.dial(input).await?.into_split());
        }
        // Each is kept whole: a half that was dropped would end the stream.
        let read: ReadHalf = match input {
            Some(port) => Box::new(link.dial(port).await?),
            None => Box::new(tokio::io::stdin()),
        };
        let write: WriteHalf = match output {
            Some(port) => Box::new(link.dial(port).await?),
            None => Box::new(tokio::io::stdout()),
        };
        Ok((read, write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;
    use crate::test_link;

    fn streams(ports: [Option<u32>; 3], bridge_on_stdio: bool) -> StandardStreams {
        StandardStreams::new(ports, &AgentFlags { bridge_on_stdio, ..Default::default() })
    }

    #[test]
    fn every_port_is_for_the_log_or_the_bridge_or_held() {
        for (ports, bridge_on_stdio, log, unused) in [
            ([None, None, None], false, None, &[][..]),
            ([None, None, Some(109)], false, Some(109), &[]),
            ([None, Some(109), None], false, Some(109), &[]),
            ([None, Some(109), Some(109)], false, Some(109), &[]),
            ([None, Some(109), Some(110)], false, Some(110), &[109]),
            ([Some(7), Some(109), Some(110)], false, Some(110), &[7, 109]),
            ([Some(109), Some(109), Some(109)], false, Some(109), &[]),
            ([Some(7), Some(7), Some(110)], true, Some(110), &[]),
            ([Some(7), Some(8), None], true, None, &[]),
        ] {
            let streams = streams(ports, bridge_on_stdio);
            assert_eq!(streams.log(), log, "{ports:?}");
            assert_eq!(streams.unused(), unused.iter().copied().collect(), "{ports:?}");
        }
    }

    #[tokio::test]
    async fn the_bridge_is_on_one_stream_or_two() {
        let (link, dir) = test_link::sockets();
        let listen = |port: u32| UnixListener::bind(dir.path().join(port.to_string())).expect("free");
        let (one, input, output) = (listen(7), listen(8), listen(9));
        let (mut read, mut write) = streams([Some(7), Some(7), None], true).bridge(&link).await.expect("dialled");
        let (mut host, _) = one.accept().await.expect("accepted");
        exchange(&mut read, &mut write, &mut host, None).await;
        let (mut read, mut write) = streams([Some(8), Some(9), None], true).bridge(&link).await.expect("dialled");
        let (mut to_guest, _) = input.accept().await.expect("accepted");
        let (mut from_guest, _) = output.accept().await.expect("accepted");
        exchange(&mut read, &mut write, &mut from_guest, Some(&mut to_guest)).await;
    }

    /// A byte each way, between the guest's halves and the host's one stream or two.
    async fn exchange(
        read: &mut ReadHalf,
        write: &mut WriteHalf,
        from_guest: &mut tokio::net::UnixStream,
        to_guest: Option<&mut tokio::net::UnixStream>,
    ) {
        write.write_all(b"g").await.expect("written");
        assert_eq!(from_guest.read_u8().await.expect("read"), b'g');
        to_guest.unwrap_or(from_guest).write_all(b"h").await.expect("written");
        assert_eq!(read.read_u8().await.expect("read"), b'h');
    }
}
