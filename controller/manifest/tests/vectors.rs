//! Policy vectors: errors, enforcement and every verdict as Cilium 1.20.2's own engine has them, and no table
//! larger than its.
//!
//! `data/` was computed with Cilium as a library; only its results are here.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it counted"
)]

use std::collections::BTreeMap;

use oxilium_manifest::vectors::{Answer, IdentitySets, SubjectAnswer, VectorFile};
use serde_json::Value;

/// A difference on purpose.
struct Mask {
    /// The cases.
    cases: &'static [&'static str],
    /// The cells that are ours alone: remote, probe, the reference's letter, ours.
    cell: fn(remote: u64, l4: &str, reference: char, ours: char) -> bool,
}

const MASKS: [Mask; 2] = [
    // ICMP type 0 is type 0 alone; the reference takes it for every type. Our verdicts on other types come
    // from the other rules, and none of these cases has one for them.
    Mask {
        cases: &[
            "icmp/egress-v4-0-peer",
            "icmp/deny-v4-0",
            "icmp/ingress-v4-echoreply-name",
            "icmp/egress-v4-echoreply-name-peer",
        ],
        cell: |_, l4, _, _| l4.starts_with("ICMP/") && l4 != "ICMP/0",
    },
    // The reference's lookup in user space differs here from its own in BPF, which says what we say.
    Mask {
        cases: &["auth/required-l4-plain-l3"],
        cell: |remote, l4, reference, ours| {
            (remote, l4, reference, ours) == (10003, "TCP/80", 'A', 'a')
        },
    },
];

fn masked(case: &str, remote: u64, l4: &str, reference: char, ours: char) -> bool {
    MASKS
        .iter()
        .any(|mask| mask.cases.contains(&case) && (mask.cell)(remote, l4, reference, ours))
}

struct Checker<'a> {
    case: &'a Value,
    name: &'a str,
    cells: usize,
    masked: usize,
    errors: Vec<String>,
}

impl Checker<'_> {
    fn policies(&mut self, answer: &Answer) {
        let Answer::Policies {
            policy_status,
            subjects,
            ..
        } = answer
        else {
            return self.errors.push("not answered as policies".into());
        };
        let expect = &self.case["expect"];
        let reference = expect["policyStatus"].as_array().unwrap();
        assert_eq!(reference.len(), policy_status.len());
        for (theirs, ours) in reference.iter().zip(policy_status) {
            if theirs["error"].is_null() != ours.error.is_none() {
                self.errors.push(format!(
                    "{}: error {:?}, reference {}",
                    ours.name, ours.error, theirs["error"]
                ));
            }
        }
        let reference = expect["subjects"].as_array().unwrap();
        assert_eq!(reference.len(), subjects.len());
        for (theirs, ours) in reference.iter().zip(subjects) {
            self.subject(theirs, ours);
        }
    }

    fn subject(&mut self, theirs: &Value, ours: &SubjectAnswer) {
        match (ours, theirs["error"].is_null()) {
            (SubjectAnswer::Error { .. }, false) => {}
            (SubjectAnswer::Error { identity, error }, true) => {
                self.errors.push(format!("subject {identity}: {error}"));
            }
            (SubjectAnswer::Policy { identity, .. }, false) => self.errors.push(format!(
                "subject {identity}: no error, reference {}",
                theirs["error"]
            )),
            (
                SubjectAnswer::Policy {
                    identity,
                    ingress_enforced,
                    egress_enforced,
                    entries,
                    verdicts_ingress,
                    verdicts_egress,
                },
                true,
            ) => {
                if theirs["ingressEnforced"] != *ingress_enforced
                    || theirs["egressEnforced"] != *egress_enforced
                {
                    self.errors.push(format!("subject {identity}: enforcement"));
                }
                let limit = theirs["entries"].as_array().unwrap().len();
                if *entries > limit {
                    self.errors.push(format!(
                        "subject {identity}: {entries} entries, reference {limit}"
                    ));
                }
                self.verdicts(*identity, &theirs["verdictsIngress"], verdicts_ingress);
                self.verdicts(*identity, &theirs["verdictsEgress"], verdicts_egress);
            }
        }
    }

    fn verdicts(&mut self, subject: u32, theirs: &Value, ours: &[String]) {
        let rows = theirs.as_array().unwrap();
        assert_eq!(rows.len(), ours.len());
        let remotes = self.case["probeRemotes"].as_array().unwrap();
        for ((row, ours), remote) in rows.iter().zip(ours).zip(remotes) {
            let row = row.as_str().unwrap();
            assert_eq!(row.len(), ours.len());
            let columns = self.case["probeL4"].as_array().unwrap();
            for ((reference, ours), l4) in row.chars().zip(ours.chars()).zip(columns) {
                self.cells += 1;
                if reference == ours {
                    continue;
                }
                let (remote, l4) = (remote.as_u64().unwrap(), l4.as_str().unwrap());
                if masked(self.name, remote, l4, reference, ours) {
                    self.masked += 1;
                } else {
                    self.errors.push(format!(
                        "subject {subject} {remote} {l4}: {ours}, reference {reference}"
                    ));
                }
            }
        }
    }
}

fn check(file: &str) {
    let sets: IdentitySets = serde_json::from_str(include_str!("data/identity-sets.json")).unwrap();
    let cases: VectorFile = serde_json::from_str(file).unwrap();
    let reference: Value = serde_json::from_str(file).unwrap();
    let mut families: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut failures = Vec::new();
    let (mut cells, mut masked) = (0, 0);
    for (case, reference) in cases
        .cases
        .iter()
        .zip(reference["cases"].as_array().unwrap())
    {
        let mut checker = Checker {
            case: reference,
            name: &case.name,
            cells: 0,
            masked: 0,
            errors: Vec::new(),
        };
        checker.policies(&case.answer(&sets).unwrap());
        let family = families
            .entry(case.name.split('/').next().unwrap())
            .or_default();
        family.1 += 1;
        family.0 += usize::from(checker.errors.is_empty());
        cells += checker.cells;
        masked += checker.masked;
        failures.extend(
            checker
                .errors
                .iter()
                .map(|error| format!("{}: {error}", case.name)),
        );
    }
    for (family, (passed, all)) in &families {
        println!("{family:<18} {passed}/{all}");
    }
    println!("{cells} verdicts, {masked} of them ours on purpose");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // A mask that hides nothing would hide a change of mind.
    let masks_apply = families.contains_key("icmp");
    assert_eq!(masked > 0, masks_apply);
}

#[test]
fn designed_cases_get_cilium_s_verdicts() {
    check(include_str!("data/hand.json"));
}

#[test]
fn random_cases_get_cilium_s_verdicts() {
    check(include_str!("data/random.json"));
}
