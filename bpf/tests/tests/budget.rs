//! What the programs cost the verifier, on the kernel that runs: it gives up on a program after a million
//! instructions (`BPF_COMPLEXITY_LIMIT_INSNS`), counted along all paths that it walks, and kernels differ in how many
//! they need. Growth shall be seen here, and not on a node where nothing loads any more.

use anyhow::{Context, Result};
use oxilium_abi::Direction;
use oxilium_e2e::require::{Need, require};
use oxilium_program_tests::{Constants, Object, enter_namespace};

/// For each program, in every build of it: the most is 217,397 on 6.18 and 303,135 on 6.1; of those that nodes load, 162,147 and
/// 192,083.
const CEILING: u32 = 400_000;

/// The builds that nodes load, and those of the tests. The constants are known to the verifier, so that each build is
/// another program to it.
fn builds() -> Vec<(&'static str, Constants)> {
    let plain = Constants {
        trace: false,
        ..Constants::default()
    };
    vec![
        ("plain", plain),
        ("trace", Constants::default()),
        (
            "dry run",
            Constants {
                dry_run: true,
                ..plain
            },
        ),
        (
            "dry run, weak order",
            Constants {
                dry_run: true,
                weak_order: true,
                ..plain
            },
        ),
        (
            "trace, weak order",
            Constants {
                weak_order: true,
                ..Constants::default()
            },
        ),
        (
            "trace, accounting",
            Constants {
                accounting: true,
                ..Constants::default()
            },
        ),
        (
            "always ask",
            Constants {
                always_ask: true,
                ..plain
            },
        ),
    ]
}

#[test]
fn no_program_comes_near_what_the_verifier_walks_at_most() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf]) {
        return Ok(());
    }
    enter_namespace()?;
    let mut beyond = Vec::new();
    for (build, constants) in builds() {
        let mut object = Object::load(constants).with_context(|| format!("the build: {build}"))?;
        for direction in [Direction::Egress, Direction::Ingress] {
            let walked = object
                .program(direction)?
                .info()?
                .verified_instruction_count()
                .context("the kernel does not say how much it walked (since Linux 5.16)")?;
            let figure = format!("{build}, {direction:?}: {walked} instructions");
            // Kept in the log of a run on each kernel.
            eprintln!("{figure}");
            if walked > CEILING {
                beyond.push(figure);
            }
        }
    }
    assert!(
        beyond.is_empty(),
        "above the ceiling of {CEILING}:\n{}",
        beyond.join("\n")
    );
    Ok(())
}
