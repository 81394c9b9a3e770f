//! The manifest directory: what is admitted, what stays in force, and what goes, over edits and restarts.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::fs;
use std::time::Instant;

use oxilium_manifest::directory::{
    DirectoryError, DocumentState, GONE_AFTER, ManifestDirectory, Settings, Snapshot,
};
use oxilium_manifest::object::Input;

struct Setup {
    root: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("manifests")).unwrap();
        Self { root }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root.path().join("manifests").join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.root.path().join("manifests").join(name)).unwrap();
    }

    fn state(&self) -> std::path::PathBuf {
        self.root.path().join("state")
    }

    /// An agent that has just started.
    fn agent(&self) -> ManifestDirectory {
        let settings = Settings {
            node: "worker".into(),
            ..Settings::default()
        };
        ManifestDirectory::open(&self.root.path().join("manifests"), &self.state(), settings)
            .unwrap()
    }
}

/// Reads until no file is in doubt any more.
trait Settled {
    fn settled(&mut self) -> Result<Snapshot, DirectoryError>;
}

impl Settled for ManifestDirectory {
    fn settled(&mut self) -> Result<Snapshot, DirectoryError> {
        let now = Instant::now();
        let snapshot = self.scan(now)?;
        if self.in_doubt() {
            self.scan(now + GONE_AFTER)
        } else {
            Ok(snapshot)
        }
    }
}

fn policy(name: &str, port: &str) -> String {
    format!(
        "---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  endpointSelector: {{}}
  ingress:
  - toPorts:
    - ports:
      - port: {port}
        protocol: TCP
"
    )
}

/// `name:port` of the policies in force.
fn in_force(snapshot: &Snapshot) -> Vec<String> {
    use oxilium_model::policy::rule::{PortRules, PortSpec};
    let mut all = Vec::new();
    for object in &snapshot.objects {
        if let Input::Policy(lowered) = &object.input {
            let PortRules::AnyOf(rules) = &lowered.policy.rules[0].ports else {
                panic!("no ports");
            };
            let PortSpec::Range { first, .. } = rules[0].ports[0].port else {
                panic!("no port");
            };
            all.push(format!("{}:{first}", object.id.name));
        }
    }
    all
}

fn states(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .documents
        .iter()
        .map(|document| {
            format!(
                "{} {} {:?}",
                document.file, document.object.name, document.state
            )
        })
        .collect()
}

#[test]
fn a_bad_or_half_written_file_leaves_what_was_admitted_in_force_also_across_restarts() {
    let good = policy("a", "\"80\"");
    let cut = |text: &str| good[..good.find(text).unwrap() + text.len()].to_owned();
    for (case, bad) in [
        ("not YAML", "a: b: c".to_owned()),
        ("refused", policy("a", "\"http:80\"")),
        ("half a line", cut("endpointSelector: {}")),
        ("half a document", cut("- ports:\n")),
        ("half a mapping", cut("  ingress:\n")),
        ("empty", String::new()),
        ("a field twice", format!("{good}  ingress: []\n")),
        ("unknown field", good.replace("toPorts", "toPort")),
    ] {
        let setup = Setup::new();
        setup.write("a.yaml", &good);
        let mut agent = setup.agent();
        assert_eq!(in_force(&agent.settled().unwrap()), ["a:80"], "{case}");
        setup.write("a.yaml", &bad);
        let snapshot = agent.settled().unwrap();
        assert_eq!(in_force(&snapshot), ["a:80"], "{case}");
        let document = &snapshot.documents[0];
        assert_ne!(document.state, DocumentState::InForce, "{case}");
        drop(agent);
        let snapshot = setup.agent().settled().unwrap();
        assert_eq!(in_force(&snapshot), ["a:80"], "{case}, after a restart");
        setup.write("a.yaml", &policy("a", "\"81\""));
        assert_eq!(
            in_force(&setup.agent().settled().unwrap()),
            ["a:81"],
            "{case}, repaired"
        );
    }
}

#[test]
fn a_file_that_is_gone_takes_its_objects_with_it() {
    let setup = Setup::new();
    setup.write("a.yaml", &policy("a", "\"80\""));
    let mut agent = setup.agent();
    assert_eq!(in_force(&agent.settled().unwrap()), ["a:80"]);
    setup.remove("a.yaml");
    assert!(agent.settled().unwrap().objects.is_empty());
    assert!(
        setup.agent().settled().unwrap().objects.is_empty(),
        "nor after a restart"
    );
}

#[test]
fn an_object_that_was_edited_out_of_its_file_goes_once_the_file_stands_still() {
    let setup = Setup::new();
    let both = format!("{}{}", policy("a", "\"80\""), policy("b", "\"80\""));
    setup.write("a.yaml", &both);
    let mut agent = setup.agent();
    let start = Instant::now();
    assert_eq!(in_force(&agent.scan(start).unwrap()), ["a:80", "b:80"]);

    setup.write("a.yaml", &policy("b", "\"90\""));
    let almost = start + GONE_AFTER.mul_f32(0.99);
    for now in [start, almost] {
        let snapshot = agent.scan(now).unwrap();
        assert_eq!(in_force(&snapshot), ["a:80", "b:90"]);
        assert_eq!(states(&snapshot), ["a.yaml a Leaving", "a.yaml b InForce"]);
        assert!(agent.in_doubt());
    }
    let snapshot = agent.scan(start + GONE_AFTER).unwrap();
    assert_eq!(in_force(&snapshot), ["b:90"]);
    assert_eq!(states(&snapshot), ["a.yaml b InForce"]);
    assert!(!agent.in_doubt());
    assert_eq!(
        in_force(&setup.agent().settled().unwrap()),
        ["b:90"],
        "nor is it there after a restart"
    );
}

#[test]
fn a_file_that_is_being_written_takes_nothing_away() {
    let setup = Setup::new();
    let (a, b, c) = (
        policy("a", "\"80\""),
        policy("b", "\"80\""),
        policy("c", "\"80\""),
    );
    setup.write("a.yaml", &format!("{a}{b}{c}"));
    let mut agent = setup.agent();
    let mut now = Instant::now();
    agent.scan(now).unwrap();
    // Each piece ends with a whole document, and the next one comes in time.
    for written in [a.clone(), format!("{a}{b}"), format!("{a}{b}{c}")] {
        setup.write("a.yaml", &written);
        now += GONE_AFTER.mul_f32(0.9);
        assert_eq!(
            in_force(&agent.scan(now).unwrap()),
            ["a:80", "b:80", "c:80"]
        );
    }
    assert_eq!(
        in_force(&agent.scan(now + 2 * GONE_AFTER).unwrap()),
        ["a:80", "b:80", "c:80"]
    );
}

#[test]
fn a_file_with_anything_wrong_in_it_takes_nothing_away() {
    let both = format!("{}{}", policy("a", "\"80\""), policy("b", "\"80\""));
    for (case, text, left) in [
        ("a document that is refused", policy("b", "80"), "b:80"),
        (
            "an unknown kind",
            format!("{}---\nkind: x\n", policy("b", "\"90\"")),
            "b:90",
        ),
        (
            "an object twice",
            format!("{}{}", policy("b", "\"90\""), policy("b", "\"91\"")),
            "b:90",
        ),
        (
            "a last line without its end",
            policy("b", "\"90\"").trim_end().to_owned(),
            "b:80",
        ),
        ("no document", "# nothing\n".to_owned(), "b:80"),
    ] {
        let setup = Setup::new();
        setup.write("a.yaml", &both);
        let mut agent = setup.agent();
        agent.settled().unwrap();
        setup.write("a.yaml", &text);
        let start = Instant::now();
        for now in [start, start + 2 * GONE_AFTER] {
            let snapshot = agent.scan(now).unwrap();
            assert_eq!(in_force(&snapshot), ["a:80", left], "{case}");
            assert!(!agent.in_doubt(), "{case}");
        }
        assert_eq!(
            in_force(&setup.agent().settled().unwrap()),
            ["a:80", left],
            "{case}, after a restart"
        );
    }
}

#[test]
fn an_object_that_was_edited_out_while_the_agent_was_down_goes() {
    let setup = Setup::new();
    let both = format!("{}{}", policy("a", "\"80\""), policy("b", "\"80\""));
    setup.write("a.yaml", &both);
    setup.agent().settled().unwrap();
    setup.write("a.yaml", &policy("b", "\"80\""));
    let mut agent = setup.agent();
    let start = Instant::now();
    agent.scan(start).unwrap();
    assert!(agent.in_doubt(), "its first list must wait");
    assert_eq!(in_force(&agent.scan(start + GONE_AFTER).unwrap()), ["b:80"]);
}

#[test]
fn a_file_that_goes_while_the_agent_is_down_takes_its_objects_with_it() {
    let setup = Setup::new();
    setup.write("a.yaml", &policy("a", "\"80\""));
    setup.write("b.yaml", &policy("b", "\"80\""));
    setup.agent().settled().unwrap();
    setup.remove("a.yaml");
    assert_eq!(in_force(&setup.agent().settled().unwrap()), ["b:80"]);
}

#[test]
fn one_bad_document_does_not_hold_up_the_others_of_its_file() {
    let setup = Setup::new();
    setup.write(
        "a.yaml",
        &format!(
            "{}{}{}",
            policy("a", "\"80\""),
            policy("b", "80"),
            policy("c", "\"80\"")
        ),
    );
    let snapshot = setup.agent().settled().unwrap();
    assert_eq!(in_force(&snapshot), ["a:80", "c:80"]);
    assert_eq!(
        states(&snapshot),
        ["a.yaml a InForce", "a.yaml b Refused", "a.yaml c InForce"]
    );
    let error = &snapshot.documents[1].errors[0];
    assert_eq!(
        format!("{}: {error}", error.place()),
        "a.yaml:21:15: CiliumNetworkPolicy default/b: spec.ingress[0].toPorts[0].ports[0].port: \
         80 is a whole number; allowed is a text; put it in quotes"
    );
}

#[test]
fn of_two_files_with_one_object_the_first_by_name_has_it() {
    let setup = Setup::new();
    setup.write("b.yaml", &policy("x", "\"90\""));
    let mut agent = setup.agent();
    assert_eq!(in_force(&agent.settled().unwrap()), ["x:90"]);
    setup.write("a.yaml", &policy("x", "\"80\""));
    let snapshot = agent.settled().unwrap();
    assert_eq!(in_force(&snapshot), ["x:80"]);
    assert_eq!(
        states(&snapshot),
        ["a.yaml x InForce", "b.yaml x Shadowed { by: \"a.yaml\" }"]
    );
    setup.write("b.yaml", "half: [");
    agent.settled().unwrap();
    setup.remove("a.yaml");
    assert_eq!(
        in_force(&setup.agent().settled().unwrap()),
        ["x:90"],
        "what b.yaml held when it was whole"
    );
}

#[test]
fn one_object_twice_in_a_file_is_refused_the_second_time() {
    let setup = Setup::new();
    setup.write(
        "a.yaml",
        &format!("{}{}", policy("x", "\"80\""), policy("x", "\"90\"")),
    );
    let snapshot = setup.agent().settled().unwrap();
    assert_eq!(in_force(&snapshot), ["x:80"]);
    assert_eq!(snapshot.documents[1].state, DocumentState::Refused);
}

#[test]
fn kinds_that_are_not_read_are_listed_and_misspelt_ones_refused() {
    let setup = Setup::new();
    setup.write(
        "a.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
    );
    setup.write(
        "b.yaml",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolcy\nmetadata: {name: p}\n",
    );
    setup.write(".c.yaml", "half: [");
    setup.write("notes.txt", "half: [");
    let snapshot = setup.agent().settled().unwrap();
    assert_eq!(states(&snapshot), ["a.yaml d Unread", "b.yaml p Refused"]);
    insta::assert_snapshot!(snapshot.documents[1].errors[0], @r#"CiliumNetworkPolcy p: kind: "CiliumNetworkPolcy" of "cilium.io/v2" is no kind that is known, did you mean CiliumNetworkPolicy?; policies are CiliumNetworkPolicy (cilium.io/v2), CiliumClusterwideNetworkPolicy (cilium.io/v2), NetworkPolicy (networking.k8s.io/v1), ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2)"#);
}

#[test]
fn a_policy_of_a_kind_that_is_not_read_says_that_it_is_not_enforced() {
    let setup = Setup::new();
    setup.write(
        "a.yaml",
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: p}\n",
    );
    let snapshot = setup.agent().settled().unwrap();
    assert_eq!(states(&snapshot), ["a.yaml p Unread"]);
    assert!(
        snapshot.documents[0].warnings[0]
            .to_string()
            .ends_with("this policy is not enforced")
    );
}

#[test]
fn a_name_that_cannot_be_kept_holds_up_no_other_file() {
    use std::os::unix::ffi::OsStringExt;
    let setup = Setup::new();
    let long = format!("{}.yaml", "x".repeat(245));
    setup.write(&long, &policy("x", "\"80\""));
    let odd = std::ffi::OsString::from_vec(b"\xff.yaml".to_vec());
    fs::write(setup.root.path().join("manifests").join(odd), "").unwrap();
    setup.write("a.yaml", &policy("a", "\"80\""));
    let snapshot = setup.agent().settled().unwrap();
    assert_eq!(in_force(&snapshot), ["a:80"]);
    assert_eq!(
        snapshot
            .documents
            .iter()
            .filter(|document| !document.errors.is_empty())
            .count(),
        2
    );
}

#[test]
fn lists_as_kubectl_prints_them_are_documents() {
    let setup = Setup::new();
    setup.write(
        "a.yaml",
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: dev}}\n---\napiVersion: v1\nkind: PodList\nitems:\n- {metadata: {name: p}}\n",
    );
    let snapshot = setup.agent().settled().unwrap();
    assert_eq!(
        states(&snapshot),
        ["a.yaml dev InForce", "a.yaml p InForce"]
    );
}

#[test]
fn to_services_follows_the_services_of_the_directory() {
    let setup = Setup::new();
    setup.write(
        "policy.yaml",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec:\n  endpointSelector: {}\n  egress:\n  - toServices: [{k8sService: {serviceName: db, namespace: data}}]\n",
    );
    let mut agent = setup.agent();
    let peers = |snapshot: &Snapshot| {
        let policies = snapshot
            .objects
            .iter()
            .filter_map(|object| match &object.input {
                Input::Policy(lowered) => Some(format!("{:?}", lowered.policy.rules[0].peers)),
                _ => None,
            });
        policies.collect::<String>()
    };
    assert_eq!(peers(&agent.settled().unwrap()), "Nobody");
    setup.write(
        "service.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: data}\nspec: {}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: db-1, namespace: data, labels: {kubernetes.io/service-name: db}}\nendpoints: [{addresses: [192.0.2.7]}]\n",
    );
    let found = peers(&agent.settled().unwrap());
    assert!(found.contains("192.0.2.7/32"), "{found}");
    setup.write(
        "service.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: data}\nspec: {selector: {app: db}}\n",
    );
    let found = peers(&agent.settled().unwrap());
    assert!(found.contains("Endpoints"), "{found}");
}

#[test]
fn a_directory_that_cannot_be_read_never_reads_as_empty() {
    let setup = Setup::new();
    setup.write("a.yaml", &policy("a", "\"80\""));
    let mut agent = setup.agent();
    agent.settled().unwrap();
    let path = setup.root.path();
    fs::rename(path.join("manifests"), path.join("elsewhere")).unwrap();
    assert!(matches!(
        agent.settled(),
        Err(DirectoryError::Unreadable { .. })
    ));
    fs::rename(path.join("elsewhere"), path.join("manifests")).unwrap();
    assert_eq!(in_force(&agent.settled().unwrap()), ["a:80"]);
}

#[test]
fn nothing_is_admitted_that_could_not_be_kept() {
    let setup = Setup::new();
    setup.write("a.yaml", &policy("a", "\"80\""));
    let mut agent = setup.agent();
    // A file where the state directory was.
    fs::remove_dir(setup.state()).unwrap();
    fs::write(setup.state(), "").unwrap();
    assert!(matches!(agent.settled(), Err(DirectoryError::Keep { .. })));
    assert!(
        matches!(agent.settled(), Err(DirectoryError::Keep { .. })),
        "and again"
    );
    fs::remove_file(setup.state()).unwrap();
    fs::create_dir(setup.state()).unwrap();
    assert_eq!(
        in_force(&agent.settled().unwrap()),
        ["a:80"],
        "once it can be kept"
    );
    assert_eq!(in_force(&setup.agent().settled().unwrap()), ["a:80"]);
}

#[test]
fn a_crash_before_what_was_admitted_is_kept_is_one_before_the_admission() {
    let setup = Setup::new();
    setup.write("a.yaml", &policy("a", "\"80\""));
    let mut agent = setup.agent();
    agent.settled().unwrap();
    setup.write("a.yaml", &policy("a", "\"90\""));
    assert_eq!(in_force(&agent.admit(Instant::now()).unwrap()), ["a:90"]);
    drop(agent);

    // Its file is read again.
    let mut agent = setup.agent();
    assert_eq!(in_force(&agent.admit(Instant::now()).unwrap()), ["a:90"]);
    drop(agent);

    // A bad file in the same moment: what was kept last is in force.
    setup.write("a.yaml", &policy("a", "\"70000\""));
    assert_eq!(in_force(&setup.agent().settled().unwrap()), ["a:80"]);
}

#[test]
fn what_was_kept_is_in_force_after_a_restart_whatever_the_file_says_by_then() {
    let setup = Setup::new();
    setup.write("a.yaml", &policy("a", "\"80\""));
    let mut agent = setup.agent();
    agent.admit(Instant::now()).unwrap();
    agent.keep().unwrap();
    agent.keep().unwrap();
    drop(agent);
    setup.write("a.yaml", &policy("a", "\"70000\""));
    assert_eq!(in_force(&setup.agent().settled().unwrap()), ["a:80"]);
}

#[test]
fn what_could_not_be_kept_is_tried_again_although_nothing_changed() {
    let setup = Setup::new();
    setup.write("a.yaml", &policy("a", "\"80\""));
    let mut agent = setup.agent();
    agent.admit(Instant::now()).unwrap();
    // A directory where the state file is to be.
    let blocked = setup.state().join("a.yaml.admitted");
    fs::create_dir(&blocked).unwrap();
    for _ in 0..2 {
        assert!(matches!(agent.keep(), Err(DirectoryError::Keep { .. })));
    }
    fs::remove_dir(&blocked).unwrap();
    agent.keep().unwrap();
    drop(agent);
    setup.write("a.yaml", &policy("a", "\"70000\""));
    assert_eq!(in_force(&setup.agent().settled().unwrap()), ["a:80"]);
}

#[test]
fn a_damaged_state_is_an_error_and_no_empty_state() {
    let setup = Setup::new();
    fs::create_dir(setup.state()).unwrap();
    fs::write(setup.state().join("a.yaml.admitted"), "{\"version\":1,").unwrap();
    let manifests = setup.root.path().join("manifests");
    let opened = ManifestDirectory::open(&manifests, &setup.state(), Settings::default());
    assert!(matches!(opened, Err(DirectoryError::Restore { .. })));
}

#[test]
fn a_file_that_is_taken_away_and_put_back_never_loses_its_objects() {
    let setup = Setup::new();
    setup.write("a.yaml", &policy("a", "\"80\""));
    let mut agent = setup.agent();
    let start = Instant::now();
    assert_eq!(in_force(&agent.scan(start).unwrap()), ["a:80"]);

    setup.remove("a.yaml");
    let almost = start + GONE_AFTER.mul_f32(0.99);
    for now in [start, almost] {
        assert_eq!(in_force(&agent.scan(now).unwrap()), ["a:80"]);
        assert!(agent.in_doubt());
    }
    setup.write("a.yaml", &policy("a", "\"90\""));
    assert_eq!(in_force(&agent.scan(start + GONE_AFTER).unwrap()), ["a:90"]);
    assert!(!agent.in_doubt());

    // It is missing anew, and the time begins anew.
    setup.remove("a.yaml");
    let later = start + 3 * GONE_AFTER;
    assert_eq!(in_force(&agent.scan(later).unwrap()), ["a:90"]);
    assert!(in_force(&agent.scan(later + GONE_AFTER).unwrap()).is_empty());
    assert!(!agent.in_doubt());
}

/// What a closed policy says: direction, action and peers of each rule, and whom they are for.
fn closed(snapshot: &Snapshot) -> Vec<String> {
    let mut all = Vec::new();
    for object in &snapshot.objects {
        if let Input::Policy(lowered) = &object.input {
            for rule in &lowered.policy.rules {
                let oxilium_model::policy::rule::Subject::Endpoints(subject) = &rule.subject else {
                    panic!("a node");
                };
                all.push(format!(
                    "{:?} {:?} {:?} of {} requirements, default deny {}",
                    rule.direction,
                    rule.action,
                    rule.peers,
                    subject.requirements().len(),
                    rule.default_deny
                ));
            }
        }
    }
    all
}

#[test]
fn a_policy_that_the_next_version_refuses_is_closed() {
    let head = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: default}\n";
    // The one before took a protocol without a port, this one does not.
    let bad = "[{toPorts: [{ports: [{protocol: TCP}]}]}]";
    let selector = "endpointSelector: {matchLabels: {app: web}}";
    for (case, spec, expected) in [
        (
            "what it allowed is not",
            format!("{selector}, ingress: {bad}"),
            vec!["Ingress Allow Nobody of 1 requirements, default deny true"],
        ),
        (
            "what it could deny is denied",
            format!("{selector}, ingressDeny: {bad}, ingress: [{{}}], egress: [{{}}]"),
            vec![
                "Ingress Deny Anyone of 1 requirements, default deny true",
                "Egress Allow Nobody of 1 requirements, default deny true",
            ],
        ),
        (
            "what restricted nobody does not",
            format!("{selector}, enableDefaultDeny: {{ingress: false}}, ingress: {bad}"),
            vec![],
        ),
    ] {
        let setup = Setup::new();
        setup.write("p.yaml", &format!("{head}spec: {{{spec}}}\n"));
        let open = |extended_protocols| {
            let mut settings = Settings {
                node: "worker".into(),
                ..Settings::default()
            };
            settings.options.extended_protocols = extended_protocols;
            ManifestDirectory::open(
                &setup.root.path().join("manifests"),
                &setup.state(),
                settings,
            )
            .unwrap()
        };
        let snapshot = open(true).settled().unwrap();
        assert_eq!(states(&snapshot), ["p.yaml p InForce"], "{case}");

        let mut next = open(false);
        let snapshot = next.settled().unwrap();
        assert_eq!(states(&snapshot), ["p.yaml p Closed"], "{case}");
        assert!(!snapshot.documents[0].errors.is_empty(), "{case}");
        assert_eq!(closed(&snapshot), expected, "{case}");

        // Back, and it is what it was; mended, and it is in force.
        let snapshot = open(true).settled().unwrap();
        assert_eq!(states(&snapshot), ["p.yaml p InForce"], "{case}");
        setup.write("p.yaml", &policy("p", "\"80\""));
        assert_eq!(in_force(&next.settled().unwrap()), ["p:80"], "{case}");
    }
}

#[test]
fn a_closed_policy_whose_subject_cannot_be_read_is_for_all_of_its_namespace() {
    let setup = Setup::new();
    setup.write("p.yaml", &policy("p", "\"80\""));
    setup.agent().settled().unwrap();
    // As a version kept it that had another word for the subject.
    let kept = setup.state().join("p.yaml.admitted");
    let text = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, text.replace("endpointSelector", "endpointSelektor")).unwrap();
    setup.write("p.yaml", "half: [");
    let snapshot = setup.agent().settled().unwrap();
    assert_eq!(
        closed(&snapshot),
        [
            "Ingress Deny Anyone of 0 requirements, default deny true",
            "Egress Deny Anyone of 0 requirements, default deny true"
        ]
    );
}

#[test]
fn a_policy_of_a_kind_that_the_next_version_does_not_read_is_closed() {
    let setup = Setup::new();
    setup.write("p.yaml", &policy("p", "\"80\""));
    setup.agent().settled().unwrap();
    let kept = setup.state().join("p.yaml.admitted");
    let text = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, text.replace("cilium.io/v2", "cilium.io/v1")).unwrap();
    setup.write("p.yaml", "half: [");
    let snapshot = setup.agent().settled().unwrap();
    assert_eq!(
        closed(&snapshot),
        ["Ingress Allow Nobody of 0 requirements, default deny true"]
    );
}
