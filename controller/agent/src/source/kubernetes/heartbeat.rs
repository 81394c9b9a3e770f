//! Asks now and then whether the API server is there, and whether objects that are held may go. A task of its own:
//! an answer that does not come holds nothing up.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::follow::Told;
use super::requests::Requests;
use super::resource::Resource;

/// How often.
const PERIOD: Duration = Duration::from_secs(20);

/// Until nobody listens any more. `held`: kinds of which objects are held that an earlier definition defined.
pub(super) async fn beat(
    requests: Requests,
    told: mpsc::Sender<Told>,
    held: watch::Receiver<BTreeSet<Resource>>,
) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let version = requests.version().await;
        if told.send(Told::Server(version)).await.is_err() {
            return;
        }
        let held = held.borrow().clone();
        for resource in held {
            let found = requests.definition(resource).await;
            if found.is_ok_and(|found| found.gives_up_former)
                && told.send(Told::GivenUp(resource)).await.is_err()
            {
                return;
            }
        }
    }
}
