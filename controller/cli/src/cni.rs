//! `cni install` and `cni uninstall`: what the init container and the end of the agent's pod run.

use std::io::Write;
use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use oxilium_agent::config::value::parse_boolean;
use oxilium_cni::install::{Directories, Installation, Source, Stanza, install, uninstall};

use crate::output::{Out, Verdict};

#[derive(Debug, Subcommand)]
pub(crate) enum Cni {
    /// Put the plugin and its configuration in place. Writes nothing that is right already.
    Install(Install),
    /// Take the configuration away and put others back.
    Uninstall(Uninstall),
}

#[derive(Debug, Args)]
pub(crate) struct Places {
    /// Directory with a file for each key: the mounted ConfigMap cilium-config. Flags and environment count before it.
    #[arg(long, env = "CILIUM_CONFIG_DIR", value_name = "DIR")]
    config_dir: Option<PathBuf>,

    /// Where the node keeps its CNI plugins.
    #[arg(long = "bin-dir", default_value = "/opt/cni/bin", value_name = "DIR")]
    programs: PathBuf,

    /// Where the node keeps its CNI configurations.
    #[arg(
        long = "conf-dir",
        default_value = "/etc/cni/net.d",
        value_name = "DIR"
    )]
    configurations: PathBuf,
}

impl Places {
    fn directories(&self) -> Directories {
        Directories {
            programs: self.programs.clone(),
            configurations: self.configurations.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Install {
    #[command(flatten)]
    places: Places,

    /// The plugin to install.
    #[arg(long, default_value = "/usr/bin/oxilium-cni", value_name = "FILE")]
    plugin: PathBuf,

    /// Put other CNI configurations aside, as *.cilium_bak.
    #[arg(
        long,
        env = "CILIUM_CNI_EXCLUSIVE",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        action = ArgAction::Set,
        value_parser = parse_boolean,
        value_name = "BOOL"
    )]
    cni_exclusive: bool,

    /// Leave the CNI configuration to its owner, unless --read-cni-conf gives one.
    #[arg(
        long,
        env = "CILIUM_CUSTOM_CNI_CONF",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        action = ArgAction::Set,
        value_parser = parse_boolean,
        value_name = "BOOL"
    )]
    custom_cni_conf: bool,

    /// A whole CNI configuration list, to be installed as it is.
    #[arg(long, env = "CILIUM_READ_CNI_CONF", value_name = "FILE")]
    read_cni_conf: Option<PathBuf>,

    /// Name of the network to chain to; the first configuration of the node unless given.
    #[arg(long, env = "CILIUM_CNI_CHAINING_TARGET", value_name = "NAME")]
    cni_chaining_target: Option<String>,

    /// Where the plugin logs; nowhere unless given.
    #[arg(long, env = "CILIUM_CNI_LOG_FILE", value_name = "FILE")]
    cni_log_file: Option<String>,

    /// The plugin logs each call, not only those that fail.
    #[arg(
        long,
        env = "CILIUM_DEBUG",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        action = ArgAction::Set,
        value_parser = parse_boolean,
        value_name = "BOOL"
    )]
    debug: bool,
}

impl Install {
    fn source(&self) -> Source {
        match &self.read_cni_conf {
            Some(path) => Source::File(path.clone()),
            None if self.custom_cni_conf => Source::Leave,
            None => Source::Chain {
                target: self.cni_chaining_target.clone(),
            },
        }
    }
}

#[derive(Debug, Args)]
#[expect(
    clippy::struct_field_names,
    reason = "the field has the name of the option, which is Cilium's"
)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    places: Places,

    /// Do it; false: change nothing.
    #[arg(
        long,
        env = "CILIUM_CNI_UNINSTALL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        action = ArgAction::Set,
        value_parser = parse_boolean,
        value_name = "BOOL"
    )]
    cni_uninstall: bool,

    /// The plugin's program as well. Pods that were made with it cannot be removed without it.
    #[arg(long = "programs")]
    with_programs: bool,
}

pub(crate) fn run<W: Write>(command: &Cni, out: &mut Out<W>) -> anyhow::Result<Verdict> {
    let done = match command {
        Cni::Install(options) => install(&Installation {
            program: options.plugin.clone(),
            directories: options.places.directories(),
            source: options.source(),
            exclusive: options.cni_exclusive,
            stanza: Stanza {
                log_file: options.cni_log_file.clone(),
                debug: options.debug,
            },
        })?,
        Cni::Uninstall(options) if !options.cni_uninstall => {
            vec!["cni-uninstall is false: nothing is changed".to_owned()]
        }
        Cni::Uninstall(options) => uninstall(&options.places.directories(), options.with_programs)?,
    };
    out.print(&done, |table| {
        if done.is_empty() {
            return writeln!(table, "nothing to do");
        }
        done.iter().try_for_each(|line| writeln!(table, "{line}"))
    })?;
    Ok(Verdict::Yes)
}
