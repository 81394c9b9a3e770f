//! Another version of the agent takes the place of one under traffic: with other programs, with other layouts of maps, and
//! back again. No packet that policy allows is lost, none that it denies passes, also where it is killed on the way.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use oxilium_e2e::{
    agent::{Agent, agent_command},
    dump,
    lab::Lab,
    pod::Pod,
    probe::{self, Outcome},
    process::{built_binary, command},
    require::{Need, require},
    scenario::{NEEDS, policy, sockets},
    server::TcpServer,
    trace::{Edge, Trace},
    traffic::{Connection, Datagrams, Echo},
    wait,
};
use serde_json::Value;

struct Stage {
    agent: Agent,
    allowed: [Datagrams; 2],
    denied: Datagrams,
    connection: Connection,
    _service: TcpServer,
    subject: Pod,
    friend: Pod,
    stranger: Pod,
    lab: Lab,
}

/// Who may speak to the subject.
fn web(whom: &[&str]) -> String {
    let peers: Vec<String> = whom
        .iter()
        .map(|app| format!("        - matchLabels: {{app: {app}}}\n"))
        .collect();
    policy(
        "web",
        &format!("  ingress:\n    - fromEndpoints:\n{}", peers.concat()),
    )
}

impl Stage {
    fn start() -> Self {
        let lab = Lab::new().unwrap();
        let mut agent = Agent::start(&lab).unwrap();
        let pod = |name: &str| lab.pod(name).label("app", name).start().unwrap();
        let (subject, friend, stranger) = (pod("subject"), pod("friend"), pod("stranger"));
        lab.manifests.put("web.yaml", &web(&["friend"])).unwrap();
        // Answers get to the friend because their flow is known, and for no other reason.
        let nobody = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: nobody}\n";
        let closed = policy("closed", nobody).replace("app: subject", "app: friend");
        lab.manifests.put("closed.yaml", &closed).unwrap();
        agent.until_policy("web", true).unwrap();
        agent.until_policy("closed", true).unwrap();
        let stream = |name, from: &Pod, port, family: usize, echo| {
            let to = sockets(&subject, port)[family];
            Datagrams::start(name, [&from.netns, &subject.netns], to, echo).unwrap()
        };
        let to = sockets(&subject, 7004)[0];
        agent.until_ready().unwrap();
        agent.until_linked().unwrap();
        Self {
            allowed: [
                stream("allowed (IPv4)", &friend, 7001, 0, Echo::Yes),
                stream("allowed (IPv6)", &friend, 7001, 1, Echo::Yes),
            ],
            denied: stream("denied", &stranger, 7002, 0, Echo::Yes),
            connection: Connection::start(&friend.netns, &subject.netns, to).unwrap(),
            _service: TcpServer::echo(&subject.netns, 80).unwrap(),
            agent,
            subject,
            friend,
            stranger,
            lab,
        }
    }

    /// The agent is killed, and the program `version` started in its place.
    fn replace(&mut self, version: &Path) {
        self.agent.process().crash().unwrap();
        self.agent = Agent::launch_as(&self.lab, self.command(version)).unwrap();
    }

    fn command(&self, version: &Path) -> Command {
        let usual = agent_command(&self.lab).unwrap();
        let mut command = Command::new(version);
        command.args(usual.get_args());
        command
    }

    fn settle(&mut self) {
        self.agent.until_ready().unwrap();
        self.agent.until_linked().unwrap();
        let pins = self.pins();
        let kept = || {
            let names = fs::read_dir(&pins)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .filter(|name| name.starts_with("old_") || name.starts_with("new_"))
                .collect::<Vec<_>>()
        };
        let gone = wait::until("no map of the former version is kept", wait::LONG, || {
            Ok(kept().is_empty().then_some(()))
        });
        assert!(gone.is_ok(), "{:?} are kept: {}", kept(), self.agent.log());
    }

    fn pins(&self) -> PathBuf {
        let versions = fs::read_dir(self.lab.bpf_root().join("oxilium")).unwrap();
        let mut found: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// Nothing was lost, nothing let through.
    fn check(&self) {
        let denied = 0..self.denied.goes_on().unwrap();
        for stream in &self.allowed {
            let all = 0..stream.goes_on().unwrap();
            stream.all_passed(&all).unwrap();
        }
        self.denied.none_passed(&denied).unwrap();
        self.connection.is_unharmed().unwrap();
    }

    /// By device and program: the ids of what is on the hooks, programs and links.
    fn hooks(&self) -> BTreeMap<(u64, String), (u64, u64)> {
        let mut show = command("bpftool");
        show.args(["-j", "net", "show"]);
        let text = self.lab.worker.netns.run(&mut show).unwrap();
        let shown: Value = serde_json::from_str(&text).unwrap();
        let hooks = shown[0]["tc"].as_array().unwrap();
        hooks
            .iter()
            .map(|hook| {
                let number = |field: &str| hook[field].as_u64().unwrap_or_default();
                let name = hook["name"].as_str().unwrap().to_owned();
                let ids = (number("prog_id"), number("link_id"));
                ((number("ifindex"), name), ids)
            })
            .collect()
    }

    fn held(&self) -> Vec<String> {
        dump::settled(&self.lab, &[&self.subject, &self.friend, &self.stranger]).unwrap()
    }

    fn answers(&self, from: &Pod) -> bool {
        let to = sockets(&self.subject, 80)[0];
        probe::tcp(&from.netns, to).unwrap() == Outcome::Answered
    }

    /// What runs now is told, and enforces, something new.
    fn enforces_changes(&self) {
        let late = self.lab.pod("late").label("app", "late").start().unwrap();
        assert!(!self.answers(&late));
        let put = |whom: &[&str]| {
            let before = self.agent.revision().unwrap();
            self.lab.manifests.put("web.yaml", &web(whom)).unwrap();
            self.agent.until_revision_after(before).unwrap();
        };
        put(&["friend", "late"]);
        assert!(self.answers(&late) && !self.answers(&self.stranger));
        put(&["friend"]);
        assert!(!self.answers(&late));
        late.delete().unwrap();
        self.agent.until_linked().unwrap();
    }
}

/// The agent with an object of programs that differs in a byte which means nothing: for an agent, other programs.
fn other_build(lab: &Lab) -> PathBuf {
    // An ELF header for BPF (e_machine 247), whose last identifying byte is padding.
    let is_object = |at: &[u8]| at.starts_with(b"\x7fELF\x02\x01\x01") && at[18..20] == [247, 0];
    let mut bytes = fs::read(built_binary("oxilium").unwrap()).unwrap();
    let places: Vec<usize> = bytes
        .windows(64)
        .enumerate()
        .filter_map(|(place, window)| is_object(window).then_some(place))
        .collect();
    let [place] = places[..] else {
        unreachable!("objects of programs at {places:?}");
    };
    bytes[place + 15] ^= 1;
    let other = lab.directory().join("oxilium-other-build");
    fs::write(&other, bytes).unwrap();
    fs::set_permissions(&other, PermissionsExt::from_mode(0o755)).unwrap();
    other
}

#[test]
fn other_programs_take_over_through_the_links_that_are_there() {
    if !require(&NEEDS) || !require(&[Need::Tcx]) {
        return;
    }
    let mut stage = Stage::start();
    let versions = [other_build(&stage.lab), built_binary("oxilium").unwrap()];
    let before = (stage.hooks(), stage.held());
    for version in versions {
        let former = stage.hooks();
        stage.replace(&version);
        stage.settle();
        let now = stage.hooks();
        assert!(former.keys().eq(now.keys()));
        let programs = |hooks: &BTreeMap<_, (u64, u64)>| -> BTreeSet<u64> {
            hooks.values().map(|(program, _)| *program).collect()
        };
        assert!(
            programs(&former).is_disjoint(&programs(&now)),
            "{former:?} {now:?}"
        );
        for (hook, (_, link)) in &before.0 {
            assert_eq!(now[hook].1, *link, "another link on {hook:?}");
        }
        stage.check();
        stage.enforces_changes();
        stage.check();
        assert_eq!(stage.held(), before.1);
    }
}

#[test]
fn maps_of_another_layout_take_over_and_give_back() {
    if !require(&NEEDS) || !require(&[Need::TestLayout]) {
        return;
    }
    let mut stage = Stage::start();
    let (ours, theirs) = (
        built_binary("oxilium").unwrap(),
        built_binary("oxilium-test-layout").unwrap(),
    );
    let before = stage.held();
    let value_bytes = |stage: &Stage| -> Value {
        let mut show = command("bpftool");
        show.args(["-j", "map", "show", "pinned"])
            .arg(stage.pins().join("ox_ct4"));
        let text = oxilium_e2e::process::run(&mut show).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["bytes_value"].clone()
    };
    let usual = value_bytes(&stage);
    stage.replace(&theirs);
    stage.settle();
    assert_ne!(value_bytes(&stage), usual);
    stage.check();
    stage.enforces_changes();
    stage.check();

    stage.replace(&ours);
    stage.settle();
    assert_eq!(value_bytes(&stage), usual);
    stage.check();
    stage.enforces_changes();
    stage.check();
    assert_eq!(stage.held(), before);
}

#[test]
fn a_change_of_layout_that_is_cut_off_goes_on_or_back() {
    if !require(&NEEDS) || !require(&[Need::TestLayout]) {
        return;
    }
    let mut stage = Stage::start();
    let versions = [
        built_binary("oxilium-test-layout").unwrap(),
        built_binary("oxilium").unwrap(),
    ];
    let before = stage.held();
    // In the middle of the maps, between maps and programs, among the hooks.
    for (number, nth) in (0..).zip([2, 9, 31, 58, 84, 97, 110, 121]) {
        stage.agent.process().crash().unwrap();
        let (way, edge) = (number % 2, [Edge::Before, Edge::After][number / 2 % 2]);
        let trace = Trace::default();
        trace.kill_at(nth, edge);
        let dying = stage.command(&versions[way]);
        let mut agent = Agent::launch_traced(&stage.lab, &dying, &trace).unwrap();
        wait::until("it dies or is ready", wait::LONG, || {
            let content = agent.cli().output(&["status"])?.status.success();
            Ok((content || trace.ended()?.is_some()).then_some(()))
        })
        .unwrap();
        agent.process().crash().unwrap();
        // On where it was going, or back.
        stage.replace(&versions[number / 4 % 2]);
        stage.settle();
        stage.check();
    }
    stage.replace(&versions[1]);
    stage.settle();
    stage.check();
    assert_eq!(stage.held(), before);
}
