//! Puts the plugin and its configuration on a node, and takes them away again.
//!
//! Run by the init container of the agent's pod at each of its starts. Every file is written beside and renamed, one that
//! is already right is not written, and the order keeps a configuration that works in the directory at every moment:
//! the plugin before the configuration that names it, ours before others are put aside, others back before ours goes.

mod conflist;
mod files;
mod record;

use std::io;
use std::path::{Path, PathBuf};

pub use self::conflist::Stanza;
use self::files::{copy_program, put, rename, sync};
use self::record::Record;

/// The name that the plugin is installed under.
const PROGRAM: &str = "oxilium-cni";
/// The name that configurations written for Cilium call.
const ALIAS: &str = "cilium-cni";
/// Our configuration: first in the order that runtimes read.
const CONFIGURATION: &str = "05-cilium.conflist";
/// What is appended to the name of a configuration that is put aside.
const ASIDE: &str = ".cilium_bak";

/// The plugin or its configuration cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A configuration is not of the expected shape.
    #[error("{} is no CNI configuration: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The given configuration would leave pods without policy.
    #[error(
        "{} does not call this plugin: pods would have no policy. Add {{\"type\": \"{ALIAS}\", \"chaining-mode\": \"generic-veth\"}} to the end of its plugins",
        .0.display()
    )]
    NotChained(PathBuf),
    /// There is nothing to be chained to.
    #[error(
        "no CNI configuration of a main plugin{} in {}: install one (flannel's, for example), or give a whole configuration with --read-cni-conf",
        target.as_ref().map(|name| format!(" with the name {name:?}")).unwrap_or_default(),
        directory.display()
    )]
    NoMainPlugin {
        /// Where was looked.
        directory: PathBuf,
        /// For which network, if one was named.
        target: Option<String>,
    },
}

/// Where a node keeps its plugins and their configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// `/opt/cni/bin`, as seen from here.
    pub programs: PathBuf,
    /// `/etc/cni/net.d`, as seen from here.
    pub configurations: PathBuf,
}

/// Where our configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is somebody else's business.
    Leave,
    /// This file, as it is.
    File(PathBuf),
    /// The main plugin's configuration that is found on the node, with our stanza behind it.
    Chain {
        /// Name of the network; the first in the order that runtimes read if none.
        target: Option<String>,
    },
}

/// What is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The plugin's program.
    pub program: PathBuf,
    /// Where it goes.
    pub directories: Directories,
    /// Where the configuration comes from.
    pub source: Source,
    /// Put all other configurations aside.
    pub exclusive: bool,
    /// How the plugin is called where it is chained here.
    pub stanza: Stanza,
}

/// What was done, a line each; empty where everything was right already.
pub type Done = Vec<String>;

/// Installs.
///
/// # Errors
/// [`InstallError`]. What was in place before still is, or is the new one.
pub fn install(what: &Installation) -> Result<Done, InstallError> {
    let mut done = Done::new();
    install_program(what, &mut done)?;
    let directory = &what.directories.configurations;
    let text = match &what.source {
        Source::Leave => return Ok(done),
        Source::File(path) => {
            let conflist = conflist::read(path)?;
            if !conflist.is_ours() {
                return Err(InstallError::NotChained(path.clone()));
            }
            conflist.to_text()
        }
        Source::Chain { target } => find_main(directory, target.as_deref())?
            .chained(&what.stanza)
            .to_text(),
    };
    let record = Record::of(directory);
    record.open(&text, &mut done)?;
    let ours = record.ours();
    if put(&ours, text.as_bytes(), 0o600)? {
        done.push(format!("wrote {}", ours.display()));
    }
    if what.exclusive {
        for path in configurations(directory)?.filter(|path| *path != ours) {
            let aside = appended(&path, ASIDE);
            rename(&path, &aside)?;
            done.push(format!(
                "put {} aside as {}",
                path.display(),
                aside.display()
            ));
        }
    }
    sync(directory)?;
    Ok(done)
}

/// Takes our configuration away and puts others back, and what was there under its name. The program stays unless told
/// otherwise: pods that were made with it are removed with it. Killed on the way, it goes on where it is called again.
///
/// # Errors
/// [`InstallError`].
pub fn uninstall(directories: &Directories, programs: bool) -> Result<Done, InstallError> {
    let mut done = Done::new();
    if directories.configurations.is_dir() {
        uninstall_configuration(&directories.configurations, &mut done)?;
    }
    if programs && directories.programs.is_dir() {
        uninstall_program(&directories.programs, &mut done)?;
    }
    Ok(done)
}

/// The plugin's program, where it is installed.
pub fn program(directories: &Directories) -> Option<PathBuf> {
    let program = directories.programs.join(PROGRAM);
    program.exists().then_some(program)
}

fn uninstall_configuration(directory: &Path, done: &mut Done) -> Result<(), InstallError> {
    files::sweep(directory, done)?;
    let record = Record::of(directory);
    if !record.is_open() {
        // What was put aside, somebody else did: Cilium puts aside by the same name.
        return Ok(());
    }
    for aside in files::list(directory)? {
        let Some(path) = without(&aside, ASIDE).filter(|path| is_configuration(path)) else {
            continue;
        };
        if aside == record.before() {
            continue;
        }
        if path.exists() {
            // Its owner wrote it anew.
            files::remove(&aside)?;
            done.push(format!(
                "removed {}: {} is there",
                aside.display(),
                path.display()
            ));
        } else {
            rename(&aside, &path)?;
            done.push(format!("put {} back", path.display()));
        }
    }
    sync(directory)?;
    record.close(done)
}

fn uninstall_program(directory: &Path, done: &mut Done) -> Result<(), InstallError> {
    files::sweep(directory, done)?;
    let alias = directory.join(ALIAS);
    let aside = appended(&alias, ASIDE);
    if files::is_there(&aside) {
        rename(&aside, &alias)?;
        // Two names of one file, where the link was never made: then a rename does nothing.
        files::remove(&aside)?;
        done.push(format!("put {} back", alias.display()));
    } else if files::is_link(&alias, PROGRAM) && files::remove(&alias)? {
        done.push(format!("removed {}", alias.display()));
    }
    let program = directory.join(PROGRAM);
    if files::remove(&program)? {
        done.push(format!("removed {}", program.display()));
    }
    sync(directory)
}

fn install_program(what: &Installation, done: &mut Done) -> Result<(), InstallError> {
    let directory = &what.directories.programs;
    let program = directory.join(PROGRAM);
    if copy_program(&what.program, &program)? {
        done.push(format!("wrote {}", program.display()));
    }
    let alias = directory.join(ALIAS);
    // Cilium's own plugin comes back when we go.
    if files::is_there(&alias) && !files::is_link(&alias, PROGRAM) {
        let aside = appended(&alias, ASIDE);
        files::keep(&alias, &aside)?;
        done.push(format!("kept {} as {}", alias.display(), aside.display()));
    }
    if files::link(&alias, PROGRAM)? {
        done.push(format!("linked {} to {PROGRAM}", alias.display()));
    }
    sync(directory)
}

/// The configuration to chain to: one in force first, else one that we put aside.
fn find_main(directory: &Path, target: Option<&str>) -> Result<conflist::Conflist, InstallError> {
    let record = Record::of(directory);
    let (ours, before) = (record.ours(), record.before());
    let in_force = configurations(directory)?.filter(|path| *path != ours);
    let aside = files::list(directory)?.into_iter().filter(|path| {
        *path != before && without(path, ASIDE).is_some_and(|path| is_configuration(&path))
    });
    for path in in_force.chain(aside) {
        let conflist = match conflist::read(&path) {
            Ok(conflist) => conflist,
            // Runtimes pass over what they cannot read, too; with a name to look for, it may be the one.
            Err(InstallError::Malformed { .. }) if target.is_none() => continue,
            Err(error) => return Err(error),
        };
        if target.is_none_or(|target| conflist.name() == target) {
            return Ok(conflist);
        }
    }
    Err(InstallError::NoMainPlugin {
        directory: directory.to_owned(),
        target: target.map(ToOwned::to_owned),
    })
}

/// What a runtime reads, in its order.
fn configurations(directory: &Path) -> Result<impl Iterator<Item = PathBuf>, InstallError> {
    let all = files::list(directory)?;
    Ok(all.into_iter().filter(|path| is_configuration(path)))
}

fn is_configuration(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["conf", "conflist", "json"]
            .iter()
            .any(|known| extension == *known)
    })
}

fn appended(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn without(path: &Path, suffix: &str) -> Option<PathBuf> {
    let name = path.to_str()?.strip_suffix(suffix)?;
    Some(name.into())
}

#[cfg(test)]
mod tests;
