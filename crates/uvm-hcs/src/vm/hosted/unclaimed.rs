//! What was made and is on its way to whoever asked for it.

use std::sync::Arc;

use uvm_platform::BoxFuture;

use super::Link;
use crate::vm::Vm;

/// Undoes what was made.
type Undo<T> = fn(Arc<Vm>, T) -> BoxFuture<'static, ()>;

/// Something that nobody has yet. If nobody takes it, it is undone, at the VM's home.
pub(super) struct Unclaimed<T: Send + 'static> {
    made: Option<T>,
    link: Link,
    undo: Undo<T>,
}

impl<T: Send + 'static> Unclaimed<T> {
    pub(super) fn new(made: T, link: Link, undo: Undo<T>) -> Self {
        Self { made: Some(made), link, undo }
    }

    pub(super) fn claim(mut self) -> T {
        // Only this, `undo` and the drop take it.
        self.made.take().expect("what is unclaimed is there until it is claimed")
    }

    /// Undoes it, and waits for that.
    pub(super) async fn undo(mut self, vm: Arc<Vm>) {
        if let Some(made) = self.made.take() {
            (self.undo)(vm, made).await;
        }
    }
}

impl<T: Send + 'static> Drop for Unclaimed<T> {
    fn drop(&mut self) {
        if let Some(made) = self.made.take() {
            self.link.spawn(|vm| (self.undo)(vm, made));
        }
    }
}
