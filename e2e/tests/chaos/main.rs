//! The agent killed before and after every write that it makes, of the kernel's state and of its own on disk.
//!
//! The list of places to die is not written down anywhere: a life is lived, and killed at its first write, then one at its
//! second, until one survives. Each death is followed by a restart with the input that was about to be applied or with the
//! former one, and asked for is, by counting numbered packets and by reading the kernel with bpftool:
//!
//! - no packet is lost that both inputs allow, at no time, dead or alive;
//! - no packet passes that both deny, at no time; and none that the input denies once the agent says that it is ready;
//! - the kernel holds what a fresh node's does;
//! - the next reconcile writes nothing.
//!
//! `make test` has one write of each moment, the same in every run, `make test-chaos` all of them (`OXILIUM_CHAOS=all`) or
//! a fixed sample (`OXILIUM_CHAOS=sample`).
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

mod input;
mod node;
mod traffic;

use std::{collections::BTreeMap, env, fs, iter};

use anyhow::{Context, Result, bail};
use input::Input;
use node::Node;
use oxilium_e2e::{
    require::require,
    scenario::NEEDS,
    trace::{Death, Edge, Site},
    traffic::Echo,
    wait,
};

/// When in its life the agent is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While it applies a change.
    Change,
    /// While it starts, on input that changed while it was down.
    Start,
    /// While it starts on a node where everything but the list of pods was lost.
    Install,
}

struct Chaos {
    moment: Moment,
    node: Node,
    /// By site: how often before it, how often after it.
    deaths: BTreeMap<Site, [usize; 2]>,
}

impl Chaos {
    fn start(moment: Moment) -> Result<Self> {
        let echo = match moment {
            Moment::Install => Echo::No,
            Moment::Change | Moment::Start => Echo::Yes,
        };
        Ok(Self {
            moment,
            node: Node::start(echo)?,
            deaths: BTreeMap::new(),
        })
    }

    /// One life, killed at its `nth` write of the moment, and the next, which must make good. None when the life
    /// ended before that write.
    fn die(&mut self, nth: usize, edge: Edge, back: bool) -> Result<Option<Death>> {
        let former = self.node.input;
        let wanted = former.other();
        match self.moment {
            Moment::Change => {
                self.node.trace.kill_at(nth, edge);
                // By then it may be dead.
                self.node.put(wanted)?;
            }
            Moment::Start | Moment::Install => {
                self.node.agent()?.process().crash()?;
                self.node.put(wanted)?;
                if matches!(self.moment, Moment::Install) {
                    self.node.forget()?;
                }
                self.node.launch(Some((nth, edge)))?;
            }
        }
        let survived = self.survives()?;
        self.node.trace.disarm();
        let death = self.node.trace.death();
        if survived {
            self.node.settle()?;
            self.node
                .check()
                .context("of an agent that was not killed")?;
            return Ok(None);
        }
        let death = death.context("the agent ended by itself")?;
        if back {
            self.node.put(former)?;
        }
        self.node.launch(None)?;
        self.node.settle()?;
        let (moment, input) = (self.moment, self.node.input);
        self.node.check().with_context(|| {
            format!("after a death {death} (write {nth}, {moment:?}), with {input:?}")
        })?;
        self.deaths.entry(death.site.clone()).or_default()[usize::from(edge == Edge::After)] += 1;
        Ok(Some(death))
    }

    /// False when the agent dies on the way to its input.
    fn survives(&mut self) -> Result<bool> {
        let trace = self.node.trace.clone();
        let mut guest_done = false;
        wait::until("the agent dies or applies its input", wait::LONG, || {
            if trace.ended()?.is_some() {
                return Ok(Some(false));
            }
            if !guest_done
                && self
                    .node
                    .agent()?
                    .cli()
                    .output(&["status"])?
                    .status
                    .success()
            {
                self.node.receive_guest()?;
                guest_done = true;
            }
            Ok((guest_done && self.node.is_met()?).then_some(true))
        })
    }

    /// Every death that a moment has, one side of every write after the other.
    fn run(&mut self, writes: impl Iterator<Item = usize>) -> Result<usize> {
        let mut deaths = 0;
        // Both ways have their own writes: the run is over when both have survived.
        let mut over = BTreeMap::from([(Input::Open, false), (Input::Closed, false)]);
        for nth in writes {
            for turn in 0..4 {
                // Over all writes each side meets both kinds of restart.
                let edge = if (turn + nth) % 2 == 0 {
                    Edge::Before
                } else {
                    Edge::After
                };
                if over[&self.node.input] {
                    // The other way has more writes: walk back.
                    self.walk()?;
                }
                let way = self.node.input;
                // With the former input the agent stays on this way; with the new one it goes back.
                let back = turn % 2 == 0;
                match self.die(nth, edge, back)? {
                    Some(death) => {
                        deaths += 1;
                        let (moment, input) = (self.moment, self.node.input);
                        tell(&format!(
                            "{moment:?} from {way:?}, write {nth}: {death}; then {input:?}"
                        ));
                    }
                    None => {
                        over.insert(way, true);
                    }
                }
                if over.values().all(|over| *over) {
                    return Ok(deaths);
                }
            }
        }
        Ok(deaths)
    }

    /// To the other input, without a death.
    fn walk(&mut self) -> Result<()> {
        self.node.put(self.node.input.other())?;
        self.node.settle()?;
        self.node.check()
    }
}

#[expect(clippy::print_stderr, reason = "a long run says how far it is")]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// The writes at which lives end: all, a sample, or where nothing is said of it `one`.
fn writes(stride: usize, one: usize) -> Result<Box<dyn Iterator<Item = usize>>> {
    Ok(match env::var("OXILIUM_CHAOS").as_deref() {
        Ok("all") => Box::new(1..),
        Ok("sample") => Box::new((3..).step_by(stride)),
        Ok(other) => bail!(
            "OXILIUM_CHAOS={other}; allowed: all, sample, or unset for one write of each moment"
        ),
        Err(_) => Box::new(iter::once(one)),
    })
}

fn killed_at_every_write(moment: Moment, stride: usize, one: usize) {
    if !require(&NEEDS) {
        return;
    }
    let mut chaos = Chaos::start(moment).unwrap();
    let log = chaos.node.lab.directory().join("agent.log");
    let deaths = chaos
        .run(writes(stride, one).unwrap())
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())
        .unwrap();
    for (site, [before, after]) in &chaos.deaths {
        tell(&format!("{site}: {before} before, {after} after"));
    }
    tell(&format!(
        "{moment:?}: {deaths} deaths at {} sites",
        chaos.deaths.len()
    ));
    assert!(deaths > 0, "nobody died: nothing was tested");
}

#[test]
fn killed_at_every_write_of_a_change() {
    killed_at_every_write(Moment::Change, 23, 26);
}

#[test]
fn killed_at_every_write_of_a_start_on_changed_input() {
    killed_at_every_write(Moment::Start, 29, 32);
}

#[test]
fn killed_at_every_write_of_a_first_start() {
    killed_at_every_write(Moment::Install, 47, 144);
}
