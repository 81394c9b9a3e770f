//! The plugin as a runtime runs it, against an agent that answers as told.
//!
//! ADD and CHECK need a real veth between two network namespaces, hence root.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that fails should say where"
)]

mod agent;
mod node;

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use agent::FakeAgent;
use node::{Call, Node};
use oxilium_api::{ApiError, ErrorCode, Request};
use oxilium_e2e::require::{Need, require};

/// A result of the `bridge` plugin in the shape of `version`.
fn previous(version: &str) -> Value {
    let mut ip = json!({"interface": 2, "address": "10.9.0.2/24", "gateway": "10.9.0.1"});
    if version.starts_with("0.") {
        ip["version"] = "4".into();
    }
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": "cni0", "mac": "aa:bb:cc:dd:ee:ff"},
            {"name": "veth0", "mac": "aa:bb:cc:dd:ee:fe"},
            {"name": "eth0", "mac": "aa:bb:cc:dd:ee:fd", "sandbox": "/run/netns/pod"}
        ],
        "ips": [ip],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}],
        "dns": {},
        "vendor.example/extra": [1, 2.5, null]
    })
}

fn code(output: &str) -> i64 {
    let error: Value = serde_json::from_str(output).unwrap();
    error["code"].as_i64().unwrap()
}

#[test]
fn version_lists_what_is_supported_and_answers_in_the_version_asked() {
    let call = Call::new("VERSION")
        .input(&json!({"cniVersion": "0.4.0"}))
        .run();
    assert!(call.success);
    insta::assert_snapshot!(call.output, @r#"
    {
      "cniVersion": "0.4.0",
      "supportedVersions": [
        "0.3.0",
        "0.3.1",
        "0.4.0",
        "1.0.0",
        "1.1.0"
      ]
    }
    "#);
}

#[test]
fn add_registers_the_veth_and_passes_every_version_of_result_on_unchanged() {
    if !require(&[Need::Root, Need::Tools]) {
        return;
    }
    let node = Node::with_veth("pass");
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let agent = FakeAgent::attaching();
        let raw = previous(version).to_string();
        let call = node
            .add(&agent)
            .input_text(&Node::conf(&agent, version, Some(&raw)))
            .run();
        assert!(call.success, "{version}: {}", call.output);
        assert_eq!(call.output.trim_end(), raw, "{version}");
        let requests = agent.requests();
        let [Request::Attach(attach)] = requests.as_slice() else {
            panic!("{version}: {requests:?}");
        };
        assert_eq!(attach.host.ifindex, node.host_index());
        assert_eq!(attach.host.mac, node.host_mac());
        assert_eq!(attach.container.mac, node.pod_mac());
        let addresses: Vec<String> = attach
            .container
            .addresses
            .iter()
            .map(ToString::to_string)
            .filter(|address| !address.starts_with("fe80"))
            .collect();
        assert_eq!(addresses, ["10.9.0.2", "fd00:9::2"]);
        assert_eq!(attach.netns, node.pod_path());
        assert_eq!(
            (attach.pod.namespace.as_str(), attach.pod.name.as_str()),
            ("default", "app")
        );
        assert_eq!(attach.pod.uid.as_deref(), Some("1-2-3"));
        assert_eq!(
            (
                attach.key.container_id.as_str(),
                attach.key.interface.as_str()
            ),
            ("c0ffee", "eth0")
        );
    }
}

#[test]
fn a_result_of_another_version_than_the_configuration_is_restated_in_its() {
    if !require(&[Need::Root, Need::Tools]) {
        return;
    }
    let node = Node::with_veth("restate");
    for (conf, result, family) in [("1.0.0", "0.4.0", None), ("0.3.1", "1.1.0", Some("4"))] {
        let agent = FakeAgent::attaching();
        let raw = previous(result).to_string();
        let call = node
            .add(&agent)
            .input_text(&Node::conf(&agent, conf, Some(&raw)))
            .run();
        assert!(call.success, "{}", call.output);
        let given: Value = serde_json::from_str(&call.output).unwrap();
        assert_eq!(given["cniVersion"], conf);
        assert_eq!(given["ips"][0]["version"].as_str(), family);
        assert_eq!(given["routes"], previous(result)["routes"]);
    }
}

#[test]
fn add_without_an_agent_is_to_be_tried_again_and_leaves_nothing() {
    if !require(&[Need::Root, Need::Tools]) {
        return;
    }
    let node = Node::with_veth("down");
    let agent = FakeAgent::absent();
    let before = node.links();
    let call = node
        .add(&agent)
        .input_text(&Node::conf(
            &agent,
            "1.0.0",
            Some(&previous("1.0.0").to_string()),
        ))
        .run();
    assert!(!call.success);
    let output = call
        .output
        .replace(agent.socket().to_str().unwrap(), "SOCKET");
    insta::assert_snapshot!(output, @r#"
    {
      "cniVersion": "1.0.0",
      "code": 11,
      "msg": "the agent does not answer on SOCKET: No such file or directory (os error 2); is `oxilium agent` running, and with this socket?",
      "details": "start the agent, or wait until it runs: nothing was changed"
    }
    "#);
    assert_eq!(node.links(), before);
    assert_eq!(agent.tombstones(), Vec::<String>::new());
}

#[test]
fn add_says_whether_trying_again_helps() {
    if !require(&[Need::Root, Need::Tools]) {
        return;
    }
    let node = Node::with_veth("retry");
    for (error, expected) in [
        (ErrorCode::NotReady, 11),
        (ErrorCode::Timeout, 11),
        (ErrorCode::Kernel, 11),
        (ErrorCode::Conflict, 100),
        (ErrorCode::InvalidRequest, 100),
    ] {
        let agent = FakeAgent::failing(ApiError::new(error, "no"));
        let call = node
            .add(&agent)
            .input_text(&Node::conf(
                &agent,
                "1.1.0",
                Some(&previous("1.1.0").to_string()),
            ))
            .run();
        assert!(!call.success);
        assert_eq!(code(&call.output), expected, "{error:?}");
    }
}

#[test]
fn an_agent_that_dies_during_add_is_to_be_tried_again() {
    if !require(&[Need::Root, Need::Tools]) {
        return;
    }
    let node = Node::with_veth("dies");
    let agent = FakeAgent::closing();
    let call = node
        .add(&agent)
        .input_text(&Node::conf(
            &agent,
            "1.1.0",
            Some(&previous("1.1.0").to_string()),
        ))
        .run();
    assert_eq!((call.success, code(&call.output)), (false, 11));
}

#[test]
fn add_refuses_what_it_cannot_enforce_on() {
    if !require(&[Need::Root, Need::Tools]) {
        return;
    }
    let node = Node::with_veth("refuse");
    let agent = FakeAgent::attaching();
    let raw = previous("1.0.0").to_string();
    let good = Node::conf(&agent, "1.0.0", Some(&raw));
    let cases: [(&str, Call, i64); 8] = [
        (
            "no prevResult",
            node.add(&agent)
                .input_text(&Node::conf(&agent, "1.0.0", None)),
            7,
        ),
        (
            "no such namespace",
            node.add(&agent)
                .input_text(&good)
                .env("CNI_NETNS", "/run/netns/none"),
            3,
        ),
        (
            "no such interface",
            node.add(&agent).input_text(&good).env("CNI_IFNAME", "eth7"),
            7,
        ),
        (
            "not a veth",
            node.add(&agent).input_text(&good).env("CNI_IFNAME", "lo"),
            7,
        ),
        (
            "a veth to somewhere else",
            node.add(&agent)
                .input_text(&good)
                .env("CNI_IFNAME", "inner"),
            7,
        ),
        (
            "no pod",
            node.add(&agent).input_text(&good).env("CNI_ARGS", ""),
            4,
        ),
        (
            "no container",
            node.add(&agent)
                .input_text(&good)
                .env("CNI_CONTAINERID", ""),
            4,
        ),
        (
            "an old version",
            node.add(&agent)
                .input_text(&Node::conf(&agent, "0.2.0", Some(&raw))),
            1,
        ),
    ];
    for (what, call, expected) in cases {
        let call = call.run();
        assert!(!call.success, "{what}");
        assert_eq!(code(&call.output), expected, "{what}: {}", call.output);
    }
    assert_eq!(agent.requests().len(), 0);
}

#[test]
fn what_is_no_configuration_is_said_to_be_none() {
    for (input, expected) in [
        ("", 6),
        ("[]", 6),
        ("{\"cniVersion\": 3}", 6),
        ("{}", 1),
        ("{\"cniVersion\":\"2.0.0\"}", 1),
    ] {
        let call = Call::new("ADD").input_text(input).run();
        assert_eq!(
            (call.success, code(&call.output)),
            (false, expected),
            "{input}"
        );
    }
}

#[test]
fn a_chaining_mode_that_is_not_ours_is_refused_and_unknown_fields_are_not() {
    let conf = |extra: Value| {
        let mut conf =
            json!({"cniVersion": "1.1.0", "name": "n", "type": "cilium-cni", "socket": "/nowhere"});
        conf.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        Call::new("STATUS").input(&conf).run()
    };
    assert_eq!(code(&conf(json!({"chaining-mode": "aws-cni"})).output), 7);
    // These get as far as asking the agent, which is not there.
    for extra in [
        json!({"chaining-mode": "generic-veth"}),
        json!({"mtu": 1450, "ipam": {"type": "x"}, "eni": {}, "azure": {}, "args": {}, "unknown": [1]}),
    ] {
        assert_eq!(code(&conf(extra.clone()).output), 50, "{extra}");
    }
}

#[test]
fn del_tells_the_agent_and_needs_no_namespace() {
    let agent = FakeAgent::done();
    let call = Call::new("DEL").key().input(&agent.conf("0.3.1")).run();
    assert!(call.success, "{}", call.output);
    assert_eq!(call.output, "");
    assert!(matches!(agent.requests().as_slice(), [Request::Detach(_)]));
    assert_eq!(agent.tombstones(), Vec::<String>::new());
}

#[test]
fn del_of_what_is_gone_succeeds() {
    let agent = FakeAgent::failing(ApiError::new(ErrorCode::NotFound, "no such attachment"));
    let call = Call::new("DEL").key().input(&agent.conf("1.1.0")).run();
    assert!(call.success, "{}", call.output);
    assert_eq!(agent.tombstones(), Vec::<String>::new());
}

#[test]
fn del_without_an_agent_succeeds_and_leaves_word() {
    let agent = FakeAgent::absent();
    for _ in 0..2 {
        let call = Call::new("DEL").key().input(&agent.conf("1.1.0")).run();
        assert!(call.success, "{}", call.output);
    }
    assert_eq!(
        agent.tombstones(),
        [r#"c0ffee:eth0.json {"containerID":"c0ffee","ifname":"eth0"}"#]
    );
}

#[test]
fn del_that_can_leave_no_word_is_to_be_tried_again() {
    let agent = FakeAgent::absent();
    fs::write(agent.tombstone_directory(), "a file is in the way").unwrap();
    let call = Call::new("DEL").key().input(&agent.conf("1.1.0")).run();
    assert_eq!((call.success, code(&call.output)), (false, 11));
}

#[test]
fn check_compares_the_device_with_what_the_agent_knows() {
    if !require(&[Need::Root, Need::Tools]) {
        return;
    }
    let node = Node::with_veth("check");
    let raw = previous("1.0.0").to_string();
    for (agent, expected) in [
        (FakeAgent::done(), None),
        (
            FakeAgent::failing(ApiError::new(ErrorCode::NotFound, "unknown")),
            Some(3),
        ),
        (
            FakeAgent::failing(ApiError::new(ErrorCode::Conflict, "another device")),
            Some(100),
        ),
        (FakeAgent::absent(), Some(11)),
    ] {
        let call = node
            .call("CHECK", &agent)
            .input_text(&Node::conf(&agent, "1.0.0", Some(&raw)))
            .run();
        match expected {
            None => {
                assert!(call.success, "{}", call.output);
                let requests = agent.requests();
                let [Request::Check(check)] = requests.as_slice() else {
                    panic!("{requests:?}");
                };
                assert_eq!(check.host_ifindex, node.host_index());
            }
            Some(expected) => assert_eq!((call.success, code(&call.output)), (false, expected)),
        }
    }
}

#[test]
fn commands_are_refused_in_versions_that_do_not_have_them() {
    let agent = FakeAgent::done();
    for (command, version, refused) in [
        ("CHECK", "0.3.1", true),
        ("GC", "1.0.0", true),
        ("STATUS", "1.0.0", true),
        ("GC", "1.1.0", false),
        ("STATUS", "1.1.0", false),
    ] {
        let mut conf = agent.conf(version);
        conf["cni.dev/valid-attachments"] = json!([]);
        let call = Call::new(command).key().input(&conf).run();
        assert_eq!(
            call.success, !refused,
            "{command} {version}: {}",
            call.output
        );
        if refused {
            assert_eq!(code(&call.output), 1);
        }
    }
}

#[test]
fn gc_hands_the_list_of_the_living_to_the_agent_and_refuses_none() {
    let agent = FakeAgent::done();
    let mut conf = agent.conf("1.1.0");
    let call = Call::new("GC").input(&conf).run();
    assert_eq!((call.success, code(&call.output)), (false, 7));
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
    let call = Call::new("GC").input(&conf).run();
    assert!(call.success, "{}", call.output);
    let requests = agent.requests();
    let [Request::CollectGarbage(gc)] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    assert_eq!(gc.valid[0].container_id, "a");
}

#[test]
fn status_is_bad_until_the_agent_takes_pods() {
    for (agent, expected) in [
        (FakeAgent::done(), None),
        (
            FakeAgent::failing(ApiError::new(ErrorCode::NotReady, "reading")),
            Some(50),
        ),
        (FakeAgent::absent(), Some(50)),
    ] {
        let call = Call::new("STATUS").input(&agent.conf("1.1.0")).run();
        assert_eq!(call.success, expected.is_none(), "{}", call.output);
        if let Some(expected) = expected {
            assert_eq!(code(&call.output), expected);
        }
    }
}

#[test]
fn the_log_file_has_failures_always_and_everything_with_debug() {
    let agent = FakeAgent::done();
    let log = agent.directory().join("cni.log");
    let mut conf = agent.conf("1.1.0");
    conf["log-file"] = log.to_str().unwrap().into();
    assert!(Call::new("DEL").key().input(&conf).run().success);
    assert!(!log.exists());
    conf["enable-debug"] = true.into();
    conf["log-format"] = "json".into();
    assert!(Call::new("DEL").key().input(&conf).run().success);
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(
        (&line["command"], &line["level"]),
        (&json!("DEL"), &json!("debug"))
    );
    conf["enable-debug"] = false.into();
    assert!(!Call::new("NONSENSE").key().input(&conf).run().success);
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn it_works_under_the_name_of_ciliums_plugin() {
    let agent = FakeAgent::done();
    let link = agent.directory().join("cilium-cni");
    symlink(env!("CARGO_BIN_EXE_oxilium-cni"), &link).unwrap();
    let call = Call::new("STATUS")
        .program(link)
        .input(&agent.conf("1.1.0"))
        .run();
    assert!(call.success, "{}", call.output);
}
