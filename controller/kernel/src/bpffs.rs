//! The bpffs that pins live in: there, mounted, and outliving this process's container.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thiserror::Error;

/// The initial pid namespace has this inode on every Linux (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Why there is no place for pins.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// Something that is no bpffs is there.
    #[error("{path} is not on a bpffs (mount -t bpf bpf {path}, or name another --bpf-root)")]
    NotBpffs {
        /// The path.
        path: PathBuf,
    },
    /// The mount is this mount namespace's own.
    #[error(
        "the bpffs at {path} belongs to this container and goes with it, and with it every pin: mount the host's \
         (hostPath /sys/fs/bpf with mountPropagation: Bidirectional)"
    )]
    Private {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be mounted or looked at.
    #[error("bpffs at {path} ({action}): {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes sure that `root` is on a bpffs which outlives this process's container. Mounts one at `root` if
/// nothing is mounted there and the mount would reach the host.
///
/// # Errors
/// [`BpffsError`]; nothing is left mounted then.
pub fn ensure(root: &Path, accept_private: bool) -> Result<(), BpffsError> {
    let failed = |action, source| BpffsError::Io {
        path: root.to_owned(),
        action,
        source,
    };
    if !is_bpffs(root).map_err(|source| failed("statfs", source))? {
        let parent_shared = mounts("self")
            .map_err(|source| failed("read /proc/self/mountinfo", source))?
            .iter()
            .filter(|mount| root.starts_with(&mount.path))
            .max_by_key(|mount| mount.path.as_os_str().len())
            .is_some_and(|mount| mount.shared);
        if !accept_private && !in_hosts_mount_namespace() && !parent_shared {
            return Err(BpffsError::Private {
                path: root.to_owned(),
            });
        }
        if !root.ends_with("bpf") || !root.is_dir() {
            // Only a mount point made for it; a mistyped path is not to be covered by a mount.
            return Err(BpffsError::NotBpffs {
                path: root.to_owned(),
            });
        }
        mount(
            Some("bpf"),
            root,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=700"),
        )
        .map_err(|error| failed("mount", error.into()))?;
        tracing::info!(path = %root.display(), "mounted a bpffs");
        return Ok(());
    }
    if accept_private || outlives(root).map_err(|source| failed("read mountinfo", source))? {
        return Ok(());
    }
    Err(BpffsError::Private {
        path: root.to_owned(),
    })
}

/// Unmounts the bpffs at `path`, if one is mounted there and nothing is in it; false when it is left.
///
/// # Errors
/// [`BpffsError::Io`].
pub fn unmount_empty(path: &Path) -> Result<bool, BpffsError> {
    let failed = |action, source| BpffsError::Io {
        path: path.to_owned(),
        action,
        source,
    };
    let is_mount = mounts("self")
        .map_err(|source| failed("read /proc/self/mountinfo", source))?
        .iter()
        .any(|mount| mount.path == path);
    if !is_mount || !is_bpffs(path).map_err(|source| failed("statfs", source))? {
        return Ok(false);
    }
    let mut entries = fs::read_dir(path).map_err(|source| failed("read", source))?;
    if entries.next().is_some() {
        return Ok(false);
    }
    drop(entries);
    umount(path).map_err(|error| failed("unmount", error.into()))?;
    Ok(true)
}

/// Is a bpffs there?
///
/// # Errors
/// What statfs(2) says; that there is nothing at all is no error.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    match statfs(path) {
        Ok(stat) => Ok(stat.filesystem_type() == BPF_FS_MAGIC),
        Err(nix::errno::Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The host's first process is visible, and its mounts are ours.
fn in_hosts_mount_namespace() -> bool {
    sees_hosts_processes()
        && matches!(
            (fs::read_link("/proc/1/ns/mnt"), fs::read_link("/proc/self/ns/mnt")),
            (Ok(host), Ok(own)) if host == own
        )
}

fn sees_hosts_processes() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|meta| meta.ino() == INITIAL_PID_NAMESPACE)
}

/// The file system under `root` is one that others hold as well: the host's mount namespace has it,
/// or it came by propagation. Where the host cannot be seen (its own pid namespace, a private bind
/// mount) a mount that was there before us is taken for the host's.
fn outlives(root: &Path) -> io::Result<bool> {
    if in_hosts_mount_namespace() {
        return Ok(true);
    }
    if !sees_hosts_processes() {
        return Ok(true);
    }
    let device = fs::metadata(root)?.dev();
    let number = format!(
        "{}:{}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    );
    Ok(mounts("1")?.iter().any(|mount| mount.device == number))
}

struct Mount {
    device: String,
    path: PathBuf,
    shared: bool,
}

/// The mounts that a process sees, from its mountinfo (proc(5)).
fn mounts(process: &str) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string(format!(
        "/proc/{process}/mountinfo"
    ))?))
}

fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let device = fields.nth(2)?.to_owned();
            let path = PathBuf::from(fields.nth(1)?.replace("\\040", " "));
            let shared = fields
                .skip(1)
                .take_while(|field| *field != "-")
                .any(|field| field.starts_with("shared:"));
            Some(Mount {
                device,
                path,
                shared,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_tell_device_path_and_propagation() {
        let mounts = parse(
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
             37 35 0:29 / /sys/fs/bpf rw shared:7 master:2 - bpf bpf rw\n\
             38 35 0:30 / /a\\040b rw - tmpfs tmpfs rw\n",
        );
        let told: Vec<_> = mounts
            .iter()
            .map(|m| (m.device.as_str(), m.path.to_str().unwrap_or(""), m.shared))
            .collect();
        assert_eq!(
            told,
            [
                ("98:0", "/mnt2", false),
                ("0:29", "/sys/fs/bpf", true),
                ("0:30", "/a b", false),
            ]
        );
    }

    #[test]
    fn a_directory_on_another_file_system_is_refused_and_not_mounted_over() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let error = ensure(directory.path(), true).expect_err("it is no bpffs");
        assert!(matches!(error, BpffsError::NotBpffs { .. }), "{error}");
    }
}
