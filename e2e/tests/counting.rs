//! What the agent says that it wrote is what is seen from outside: call by call, kind by kind.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::collections::BTreeMap;

use oxilium_e2e::{
    agent::{Agent, agent_command},
    lab::Lab,
    require::require,
    scenario::{NEEDS, policy},
    scrape::{self, Scrape},
    trace::{Domain, Trace, Write},
    wait,
};

type Counts = BTreeMap<String, u64>;

/// The metric's name for a write, from what was called on what.
fn kind(write: &Write) -> String {
    let object = write.site.object.as_str();
    let table = match object {
        "ox_policy" => "policy",
        "ox_pol_shapes" => "policy_shapes",
        "ox_pol_counts" => "policy_counts",
        "ox_ipcache" => "ipcache",
        "ox_interfaces" => "interfaces",
        "ox_ep_words" => "endpoint_words",
        "ox_services" | "ox_backends" | "ox_reverse_nat" => "services",
        name if name.starts_with("ox_node_words") => "node_words",
        name if ["ox_ct", "ox_frag", "ox_svc"]
            .iter()
            .any(|prefix| name.starts_with(prefix)) =>
        {
            "conntrack"
        }
        _ => "constants",
    };
    let pinned = if object.starts_with("links") {
        "links"
    } else if object.starts_with("ox_") {
        "maps"
    } else {
        "programs"
    };
    // How an update treats what is there does not count.
    let call = write.site.call.split(' ').next().unwrap();
    match (write.site.domain, call) {
        (Domain::Bpf, "MAP_UPDATE_ELEM" | "MAP_UPDATE_BATCH") => format!("{table}/update"),
        (Domain::Bpf, "MAP_DELETE_ELEM" | "MAP_DELETE_BATCH") => format!("{table}/delete"),
        (Domain::Bpf, "MAP_CREATE") => "maps/create".to_owned(),
        (Domain::Bpf, "MAP_FREEZE") => "constants/freeze".to_owned(),
        (Domain::Bpf, "PROG_LOAD" | "BTF_LOAD") => "programs/create".to_owned(),
        (Domain::Bpf, "OBJ_PIN") => format!("{pinned}/pin"),
        (Domain::Bpf, "LINK_CREATE") => "links/create".to_owned(),
        (Domain::Bpf, "LINK_UPDATE") => "links/replace".to_owned(),
        (Domain::Bpf, "LINK_DETACH") => "links/remove".to_owned(),
        (Domain::BpfFs, _) => format!("{pinned}/file"),
        (Domain::Netlink, "NEW") if object == "namespace id" => "namespaces/create".to_owned(),
        (Domain::Netlink, "DEL") => "filters/remove".to_owned(),
        (Domain::Netlink, "NEW") => "filters/create".to_owned(),
        _ => write.site.to_string(),
    }
}

fn seen(trace: &Trace) -> Counts {
    let mut counts = Counts::new();
    for write in trace.kernel_writes(0) {
        *counts.entry(kind(&write)).or_default() += 1;
    }
    counts
}

/// What the agent says in its status.
fn told(agent: &Agent) -> Counts {
    let status = agent.cli().status().unwrap();
    let writes = &status["kernel-writes"];
    let counts: Counts = serde_json::from_value(writes["by_table"].clone()).unwrap();
    let total: u64 = counts.values().sum();
    assert_eq!(writes["total"], total, "the total is not the sum");
    counts
}

fn scraped(lab: &Lab) -> Counts {
    let scrape = Scrape::of(&lab.worker.netns).unwrap();
    let samples = scrape.samples("oxilium_kernel_writes_total");
    let calls = samples.iter().map(|(labels, calls)| {
        let kind = labels
            .replace("table=\"", "")
            .replace("\",action=\"", "/")
            .replace('"', "");
        (kind, calls.to_string().parse().unwrap())
    });
    calls.collect()
}

/// Holds what status and Prometheus are told to what was seen, all three read between the same two writes.
fn hold_to_each_other(lab: &Lab, agent: &Agent, trace: &Trace, what: &str) {
    let read = wait::until("nothing is written meanwhile", wait::LONG, || {
        let before = seen(trace);
        let read = (told(agent), scraped(lab));
        Ok((seen(trace) == before).then_some((read, before)))
    });
    let ((told, scraped), seen) = read.unwrap();
    assert_eq!(told, seen, "{what}");
    assert_eq!(scraped, told, "Prometheus is told something else: {what}");
}

/// Waits until all that was asked is done, the links too.
fn until_done(agent: &Agent) {
    agent.until_applied().unwrap();
    agent.until_linked().unwrap();
}

fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// Waits until the tables were compared with the kernel, at a time when nothing had been for a second.
fn until_swept(agent: &Agent) {
    for rested in [true, false] {
        wait::until("a sweep", wait::LONG, || {
            let since = agent.cli().status()?["reconcile"]["last-sweep-seconds"].clone();
            Ok(((since != 0) == rested).then_some(()))
        })
        .unwrap();
    }
}

#[test]
fn what_the_agent_counts_is_what_is_seen_from_outside() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::new().unwrap();
    let mut command = agent_command(&lab).unwrap();
    command
        .args(["--sweep-interval", "2"])
        .args(scrape::OPTIONS);
    let mut trace = Trace::default();
    let mut agent = Agent::launch_traced(&lab, &command, &trace).unwrap();
    agent.until_ready().unwrap();
    hold_to_each_other(&lab, &agent, &trace, "a first start");
    assert!(total(&seen(&trace)) > 50, "maps and programs were made");

    let subject = lab.pod("subject").label("app", "subject").start().unwrap();
    let friend = lab.pod("friend").label("app", "friend").start().unwrap();
    until_done(&agent);
    hold_to_each_other(&lab, &agent, &trace, "two pods");

    let body = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n    \
                - fromCIDR: [192.0.2.0/24]\n";
    let before = total(&seen(&trace));
    lab.manifests.put("web.yaml", &policy("web", body)).unwrap();
    agent.until_policy("web", true).unwrap();
    hold_to_each_other(&lab, &agent, &trace, "a policy");
    assert!(total(&seen(&trace)) > before, "a policy is written");

    friend.delete().unwrap();
    until_done(&agent);
    hold_to_each_other(&lab, &agent, &trace, "a pod that went");

    agent.until_ready().unwrap();
    until_swept(&agent);
    let before = seen(&trace);
    until_swept(&agent);
    assert_eq!(seen(&trace), before, "an idle agent writes");
    hold_to_each_other(&lab, &agent, &trace, "an idle agent");

    agent.process().crash().unwrap();
    trace = Trace::default();
    agent = Agent::launch_traced(&lab, &command, &trace).unwrap();
    agent.until_ready().unwrap();
    until_swept(&agent);
    assert_eq!(
        seen(&trace),
        Counts::new(),
        "a restart on unchanged input writes"
    );
    hold_to_each_other(&lab, &agent, &trace, "a restart on unchanged input");
    assert!(trace.made() > 0, "the trace saw nothing at all");
    drop(subject);
}
