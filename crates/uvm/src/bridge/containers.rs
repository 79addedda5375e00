//! Which containers somebody wants to hear the end of, without I/O.

use std::collections::HashMap;

use tokio::sync::watch;
use uvm_wire::notification::ExitType;
use uvm_wire::{ContainerId, ContainerNotification};

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContainerEnd {
    /// Its init process ended. What the guest says of the reason is not to be relied on.
    Notified(ExitType),
    /// The bridge is closed: it is taken for ended.
    BridgeClosed,
    /// This end closed the container's handle.
    Closed,
}

/// Ends by container id.
#[derive(Default)]
pub(super) struct Containers {
    ends: HashMap<ContainerId, watch::Sender<Option<ContainerEnd>>>,
    closed: bool,
}

impl Containers {
    /// `None` if it is registered already.
    pub(super) fn register(&mut self, id: &ContainerId) -> Option<watch::Sender<Option<ContainerEnd>>> {
        if self.ends.contains_key(id) {
            return None;
        }
        let end = watch::Sender::new(self.closed.then_some(ContainerEnd::BridgeClosed));
        self.ends.insert(id.clone(), end.clone());
        Some(end)
    }

    /// Withdraws a registration: the one that was given this sender, not a later one of the same id.
    pub(super) fn unregister(&mut self, id: &ContainerId, end: &watch::Sender<Option<ContainerEnd>>) {
        if self.ends.get(id).is_some_and(|current| current.same_channel(end)) {
            self.ends.remove(id);
        }
    }

    /// The guest says that a container has ended. The first word counts.
    pub(super) fn ended(&mut self, notification: ContainerNotification) {
        if let Some(end) = self.ends.get(&notification.container_id) {
            set(end, ContainerEnd::Notified(notification.exit_type));
        } else {
            let container = notification.container_id.as_str();
            tracing::debug!(container, "the guest told the end of a container that nobody asked about");
        }
    }

    pub(super) fn bridge_closed(&mut self) {
        self.closed = true;
        for end in self.ends.values() {
            set(end, ContainerEnd::BridgeClosed);
        }
    }
}

fn set(end: &watch::Sender<Option<ContainerEnd>>, value: ContainerEnd) {
    end.send_if_modified(|end| {
        let first = end.is_none();
        if first {
            *end = Some(value);
        }
        first
    });
}

/// The wish to hear the end of one container. Dropping it withdraws it, so that the id can be used again.
pub(crate) struct Registration {
    id: ContainerId,
    end: watch::Sender<Option<ContainerEnd>>,
    unregister: Box<dyn Fn(&Self) + Send + Sync>,
}

impl Registration {
    pub(super) fn new(
        id: ContainerId,
        end: watch::Sender<Option<ContainerEnd>>,
        unregister: impl Fn(&Self) + Send + Sync + 'static,
    ) -> Self {
        Self { id, end, unregister: Box::new(unregister) }
    }

    pub(super) fn sender(&self) -> &watch::Sender<Option<ContainerEnd>> {
        &self.end
    }

    /// The container.
    pub(crate) fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Waits for the end. Cancel-safe.
    pub(crate) async fn ended(&self) -> ContainerEnd {
        let mut end = self.end.subscribe();
        // The sender is alive: `self` holds it.
        end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone()).unwrap_or(ContainerEnd::Closed)
    }

    /// Nobody wants to know any more; who waits is woken.
    pub(crate) fn close(&self) {
        set(&self.end, ContainerEnd::Closed);
        (self.unregister)(self);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.close();
    }
}
