//! The stream of events that programs put into the ring buffer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::maps::{Map, MapData, RingBuf};
use oxilium_abi::{Event, NodeWord, map};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use zerocopy::FromBytes;

use crate::error::ObserveError;
use crate::sys;
use crate::table::Table;

/// Something in the ring that is no event.
#[derive(Debug, Error)]
pub enum EventError {
    /// The ring cannot be waited for.
    #[error("the event ring cannot be read: {0}")]
    Ring(#[from] io::Error),
    /// A record of another size: the programs and this agent do not fit together.
    #[error(
        "the event ring holds a record of {found} bytes where an event has {expected}; the loaded programs are of another version"
    )]
    Size {
        /// Its size.
        found: usize,
        /// What it should be.
        expected: usize,
    },
}

/// Reads events. While it lives, programs make them.
#[derive(Debug)]
pub struct EventReader(Inner);

#[derive(Debug)]
enum Inner {
    Kernel(Box<KernelRing>),
    Fake(mpsc::UnboundedReceiver<Event>),
}

impl EventReader {
    /// The next event; waits for one. None only from a fake whose node is gone.
    ///
    /// # Errors
    /// [`EventError`]; a record that is no event is skipped, reading can go on after it.
    pub async fn next(&mut self) -> Option<Result<Event, EventError>> {
        match &mut self.0 {
            Inner::Kernel(ring) => Some(ring.next().await),
            Inner::Fake(receiver) => receiver.recv().await.map(Ok),
        }
    }

    pub(crate) fn fake(receiver: mpsc::UnboundedReceiver<Event>) -> Self {
        Self(Inner::Fake(receiver))
    }

    /// Maps the ring and tells the programs that somebody reads.
    pub(crate) fn open(
        ring: MapData,
        node_words: Arc<Table<u32, u64>>,
        taken: Arc<AtomicBool>,
    ) -> Result<Self, ObserveError> {
        if taken.swap(true, Ordering::AcqRel) {
            return Err(ObserveError::Map {
                map: map::EVENTS,
                source: io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "it has a reader already; share that one's events",
                ),
            });
        }
        // From here on the guard gives the ring back.
        let guard = Taken { node_words, taken };
        let unreadable = |source| ObserveError::Map {
            map: map::EVENTS,
            source,
        };
        let ring =
            RingBuf::try_from(Map::RingBuf(ring)).map_err(|e| unreadable(io::Error::other(e)))?;
        let ring = sys::watch_ring(ring).map_err(unreadable)?;
        let slot = NodeWord::EventReaders as u32;
        let told = |source| ObserveError::Map {
            map: map::NODE_WORDS,
            source,
        };
        // A reader that was killed has left it so: then there is nothing to be told.
        if guard.node_words.get(&slot).map_err(told)? != Some(1) {
            guard.node_words.update(&slot, &1).map_err(told)?;
        }
        Ok(Self(Inner::Kernel(Box::new(KernelRing {
            ring,
            _guard: guard,
        }))))
    }
}

struct KernelRing {
    ring: AsyncFd<RingBuf<MapData>>,
    _guard: Taken,
}

impl std::fmt::Debug for KernelRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelRing").finish_non_exhaustive()
    }
}

impl KernelRing {
    async fn next(&mut self) -> Result<Event, EventError> {
        loop {
            if let Some(record) = self.ring.get_mut().next() {
                return Event::read_from_bytes(&record).map_err(|_| EventError::Size {
                    found: record.len(),
                    expected: size_of::<Event>(),
                });
            }
            let mut ready = self.ring.readable_mut().await?;
            // Between the last look and now a record may have come: look again before waiting anew.
            if let Some(record) = ready.get_inner_mut().next() {
                return Event::read_from_bytes(&record).map_err(|_| EventError::Size {
                    found: record.len(),
                    expected: size_of::<Event>(),
                });
            }
            ready.clear_ready();
        }
    }
}

/// The one reader's place at the ring.
#[derive(Debug)]
struct Taken {
    node_words: Arc<Table<u32, u64>>,
    taken: Arc<AtomicBool>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Err(error) = self.node_words.update(&(NodeWord::EventReaders as u32), &0) {
            tracing::warn!(%error, "programs could not be told that nobody reads events; they go on making them");
        }
        self.taken.store(false, Ordering::Release);
    }
}
