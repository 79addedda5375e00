//! What carries streams to the host: the port that was there at boot, and those that show up later.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use uvm_mux::channel::{Channel, PortChannel};
use uvm_mux::{Config, Mux, Role};

use crate::agent::Agent;
use crate::bridge;
use crate::host_link;
use crate::link::Link;
use crate::log::{self, Log};
use crate::log_out;
use crate::port::{LaterPorts, Port};

/// When a port that was lost is tried again, in case it is still there.
const RETRY: Duration = Duration::from_secs(1);

/// All transports of this guest. Clones are handles of the same ones.
#[derive(Clone)]
pub(crate) struct Transports {
    shared: Arc<Shared>,
}

struct Shared {
    log: Log,
    live: Mutex<Vec<(String, Mux)>>,
    /// Speaks when one was lost for good.
    lost: Notify,
    /// Only one transport carries the log.
    log_turn: Arc<log_out::Turn>,
}

impl Transports {
    pub(crate) fn new(log: Log) -> Self {
        let lost = Notify::new();
        Self { shared: Arc::new(Shared { log, live: Mutex::default(), lost, log_turn: Arc::default() }) }
    }

    /// Runs the multiplexer over `port`.
    pub(crate) fn add(&self, port: Port) -> io::Result<Mux> {
        Ok(self.run(port.name, PortChannel::new(port.file)?))
    }

    fn run(&self, name: String, channel: impl Channel) -> Mux {
        let (mux, driver) = Mux::new(channel, Role::Guest, Config::default());
        self.live().push((name.clone(), mux.clone()));
        tokio::spawn({
            let this = self.clone();
            async move {
                let why = driver.await;
                log::console(format_args!("the serial port {name} to the host is lost: {why}"));
                this.shared.log.error("transport lost", &why);
                this.live().retain(|(other, _)| *other != name);
                this.shared.lost.notify_one();
            }
        });
        tokio::spawn(host_link::follow_owner(mux.clone(), self.shared.log.clone()));
        mux
    }

    /// Serves the bridge, and the log if it has a port, over `first` and over every transport that shows up later, until
    /// the VM is to end and nothing is owed any more. Virtual sockets as the first may be those of programs, taken for the
    /// bridge because the serial port was late: then nobody takes what is dialled over them, and the port carries all.
    pub(crate) async fn serve(self, agent: Arc<Agent>, first: Link, log_port: Option<u32>) {
        let later = LaterPorts::watch();
        if let Err(e) = &later {
            self.shared.log.error("serial ports that appear later are not noticed", e);
        }
        self.serve_also(agent, first, log_port, later.ok()).await;
    }

    async fn serve_also<L: Later>(self, agent: Arc<Agent>, first: Link, log_port: Option<u32>, mut later: Option<L>) {
        let mut bridges = JoinSet::new();
        self.serve_over(&mut bridges, &agent, first, log_port);
        let mut retry = None;
        loop {
            if agent.shutdown().is_some() && bridges.is_empty() {
                return;
            }
            let in_use: HashSet<String> = self.live().iter().map(|(name, _)| name.clone()).collect();
            tokio::select! {
                Some(_) = bridges.join_next() => {}
                _ = agent.shutdown_wanted(), if agent.shutdown().is_none() => {}
                () = self.shared.lost.notified() => retry = Some(RETRY),
                port = next(&mut later, &in_use, retry), if agent.shutdown().is_none() => {
                    retry = None;
                    match port {
                        Ok((name, channel)) => {
                            let mux = self.run(name, channel);
                            self.serve_over(&mut bridges, &agent, Link::Mux(mux), log_port);
                        }
                        Err(e) => {
                            self.shared.log.error("a serial port to the host cannot be used", &e);
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                }
            }
        }
    }

    fn serve_over(&self, bridges: &mut JoinSet<()>, agent: &Arc<Agent>, link: Link, log_port: Option<u32>) {
        if let Some(port) = log_port {
            let (log, turn) = (self.shared.log.clone(), Arc::clone(&self.shared.log_turn));
            tokio::spawn(log_out::send(link.clone(), port, log, turn));
        }
        bridges.spawn(bridge::serve(Arc::clone(agent), link));
    }

    /// Waits until the host has taken what is on its way.
    pub(crate) async fn quiesce(&self) {
        let live: Vec<Mux> = self.live().iter().map(|(_, mux)| mux.clone()).collect();
        for mux in live {
            // One that is down has nothing on its way.
            let _ = mux.quiesce().await;
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, Vec<(String, Mux)>> {
        self.shared.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where transports come from that show up later.
trait Later: Send {
    type Channel: Channel;

    /// Waits for one that is not `in_use`; see [`LaterPorts::next`].
    fn next(
        &mut self,
        in_use: &HashSet<String>,
        retry: Option<Duration>,
    ) -> impl Future<Output = io::Result<(String, Self::Channel)>> + Send;
}

impl Later for LaterPorts {
    type Channel = PortChannel;

    async fn next(&mut self, in_use: &HashSet<String>, retry: Option<Duration>) -> io::Result<(String, PortChannel)> {
        let port = LaterPorts::next(self, in_use, retry).await?;
        Ok((port.name, PortChannel::new(port.file)?))
    }
}

async fn next<L: Later>(
    later: &mut Option<L>,
    in_use: &HashSet<String>,
    retry: Option<Duration>,
) -> io::Result<(String, L::Channel)> {
    match later {
        Some(later) => later.next(in_use, retry).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::{mpsc, oneshot};
    use uvm_mux::channel::SocketChannel;
    use uvm_wire::ports::BRIDGE_PORT;

    use super::*;
    use crate::flags::AgentFlags;
    use crate::process::Reap;
    use crate::shutdown::Shutdown;
    use crate::test_link::host_end;

    /// Sockets in place of ports, as they show up.
    struct Sockets(mpsc::UnboundedReceiver<(String, SocketChannel)>);

    impl Later for Sockets {
        type Channel = SocketChannel;

        async fn next(&mut self, in_use: &HashSet<String>, _: Option<Duration>) -> io::Result<(String, SocketChannel)> {
            let (name, channel) = self.0.recv().await.ok_or(io::ErrorKind::NotFound)?;
            assert!(!in_use.contains(&name), "{name} is in use");
            Ok((name, channel))
        }
    }

    fn agent(log: &Log) -> Arc<Agent> {
        let (ready, is_ready) = oneshot::channel();
        ready.send(()).expect("waits");
        Arc::new(Agent::new(Reap::Known, log.clone(), is_ready).expect("an agent"))
    }

    #[tokio::test]
    async fn the_bridge_is_dialled_over_a_transport_that_shows_up_after_the_first_is_lost() {
        let log = Log::new(&AgentFlags::default());
        let transports = Transports::new(log.clone());
        let agent = agent(&log);
        let (appear, sockets) = mpsc::unbounded_channel();
        let (host, channel) = host_end();
        let mut bridges = host.listen(BRIDGE_PORT).expect("free");
        let first = transports.run("first".into(), channel);
        let serving =
            transports.clone().serve_also(Arc::clone(&agent), Link::Mux(first.clone()), None, Some(Sockets(sockets)));
        let serving = tokio::spawn(serving);
        let mut bridge = bridges.accept().await.expect("dialled");
        first.close(); // as when the port is pulled out
        assert!(bridge.read_u8().await.is_err());
        agent.outbox.push(b"owed".to_vec());
        for name in ["second", "third"] {
            let (host, channel) = host_end();
            let mut bridges = host.listen(BRIDGE_PORT).expect("free");
            appear.send((name.into(), channel)).expect("waits");
            if name == "third" {
                // While one transport carries the bridge, another waits.
                let early = tokio::time::timeout(Duration::from_millis(500), bridges.accept()).await;
                assert!(early.is_err(), "{early:?}");
                continue;
            }
            let mut bridge = bridges.accept().await.expect("dialled");
            let mut owed = [0; 4];
            bridge.read_exact(&mut owed).await.expect("delivered");
            assert_eq!(&owed, b"owed");
            tokio::spawn(async move {
                let _open = (host, bridges, bridge);
                std::future::pending::<()>().await;
            });
        }
        agent.shut_down(Shutdown::Graceful);
        agent.last_call();
        serving.await.expect("ends with the VM");
    }

    #[tokio::test]
    async fn a_port_that_is_late_carries_the_bridge_and_the_log_in_place_of_sockets_that_nobody_serves() {
        let log = Log::new(&AgentFlags::default());
        let agent = agent(&log);
        let (appear, ports) = mpsc::unbounded_channel();
        let (dialled, mut attempts) = mpsc::unbounded_channel();
        let link = Link::Sockets(crate::link::Sockets::new(move |port| {
            dialled.send(port).expect("waits");
            Err(io::ErrorKind::ConnectionReset.into())
        }));
        let serving =
            Transports::new(log.clone()).serve_also(Arc::clone(&agent), link, Some(109), Some(Sockets(ports)));
        let serving = tokio::spawn(serving);
        let mut in_vain = HashSet::new();
        while in_vain != HashSet::from([109, BRIDGE_PORT]) {
            in_vain.insert(attempts.recv().await.expect("dials"));
        }
        let (host, channel) = host_end();
        let (mut bridges, mut logs) = (host.listen(BRIDGE_PORT).expect("free"), host.listen(109).expect("free"));
        appear.send(("late".into(), channel)).expect("waits");
        let mut bridge = bridges.accept().await.expect("dialled");
        agent.outbox.push(b"owed".to_vec());
        let mut owed = [0; 4];
        bridge.read_exact(&mut owed).await.expect("delivered");
        assert_eq!(&owed, b"owed");
        let mut entry = [0; 1];
        logs.accept().await.expect("dialled").read_exact(&mut entry).await.expect("an entry");
        tokio::spawn(async move {
            let _open = (host, bridges, bridge, attempts);
            std::future::pending::<()>().await;
        });
        agent.shut_down(Shutdown::Graceful);
        agent.last_call();
        serving.await.expect("ends with the VM");
    }
}
