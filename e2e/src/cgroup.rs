//! A memory cgroup: what the maps of an agent in it take is charged to it, for as long as they are there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// The names of the two interfaces' files.
#[derive(Clone, Copy, Debug)]
struct Files {
    usage: &'static str,
    limit: &'static str,
    no_limit: &'static str,
    /// What is written there is taken from what can be given back.
    reclaim: (&'static str, &'static str),
}

/// Where memory cgroups are, and how their files are called; none where the machine has none.
fn root() -> Option<(&'static Path, Files)> {
    let unified = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_to_string(unified.join("cgroup.subtree_control"));
    if controllers.is_ok_and(|text| text.split_whitespace().any(|word| word == "memory")) {
        let files = Files {
            usage: "memory.current",
            limit: "memory.max",
            no_limit: "max",
            reclaim: ("memory.reclaim", "1G"),
        };
        return Some((unified, files));
    }
    let own = Path::new("/sys/fs/cgroup/memory");
    let files = Files {
        usage: "memory.usage_in_bytes",
        limit: "memory.limit_in_bytes",
        no_limit: "-1",
        reclaim: ("memory.force_empty", "0"),
    };
    own.join(files.usage).is_file().then_some((own, files))
}

/// Whether the machine has memory cgroups that one may make.
pub fn has_memory() -> bool {
    root().is_some()
}

/// A memory cgroup of a lab's. It is removed when this is dropped; what lives in it must be gone by then.
#[derive(Debug)]
pub struct MemoryCgroup {
    path: PathBuf,
    files: Files,
}

impl MemoryCgroup {
    /// Makes it, without a limit.
    ///
    /// # Errors
    /// If the machine has none, or it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let (parent, files) = root().context("no memory cgroups")?;
        let path = parent.join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, files })
    }

    /// The command that is `command`, run inside.
    pub fn around(&self, command: &Command) -> Command {
        let mut inside = Command::new("/bin/sh");
        inside
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.path.join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    /// Has no more from now on than it has, once the kernel has taken back what it can.
    ///
    /// # Errors
    /// If it cannot be limited to that.
    pub fn freeze(&self) -> Result<()> {
        let (reclaim, all) = self.files.reclaim;
        // There may be less to be taken back than was asked for.
        drop(fs::write(self.path.join(reclaim), all));
        let usage = fs::read_to_string(self.path.join(self.files.usage))?;
        self.set_limit(usage.trim())
    }

    /// Takes the limit away.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        self.set_limit(self.files.no_limit)
    }

    fn set_limit(&self, limit: &str) -> Result<()> {
        fs::write(self.path.join(self.files.limit), limit)
            .with_context(|| format!("a limit of {limit}"))
    }
}

impl Drop for MemoryCgroup {
    #[expect(
        clippy::print_stderr,
        reason = "what could not be removed must be seen, and drop has nobody to tell"
    )]
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}
