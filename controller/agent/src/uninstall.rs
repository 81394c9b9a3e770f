//! Taking everything away that an agent ever made on this host.
//!
//! From what the agent keeps in its ledger ([`crate::disk::Ledger`]), and what is recognisable as its own without: so also
//! after a crash, and a second time where the first was cut short. What others made stays, also in directories of the agent.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use oxilium_api::paths;
use oxilium_kernel::{PriorInterface, bpffs};
use oxilium_model::world::{Lifecycle, PodRef};

use crate::disk::{
    AttachmentRecord, Attachments, BootDirectory, DiskError, InstanceLock, LOCK, Ledger, Places,
    Prior,
};
use crate::reconcile::parse_mac;
use crate::run::boot_id;

/// Options of `oxilium uninstall`: what the agent was started with, as far as its ledger does not tell.
#[derive(Clone, Debug, Args)]
pub struct UninstallOptions {
    /// The agent's state directory.
    #[arg(long, env = "CILIUM_STATE_DIR", default_value = paths::STATE, value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Mount point of the BPF file system, or a directory in it.
    #[arg(long, env = "CILIUM_BPF_ROOT", default_value = paths::BPF_ROOT, value_name = "DIR")]
    pub bpf_root: PathBuf,

    /// Where the CNI plugin leaves word.
    #[arg(long, alias = "cni-tombstones", env = "OXILIUM_TOMBSTONES", default_value = paths::TOMBSTONES, value_name = "DIR")]
    pub tombstones: PathBuf,
}

/// What became of it, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Is gone.
    pub removed: Vec<String>,
    /// Is as it was before.
    pub restored: Vec<String>,
    /// Was made by an agent and stays, with the reason.
    pub left: Vec<String>,
}

/// What an agent keeps in a state directory that was not made for it.
const STATE_FILES: [&str; 5] = [
    "cluster-uid",
    "definitions.json",
    "ledger.json",
    LOCK,
    "admitted",
];
/// Kinds of objects in the status directory.
const STATUS_KINDS: [&str; 3] = ["CiliumEndpoint", "CiliumIdentity", "Policy"];

/// Removes everything. Pods are then reached as if there were no policy. `plugin` takes the CNI plugin away; it is told of
/// the pods that are there still, which are removed with it, and called first: what pods there were is gone afterwards.
///
/// # Errors
/// When an agent runs; when something cannot be removed: a second call goes on from there.
pub fn uninstall(
    options: &UninstallOptions,
    socket: &Path,
    plugin: impl FnOnce(&[PodRef]) -> Result<Removed>,
) -> Result<Removed> {
    let state = &options.state_dir;
    let (locked, mut ledger) = if state.is_dir() {
        let lock = InstanceLock::take(&state.join(LOCK))?;
        (Some(lock), Ledger::read(state)?)
    } else {
        (None, Ledger::default())
    };
    ledger.places.insert(Places {
        bpf_root: options.bpf_root.clone(),
        status: state.join("status"),
        tombstones: options.tombstones.clone(),
        socket: socket.to_owned(),
    });
    let attachments = Attachments::open(&BootDirectory::of(state, &boot_id()?))?;
    let mut removed = plugin(&pods(&attachments))?;
    kernel(&ledger, &prior_interfaces(&attachments), &mut removed)?;
    for places in &ledger.places {
        files(places, state, &ledger, &mut removed)?;
    }
    // The ledger goes last, with the state directory: until then all of this can be done again.
    let (above, others): (BTreeSet<PathBuf>, BTreeSet<PathBuf>) = ledger
        .directories
        .iter()
        .cloned()
        .partition(|directory| state.starts_with(directory));
    let whole = ledger.directories.contains(state);
    // Those in the state directory go with it, where it goes whole.
    let beside = others
        .into_iter()
        .filter(|directory| !(whole && directory.starts_with(state)))
        .collect();
    directories(&beside, &mut removed)?;
    if locked.is_some() {
        state_files(state, whole, &mut removed)?;
    }
    directories(&above, &mut removed)?;
    Ok(removed)
}

/// What the interfaces of pods were like before an agent put programs on them.
fn prior_interfaces(attachments: &Attachments) -> Vec<PriorInterface> {
    let prior = |record: &AttachmentRecord| {
        let Prior {
            clsact,
            tx_queue_len,
        } = record.prior?;
        Some(PriorInterface {
            ifindex: record.host.ifindex,
            mac: parse_mac(&record.host.mac)?,
            clsact,
            tx_queue_len,
        })
    };
    attachments.iter().filter_map(prior).collect()
}

/// Pods that a runtime has still to delete.
fn pods(attachments: &Attachments) -> Vec<PodRef> {
    attachments
        .iter()
        .filter(|record| record.lifecycle != Lifecycle::Deleted)
        .filter(|record| Path::new(&record.netns).exists())
        .map(|record| record.pod.clone())
        .collect()
}

fn kernel(ledger: &Ledger, prior: &[PriorInterface], removed: &mut Removed) -> Result<()> {
    let roots: BTreeSet<&PathBuf> = ledger
        .places
        .iter()
        .map(|places| &places.bpf_root)
        .collect();
    for root in &roots {
        let done =
            oxilium_kernel::uninstall(root, prior).context("the kernel's side stays in part")?;
        removed.removed.extend(done);
    }
    for mount in &ledger.mounts {
        if bpffs::unmount_empty(mount)? {
            removed.removed.push(format!("mount {}", mount.display()));
        } else if bpffs::is_bpffs(mount)? {
            removed.left.push(format!(
                "mount {}: somebody has pins in it",
                mount.display()
            ));
        }
    }
    Ok(())
}

/// What one agent wrote outside its state directory.
fn files(places: &Places, state: &Path, ledger: &Ledger, removed: &mut Removed) -> Result<()> {
    let is_socket =
        fs::symlink_metadata(&places.socket).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket {
        remove(&places.socket, removed)?;
    }
    for path in entries(&places.tombstones)? {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("json" | "tmp")) {
            remove(&path, removed)?;
        }
    }
    if places.status.starts_with(state) && ledger.directories.contains(state) {
        return Ok(());
    }
    for kind in STATUS_KINDS {
        remove(&places.status.join(kind), removed)?;
    }
    Ok(())
}

/// What is in the state directory: all of it where it was made for the agent.
fn state_files(state: &Path, whole: bool, removed: &mut Removed) -> Result<()> {
    let mut names: Vec<PathBuf> = if whole {
        entries(state)?
    } else {
        let written = |name: &&str| [(*name).to_owned(), format!("{name}.tmp")];
        let files = STATE_FILES.iter().flat_map(written);
        let files = files.map(|name| state.join(name));
        files.chain(BootDirectory::all(state)?).collect()
    };
    // What a second call needs most goes last: what pods there are, and the ledger.
    let boots = BootDirectory::all(state)?;
    names.sort_by_key(|path| (path.ends_with("ledger.json"), boots.contains(path)));
    for path in names {
        remove(&path, removed)?;
    }
    Ok(())
}

/// Directories that were made, inner ones first. One that somebody uses by now stays.
fn directories(made: &BTreeSet<PathBuf>, removed: &mut Removed) -> Result<()> {
    for directory in made.iter().rev() {
        match fs::remove_dir(directory) {
            Ok(()) => removed
                .removed
                .push(format!("directory {}", directory.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                let line = format!(
                    "directory {}: there is something in it that no agent made",
                    directory.display()
                );
                removed.left.push(line);
            }
            Err(error) => return Err(DiskError::io("remove", directory)(error).into()),
        }
    }
    Ok(())
}

/// Removes a file, or a directory with all that is in it; nothing there is fine.
fn remove(path: &Path, removed: &mut Removed) -> Result<(), DiskError> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => {
            removed.removed.push(path.display().to_string());
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DiskError::io("remove", path)(error)),
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let failed = |error| DiskError::io("read", directory)(error);
    let read = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(failed)?,
    };
    read.map(|entry| Ok(entry.map_err(failed)?.path()))
        .collect()
}
