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
    /// `ip`, `ping`, `curl`, `nginx`.
    Tools,
    /// The binaries `oxilium` and `oxilium-cni`, built beside the test.
    Binaries,
    /// The bridge netfilter sysctls. Not in `all`: few kernels that can run the rest lack it, but it is a choice.
    BridgeNetfilter,
}

impl Need {
    /// As `OXILIUM_REQUIRE` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Bpf => "bpf",
            Self::CniPlugins => "cni-plugins",
            Self::Tools => "tools",
            Self::Binaries => "binaries",
            Self::BridgeNetfilter => "bridge-netfilter",
        }
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
            Self::Tools => ["ip", "ping", "curl", "nginx"]
                .iter()
                .find(|name| crate::process::find_program(name).is_none())
                .map(|name| format!("no {name} (`make setup` installs it)")),
            Self::Binaries => ["oxilium", "oxilium-cni"]
                .iter()
                .find(|name| !crate::process::built_binary(name).is_ok_and(|path| path.is_file()))
                .map(|name| format!("{name} is not built (`cargo build --workspace --bins`)")),
            Self::BridgeNetfilter => (!Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables")
                .exists())
            .then(|| "the kernel has no bridge netfilter".to_owned()),
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
        .any(|word| word == need.name() || (word == "all" && need != Need::BridgeNetfilter))
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
        ] {
            assert_eq!(is_required(need, list), expected, "{list} {need:?}");
        }
    }
}
