//! `explain --packet`: what the programs say of a packet, beside what the tables say.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use oxilium_e2e::{
    agent::{Agent, agent_command},
    lab::Lab,
    process,
    require::require,
    scenario::{NEEDS, Scenario, policy},
};
use serde_json::Value;

const RULES: &str = "  ingress:
    - fromEndpoints:
        - matchLabels: {app: friend}
      toPorts:
        - ports:
            - {port: \"80\", protocol: TCP}
            - {port: \"53\", protocol: UDP}
            - {port: \"3868\", protocol: SCTP}
    - fromEndpoints:
        - matchLabels: {app: friend}
      toPorts:
        - ports: [{port: \"81\", protocol: TCP}]
          rules: {http: [{method: GET}]}
    - fromEndpoints:
        - matchLabels: {app: friend}
      toPorts:
        - ports: [{port: \"82\", protocol: TCP}]
      authentication: {mode: required}
    - fromEndpoints:
        - matchLabels: {app: friend}
      icmps:
        - fields: [{type: 8, family: IPv4}, {type: 128, family: IPv6}]
  ingressDeny:
    - fromEndpoints:
        - matchLabels: {app: friend}
      toPorts:
        - ports: [{port: \"83\", protocol: TCP}]
";

/// Sender, receiver, port; the families that are tried; why the receiver's side drops it, if it does.
const CASES: [(&str, &str, &str, usize, Option<&str>); 16] = [
    ("default/friend", "default/subject", "80/TCP", 2, None),
    ("default/friend", "default/subject", "53/UDP", 2, None),
    ("default/friend", "default/subject", "3868/SCTP", 2, None),
    ("default/friend", "default/subject", "8/ICMP", 1, None),
    ("default/friend", "default/subject", "128/ICMPv6", 1, None),
    (
        "default/friend",
        "default/subject",
        "81/TCP",
        2,
        Some("Policy needs a proxy that is not running"),
    ),
    (
        "default/friend",
        "default/subject",
        "82/TCP",
        2,
        Some("Authentication required"),
    ),
    (
        "default/friend",
        "default/subject",
        "83/TCP",
        2,
        Some("Policy denied by denylist"),
    ),
    (
        "default/friend",
        "default/subject",
        "84/TCP",
        2,
        Some("Policy denied"),
    ),
    (
        "default/friend",
        "default/subject",
        "80/UDP",
        2,
        Some("Policy denied"),
    ),
    (
        "default/stranger",
        "default/subject",
        "80/TCP",
        2,
        Some("Policy denied"),
    ),
    (
        "world",
        "default/subject",
        "80/TCP",
        2,
        Some("Policy denied"),
    ),
    (
        "192.0.2.77",
        "default/subject",
        "80/TCP",
        1,
        Some("Policy denied"),
    ),
    ("host", "default/subject", "84/TCP", 2, None),
    ("default/subject", "default/friend", "84/TCP", 2, None),
    ("default/subject", "2001:db8::77", "443/TCP", 1, None),
];

/// What the programs answered at all hooks, and the exit status.
fn explain(scenario: &Scenario, arguments: [&str; 3]) -> (i32, Value) {
    let [from, to, port] = arguments;
    let arguments = ["explain", from, to, port, "--packet", "-o", "json"];
    let output = scenario.agent.cli().output(&arguments).unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| unreachable!("{arguments:?}: {error}: {output:?}"));
    (output.status.code().unwrap(), report)
}

#[test]
fn the_programs_say_of_a_packet_what_the_tables_say() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let pod = |name: &str| scenario.lab.pod(name).label("app", name).start().unwrap();
    let _pods = ["subject", "friend", "stranger"].map(pod);
    scenario.enforce("rules", &policy("rules", RULES)).unwrap();
    for (from, to, port, families, reason) in CASES {
        let what = format!("{from} {to} {port}");
        let (status, report) = explain(&scenario, [from, to, port]);
        assert_eq!(status, i32::from(reason.is_some()), "{what}: {report:#}");
        let mut hooks = 0;
        for (side, expected) in [("egress", None), ("ingress", reason)] {
            if report[side].is_null() {
                continue;
            }
            hooks += 1;
            let programs = report[side]["programs"].as_array().unwrap();
            assert_eq!(programs.len(), families, "{what}: {report:#}");
            for asked in programs {
                assert_eq!(asked["agrees"], true, "{what}: {asked:#}");
                assert_eq!(asked["reason"].as_str(), expected, "{what}: {asked:#}");
            }
        }
        let pods = [from, to].iter().filter(|name| name.contains('/')).count();
        assert_eq!(hooks, pods, "{what}");
    }
}

#[test]
fn a_contradiction_is_said_with_a_status_of_its_own() {
    if !require(&NEEDS) {
        return;
    }
    // The agent must not repair what is damaged here before it is asked.
    let lab = Lab::new().unwrap();
    let mut command = agent_command(&lab).unwrap();
    command.args(["--sweep-interval", "3600"]);
    let mut agent = Agent::launch_as(&lab, command).unwrap();
    agent.until_ready().unwrap();
    let scenario = Scenario { agent, lab };
    let subject = scenario
        .lab
        .pod("subject")
        .label("app", "subject")
        .start()
        .unwrap();
    let arguments = ["default/subject", "192.0.2.77", "80/TCP"];
    assert_eq!(explain(&scenario, arguments).0, 0);

    // Somebody takes the interface's configuration away: the programs then drop everything.
    let pin = scenario.lab.bpf_root().join("oxilium/v1/ox_interfaces");
    let index = scenario.agent.endpoint("subject").unwrap();
    let index = index["status"]["networking"]["interface-index"]
        .as_u64()
        .unwrap();
    let key = u32::try_from(index)
        .unwrap()
        .to_ne_bytes()
        .map(|byte| byte.to_string());
    let mut delete = process::command("bpftool");
    delete
        .args(["map", "delete", "pinned"])
        .arg(&pin)
        .arg("key")
        .args(&key);
    process::run(&mut delete).unwrap();
    let (status, report) = explain(&scenario, arguments);
    assert_eq!(status, 3, "{report:#}");
    assert_eq!(
        report["egress"]["programs"][0]["agrees"], false,
        "{report:#}"
    );
    drop(subject);
}
