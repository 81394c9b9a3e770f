//! The writes of a process, seen from outside, and its death at any of them.
//!
//! A traced process stops (ptrace, and a seccomp filter) at the system calls that `filter` lists: bpf(2) with each command
//! that is not known to read, messages to netlink, and the calls that open, write, rename, link, remove, mount or sync
//! files. By call and arguments what it writes to the kernel (bpf, rtnetlink, the BPF file system, sysctls) and to disk is
//! told apart from what it reads. So a write that somebody adds to the product is seen without being put on a list, as
//! long as it is made by one of these calls: one by `io_uring`, `ioctl`, `sendmmsg`, `pwritev` or through mapped memory
//! would not be. A batch of entries is one write. No build is made for tests: what dies here is the binary that users run.
//!
//! [`Trace::kill_at`] kills it (SIGKILL) *before* the nth write from then on, so that the call never happens, or *after*
//! it, so that the process never learns what came of it. [`Trace::refuse`] has writes fail.

mod bpf;
mod call;
mod filter;
mod follow;
mod netlink;
mod site;

use std::{
    collections::BTreeMap,
    fmt,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;

pub use filter::stop_at_writes;
pub(crate) use follow::{follow, stopped};

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain {
    /// bpf(2).
    Bpf,
    /// A netlink request that changes something.
    Netlink,
    /// A file of the BPF file system.
    BpfFs,
    /// A file under `/proc` or `/sys` that is not of the BPF file system.
    Sysctl,
    /// Any other file.
    Disk,
}

impl Domain {
    /// The kernel's state, not a disk's.
    pub fn is_kernel(self) -> bool {
        self != Self::Disk
    }
}

/// A place where a process writes: what is called, on what. Numbers that differ from run to run are not in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Where it goes.
    pub domain: Domain,
    /// The call: `MAP_UPDATE_ELEM`, `NEWNSID`, `rename`.
    pub call: String,
    /// A map, a file.
    pub object: String,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {}", self.domain, self.call, self.object)
    }
}

/// A write that was made.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where.
    pub site: Site,
    /// What the kernel returned; none when the process died in the call.
    pub result: Option<i64>,
}

/// On which side of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// The write does not happen.
    Before,
    /// The write has happened; what came of it is not known to who made it.
    After,
}

/// The write that a process is killed at.
#[derive(Clone, Copy)]
pub enum Deadly {
    /// It and those before it are so many; 1 is the next.
    Nth(usize),
    /// The first at such a site.
    Site(fn(&Site) -> bool),
}

impl fmt::Debug for Deadly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nth(nth) => write!(f, "write {nth}"),
            Self::Site(_) => write!(f, "the first at its site"),
        }
    }
}

impl Deadly {
    /// The next write is the one, if it is at this site.
    fn is_next(self, site: &Site) -> bool {
        match self {
            Self::Nth(nth) => nth == 1,
            Self::Site(is_one) => is_one(site),
        }
    }
}

/// Where a process was killed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Death {
    /// The write.
    pub site: Site,
    /// Its side.
    pub edge: Edge,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.edge, self.site)
    }
}

#[derive(Debug, Default)]
struct State {
    writes: Vec<Write>,
    armed: Option<(Deadly, Edge)>,
    death: Option<Death>,
    refused: Option<Refusal>,
    ended: Option<ExitStatus>,
    problem: Option<String>,
}

/// Which writes fail.
struct Refusal {
    which: Box<dyn Fn(&Site) -> bool + Send>,
    errno: Errno,
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno)
    }
}

/// What is seen of a traced process.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<State>>);

impl Trace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the process at the `nth` write from now on (1 is the next).
    pub fn kill_at(&self, nth: usize, edge: Edge) {
        self.kill_where(Deadly::Nth(nth), edge);
    }

    /// Kills the process at that write from now on.
    pub fn kill_where(&self, which: Deadly, edge: Edge) {
        self.state().armed = Some((which, edge));
    }

    /// Kills it no more.
    pub fn disarm(&self) {
        self.state().armed = None;
    }

    /// From now on the kernel refuses each write at such a site with this error, and it does not happen.
    pub fn refuse(&self, errno: Errno, which: impl Fn(&Site) -> bool + Send + 'static) {
        self.state().refused = Some(Refusal {
            which: Box::new(which),
            errno,
        });
    }

    /// The kernel refuses nothing any more by itself.
    pub fn grant(&self) {
        self.state().refused = None;
    }

    fn is_refused(&self, site: &Site) -> Option<Errno> {
        let state = self.state();
        let refusal = state.refused.as_ref()?;
        (refusal.which)(site).then_some(refusal.errno)
    }

    /// Where it was killed.
    pub fn death(&self) -> Option<Death> {
        self.state().death.clone()
    }

    /// How it ended.
    ///
    /// # Errors
    /// When it could not be followed: then nothing that was seen of it counts.
    pub fn ended(&self) -> anyhow::Result<Option<ExitStatus>> {
        let state = self.state();
        match &state.problem {
            Some(problem) => Err(anyhow::anyhow!("the trace broke off: {problem}")),
            None => Ok(state.ended),
        }
    }

    /// How many writes it has made so far.
    pub fn made(&self) -> usize {
        self.state().writes.len()
    }

    /// The writes since the `from`th (0 is the first).
    pub fn writes(&self, from: usize) -> Vec<Write> {
        self.state().writes.get(from..).unwrap_or_default().to_vec()
    }

    /// Those of them that change the kernel.
    pub fn kernel_writes(&self, from: usize) -> Vec<Write> {
        let mut writes = self.writes(from);
        writes.retain(|write| write.site.domain.is_kernel());
        writes
    }

    /// How often each site was passed.
    pub fn sites(&self) -> BTreeMap<Site, usize> {
        let mut sites = BTreeMap::new();
        for write in &self.state().writes {
            *sites.entry(write.site.clone()).or_default() += 1;
        }
        sites
    }

    /// A write begins. True when the process is to die before it.
    fn begins(&self, site: &Site) -> (usize, bool) {
        let mut state = self.state();
        let number = state.writes.len();
        state.writes.push(Write {
            site: site.clone(),
            result: None,
        });
        let dies = match &mut state.armed {
            Some((deadly, Edge::Before)) if deadly.is_next(site) => true,
            // Kept at 1 until the write is over; other threads' writes meanwhile are not it.
            Some((Deadly::Nth(nth), _)) if *nth > 1 => {
                *nth -= 1;
                false
            }
            _ => false,
        };
        if dies {
            state.writes.pop();
            state.die(site, Edge::Before);
        }
        (number, dies)
    }

    /// A write is over. True when the process is to die now.
    fn is_over(&self, number: usize, result: i64, last: bool) -> bool {
        let mut state = self.state();
        let Some(write) = state.writes.get_mut(number) else {
            return false;
        };
        write.result = Some(result);
        let site = write.site.clone();
        if last && state.death.is_none() {
            state.die(&site, Edge::After);
            return true;
        }
        false
    }

    /// The write that begins at this site is the one to die after.
    fn dies_after(&self, site: &Site) -> bool {
        let armed = self.state().armed;
        armed.is_some_and(|(deadly, edge)| edge == Edge::After && deadly.is_next(site))
    }
}

impl State {
    fn die(&mut self, site: &Site, edge: Edge) {
        self.armed = None;
        self.death = Some(Death {
            site: site.clone(),
            edge,
        });
    }
}
