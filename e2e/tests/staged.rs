//! Staged policies on a node with real traffic: nothing changes, and what would change is counted.

use oxilium_e2e::{
    probe::{self, Outcome},
    scenario::{Scenario, policy, sockets},
    server::TcpServer,
    wait,
};
use serde_json::Value;

fn staged(name: &str, body: &str) -> String {
    policy(name, body).replace(
        "  namespace: default\n",
        "  namespace: default\n  annotations: {policy.oxilium.io/enforcement: audit}\n",
    )
}

#[test]
fn a_staged_deny_and_a_staged_allow_change_nothing_and_count_what_they_would() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let pod = |name: &str| scenario.lab.pod(name).label("app", name).start().unwrap();
    let (subject, friend, stranger) = (pod("subject"), pod("friend"), pod("stranger"));
    let _server = TcpServer::echo(&subject.netns, 80).unwrap();
    let from = |direction: &str, app: &str| {
        format!("  {direction}:\n    - fromEndpoints:\n        - matchLabels: {{app: {app}}}\n")
    };
    let enforced = policy("enforced", &from("ingress", "friend"));
    scenario.enforce("enforced", &enforced).unwrap();
    let deny = staged("staged-deny", &from("ingressDeny", "friend"));
    scenario.enforce("staged-deny", &deny).unwrap();
    let allow = staged("staged-allow", &from("ingress", "stranger"));
    scenario.enforce("staged-allow", &allow).unwrap();

    let report = |name: &str| -> Value {
        let policies = scenario.agent.cli().policies().unwrap();
        let found = policies.iter().find(|policy| policy["name"] == name);
        found.unwrap().clone()
    };
    assert_eq!(report("staged-deny")["mode"], "audit");
    for to in sockets(&subject, 80) {
        let outcome = probe::tcp(&friend.netns, to).unwrap();
        assert_eq!(outcome, Outcome::Answered, "{to}");
    }
    let denied = wait::until("flows that would be denied", wait::LONG, || {
        let report = report("staged-deny");
        Ok((report["staged"]["newlyDenied"] == 2).then_some(report))
    })
    .unwrap();
    assert_eq!(denied["staged"]["newlyAllowed"], 0, "{denied}");
    let example = &denied["staged"]["examples"][0];
    assert_eq!(example["sourceName"], "default/friend", "{denied}");
    assert_eq!(example["destinationPort"], 80, "{denied}");

    // The events are read some time after the policy is there: until then drops are not seen.
    let allowed = wait::until("flows that would be allowed", wait::LONG, || {
        for to in sockets(&subject, 80) {
            let outcome = probe::tcp(&stranger.netns, to)?;
            assert_eq!(outcome, Outcome::Silence, "{to}");
        }
        let report = report("staged-allow");
        let count = report["staged"]["newlyAllowed"].as_u64();
        Ok(count.is_some_and(|count| count >= 2).then_some(report))
    })
    .unwrap();
    assert_eq!(allowed["staged"]["newlyDenied"], 0, "{allowed}");
    let example = &allowed["staged"]["examples"][0];
    assert_eq!(example["sourceName"], "default/stranger", "{allowed}");
    assert_eq!(report("staged-deny")["staged"]["newlyDenied"], 2);

    let table = scenario.agent.cli().text(&["policy", "get"]).unwrap();
    assert!(table.contains("newly denied"), "{table}");
}
