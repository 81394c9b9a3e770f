//! What the command prints: the tables that people know, and the exit status that scripts ask for.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that fails should say where"
)]

mod agent;
mod offline;
mod packet;
mod sample;

use std::os::unix::fs::symlink;
use std::process::Command;

use agent::{FakeAgent, failure, ok, run};
use oxilium_api::{ApiError, ComponentState, ErrorCode, HealthState, Request};

#[test]
fn endpoint_list_has_a_row_a_label_under_the_known_headers() {
    let agent = FakeAgent::saying(&vec![sample::endpoint(), sample::fresh_endpoint()]);
    let outcome = agent.run(&["endpoint", "list"]);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    insta::assert_snapshot!(outcome.out);
    let without = agent.run(&["endpoint", "list", "--no-headers"]).out;
    assert!(!without.contains("ENDPOINT") && without.contains("k8s:app=web"));
}

#[test]
fn endpoint_get_is_json_unless_asked_otherwise() {
    let agent = FakeAgent::new(|request| {
        let Request::EndpointGet(name) = request else {
            panic!("{request:?}");
        };
        assert_eq!(name, "default/web");
        vec![ok(&sample::endpoint())]
    });
    insta::assert_snapshot!(agent.run(&["endpoint", "get", "default/web"]).out);
    let yaml = agent
        .run(&["endpoint", "get", "default/web", "-o", "yaml"])
        .out;
    assert!(yaml.starts_with("id: 34\n"), "{yaml}");
}

#[test]
fn endpoint_log_tells_its_life() {
    let agent = FakeAgent::saying(&sample::failing_endpoint());
    insta::assert_snapshot!(agent.run(&["endpoint", "log", "34"]).out);
}

#[test]
fn endpoint_health_tells_what_is_tried_again_and_ends_with_1_unless_all_is_well() {
    let failing = FakeAgent::saying(&sample::failing_endpoint());
    let outcome = failing.run(&["endpoint", "health", "34"]);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    insta::assert_snapshot!(outcome.out);
    let mut well = sample::failing_endpoint();
    let health = well.status.health.as_mut().unwrap();
    health.bpf = HealthState::Ok;
    health.overall_health = HealthState::Ok;
    health.failing = None;
    let outcome = FakeAgent::saying(&well).run(&["endpoint", "health", "34"]);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(!outcome.out.contains("Failing"));
}

#[test]
fn identity_list_has_a_row_a_label() {
    let agent = FakeAgent::saying(&sample::identities());
    insta::assert_snapshot!(agent.run(&["identity", "list"]).out, @r"
    ID      LABELS
    1       reserved:host
    11747   k8s:app=web
            k8s:io.kubernetes.pod.namespace=default
    ");
}

#[test]
fn policy_get_tells_what_became_of_each() {
    let agent = FakeAgent::saying(&sample::policies());
    insta::assert_snapshot!(agent.run(&["policy", "get"]).out, @r"
    KIND                             NAMESPACE   NAME        MODE      RULES   ENDPOINTS   STATUS        FROM
    CiliumNetworkPolicy              default     l4-rule     Enforce   1       2           Valid         l4-rule.yaml:7
    CiliumClusterwideNetworkPolicy   -           l7-rule     Enforce   1       0           NotEnforced   -
    CiliumNetworkPolicy              default     lock-down   Audit     1       2           Valid         lock-down.yaml:1

    Staged: CiliumNetworkPolicy default/lock-down
      would newly deny 12 and newly allow 1 flows, since 2026-03-01T11:00:00.000000Z
      3 events were lost: newly allowed flows may be missing
      CHANGE          DIRECTION   SOURCE                                     DESTINATION                                 PORT     TIME
      newly denied    ingress     192.0.2.7:51324 (world-ipv4, identity 9)   10.1.2.3:80 (default/web, identity 11747)   80/TCP   2026-03-01T12:00:01.000000Z
      newly allowed   ingress     10.1.2.9 (identity 11750)                  10.1.2.3 (default/web, identity 11747)      8/ICMP   2026-03-01T12:00:00.000000Z
    Revision: 7
    ");
    // Scripts ask Cilium for it in this way.
    let revision = agent.run(&["policy", "get", "-o", "jsonpath={.revision}"]);
    assert_eq!(revision.out.trim(), "7");
    assert_eq!(
        agent.json(&["policy", "get"])["policies"][0]["name"],
        "l4-rule"
    );
    let staged = &agent.json(&["policy", "get"])["policies"][2];
    assert_eq!(staged["mode"], "audit");
    assert_eq!(staged["staged"]["newlyDenied"], 12);
}

#[test]
fn bpf_policy_get_names_identities_and_rules() {
    let agent = FakeAgent::saying(&vec![sample::table()]);
    insta::assert_snapshot!(agent.run(&["bpf", "policy", "get", "34"]).out);
    insta::assert_snapshot!(agent.run(&["bpf", "policy", "get", "--all", "-n"]).out);
}

#[test]
fn bpf_policy_list_is_of_all_endpoints_unless_one_is_named() {
    for (args, asked) in [
        (&["list"][..], None),
        (&["list", "--all"], None),
        (&["list", "34"], Some(34)),
        (&["get", "--all"], None),
        (&["get", "34"], Some(34)),
    ] {
        let agent = FakeAgent::new(move |request| {
            assert!(
                matches!(request, Request::BpfPolicy(id) if id == asked),
                "{request:?}"
            );
            vec![ok(&vec![sample::table()])]
        });
        let outcome = agent.run(&[&["bpf", "policy"], args].concat());
        assert_eq!(outcome.status, 0, "{args:?}: {outcome:?}");
        let told = outcome.out.contains("Endpoint ID: 34");
        assert_eq!(told, asked.is_none(), "{args:?}: {outcome:?}");
    }
    let nobody = FakeAgent::saying(&vec![sample::table()]).run(&["bpf", "policy", "get"]);
    assert_eq!(nobody.status, 2, "{nobody:?}");
}

#[test]
fn bpf_metrics_list_is_packets_by_their_fate() {
    let agent = FakeAgent::saying(&sample::metrics());
    insta::assert_snapshot!(agent.run(&["bpf", "metrics", "list"]).out, @r"
    REASON          DIRECTION   PACKETS   BYTES
    Policy denied   INGRESS     3         180
    Success         EGRESS      1200      72000
    Success         INGRESS     1100      66000
    ");
    let json = agent.run(&["bpf", "metrics", "list", "-o", "json"]).out;
    let told: serde_json::Value = serde_json::from_str(&json).unwrap();
    let first = serde_json::json!({
        "reason": "Policy denied", "direction": "ingress", "packets": 3, "bytes": 180
    });
    assert_eq!(told[0], first);
    let yaml = agent.run(&["bpf", "metrics", "list", "-o", "yaml"]).out;
    assert!(yaml.contains("reason: Policy denied"), "{yaml}");
}

#[test]
fn bpf_ipcache_list_is_one_line_a_prefix() {
    let agent = FakeAgent::saying(&sample::ipcache());
    insta::assert_snapshot!(agent.run(&["bpf", "ipcache", "list"]).out, @r"
    IP PREFIX/ADDRESS   IDENTITY
    0.0.0.0/0           identity=9 encryptkey=0 tunnelendpoint=0.0.0.0 flags=<none>
    10.244.1.2/32       identity=11747 encryptkey=0 tunnelendpoint=0.0.0.0 flags=<none> labels=k8s:app=web,k8s:io.kubernetes.pod.namespace=default
    ");
}

#[test]
fn service_list_names_each_backend() {
    let agent = FakeAgent::saying(&sample::services());
    insta::assert_snapshot!(agent.run(&["service", "list"]).out);
}

#[test]
fn bpf_lb_list_shows_each_of_its_tables() {
    let agent = FakeAgent::saying(&sample::services());
    let tables = [&[][..], &["--frontends"], &["--backends"], &["--revnat"]];
    let shown = tables.map(|table| agent.run(&[&["bpf", "lb", "list"], table].concat()).out);
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn bpf_ct_list_shows_a_flow_in_the_direction_of_its_first_packet() {
    let agent = FakeAgent::saying(&sample::flows());
    insta::assert_snapshot!(agent.run(&["bpf", "ct", "list", "global"]).out);
    let wrong = agent.run(&["bpf", "ct", "list", "everything"]);
    assert_eq!(wrong.status, 2);
    assert!(wrong.err.contains("neither `global` nor an endpoint id"));
}

#[test]
fn bpf_ct_top_shows_who_fills_the_tables() {
    let agent = FakeAgent::saying(&sample::talkers());
    insta::assert_snapshot!(agent.run(&["bpf", "ct", "top"]).out, @r"
    ENDPOINT   POD             PEERS                                              FLOWS   ANSWERED   UNANSWERED   DENIED   PACKETS   BYTES
    34         default/flood   9                                                  32768   0          32768        0        32768     1966080
    35         -               k8s:app=web,k8s:io.kubernetes.pod.namespace=shop   3       2          0            1        120       98304
    ");
    let first = agent.run(&["bpf", "ct", "top", "--number", "1"]).out;
    assert_eq!(first.lines().count(), 2, "{first}");
}

#[test]
fn bpf_endpoint_list_is_one_line_an_address() {
    let agent = FakeAgent::saying(&sample::bpf_endpoints());
    insta::assert_snapshot!(agent.run(&["bpf", "endpoint", "list"]).out);
}

#[test]
fn status_ends_with_1_unless_all_is_well() {
    for (state, status) in [
        (ComponentState::Ok, 0),
        (ComponentState::Warning, 1),
        (ComponentState::Failure, 1),
    ] {
        let agent = FakeAgent::saying(&sample::status(state));
        for args in [
            &["status"][..],
            &["status", "--brief"],
            &["status", "-o", "json"],
        ] {
            assert_eq!(agent.run(args).status, status, "{state:?} {args:?}");
        }
    }
}

#[test]
fn status_names_everything_that_is_not_as_asked() {
    let good = FakeAgent::saying(&sample::status(ComponentState::Ok));
    insta::assert_snapshot!(good.run(&["status", "--verbose"]).out);
    let bad = FakeAgent::saying(&sample::status(ComponentState::Failure));
    insta::assert_snapshot!(bad.run(&["status"]).out);
    assert_eq!(good.run(&["status", "--brief"]).out, "OK\n");
    let brief = bad.run(&["status", "--brief"]).out;
    assert_eq!(brief, "Failure: 2 things fail\n");
}

#[test]
fn monitor_prints_the_lines_that_people_know_and_json_for_programs() {
    let agent = FakeAgent::new(|_| {
        let mut lines: Vec<String> = sample::events().iter().map(ok).collect();
        let lost = ApiError::new(ErrorCode::Timeout, "3 events were lost");
        lines.push(failure(lost));
        lines
    });
    let outcome = agent.run(&["monitor"]);
    insta::assert_snapshot!(outcome.out);
    // The stream ended because the agent did.
    assert_eq!(outcome.status, 2);
    insta::assert_snapshot!(agent.run(&["monitor", "-v"]).out);
    let numeric = agent.run(&["monitor", "--numeric"]).out;
    assert!(numeric.contains("identity 9->11747"), "{numeric}");
    assert!(numeric.contains("identity 22373->11747"), "{numeric}");
    let json = agent.run(&["monitor", "-o", "json"]).out;
    assert!(
        json.lines().next().unwrap().contains(r#""type":"drop""#),
        "{json}"
    );
    let last = json.lines().last().unwrap();
    assert_eq!(last, r#"{"type":"lost","message":"3 events were lost"}"#);
}

#[test]
fn monitor_sends_its_filter() {
    let agent = FakeAgent::new(|request| {
        let Request::Monitor(filter) = request else {
            panic!("{request:?}");
        };
        assert_eq!(filter.kinds.len(), 2);
        assert_eq!((filter.from, filter.to), (vec![1, 2], vec![3]));
        Vec::new()
    });
    let args = [
        "monitor",
        "-t",
        "drop",
        "-t",
        "policy-verdict",
        "--from",
        "1,2",
        "--to",
        "3",
    ];
    agent.run(&args);
}

#[test]
fn explain_ends_with_0_for_a_packet_that_passes_and_1_for_one_that_does_not() {
    for (allowed, status) in [(true, 0), (false, 1)] {
        let agent = FakeAgent::saying(&sample::explanation(allowed));
        let outcome = agent.run(&["explain", "default/a", "default/b", "80/TCP"]);
        assert_eq!(outcome.status, status, "{outcome:?}");
    }
    let agent = FakeAgent::saying(&sample::explanation(false));
    insta::assert_snapshot!(agent.run(&["explain", "a", "b", "80/TCP"]).out, @r"
    default/a (identity 300) -> default/b (identity 400) 80/TCP: denied

    ingress of default/b: not allowed
      policy selects default/b for ingress, and no rule allows this
      not: allow by CiliumNetworkPolicy default/l4 spec.ingress[0] (l4.yaml:8): the port or protocol is not among its ports
    ");
}

#[test]
fn without_an_agent_the_answer_is_2_and_says_what_to_do() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oxilium"));
    let outcome = run(command.args(["status", "--socket", "/nowhere/agent.sock"]));
    assert_eq!(outcome.status, 2);
    insta::assert_snapshot!(outcome.err, @"Error: the agent does not answer on /nowhere/agent.sock: No such file or directory (os error 2); is `oxilium agent` running, and with this socket?");
}

#[test]
fn the_agents_refusal_is_shown_as_it_stands() {
    let agent = FakeAgent::new(|_| {
        vec![failure(ApiError::new(
            ErrorCode::NotFound,
            "there is no endpoint 7",
        ))]
    });
    let outcome = agent.run(&["endpoint", "get", "7"]);
    assert_eq!(outcome.status, 2);
    assert_eq!(outcome.err, "Error: there is no endpoint 7\n");
}

#[test]
fn it_works_under_the_names_of_ciliums_commands() {
    let agent = FakeAgent::saying(&sample::status(ComponentState::Ok));
    let directory = tempfile::tempdir().unwrap();
    for name in ["cilium", "cilium-dbg"] {
        let link = directory.path().join(name);
        symlink(env!("CARGO_BIN_EXE_oxilium"), &link).unwrap();
        let host = format!("unix://{}", agent.path().display());
        let outcome = run(Command::new(link).args(["-H", &host, "status", "--brief"]));
        assert_eq!((outcome.status, outcome.out.as_str()), (0, "OK\n"));
    }
}
