//! What a test needs of the machine, and what happens when the machine lacks it.
//!
//! A test that needs root, or a kernel feature, begins with
//!
//! ```no_run
//! use oxilium_e2e::require::{Need, require};
//!
//! if !require(&[Need::Root, Need::Bpf]) {
//!     return;
//! }
//! ```
//!
//! Where the need is not met it is skipped and says why; where `OXILIUM_REQUIRE` names the need (a comma-separated list,
//! or `all`), as in CI, it fails instead.

use std::{env, path::Path};

/// Something that a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Effective user id 0.
    Root,
    /// A BPF file system on `/sys/fs/bpf`.
    Bpf,
    /// The CNI plugins `bridge` and `host-local`.
    CniPlugins,
    /// `ip`, `ping`, `curl`, `nginx`, `bpftool`.
    Tools,
    /// `strace`, which counts an agent's system calls from outside.
    Strace,
    /// The binaries `oxilium` and `oxilium-cni`, built beside the test.
    Binaries,
    /// The bridge netfilter sysctls. Not in `all`: few kernels that can run the rest lack it, but it is a choice.
    BridgeNetfilter,
    /// tcx hooks, which Linux has since 6.6. Not in `all`: older kernels are served by clsact.
    Tcx,
    /// etcd, kube-apiserver and kubectl. Not in `all`: building them takes a Go that Debian 12 does not have.
    ApiServer,
    /// Memory cgroups that one may make. Not in `all`: a container has its own only.
    MemoryCgroup,
    /// The agent with another layout of maps. Not in `all`: it is built by itself.
    TestLayout,
    /// helm. Not in `all`: building it takes a Go that Debian 12 does not have.
    Helm,
}

impl Need {
    /// As `OXILIUM_REQUIRE` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Bpf => "bpf",
            Self::CniPlugins => "cni-plugins",
            Self::Tools => "tools",
            Self::Strace => "strace",
            Self::Binaries => "binaries",
            Self::BridgeNetfilter => "bridge-netfilter",
            Self::Tcx => "tcx",
            Self::ApiServer => "api-server",
            Self::MemoryCgroup => "memory-cgroup",
            Self::TestLayout => "test-layout",
            Self::Helm => "helm",
        }
    }

    /// `all` does not mean it.
    fn is_optional(self) -> bool {
        matches!(
            self,
            Self::BridgeNetfilter
                | Self::Tcx
                | Self::ApiServer
                | Self::MemoryCgroup
                | Self::TestLayout
                | Self::Helm
        )
    }

    /// Whether the machine has it.
    pub fn is_met(self) -> bool {
        self.lack().is_none()
    }

    /// Why the machine does not meet the need and what would make it.
    fn lack(self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "not root".to_owned()),
            Self::Bpf => (!bpffs_is_mounted())
                .then(|| "no bpffs on /sys/fs/bpf (`make setup` mounts it)".to_owned()),
            Self::CniPlugins => ["bridge", "host-local"]
                .iter()
                .find(|name| crate::cni::find_plugin(name).is_none())
                .map(|name| format!("no CNI plugin {name} (`make setup` installs it)")),
            Self::Tools => [
                "ip",
                "ping",
                "curl",
                "nginx",
                "bpftool",
                "nft",
                "iptables-save",
            ]
            .iter()
            .find(|name| crate::process::find_program(name).is_none())
            .map(|name| format!("no {name} (`make setup` installs it)")),
            Self::Strace => crate::process::find_program("strace")
                .is_none()
                .then(|| "no strace (`make setup` installs it)".to_owned()),
            Self::Binaries => ["oxilium", "oxilium-cni"]
                .iter()
                .find(|name| !crate::process::built_binary(name).is_ok_and(|path| path.is_file()))
                .map(|name| format!("{name} is not built (`cargo build --workspace --bins`)")),
            Self::BridgeNetfilter => (!Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables")
                .exists())
            .then(|| "the kernel has no bridge netfilter".to_owned()),
            Self::Tcx => (!has_tcx(&kernel_release()))
                .then(|| "the kernel has no tcx: it is older than 6.6".to_owned()),
            Self::ApiServer => crate::apiserver::programs::find()
                .err()
                .map(|error| format!("{error:#}")),
            Self::MemoryCgroup => (!crate::cgroup::has_memory())
                .then(|| "no memory cgroups under /sys/fs/cgroup".to_owned()),
            Self::TestLayout => (!crate::process::built_binary("oxilium-test-layout")
                .is_ok_and(|path| path.is_file()))
            .then(|| "oxilium-test-layout is not built (`scripts/test-layout.sh`)".to_owned()),
            Self::Helm => crate::helm::find().err().map(|error| format!("{error:#}")),
        }
    }
}

/// True when the machine has all of `needs`. If not, prints the reason and returns false.
///
/// # Panics
/// If `OXILIUM_REQUIRE` says that a skip is a failure.
#[expect(clippy::print_stderr, reason = "a skip must be seen")]
pub fn require(needs: &[Need]) -> bool {
    let required = env::var("OXILIUM_REQUIRE").unwrap_or_default();
    for need in needs {
        if let Some(lack) = need.lack() {
            assert!(
                !is_required(*need, &required),
                "this test needs {}, which OXILIUM_REQUIRE={required} demands: {lack}",
                need.name()
            );
            eprintln!("skipped: {lack}");
            return false;
        }
    }
    true
}

fn is_required(need: Need, list: &str) -> bool {
    list.split(',')
        .map(str::trim)
        .any(|word| word == need.name() || (word == "all" && !need.is_optional()))
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| String::new(),
        |uname| uname.release().to_string_lossy().into_owned(),
    )
}

/// A release such as `6.12.117+deb12-amd64` is 6.6 or later.
fn has_tcx(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

fn bpffs_is_mounted() -> bool {
    std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| {
        table
            .lines()
            .any(|line| line.contains(" /sys/fs/bpf ") && line.contains(" - bpf "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_needs_and_all_means_every_one_but_the_optional() {
        for (list, need, expected) in [
            ("", Need::Root, false),
            ("root", Need::Root, true),
            ("bpf, root", Need::Root, true),
            ("bpf", Need::Root, false),
            ("all", Need::Binaries, true),
            ("all", Need::BridgeNetfilter, false),
            ("all,bridge-netfilter", Need::BridgeNetfilter, true),
            ("all", Need::Tcx, false),
            ("all,tcx", Need::Tcx, true),
            ("all", Need::ApiServer, false),
            ("all,api-server", Need::ApiServer, true),
        ] {
            assert_eq!(is_required(need, list), expected, "{list} {need:?}");
        }
    }

    #[test]
    fn tcx_came_with_6_6() {
        for (release, expected) in [
            ("6.1.0-56-amd64", false),
            ("6.5.13", false),
            ("6.6.0", true),
            ("6.12.117+deb12-amd64", true),
            ("7.0", true),
            ("5.15.0", false),
            ("", false),
        ] {
            assert_eq!(has_tcx(release), expected, "{release}");
        }
    }
}
