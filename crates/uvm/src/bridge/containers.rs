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
    /// Its state was deleted before the guest told its end, which it does not do for one that was never started.
    Deleted,
    /// The bridge is closed, or the host's service that holds the guest connection is gone, or the VM: it is taken for
    /// ended.
    BridgeClosed,
    /// This end closed the container's handle.
    Closed,
}

/// Where the end of a container is told, once.
type End = watch::Sender<Option<ContainerEnd>>;

/// Ends by container id.
#[derive(Default)]
pub(super) struct Containers {
    ends: HashMap<ContainerId, Vec<Interest>>,
    closed: bool,
}

/// The wish of one handle.
struct Interest {
    end: End,
    /// It is that of the handle that makes the container: there can be no other of the same id.
    is_maker: bool,
}

impl Containers {
    /// `None` if somebody is making, or has made, one with this id.
    pub(super) fn register_maker(&mut self, id: &ContainerId) -> Option<End> {
        let is_free = self.maker(id).is_none();
        is_free.then(|| self.add(id, true, None))
    }

    /// The wish of somebody who has heard of the container. If its end was told already, its maker knows.
    pub(super) fn register_other(&mut self, id: &ContainerId) -> End {
        let known = self.maker(id).and_then(|maker| maker.end.borrow().clone());
        self.add(id, false, known)
    }

    fn maker(&self, id: &ContainerId) -> Option<&Interest> {
        self.ends.get(id)?.iter().find(|interest| interest.is_maker)
    }

    fn add(&mut self, id: &ContainerId, is_maker: bool, known: Option<ContainerEnd>) -> End {
        let end = watch::Sender::new(known.or(self.closed.then_some(ContainerEnd::BridgeClosed)));
        self.ends.entry(id.clone()).or_default().push(Interest { end: end.clone(), is_maker });
        end
    }

    /// Withdraws a registration: the one that was given this sender, not a later one of the same id.
    pub(super) fn unregister(&mut self, id: &ContainerId, end: &End) {
        if let Some(ends) = self.ends.get_mut(id) {
            ends.retain(|interest| !interest.end.same_channel(end));
            if ends.is_empty() {
                self.ends.remove(id);
            }
        }
    }

    /// The guest says that a container has ended. The first word counts.
    pub(super) fn ended(&self, notification: ContainerNotification) {
        let ContainerNotification { container_id, exit_type, .. } = notification;
        if !self.tell(&container_id, &ContainerEnd::Notified(exit_type)) {
            tracing::debug!(container = container_id.as_str(), "the guest told an end that nobody asked about");
        }
    }

    /// The guest does not know a container any more.
    pub(super) fn deleted(&self, id: &ContainerId) {
        self.tell(id, &ContainerEnd::Deleted);
    }

    /// `false`: nobody wants to know.
    fn tell(&self, id: &ContainerId, value: &ContainerEnd) -> bool {
        let Some(ends) = self.ends.get(id) else { return false };
        for interest in ends {
            set(&interest.end, value.clone());
        }
        true
    }

    pub(super) fn bridge_closed(&mut self) {
        self.closed = true;
        for interest in self.ends.values().flatten() {
            set(&interest.end, ContainerEnd::BridgeClosed);
        }
    }
}

fn set(end: &End, value: ContainerEnd) {
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
    end: End,
    unregister: Box<dyn Fn(&Self) + Send + Sync>,
}

impl Registration {
    pub(super) fn new(id: ContainerId, end: End, unregister: impl Fn(&Self) + Send + Sync + 'static) -> Self {
        Self { id, end, unregister: Box::new(unregister) }
    }

    pub(super) fn sender(&self) -> &End {
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

#[cfg(test)]
mod tests {
    use uvm_wire::notification::ExitType;

    use super::*;

    fn end(id: &str, exit_type: ExitType) -> ContainerNotification {
        ContainerNotification::new(id.into(), None, exit_type)
    }

    fn known(end: &End) -> Option<ContainerEnd> {
        end.borrow().clone()
    }

    #[test]
    fn a_container_has_one_maker_and_any_number_of_others() {
        let (mut containers, id) = (Containers::default(), ContainerId::from("c"));
        let before = containers.register_other(&id);
        let maker = containers.register_maker(&id).expect("the first");
        assert!(containers.register_maker(&id).is_none());
        let after = containers.register_other(&id);
        containers.ended(end("c", ExitType::ForcedExit));
        for heard in [&before, &maker, &after] {
            assert_eq!(known(heard), Some(ContainerEnd::Notified(ExitType::ForcedExit)));
        }
        containers.unregister(&id, &maker);
        containers.register_maker(&id).expect("it is free");
    }

    #[test]
    fn who_comes_late_hears_what_the_maker_of_this_one_has_heard() {
        let (mut containers, id) = (Containers::default(), ContainerId::from("c"));
        let first = containers.register_maker(&id).expect("the first");
        let old = containers.register_other(&id);
        containers.ended(end("c", ExitType::GracefulExit));
        let late = containers.register_other(&id);
        assert_eq!(known(&late), Some(ContainerEnd::Notified(ExitType::GracefulExit)));
        // The next one of that id has not ended.
        containers.unregister(&id, &first);
        let second = containers.register_maker(&id).expect("it is free");
        let of_second = containers.register_other(&id);
        assert_eq!((known(&second), known(&of_second)), (None, None));
        assert_eq!(known(&old), Some(ContainerEnd::Notified(ExitType::GracefulExit)));
    }

    #[test]
    fn nothing_is_kept_of_who_went() {
        let (mut containers, id) = (Containers::default(), ContainerId::from("c"));
        let (maker, other) = (containers.register_maker(&id).expect("the only one"), containers.register_other(&id));
        containers.unregister(&id, &maker);
        containers.unregister(&id, &other);
        assert!(containers.ends.is_empty());
        containers.ended(end("x", ExitType::ForcedExit));
        assert!(containers.ends.is_empty(), "a guest cannot fill the table");
    }

    #[test]
    fn all_ends_are_told_when_the_bridge_closes_and_after() {
        let mut containers = Containers::default();
        let open = containers.register_other(&"c".into());
        containers.bridge_closed();
        let late = containers.register_maker(&"d".into()).expect("the first");
        assert_eq!((known(&open), known(&late)), (Some(ContainerEnd::BridgeClosed), Some(ContainerEnd::BridgeClosed)));
    }
}
