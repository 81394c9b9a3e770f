//! The thread that looks at flows while some policy is staged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel,
};
use std::thread;
use std::time::{Duration, Instant};

use oxilium_abi::{COUNTER_EVENT_LOST, Event};
use oxilium_kernel::port::Flow;
use oxilium_kernel::{Node, ObserveError};
use tokio::sync::watch;

use super::{Auditor, StagedReports};
use crate::reconcile::{Input, View};

/// Time between two looks at conntrack. A closed TCP flow stays there for twice as long.
const SWEEP: Duration = Duration::from_secs(5);
/// How soon a new picture is noticed when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// Of its time the thread computes, and has conntrack read, one part in so many.
const SHARE: u32 = 10;
/// Events that may wait.
const QUEUE: usize = 4096;

/// Is there a staged policy?
pub(crate) fn any_staged(view: &View) -> bool {
    view.world.policies.values().any(|policy| policy.audit)
}

/// Where the reader of the event ring puts events.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    events: SyncSender<Event>,
    lost: Arc<AtomicU64>,
}

impl Tap {
    /// Hands an event over, or counts it as lost.
    pub(crate) fn hand(&self, event: &Event) {
        if let Err(TrySendError::Full(_)) = self.events.try_send(*event) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Starts the thread. It ends with the reconcile loop.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn watch<N: Node + 'static>(
    inputs: Sender<Input<N>>,
    view: watch::Receiver<Arc<View>>,
) -> std::io::Result<Tap> {
    let (events, received) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let watcher = Watcher {
        inputs,
        view,
        lost: lost.clone(),
        auditor: Auditor::default(),
        told: StagedReports::default(),
        next_look: Instant::now(),
        next_sweep: Instant::now(),
    };
    thread::Builder::new()
        .name("staged".to_owned())
        .spawn(move || watcher.run(&received))?;
    Ok(Tap { events, lost })
}

struct Watcher<N> {
    inputs: Sender<Input<N>>,
    view: watch::Receiver<Arc<View>>,
    lost: Arc<AtomicU64>,
    auditor: Auditor,
    /// The reports that the reconcile loop has.
    told: StagedReports,
    next_look: Instant,
    next_sweep: Instant,
}

/// The reconcile loop has ended.
struct Ended;

impl<N: Node + 'static> Watcher<N> {
    fn run(mut self, events: &Receiver<Event>) {
        loop {
            let event = match events.recv_timeout(TICK) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.turn(event.as_ref()).is_err() {
                return;
            }
        }
    }

    fn turn(&mut self, event: Option<&Event>) -> Result<(), Ended> {
        let view = Arc::clone(&self.view.borrow());
        let now = Instant::now();
        if self.auditor.is_behind(&view) && now >= self.next_look {
            if self.auditor.staged.is_empty() && any_staged(&view) {
                // What was lost before it began is not its loss.
                self.next_sweep = now;
                let (_, lost) = self.ask()?;
                self.auditor.lost(lost);
            }
            self.auditor.look(view);
            self.next_look = Instant::now() + self.auditor.took * SHARE;
        }
        if let Some(event) = event {
            self.auditor.event(event, now);
        }
        if now >= self.next_sweep && !self.auditor.staged.is_empty() {
            let asked = Instant::now();
            let (flows, lost) = self.ask()?;
            let took = asked.elapsed();
            self.auditor.lost(lost);
            self.auditor.flows(&flows, Instant::now());
            self.next_sweep = Instant::now() + SWEEP.max(took * SHARE);
            self.tell()?;
        } else if self.told.len() != self.auditor.staged.len() {
            self.tell()?;
        }
        Ok(())
    }

    /// Conntrack, and how many events were lost.
    fn ask(&self) -> Result<(Vec<Flow>, u64), Ended> {
        let (reply, answer) = channel();
        let errand = Input::Errand(Box::new(move |node: &mut N, _: &View| {
            drop(reply.send(read(node)));
        }));
        self.inputs.send(errand).map_err(|_| Ended)?;
        let queue = self.lost.load(Ordering::Relaxed);
        match answer.recv().map_err(|_| Ended)? {
            Ok((flows, lost)) => Ok((flows, lost + queue)),
            Err(error) => {
                tracing::warn!(%error, "flows cannot be compared with staged policies; tried again");
                Ok((Vec::new(), self.auditor.lost))
            }
        }
    }

    fn tell(&mut self) -> Result<(), Ended> {
        let reports = self.auditor.reports();
        if reports == self.told {
            return Ok(());
        }
        self.told.clone_from(&reports);
        let input = Input::Staged(Arc::new(reports));
        self.inputs.send(input).map_err(|_| Ended)
    }
}

fn read<N: Node>(node: &mut N) -> Result<(Vec<Flow>, u64), ObserveError> {
    let flows = node.flows()?;
    let lost = node
        .counters()?
        .iter()
        .filter(|((_, reason), _)| *reason == COUNTER_EVENT_LOST)
        .map(|(_, counter)| counter.packets)
        .sum();
    Ok((flows, lost))
}
