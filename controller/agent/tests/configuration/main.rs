//! Options from flags, environment and a mounted ConfigMap, in Cilium's names.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that fails should say where"
)]

mod page;
mod seed;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command as Process;
use std::time::Duration;

use clap::{Args, Command, FromArgMatches};
use oxilium_agent::AgentOptions;
use oxilium_agent::config::keys::{self, Treatment};
use oxilium_agent::config::settle::{Configured, parse, with_other_keys};
use oxilium_agent::config::value::Kind;
use oxilium_model::world::Capacities;

/// The command line `x agent …`.
fn command() -> Command {
    let agent = AgentOptions::augment_args(Command::new("agent"));
    Command::new("x").subcommand(with_other_keys(agent))
}

fn line(arguments: &[&str]) -> Vec<OsString> {
    ["x", "agent", "--manifests", "/m"]
        .iter()
        .chain(arguments)
        .map(OsString::from)
        .collect()
}

/// The options, or the error, as a person sees it.
fn options(arguments: &[&str]) -> Result<(AgentOptions, Configured), String> {
    let mut command = command();
    let (matches, configured) =
        parse(&mut command, line(arguments), "agent").map_err(|error| error.to_string())?;
    let (_, matches) = matches.subcommand().unwrap();
    let options = AgentOptions::from_arg_matches(matches).unwrap();
    Ok((options, configured))
}

/// The same with these files in the configuration directory.
fn with_files(
    files: &[(&str, &str)],
    arguments: &[&str],
) -> Result<(AgentOptions, Configured), String> {
    let directory = tempfile::tempdir().unwrap();
    for (name, value) in files {
        fs::write(directory.path().join(name), value).unwrap();
    }
    let path = directory.path().to_str().unwrap();
    options(&[&["--config-dir", path], arguments].concat())
        .map_err(|error| error.replace(path, "DIR"))
}

#[test]
fn a_flag_counts_before_a_file_and_a_file_before_the_default() {
    let files = [
        ("cluster-name", "of-file"),
        ("cluster-id", "7"),
        ("conntrack-gc-interval", "1m30s"),
        ("debug", "T"),
    ];
    let (options, _) = with_files(&files, &["--cluster-name=of-flag", "--debug=false"]).unwrap();
    assert_eq!(options.cluster_name, "of-flag");
    assert_eq!(options.cluster_id, 7);
    assert_eq!(options.conntrack_gc(), Some(Duration::from_secs(90)));
    assert!(!options.debug);
    assert_eq!(options.bpf_policy_map_max, 16_384);
}

#[test]
fn cilium_s_size_of_its_service_tables_is_that_of_these() {
    let most = |value| {
        let (options, _) = with_files(&[("bpf-lb-map-max", value)], &[]).unwrap();
        let Capacities {
            frontends,
            backends,
            ..
        } = options.capacities();
        (frontends, backends)
    };
    assert_eq!(most(""), (32_768, 262_144), "unless it is given");
    assert_eq!(most("65536"), (32_768, 65_536), "Cilium's default");
    assert_eq!(most("10"), (10, 10));
}

/// The environment is the process's, so this test asks a process of its own.
#[test]
fn the_environment_counts_before_a_file_and_after_a_flag() {
    const INNER: &str = "OXILIUM_TEST_INNER";
    if std::env::var_os(INNER).is_none() {
        let name = "the_environment_counts_before_a_file_and_after_a_flag";
        let status = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(INNER, "1")
            .env("CILIUM_CLUSTER_NAME", "of-environment")
            .env("CILIUM_CLUSTER_ID", "9")
            .env("CILIUM_ENABLE_POLICY", "sometimes")
            .env("CILIUM_ENABLE_WIREGUARD", "true")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let files = [("cluster-name", "of-file"), ("cluster-id", "7")];
    let fine = ["--enable-policy=always", "--enable-wireguard=false"];
    let (options, _) = with_files(&files, &[&fine[..], &["--cluster-id=8"]].concat()).unwrap();
    assert_eq!(options.cluster_name, "of-environment");
    assert_eq!(options.cluster_id, 8);
    assert_eq!(
        with_files(&files, &["--enable-wireguard=false"]).unwrap_err(),
        "enable-policy has the value \"sometimes\" (environment variable CILIUM_ENABLE_POLICY); \
         allowed: default, always, never"
    );
    let error = with_files(&files, &["--enable-policy=always"]).unwrap_err();
    assert!(
        error.starts_with("enable-wireguard=true (environment variable CILIUM_ENABLE_WIREGUARD)"),
        "{error}"
    );
}

#[test]
fn a_bad_value_is_told_with_its_key_its_place_and_what_is_allowed() {
    let told: Vec<String> = [
        ("enable-policy", "sometimes"),
        ("cluster-id", "256"),
        ("debug", "yes"),
        ("bpf-root", "sys/fs/bpf"),
        ("enable-hubble", "maybe"),
        ("hubble-event-buffer-capacity", "-1"),
        ("conntrack-gc-interval", "often"),
    ]
    .iter()
    .map(|file| with_files(&[*file], &[]).unwrap_err())
    .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn what_would_leave_the_node_less_protected_is_refused() {
    let mut told = Vec::new();
    for key in keys::all() {
        let Treatment::Only(values) = key.treatment else {
            continue;
        };
        let other = match key.kind {
            Kind::Bool if values == ["false"] => "true",
            Kind::Bool => "false",
            _ => "other",
        };
        told.push(with_files(&[(key.name, other)], &[]).unwrap_err());
        let flag = format!("--{}={other}", key.name);
        let error = options(&[&flag]).unwrap_err();
        assert!(error.contains(&format!("(flag --{})", key.name)), "{error}");
        for value in values {
            with_files(&[(key.name, value)], &[]).unwrap();
        }
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn what_is_not_done_is_told_and_what_is_done_anyway_is_not() {
    let files = [
        ("tunnel", "vxlan"),
        ("enable-hubble", "false"),
        ("vtep-cidr", ""),
        ("hubble-listen-address", ":4244"),
        ("enable-hubbel", "true"),
    ];
    let (_, configured) = with_files(&files, &["--monitor-aggregation", "none"]).unwrap();
    let told: Vec<String> = configured
        .unsupported
        .iter()
        .map(|told| format!("{}={}", told.key, told.value))
        .collect();
    assert_eq!(
        told,
        [
            "tunnel=vxlan",
            "monitor-aggregation=none",
            "hubble-listen-address=:4244"
        ]
    );
    assert_eq!(configured.unknown, ["enable-hubbel"]);
}

#[test]
fn each_honoured_key_is_an_option_with_cilium_s_variable_and_no_other_is() {
    let command = AgentOptions::augment_args(Command::new("agent"));
    for argument in command.get_arguments() {
        let Some(name) = argument.get_long() else {
            continue;
        };
        let variable = argument
            .get_env()
            .map(|name| name.to_string_lossy().into_owned());
        let cilium_s = variable
            .as_ref()
            .is_some_and(|name| name.starts_with("CILIUM_"));
        let listed = keys::find(name).filter(|key| key.is_agents());
        assert_eq!(
            listed.is_some(),
            cilium_s && name != "config-dir",
            "--{name} {variable:?}"
        );
        if let Some(key) = listed {
            assert_eq!(variable, Some(key.variable()));
        }
    }
    for key in keys::all().filter(|key| key.is_agents()) {
        let mut arguments = command.get_arguments();
        assert!(
            arguments.any(|argument| argument.get_long() == Some(key.name)),
            "{}",
            key.name
        );
    }
}

#[test]
fn each_key_is_listed_once_with_a_reason_and_values_of_its_kind() {
    let mut names = std::collections::BTreeSet::new();
    for key in keys::all() {
        assert!(names.insert(key.name), "{} is listed twice", key.name);
        assert!(
            !key.why.is_empty() && !key.why.ends_with('.'),
            "{}",
            key.name
        );
        if let Treatment::Always(values) | Treatment::Only(values) = key.treatment {
            for value in values {
                let canonical = key.kind.canonical(value);
                assert_eq!(canonical.as_deref(), Ok(*value), "{}", key.name);
            }
        }
    }
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let error = options(&["--config-dir", "/nowhere/at/all"]).unwrap_err();
    assert!(error.contains("/nowhere/at/all"), "{error}");
    assert!(!Path::new("/nowhere").exists());
}
