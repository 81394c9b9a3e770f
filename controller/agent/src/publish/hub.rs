//! From one reader of the event ring to any number of monitors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oxilium_api::{ApiError, MonitorEvent};
use tokio::sync::{Notify, broadcast, oneshot};

/// Events that a slow monitor may lag behind before it loses the oldest ones.
const QUEUE: usize = 4096;

/// What all monitors are told.
#[derive(Clone, Debug)]
enum News {
    Event(Arc<MonitorEvent>),
    Lost(u64),
}

/// Hands events to monitors.
#[derive(Clone, Debug)]
pub struct Hub {
    sender: broadcast::Sender<News>,
    readers: Arc<AtomicUsize>,
}

/// A monitor's end. Counted as a reader while it lives.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<News>,
    readers: Arc<AtomicUsize>,
    left: Arc<Notify>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(QUEUE),
            readers: Arc::default(),
        }
    }
}

impl Hub {
    /// Lets a monitor in; `left` is notified when it goes.
    pub fn admit(
        &self,
        reply: oneshot::Sender<Result<Subscription, ApiError>>,
        left: &Arc<Notify>,
    ) {
        self.readers.fetch_add(1, Ordering::Relaxed);
        let subscription = Subscription {
            receiver: self.sender.subscribe(),
            readers: Arc::clone(&self.readers),
            left: Arc::clone(left),
        };
        // A monitor that went away in the meantime is dropped here, and so not counted.
        drop(reply.send(Ok(subscription)));
    }

    /// How many monitors there are.
    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    /// Gives an event to all monitors; with none it is gone.
    pub fn publish(&self, event: MonitorEvent) {
        // The only failure is that nobody listens.
        drop(self.sender.send(News::Event(Arc::new(event))));
    }

    /// Tells all monitors that the programs could not deliver so many events.
    pub fn lost(&self, events: u64) {
        drop(self.sender.send(News::Lost(events)));
    }
}

/// What a monitor gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// An event.
    Event(Arc<MonitorEvent>),
    /// So many were lost, because this monitor was slow.
    Missed(u64),
    /// So many came to nobody: there were more than programs may make, or than the ring holds.
    Lost(u64),
    /// The agent ends.
    End,
}

impl Subscription {
    /// The next event.
    pub async fn next(&mut self) -> Received {
        match self.receiver.recv().await {
            Ok(News::Event(event)) => Received::Event(event),
            Ok(News::Lost(lost)) => Received::Lost(lost),
            Err(broadcast::error::RecvError::Lagged(lost)) => Received::Missed(lost),
            Err(broadcast::error::RecvError::Closed) => Received::End,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
        self.left.notify_one();
    }
}
