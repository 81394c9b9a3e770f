//! The event ring, open while somebody monitors, and the monitors' connections.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use oxilium_abi::{COUNTER_EVENT_LOST, Counter, Direction};
use oxilium_api::{Answer, ApiError, ErrorCode, MonitorFilter};
use oxilium_kernel::events::EventReader;
use oxilium_kernel::{Node, ObserveError};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::server::{Service, send};
use crate::publish::{AddressBook, Hub, Received, Subscription, describe};
use crate::reconcile::{Input, View};
use crate::staged::{self, Tap, any_staged};

/// How often monitors are told of events that the programs could not deliver.
const TALLY: Duration = Duration::from_secs(1);

/// Monitors and staged policies share one reader of the ring; without either there is none, and programs make no
/// events.
#[derive(Clone, Debug)]
pub struct Monitors {
    hub: Hub,
    wanted: mpsc::Sender<oneshot::Sender<Result<Subscription, ApiError>>>,
}

impl Monitors {
    /// Starts the task that reads the ring, and the thread that compares flows with staged policies.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start<N: Node + 'static>(
        inputs: Sender<Input<N>>,
        view: watch::Receiver<Arc<View>>,
    ) -> io::Result<Self> {
        let (wanted, requests) = mpsc::channel(16);
        let hub = Hub::default();
        let pump = Pump {
            hub: hub.clone(),
            tap: staged::watch(inputs.clone(), view.clone())?,
            inputs,
            view,
            requests,
        };
        tokio::spawn(pump.run());
        Ok(Self { hub, wanted })
    }

    /// How many there are.
    pub fn readers(&self) -> usize {
        self.hub.readers()
    }

    /// A new monitor: from its start on, programs make events for it.
    async fn subscribe(&self) -> Result<Subscription, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.wanted.send(reply).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}

/// Why the ring is to be opened.
enum Wish {
    /// For a monitor.
    Monitor(oneshot::Sender<Result<Subscription, ApiError>>),
    /// A policy is staged.
    Staged,
}

struct Pump<N> {
    hub: Hub,
    /// Reads along while some policy is staged.
    tap: Tap,
    inputs: Sender<Input<N>>,
    view: watch::Receiver<Arc<View>>,
    requests: mpsc::Receiver<oneshot::Sender<Result<Subscription, ApiError>>>,
}

impl<N: Node + 'static> Pump<N> {
    async fn run(mut self) {
        while let Some(wish) = self.wish().await {
            let mut ring = match self.open().await {
                Ok(ring) => ring,
                Err(error) => {
                    self.refuse(wish, error).await;
                    continue;
                }
            };
            let left = Arc::new(Notify::new());
            if let Wish::Monitor(first) = wish {
                self.hub.admit(first, &left);
            }
            let mut book = AddressBook::default();
            let mut tally = tokio::time::interval(TALLY);
            // The ring is read on while the kernel's owner is busy with something else.
            let (mut asked, mut lost) = (None, None);
            while self.hub.readers() > 0 || any_staged(&self.view.borrow()) {
                tokio::select! {
                    event = ring.next() => match event {
                        Some(Ok(event)) => {
                            let view = Arc::clone(&self.view.borrow());
                            if any_staged(&view) {
                                self.tap.hand(&event);
                            }
                            if self.hub.readers() > 0
                                && let Some(event) = describe(&event, &book.open(&view, Instant::now()))
                            {
                                self.hub.publish(event);
                            }
                        }
                        Some(Err(error)) => tracing::warn!(%error, "an event cannot be read"),
                        None => break,
                    },
                    request = self.requests.recv() => match request {
                        Some(request) => {
                            if self.hub.readers() == 0 {
                                // What was lost before is not this one's.
                                lost = None;
                            }
                            self.hub.admit(request, &left);
                        }
                        None => return,
                    },
                    () = left.notified() => {}
                    _ = tally.tick(), if asked.is_none() && self.hub.readers() > 0 => {
                        asked = self.ask(Node::counters).ok();
                    }
                    answer = answered(&mut asked) => {
                        asked = None;
                        let now = answer.ok().and_then(events_lost);
                        if let (Some(now), Some(before)) = (now, lost)
                            && now > before
                        {
                            self.hub.lost(now - before);
                        }
                        lost = now;
                    }
                    looked = self.view.changed() => if looked.is_err() {
                        return;
                    },
                }
            }
        }
    }

    /// Waits until somebody wants events; none when the agent ends.
    async fn wish(&mut self) -> Option<Wish> {
        let mut view = self.view.clone();
        tokio::select! {
            request = self.requests.recv() => request.map(Wish::Monitor),
            staged = view.wait_for(|view| any_staged(view)) => staged.is_ok().then_some(Wish::Staged),
        }
    }

    /// The ring cannot be opened: a monitor asks again itself.
    async fn refuse(&self, wish: Wish, error: ApiError) {
        const PAUSE: Duration = Duration::from_secs(5);
        match wish {
            Wish::Monitor(request) => drop(request.send(Err(error))),
            Wish::Staged => {
                tracing::warn!(%error, "staged policies cannot see dropped flows; tried again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn open(&self) -> Result<EventReader, ApiError> {
        let opened = self.ask(N::events)?.await.map_err(|_| ending())?;
        opened.map_err(|error| ApiError::new(ErrorCode::Kernel, error.to_string()))
    }

    /// Asks whoever owns the kernel.
    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut N) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, ApiError> {
        let (reply, answer) = oneshot::channel();
        let errand = Input::Errand(Box::new(move |node: &mut N, _view: &View| {
            drop(reply.send(work(node)));
        }));
        self.inputs.send(errand).map_err(|_| ending())?;
        Ok(answer)
    }
}

fn ending() -> ApiError {
    ApiError::new(ErrorCode::NotReady, "the agent is ending")
}

/// The answer to what was asked; never, where nothing was.
async fn answered<T>(
    asked: &mut Option<oneshot::Receiver<T>>,
) -> Result<T, oneshot::error::RecvError> {
    match asked {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

/// Events that programs could not deliver, since the maps were made.
fn events_lost(counters: Result<BTreeMap<(Direction, u8), Counter>, ObserveError>) -> Option<u64> {
    let counters = counters
        .inspect_err(|error| tracing::warn!(%error, "lost events cannot be counted"))
        .ok()?;
    let lost = counters.get(&(Direction::Ingress, COUNTER_EVENT_LOST));
    Some(lost.map_or(0, |counter| counter.packets))
}

/// Writes events until the client goes away.
pub(super) async fn stream<N: Node + 'static>(
    service: &Service<N>,
    filter: &MonitorFilter,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let mut subscription = match service.monitors.subscribe().await {
        Ok(subscription) => subscription,
        Err(error) => return send(writer, &Answer::<()>::Error(error)).await,
    };
    let mut byte = [0];
    loop {
        tokio::select! {
            received = subscription.next() => match received {
                Received::Event(event) if filter.wants(&event) => {
                    send(writer, &Answer::Ok(&*event)).await?;
                }
                Received::Event(_) => {}
                Received::Missed(lost) => {
                    let message = format!("{lost} events were lost: this monitor is too slow");
                    tell_loss(writer, message).await?;
                }
                Received::Lost(lost) => {
                    let message = format!("{lost} events were lost: there were more than a CPU may make");
                    tell_loss(writer, message).await?;
                }
                Received::End => return Ok(()),
            },
            // A monitor says nothing more; what can be read is its end.
            read = reader.read(&mut byte) => if read? == 0 {
                return Ok(());
            },
        }
    }
}

async fn tell_loss(writer: &mut OwnedWriteHalf, message: String) -> io::Result<()> {
    let error = ApiError::new(ErrorCode::Timeout, message);
    send(writer, &Answer::<()>::Error(error)).await
}
