//! `explain --packet`: the programs' word beside the tables'.

use oxilium_api::{ExplainReport, Explained, ProgramVerdict, Request};

use crate::agent::{FakeAgent, ok};
use crate::sample;

fn tried(reason: Option<&str>, agrees: bool) -> ExplainReport {
    let mut report = sample::explanation(false);
    if let Some(side) = &mut report.ingress {
        side.programs.push(ProgramVerdict {
            program: "to_container".to_owned(),
            packet: "10.1.0.1 -> 10.1.0.2 80/TCP".to_owned(),
            remote_identity: 300,
            passes: reason.is_none(),
            reason: reason.map(str::to_owned),
            table: Explained::NotAllowed,
            agrees,
        });
    }
    report
}

fn agent(report: ExplainReport) -> FakeAgent {
    FakeAgent::new(move |request| {
        assert!(matches!(request, Request::ExplainPacket(_)), "{request:?}");
        vec![ok(&report)]
    })
}

const COMMAND: [&str; 5] = ["explain", "a", "b", "80/TCP", "--packet"];

#[test]
fn the_programs_verdict_stands_beside_the_tables() {
    let outcome = agent(tried(Some("Policy denied"), true)).run(&COMMAND);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    insta::assert_snapshot!(outcome.out, @r"
    default/a (identity 300) -> default/b (identity 400) 80/TCP: denied

    ingress of default/b: not allowed
      policy selects default/b for ingress, and no rule allows this
      not: allow by CiliumNetworkPolicy default/l4 spec.ingress[0] (l4.yaml:8): the port or protocol is not among its ports
      to_container on 10.1.0.1 -> 10.1.0.2 80/TCP: drop: Policy denied
    ");
}

#[test]
fn a_contradiction_is_loud_and_has_a_status_of_its_own() {
    let outcome = agent(tried(None, false)).run(&COMMAND);
    assert_eq!(outcome.status, 3, "{outcome:?}");
    insta::assert_snapshot!(outcome.out, @r"
    default/a (identity 300) -> default/b (identity 400) 80/TCP: denied
    CONTRADICTION: the programs do not do what the tables say (see below); the kernel does what the programs say

    ingress of default/b: not allowed
      policy selects default/b for ingress, and no rule allows this
      not: allow by CiliumNetworkPolicy default/l4 spec.ingress[0] (l4.yaml:8): the port or protocol is not among its ports
      to_container on 10.1.0.1 -> 10.1.0.2 80/TCP: pass
      CONTRADICTION: of this packet (identity 300) the table says: not allowed
    ");
}
