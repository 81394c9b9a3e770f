//! The real node.

mod apply;
mod conntrack;
mod dry_run;
mod evictions;
mod garbage;
pub(crate) mod place;
mod port;
mod tables;
#[cfg(test)]
mod tests;
mod tidy;
mod usage;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aya_obj::Object;
use oxilium_abi::NodeWord;
use oxilium_model::node_state::Hook;

use crate::attach::{Attacher, Catalog, Pins, Way, kernel_has_tcx};
use crate::config::{KernelConfig, PolicyAsked};
use crate::count::WriteCounter;
use crate::load::{Constants, LoadError, LoadedProgram, Maps, Source, load_programs, pin_error};
use crate::netlink::Netlink;
use crate::object::OBJECT;
use crate::port::{AttachMode, Occupancy};
use place::Place;
use tables::Tables;

/// This machine's kernel, seen from the network namespace in which it was opened.
pub struct KernelNode {
    maps: Maps,
    tables: Tables,
    pub(crate) programs: BTreeMap<Hook, LoadedProgram>,
    attacher: Attacher,
    netlink: Netlink,
    place: Place,
    directory: PathBuf,
    /// See [`crate::port::Node::restored_pins`].
    restored: Vec<PathBuf>,
    /// What the programs were loaded from.
    object: &'static [u8],
    constants: Constants,
    /// The instance that judges and writes nothing, once somebody has asked.
    dry_run: BTreeMap<Hook, OwnedFd>,
    counter: Arc<WriteCounter>,
    /// The event ring has its reader.
    events_taken: Arc<AtomicBool>,
    evictions: evictions::Watch,
    /// See [`crate::port::Node::flow_tables`].
    flow_tables: BTreeMap<&'static str, Occupancy>,
}

impl KernelNode {
    /// Opens the node: a place for pins, the maps, the programs. What an earlier run left pinned and
    /// this one needs is taken over.
    ///
    /// # Errors
    /// [`LoadError`]; what was enforced before still is.
    pub fn open(config: &KernelConfig) -> Result<Self, LoadError> {
        Self::open_object(config, OBJECT)
    }

    fn open_object(config: &KernelConfig, bytes: &'static [u8]) -> Result<Self, LoadError> {
        let counter = Arc::new(WriteCounter::default());
        let mut place = Place::new(config);
        place.ensure(&counter)?;
        let directory = place.directory();
        let object = Object::parse(bytes).map_err(|error| LoadError::Parse {
            what: "parse",
            detail: error.to_string(),
        })?;
        let maps = Maps::open(&object, &directory, &config.sizes, &counter)?;
        let tables = Tables::open(&maps, &counter)?;
        let seed = conntrack_seed(&tables)?;
        let constants = constants(config, seed);
        let programs = load_programs(&Source {
            object: bytes,
            constants: &constants,
            maps: &maps,
            own_maps: &[],
            directory: &directory.join("programs"),
            counter: &counter,
        })?;
        let attacher = attacher(config, &directory, &programs, &counter)?;
        Ok(Self {
            maps,
            tables,
            programs,
            attacher,
            netlink: Netlink::open().map_err(LoadError::Netlink)?,
            place,
            directory,
            restored: Vec::new(),
            object: bytes,
            constants,
            dry_run: BTreeMap::new(),
            counter,
            events_taken: Arc::default(),
            evictions: evictions::Watch::default(),
            flow_tables: BTreeMap::new(),
        })
    }

    /// Where the pins are: maps directly, `links` and `programs` below.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Programs get onto hooks by tcx links; if not, by filters.
    pub fn uses_tcx(&self) -> bool {
        self.attacher.way == Way::Tcx
    }
}

fn attacher(
    config: &KernelConfig,
    directory: &Path,
    programs: &BTreeMap<Hook, LoadedProgram>,
    counter: &Arc<WriteCounter>,
) -> Result<Attacher, LoadError> {
    let has_tcx =
        kernel_has_tcx().map_err(pin_error(Path::new("tcx"), "ask whether the kernel has it"))?;
    let way = match (config.attach_mode, has_tcx) {
        (AttachMode::Tc, _) | (AttachMode::Auto, false) => Way::Filter,
        (AttachMode::Auto | AttachMode::Tcx, true) => Way::Tcx,
        (AttachMode::Tcx, false) => return Err(LoadError::NoTcx),
    };
    let programs_directory = directory.join("programs");
    let catalog = Catalog::new(programs.values(), &programs_directory)
        .map_err(pin_error(&programs_directory, "read the pinned programs"))?;
    Ok(Attacher {
        way,
        has_tcx,
        pins: Pins::new(directory.join("links"), Arc::clone(counter)),
        catalog,
        counter: Arc::clone(counter),
        last_words: BTreeMap::new(),
    })
}

/// The seed of conntrack tags: made once for a set of pinned maps, so that entries outlive the agent.
fn conntrack_seed(tables: &Tables) -> Result<u64, LoadError> {
    let slot = NodeWord::CtSeed as u32;
    let failed = |action| pin_error(Path::new(oxilium_abi::map::NODE_WORDS), action);
    let kept = tables
        .node_words
        .get(&slot)
        .map_err(failed("read the conntrack seed"))?
        .unwrap_or_default();
    if kept != 0 {
        return Ok(kept);
    }
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(LoadError::Random)?;
    // Zero would read as "not made yet".
    let seed = u64::from_ne_bytes(bytes).max(1);
    tables
        .node_words
        .update(&slot, &seed)
        .map_err(failed("keep the conntrack seed"))?;
    Ok(seed)
}

/// The values of the programs' constants, by their names in `bpf/programs`. All of them must be there.
fn constants(config: &KernelConfig, seed: u64) -> Constants {
    Constants::from([
        ("CT_SEED", seed.to_ne_bytes().to_vec()),
        ("CLUSTER_ID", config.cluster_id.to_ne_bytes().to_vec()),
        ("LOOPBACK4", config.loopback.0.octets().to_vec()),
        ("LOOPBACK6", config.loopback.1.octets().to_vec()),
        ("DRY_RUN", vec![0]),
        ("LAST_WORD", vec![0]),
        ("EVENT_RATE", config.event_rate.to_ne_bytes().to_vec()),
        ("TRACE", vec![u8::from(config.trace)]),
        ("CT_ACCOUNTING", vec![u8::from(config.conntrack_accounting)]),
        (
            "ALWAYS_ASK",
            vec![u8::from(config.policy_asked == PolicyAsked::EachPacket)],
        ),
        // x86-64 alone keeps loads in order by itself, of the machines that this is built for.
        ("WEAK_ORDER", vec![u8::from(!cfg!(target_arch = "x86_64"))]),
    ])
}

impl std::fmt::Debug for KernelNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelNode")
            .field("directory", &self.directory)
            .field("way", &self.attacher.way)
            .field("maps", &self.maps.iter().count())
            .finish_non_exhaustive()
    }
}

impl KernelNode {
    fn fdinfo_memory(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<u64> {
        use std::os::fd::AsRawFd;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
        text.lines()
            .find_map(|line| line.strip_prefix("memlock:"))
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| io::Error::other("its fdinfo does not tell its memory"))
    }
}
