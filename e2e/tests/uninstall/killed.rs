//! `oxilium uninstall` is killed on its way, and called again.

use std::process::ExitStatus;

use oxilium_e2e::{
    agent::Agent,
    fingerprint::uninstall_command,
    lab::Lab,
    pod::Pod,
    process::Process,
    require::require,
    scenario::{NEEDS, policy},
    trace::{Edge, Trace},
    wait,
};

use crate::{agent, attach, fingerprint, plain_pod, plugin::Cni};

struct Host {
    lab: Lab,
    pod: Pod,
    cni: Cni,
    before: Vec<String>,
}

impl Host {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let pod = plain_pod(&lab);
        let cni = Cni::new(&lab, true);
        agent(&lab, "auto");
        fingerprint(&lab);
        let before = fingerprint(&lab);
        Self {
            lab,
            pod,
            cni,
            before,
        }
    }

    /// The plugin is installed, an agent has enforced something on a pod, and has died.
    fn install(&self) {
        self.cni.install(&self.lab);
        let mut agent = Agent::start(&self.lab).unwrap();
        attach(&self.lab, &self.pod);
        let body = "  ingress:\n    - fromCIDR: [192.0.2.0/24]\n";
        let manifests = &self.lab.manifests;
        manifests.put("web.yaml", &policy("web", body)).unwrap();
        agent.until_policy("web", true).unwrap();
        agent.until_linked().unwrap();
        agent.process().crash().unwrap();
        manifests.remove("web.yaml").unwrap();
    }

    /// Calls it, to be killed at the `nth` write if it has as many: how it ended, and how many writes it made.
    fn uninstall(&self, nth: usize, edge: Edge) -> (ExitStatus, usize) {
        let trace = Trace::default();
        trace.kill_at(nth, edge);
        let command = uninstall_command(&self.lab).unwrap();
        let log = self.lab.directory().join("pod-uninstall.log");
        let spawn = || Process::spawn_traced("uninstall", &command, log, trace.clone());
        let mut process = self.lab.worker.netns.enter(spawn).unwrap().unwrap();
        let status = process.wait(wait::LONG).unwrap();
        assert_eq!(trace.death().is_none(), status.code().is_some(), "{status}");
        (status, trace.made())
    }

    /// The plugin's program may be there for the pod's sake.
    fn is_back(&self, after: &str) {
        self.cni.remove_programs(&self.lab);
        let found = fingerprint(&self.lab);
        for (before, found) in self.before.iter().zip(&found) {
            assert_eq!(before, found, "{after}");
        }
        assert_eq!(self.before.len(), found.len(), "{after}: {found:#?}");
    }
}

/// Deaths of which each is the only one.
const SAMPLE: usize = 6;
const EDGES: [Edge; 2] = [Edge::Before, Edge::After];

#[test]
fn killed_at_any_of_its_writes_it_goes_on_where_it_is_called_again() {
    if !require(&NEEDS) {
        return;
    }
    let host = Host::new();
    host.install();
    let (status, writes) = host.uninstall(usize::MAX, Edge::After);
    assert_eq!(status.code(), Some(1), "the program stays for the pod");
    assert!(writes > 50, "only {writes} writes");
    host.is_back("undisturbed");
    for part in 0..SAMPLE {
        // Spread from the first write to the last one.
        let nth = 1 + part * (writes - 1) / (SAMPLE - 1);
        let edge = EDGES[part % 2];
        host.install();
        let (status, _) = host.uninstall(nth, edge);
        assert_eq!(status.code(), None, "write {nth} of {writes}");
        let (status, _) = host.uninstall(usize::MAX, edge);
        let after = format!("killed {edge:?} write {nth} of {writes}");
        assert!(
            status.code().is_some_and(|code| code < 2),
            "{after}: {status}"
        );
        host.is_back(&after);
    }
}

#[test]
fn killed_again_and_again_it_comes_to_an_end() {
    if !require(&NEEDS) {
        return;
    }
    let host = Host::new();
    host.install();
    // The nth call dies at its nth write: what is written before anything is removed keeps none from getting further.
    for nth in 1.. {
        let edge = EDGES[nth % 2];
        let (status, writes) = host.uninstall(nth, edge);
        if let Some(code) = status.code() {
            assert!(code < 2, "{status}");
            assert!(nth > 10, "it ended at call {nth}, with {writes} writes");
            break;
        }
    }
    host.is_back("killed again and again");
}
