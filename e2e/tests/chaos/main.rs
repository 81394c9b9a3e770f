//! The agent killed before and after every write that it makes, of the kernel's state and of its own on disk.
//!
//! The list of places to die is not written down anywhere: a life is lived, and killed at its first write, then one at its
//! second, until one survives. Each death is followed by a restart with the input that was about to be applied or with the
//! former one, and asked for is, by counting numbered packets and by reading the kernel with bpftool:
//!
//! - no packet is lost that both inputs allow, at no time, dead or alive; to a service, while there are programs;
//! - no packet passes that both deny, at no time that somebody else does not take programs or entries away; and none that the
//!   input denies once the agent says that it is ready;
//! - the kernel holds what a fresh node's does;
//! - the next reconcile writes nothing.
//!
//! Which write is the nth differs from life to life: where all kinds of writes are to be died at, those that were missed on
//! one side then are, by name.
//!
//! Before its deaths a moment is lived through without one: each kind of write that a plan can have must be met in the
//! moment where it belongs ([`writes`]), so that no kind is left out.
//!
//! After the last death the agent is uninstalled, and the host is as it was before the first one.
//!
//! `make test` has one write of each moment, the same in every run, `make test-chaos` all of them (`OXILIUM_CHAOS=all`), a
//! fixed sample and each kind on both sides (`OXILIUM_CHAOS=sample`), or a part (`OXILIUM_CHAOS=1/8`: every eighth, from the first on).
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

mod input;
mod node;
mod tamper;
mod traffic;
mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, iter,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use input::Input;
use node::Node;
use oxilium_e2e::{
    require::require,
    scenario::NEEDS,
    trace::{Deadly, Death, Edge, Site},
    traffic::Echo,
    wait,
};

/// When in its life the agent is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// While it applies a change.
    Change,
    /// While it starts, on input that changed while it was down.
    Start,
    /// While it starts on a node where everything but the list of pods was lost.
    Install,
    /// While it repairs what somebody else did to its tables, links and pins.
    Repair,
}

impl Moment {
    fn node(self) -> Result<Node> {
        match self {
            Self::Install => Node::start(Echo::No, "3600"),
            Self::Change | Self::Start => Node::start(Echo::Yes, "3600"),
            Self::Repair => Node::start(Echo::Yes, "1"),
        }
    }
}

struct Chaos {
    moment: Moment,
    node: Node,
    /// By site: how often before it, how often after it.
    deaths: BTreeMap<Site, [usize; 2]>,
    /// Where lives wrote that ended by themselves.
    passed: BTreeSet<Site>,
    failures: Vec<String>,
}

/// Deaths that were not made good, after which a run ends.
const PATIENCE: usize = 5;
/// How much of an agent's log is told of one of them.
const LINES_TOLD: usize = 120;

impl Chaos {
    fn start(moment: Moment) -> Result<Self> {
        Ok(Self {
            moment,
            node: moment.node()?,
            deaths: BTreeMap::new(),
            passed: BTreeSet::new(),
            failures: Vec::new(),
        })
    }

    /// One life, killed at this write of the moment, and the next, which must make good. None when the life
    /// ended before that write.
    fn die(&mut self, deadly: Deadly, edge: Edge, back: bool) -> Result<Option<Death>> {
        let former = self.node.input;
        let new = former.other();
        let mut from = 0;
        match self.moment {
            Moment::Change => {
                from = self.node.trace.made();
                self.node.trace.kill_where(deadly, edge);
                // By then it may be dead.
                self.node.put(new)?;
            }
            Moment::Start | Moment::Install => {
                self.node.agent()?.process().crash()?;
                self.node.put(new)?;
                if matches!(self.moment, Moment::Install) {
                    self.node.forget()?;
                }
                self.node.launch(Some((deadly, edge)))?;
            }
            Moment::Repair => {
                if self.node.tampered {
                    // Who tampers again and again is fought, and that is another story.
                    self.node.agent()?.process().crash()?;
                    self.node.launch(None)?;
                    self.node.settle()?;
                }
                from = self.node.trace.made();
                self.node.trace.kill_where(deadly, edge);
                self.node.tamper()?;
            }
        }
        let survived = self.survives()?;
        self.node.trace.disarm();
        let death = self.node.trace.death();
        if survived {
            self.node.settle()?;
            let writes = self.node.trace.writes(from);
            self.passed
                .extend(writes.into_iter().map(|write| write.site));
            self.node
                .check()
                .context("of an agent that was not killed")?;
            return Ok(None);
        }
        let death = death.context("the agent ended by itself")?;
        self.node.put(if back { former } else { new })?;
        self.node.launch(None)?;
        self.node.settle()?;
        let (moment, input) = (self.moment, self.node.input);
        self.node.check().with_context(|| {
            format!("after a death {death} ({deadly:?}, {moment:?}), with {input:?}")
        })?;
        self.deaths.entry(death.site.clone()).or_default()[usize::from(edge == Edge::After)] += 1;
        Ok(Some(death))
    }

    /// False when the agent dies on the way to its input.
    fn survives(&mut self) -> Result<bool> {
        let trace = self.node.trace.clone();
        let repairs = matches!(self.moment, Moment::Repair);
        // Where nothing is wanted anew the guest is where it is to be.
        let mut guest_done = repairs;
        let began = Instant::now();
        let survived = wait::until(
            "the agent dies or does all that it has to",
            wait::LONG,
            || {
                if trace.ended()?.is_some() {
                    return Ok(Some(false));
                }
                if !guest_done && self.node.is_content().is_some() {
                    self.node.receive_guest()?;
                    guest_done = true;
                }
                let done =
                    guest_done && self.node.is_met() && (!repairs || self.node.is_repaired());
                Ok(done.then_some(true))
            },
        );
        self.node.spend("until death", began);
        survived
    }

    /// Lives through the moment both ways: what is written is what is to be died at.
    fn rehearse(&mut self) -> Result<()> {
        for _ in [Input::Open, Input::Closed] {
            if self.moment == Moment::Repair && self.node.tampered {
                self.walk()?;
            }
            let death = self.die(Deadly::Nth(usize::MAX), Edge::Before, true)?;
            ensure!(death.is_none(), "{death:?} of an agent that is not killed");
        }
        let missing = writes::not_met(self.moment, &self.passed.iter().collect());
        ensure!(missing.is_empty(), "{:?} has no {missing:?}", self.moment);
        Ok(())
    }

    fn has_died_at(&self, is_one: fn(&Site) -> bool, edge: Edge) -> bool {
        let mut deaths = self.deaths.iter();
        deaths.any(|(site, sides)| is_one(site) && sides[usize::from(edge == Edge::After)] > 0)
    }

    /// Kinds of writes that no life ended before, or none after, wherever they are made.
    fn not_died_at(&self) -> Vec<&'static str> {
        let missed = writes::sites(self.moment).filter(|(_, is_one)| {
            let mut sides = [Edge::Before, Edge::After].into_iter();
            sides.any(|edge| !self.has_died_at(*is_one, edge))
        });
        missed.map(|(kind, _)| kind).collect()
    }

    /// The deaths at these writes, one side of each after the other.
    fn run(&mut self, writes: impl Iterator<Item = usize>) -> Result<()> {
        // Both ways have their own writes: the run is over when both have survived.
        let mut over = BTreeMap::from([(Input::Open, false), (Input::Closed, false)]);
        for nth in writes {
            for turn in 0..4 {
                if let Err(error) = self.turn(nth, turn, &mut over) {
                    self.begin_anew(&error)?;
                }
                if over.values().all(|over| *over) || self.failures.len() >= PATIENCE {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, nth: usize, turn: usize, over: &mut BTreeMap<Input, bool>) -> Result<()> {
        // Over all writes each side meets both kinds of restart.
        let edge = if (turn + nth).is_multiple_of(2) {
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
        let back = turn.is_multiple_of(2);
        match self.die(Deadly::Nth(nth), edge, back)? {
            Some(death) => {
                let (moment, input) = (self.moment, self.node.input);
                tell(&format!(
                    "{moment:?} from {way:?}, write {nth}: {death}; then {input:?}"
                ));
            }
            None => {
                over.insert(way, true);
            }
        }
        Ok(())
    }

    /// Lives that end at what those counted by number happened to miss: which write is the nth is not the same in all.
    fn run_missed(&mut self) -> Result<()> {
        for (kind, is_one) in writes::sites(self.moment) {
            for edge in [Edge::Before, Edge::After] {
                // What is not written on one way is on the other.
                for way in [self.node.input, self.node.input.other()] {
                    if self.has_died_at(is_one, edge) || self.failures.len() >= PATIENCE {
                        break;
                    }
                    if let Err(error) = self.die_at(kind, is_one, edge, way) {
                        self.begin_anew(&error)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn die_at(
        &mut self,
        kind: &str,
        is_one: fn(&Site) -> bool,
        edge: Edge,
        way: Input,
    ) -> Result<()> {
        if self.node.input != way {
            self.walk()?;
        }
        if let Some(death) = self.die(Deadly::Site(is_one), edge, true)? {
            let moment = self.moment;
            tell(&format!("{moment:?} from {way:?}, {kind}: {death}"));
        }
        Ok(())
    }

    /// A death that was not made good is told at the end; what comes after it is tried on another node.
    fn begin_anew(&mut self, error: &anyhow::Error) -> Result<()> {
        let log = fs::read_to_string(self.node.lab.directory().join("agent.log"))?;
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n");
        tell(&format!("FAILED: {error:#}"));
        self.failures.push(format!("{error:#}\n{last}"));
        self.node = self.moment.node()?;
        Ok(())
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

/// The writes at which lives end: all, every nth of them from the kth on (`k/n`), a sample, or where nothing is said of it
/// `one`.
fn writes(stride: usize, one: usize) -> Result<Box<dyn Iterator<Item = usize>>> {
    let said = env::var("OXILIUM_CHAOS").ok();
    let part = said.as_deref().and_then(|said| said.split_once('/'));
    Ok(match (said.as_deref(), part) {
        (None, _) => Box::new(iter::once(one)),
        (Some("all"), _) => Box::new(1..),
        (Some("sample"), _) => Box::new((3..).step_by(stride)),
        (Some(said), Some((first, step))) => {
            let number = |text: &str| text.parse().with_context(|| said.to_owned());
            let (first, step): (usize, usize) = (number(first)?, number(step)?);
            if first == 0 || first > step {
                bail!("OXILIUM_CHAOS={said}: it is 1/{step} to {step}/{step}");
            }
            Box::new((first..).step_by(step))
        }
        (Some(other), None) => bail!(
            "OXILIUM_CHAOS={other}; allowed: all, sample, 1/8 (the 1st of 8 parts), or unset for one write of each moment"
        ),
    })
}

fn killed_at_every_write(moment: Moment, stride: usize, one: usize) {
    if !require(&NEEDS) {
        return;
    }
    let writes = writes(stride, one).unwrap();
    let mut chaos = Chaos::start(moment).unwrap();
    chaos.rehearse().unwrap();
    let began = Instant::now();
    let said = env::var("OXILIUM_CHAOS").unwrap_or_default();
    let of_all_kinds = ["all", "sample"].contains(&said.as_str());
    chaos.run(writes).unwrap();
    if of_all_kinds {
        chaos.run_missed().unwrap();
    }
    for (site, [before, after]) in &chaos.deaths {
        tell(&format!("{site}: {before} before, {after} after"));
    }
    for (on, time) in &chaos.node.spent {
        tell(&format!("{:.1} s {on}", time.as_secs_f32()));
    }
    let deaths: usize = chaos.deaths.values().flatten().sum();
    tell(&format!(
        "{moment:?}: {deaths} deaths at {} sites in {} s, {} of them not made good",
        chaos.deaths.len(),
        began.elapsed().as_secs(),
        chaos.failures.len()
    ));
    let missing = chaos.not_died_at();
    chaos.node.end().unwrap();
    assert!(chaos.failures.is_empty(), "{}", chaos.failures.join("\n\n"));
    assert!(deaths > 0, "nobody died: nothing was tested");
    if of_all_kinds {
        assert!(
            missing.is_empty(),
            "nobody died on both sides of {missing:?}"
        );
    }
}

#[test]
fn killed_at_every_write_of_a_change() {
    killed_at_every_write(Moment::Change, 23, 26);
}

#[test]
fn killed_at_every_write_of_a_repair() {
    killed_at_every_write(Moment::Repair, 7, 20);
}

#[test]
fn killed_at_every_write_of_a_start_on_changed_input() {
    killed_at_every_write(Moment::Start, 29, 32);
}

#[test]
fn killed_at_every_write_of_a_first_start() {
    killed_at_every_write(Moment::Install, 47, 144);
}
