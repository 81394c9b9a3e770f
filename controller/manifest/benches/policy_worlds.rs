//! The policy engine on three worlds: one subject under many policies (`dense`), a node of a large cluster
//! (`cluster`), and policies of which none selects the subject (`nomatch`).
//!
//! Prints a table first (best of five, with a fixed loop to compare machines by, and what Cilium 1.20.2's
//! engine took on two cores of the machine where the goals were set), then criterion's figures.
//! `cargo bench -p oxilium-manifest -- --summary` prints the table only.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and fails by panicking"
)]

mod worlds;

use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use oxilium_manifest::tree::Node;
use oxilium_manifest::{LowerConfig, lower_policy};
use oxilium_model::identity::{Identity, NamedPorts, NumericIdentity};
use oxilium_model::label::Label;
use oxilium_model::policy::config::PolicyConfig;
use oxilium_model::policy::engine::Engine;
use oxilium_model::policy::rule::Policy;
use oxilium_model::policy::{SubjectView, resolve};
use serde_json::Value;
use worlds::World;

/// In a child process: the world whose memory is measured.
const MEMORY_OF: &str = "OXILIUM_BENCH_MEMORY_OF";

/// Cilium's figures: parse and insert, resolve all, identity added, policy changed; and memory in MB.
const REFERENCE: [(&str, [f64; 4], u64); 3] = [
    ("dense", [720e-3, 66e-3, 184e-6, 75e-3], 37),
    ("cluster", [287e-3, 49e-3, 278e-6, 0.74e-3], 66),
    ("nomatch", [4.9, 9e-3, 13e-3, 0.38e-3], 133),
];

fn lower(text: &str) -> Arc<Policy> {
    let value: Value = serde_json::from_str(text).unwrap();
    let lowered = lower_policy(&Node::from_json(&value), None, &LowerConfig::default());
    Arc::new(lowered.unwrap().policy)
}

fn identity(labels: &[String]) -> Identity {
    Identity {
        labels: labels
            .iter()
            .map(|text| Label::parse(text).unwrap())
            .collect(),
        named_ports: NamedPorts::default(),
    }
}

/// An engine with the world's identities.
fn with_identities(world: &World) -> Engine {
    let mut engine = Engine::new(PolicyConfig::default());
    for (id, labels) in &world.identities {
        engine.set_identity(NumericIdentity(*id), Some(identity(labels)));
    }
    engine
}

fn load(engine: &mut Engine, world: &World) {
    for text in &world.policies {
        let policy = lower(text);
        engine.set_policy(&policy.reference.clone(), Some(policy));
    }
}

fn resolve_all(engine: &mut Engine, world: &World) -> usize {
    let mut entries = 0;
    for subject in &world.subjects {
        let labels = engine
            .identities()
            .get(NumericIdentity(*subject))
            .unwrap()
            .labels
            .clone();
        let view = SubjectView {
            labels,
            named_ports: NamedPorts::default(),
        };
        engine.set_subject(u64::from(*subject), Some(view));
        entries += engine.policy(u64::from(*subject)).unwrap().len();
    }
    entries
}

fn forget_subjects(engine: &mut Engine, world: &World) {
    for subject in &world.subjects {
        engine.set_subject(u64::from(*subject), None);
    }
}

fn ready(world: &World) -> Engine {
    let mut engine = with_identities(world);
    load(&mut engine, world);
    resolve_all(&mut engine, world);
    engine
}

fn best<T>(times: usize, mut measure: impl FnMut() -> (Duration, T)) -> (f64, T) {
    (0..times)
        .map(|_| measure())
        .min_by_key(|(time, _)| *time)
        .map(|(time, value)| (time.as_secs_f64(), value))
        .unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = work();
    (start.elapsed(), value)
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// In the child: loads a world and prints by how much memory grew.
fn measure_memory(name: &str) {
    let world = World::named(name);
    let before = resident();
    let engine = ready(&world);
    println!("{}", resident().saturating_sub(before));
    drop(black_box(engine));
}

fn memory_of(name: &str) -> f64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .env(MEMORY_OF, name)
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// A loop that does the same on every machine.
fn calibrate() -> f64 {
    best(5, || {
        timed(|| {
            let mut x = 0x9E37_79B9_7F4A_7C15_u64;
            for _ in 0..black_box(10_000_000_u32) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
            }
            black_box(x)
        })
    })
    .0
}

fn summary() {
    println!(
        "calibration: 10,000,000 xorshifts in {:.2} ms",
        calibrate() * 1e3
    );
    for (name, reference, megabytes) in REFERENCE {
        let world = World::named(name);
        let (load_time, ()) = best(5, || {
            let mut engine = with_identities(&world);
            timed(|| load(&mut engine, &world))
        });
        let mut engine = ready(&world);
        let (resolve_time, entries) = best(5, || {
            forget_subjects(&mut engine, &world);
            timed(|| resolve_all(&mut engine, &world))
        });
        let new = NumericIdentity(world.new_identity.0);
        let (identity_time, changed) = best(5, || {
            let identity = identity(&world.new_identity.1);
            let added = timed(|| engine.set_identity(new, Some(identity)));
            engine.set_identity(new, None);
            added
        });
        let changed_policy = lower(&world.changed_policy);
        let reference_to = changed_policy.reference.clone();
        let before = world
            .policies
            .iter()
            .map(|text| lower(text))
            .find(|policy| policy.reference == reference_to)
            .unwrap();
        let (policy_time, subjects) = best(5, || {
            let new = changed_policy.clone();
            let changed = timed(|| engine.set_policy(&reference_to, Some(new)));
            engine.set_policy(&reference_to, Some(before.clone()));
            changed
        });
        println!(
            "{name}: {entries} entries, {} changed by an identity, {} subjects by a policy",
            changed.entries,
            subjects.subjects.len()
        );
        let ours = [load_time, resolve_time, identity_time, policy_time];
        let columns = [
            "parse and load",
            "resolve all subjects",
            "identity added",
            "policy changed",
        ];
        for ((column, ours), theirs) in columns.iter().zip(ours).zip(reference) {
            println!(
                "  {column:<22} {:>12.1} µs   Cilium {:>12.1} µs   {:>7.1} times",
                ours * 1e6,
                theirs * 1e6,
                theirs / ours
            );
        }
        let memory = memory_of(name);
        println!(
            "  {:<22} {:>12.1} MB   Cilium {megabytes:>12} MB",
            "memory",
            memory / 1e6
        );
    }
}

fn bench(criterion: &mut Criterion) {
    for (name, ..) in REFERENCE {
        let world = World::named(name);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        group.bench_function("parse_and_load", |bencher| {
            bencher.iter_batched(
                || with_identities(&world),
                |mut engine| {
                    load(&mut engine, &world);
                    engine
                },
                BatchSize::LargeInput,
            );
        });
        let mut engine = ready(&world);
        group.bench_function("resolve_all_subjects", |bencher| {
            bencher.iter(|| {
                forget_subjects(&mut engine, &world);
                resolve_all(&mut engine, &world)
            });
        });
        let new = NumericIdentity(world.new_identity.0);
        let fresh = identity(&world.new_identity.1);
        group.bench_function("identity_added_and_removed", |bencher| {
            bencher.iter(|| {
                engine.set_identity(new, Some(fresh.clone()));
                engine.set_identity(new, None)
            });
        });
        let changed = lower(&world.changed_policy);
        let mut staged = (*changed).clone();
        staged.rules.clear();
        let emptied = Arc::new(staged);
        group.bench_function("policy_changed_twice", |bencher| {
            bencher.iter(|| {
                engine.set_policy(&changed.reference, Some(changed.clone()));
                engine.set_policy(&changed.reference, Some(emptied.clone()))
            });
        });
        group.finish();
    }
    let world = World::named("dense");
    let policies: Vec<Policy> = world
        .policies
        .iter()
        .map(|text| (*lower(text)).clone())
        .collect();
    let engine = with_identities(&world);
    let view = SubjectView {
        labels: identity(&world.identities[0].1).labels,
        named_ports: NamedPorts::default(),
    };
    let mut group = criterion.benchmark_group("plain");
    group.sample_size(10);
    group.bench_function("dense", |bencher| {
        bencher.iter(|| {
            resolve(
                &policies,
                engine.identities(),
                &view,
                &PolicyConfig::default(),
            )
        });
    });
    group.finish();
}

fn main() {
    if let Ok(name) = std::env::var(MEMORY_OF) {
        return measure_memory(&name);
    }
    let asked = |name: &str| std::env::args().any(|argument| argument == name);
    if !asked("--test") && !asked("--profile-time") {
        summary();
    }
    if asked("--summary") {
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
}
