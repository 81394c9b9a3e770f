//! Objects that are refused, deleted, defined anew.

use std::sync::Arc;

use oxilium_manifest::LowerOptions;
use oxilium_model::world::ServiceRef;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::admitted::Admitted;
use super::super::convert::{Change, Reading};
use super::super::resource::Resource;
use super::super::store::Store;

const POLICIES: Resource = Resource::CiliumNetworkPolicies;

struct Lab {
    reading: Arc<Reading>,
    store: Store,
    directory: TempDir,
}

/// A policy for pods of that label; `spec` without one is no policy.
fn policy(name: &str, uid: &str, app: Option<&str>) -> Value {
    let spec = app.map_or(
        json!({}),
        |app| json!({"endpointSelector": {"matchLabels": {"app": app}}, "ingress": [{}]}),
    );
    json!({"metadata": {"name": name, "namespace": "default", "uid": uid, "managedFields": []}, "spec": spec})
}

impl Lab {
    fn new() -> Self {
        let reading = Arc::new(Reading::new("n1", LowerOptions::default()));
        let directory = tempfile::tempdir().unwrap();
        let admitted = Admitted::open(directory.path()).unwrap();
        Self {
            store: Store::new(Arc::clone(&reading), admitted),
            reading,
            directory,
        }
    }

    /// Another run on the same state directory. What the last one knew was kept.
    fn restart(&mut self) {
        self.store.keep().unwrap();
        let admitted = Admitted::open(self.directory.path()).unwrap();
        self.store = Store::new(Arc::clone(&self.reading), admitted);
    }

    fn read(&self, resource: Resource, object: &Value) -> Change {
        self.reading.object(resource, &object.to_string()).0
    }

    fn change(&mut self, resource: Resource, object: &Value) {
        let change = self.read(resource, object);
        self.store.change(resource, change);
    }

    fn list(&mut self, resource: Resource, objects: &[Value], replaced: bool) {
        let listed = objects
            .iter()
            .map(|object| self.read(resource, object))
            .collect();
        self.store.list(resource, listed, replaced);
    }

    /// Policies in force, by name and UID.
    fn policies(&mut self) -> Vec<String> {
        let objects = self.store.objects();
        let keys = objects.policies.keys();
        keys.map(|key| format!("{} {}", key.name, key.uid))
            .collect()
    }

    fn refused(&self) -> Vec<(String, bool)> {
        let refused = self.store.refused().iter();
        refused
            .map(|(id, refused)| (id.name.clone(), refused.earlier_in_force))
            .collect()
    }
}

#[test]
fn a_refused_update_leaves_in_force_what_was_admitted_and_a_refused_object_is_skipped() {
    let mut lab = Lab::new();
    lab.change(POLICIES, &policy("a", "1", Some("web")));
    let before = lab.store.objects();
    lab.change(POLICIES, &policy("a", "1", None));
    lab.change(POLICIES, &policy("b", "2", None));
    assert_eq!(lab.store.objects().policies, before.policies);
    assert_eq!(lab.refused(), [("a".into(), true), ("b".into(), false)]);
    // Put right, both are in force; deleted, nothing is left of one.
    lab.change(POLICIES, &policy("a", "1", Some("db")));
    lab.change(POLICIES, &policy("b", "2", Some("db")));
    assert_eq!(
        (lab.policies(), lab.refused()),
        (vec!["a 1".into(), "b 2".into()], vec![])
    );
    let a = POLICIES.object("default", "a");
    lab.store.delete(POLICIES, &a);
    assert_eq!(lab.policies(), ["b 2"]);
}

#[test]
fn a_refused_update_leaves_in_force_what_an_earlier_run_admitted() {
    let versioned = |name: &str, uid: &str, version: &str, app: Option<&str>| {
        let mut policy = policy(name, uid, app);
        policy["metadata"]["resourceVersion"] = json!(version);
        policy
    };
    let mut lab = Lab::new();
    let first = [
        versioned("a", "1", "10", Some("web")),
        versioned("b", "2", "11", Some("web")),
        versioned("c", "3", "12", Some("web")),
    ];
    lab.list(POLICIES, &first, false);
    let before = lab.store.objects();
    // In this run or while no agent runs: to the next run it is the same.
    let refused = [
        versioned("a", "1", "13", None),
        // Another object of that name was never admitted.
        versioned("b", "9", "14", None),
    ];
    for round in 0..2 {
        lab.restart();
        lab.list(POLICIES, &refused, false);
        let told = lab.refused();
        assert_eq!(told, [("a".into(), true), ("b".into(), false)], "{round}");
        assert_eq!(lab.policies(), ["a 1"], "{round}");
        let after = lab.store.objects();
        let one = |objects: &crate::reconcile::Objects| {
            let mut policies = objects.policies.iter();
            let found = policies.find(|(key, _)| &*key.name == "a");
            found.map(|(_, policy)| policy.rules.clone())
        };
        assert_eq!(one(&before), one(&after), "{round}");
    }
    // Once it is gone nothing of it comes back.
    lab.store.delete(POLICIES, &POLICIES.object("default", "a"));
    lab.restart();
    lab.list(POLICIES, &refused, false);
    assert_eq!(lab.policies(), Vec::<String>::new());
}

#[test]
fn fields_that_the_api_server_took_away_are_told_until_the_policy_is_written_without_them() {
    let mut lab = Lab::new();
    let mut pruned = policy("a", "1", Some("web"));
    pruned["metadata"]["managedFields"] = json!([
        {"manager": "kubectl", "fieldsV1": {"f:spec": {"f:ingres": {}, "f:ingress": {}}}}
    ]);
    lab.change(POLICIES, &pruned);
    lab.change(POLICIES, &policy("b", "2", Some("web")));
    let told: Vec<_> = lab.store.pruned().into_iter().collect();
    assert_eq!(told.len(), 1);
    assert_eq!(&*told[0].0.name, "a");
    assert!(
        told[0]
            .1
            .starts_with("spec.ingres was set and is not in the object: "),
        "{}",
        told[0].1
    );
    lab.change(POLICIES, &policy("a", "1", Some("web")));
    assert!(lab.store.pruned().is_empty());
}

#[test]
fn one_malformed_object_of_a_list_is_one_error() {
    let mut lab = Lab::new();
    let listed = [
        policy("a", "1", Some("web")),
        json!({"metadata": {"name": "b", "namespace": "default"}, "spec": 7}),
        json!({"metadata": {"name": "c", "namespace": "default"}, "specs": {"no": "list"}}),
        policy("d", "4", Some("web")),
    ];
    lab.list(POLICIES, &listed, false);
    assert_eq!(lab.policies(), ["a 1", "d 4"]);
    assert_eq!(lab.refused(), [("b".into(), false), ("c".into(), false)]);
}

#[test]
fn what_a_list_does_not_have_is_gone_and_what_is_equal_is_the_same_allocation() {
    let mut lab = Lab::new();
    let (a, b) = (policy("a", "1", Some("web")), policy("b", "2", Some("web")));
    lab.list(POLICIES, &[a.clone(), b], false);
    let before = lab.store.objects();
    lab.list(POLICIES, &[a, policy("c", "3", Some("web"))], false);
    let after = lab.store.objects();
    assert_eq!(lab.policies(), ["a 1", "c 3"]);
    let kept = |objects: &crate::reconcile::Objects| {
        let mut policies = objects.policies.iter();
        let found = policies.find(|(key, _)| &*key.name == "a");
        Arc::clone(found.unwrap().1)
    };
    assert!(Arc::ptr_eq(&kept(&before), &kept(&after)));
    // Nothing changed: not even the map is another one.
    lab.list(
        POLICIES,
        &[policy("a", "1", Some("web")), policy("c", "3", Some("web"))],
        false,
    );
    assert!(lab.store.objects().policies.is_same(&after.policies));
}

#[test]
fn an_object_of_the_same_name_is_another_object() {
    let mut lab = Lab::new();
    lab.change(POLICIES, &policy("a", "1", Some("web")));
    lab.change(POLICIES, &policy("a", "2", Some("web")));
    assert_eq!(lab.policies(), ["a 2"]);
}

#[test]
fn objects_of_a_definition_that_was_made_anew_stay_until_a_namesake_comes_or_they_are_given_up() {
    let mut lab = Lab::new();
    let old: Vec<Value> = ["a", "b", "c"]
        .map(|name| policy(name, "old", Some("web")))
        .into();
    lab.list(POLICIES, &old, false);
    lab.list(POLICIES, &[policy("a", "new", Some("web"))], true);
    assert_eq!(lab.policies(), ["a new", "b old", "c old"]);
    // Another list under the new definition changes nothing about that.
    lab.list(POLICIES, &[policy("a", "new", Some("web"))], false);
    assert_eq!(lab.policies(), ["a new", "b old", "c old"]);
    // One that is applied again and deleted then is gone; one that nobody deleted is not.
    lab.change(POLICIES, &policy("b", "new", Some("web")));
    lab.store.delete(POLICIES, &POLICIES.object("default", "b"));
    assert_eq!(lab.policies(), ["a new", "c old"]);
    lab.store.give_up_former(POLICIES);
    assert_eq!(lab.policies(), ["a new"]);
    assert_eq!(lab.store.former(POLICIES), None);
}

#[test]
fn a_node_is_what_both_its_objects_say() {
    let mut lab = Lab::new();
    let node = json!({"metadata": {"name": "n2", "labels": {"zone": "a"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}});
    let cilium = json!({"metadata": {"name": "n2"},
        "spec": {"addresses": [{"type": "InternalIP", "ip": "192.0.2.2"}, {"type": "CiliumInternalIP", "ip": "10.0.0.1"}]}});
    let said = |lab: &mut Lab| {
        let objects = lab.store.objects();
        let node = objects.nodes.get("n2");
        node.map(|node| (node.addresses.len(), node.labels.iter().count()))
    };
    lab.change(Resource::CiliumNodes, &cilium);
    assert_eq!(said(&mut lab), Some((2, 0)));
    lab.change(Resource::Nodes, &node);
    assert_eq!(said(&mut lab), Some((2, 1)));
    let id = Resource::CiliumNodes.object("", "n2");
    lab.store.delete(Resource::CiliumNodes, &id);
    assert_eq!(said(&mut lab), Some((1, 1)));
    lab.store
        .delete(Resource::Nodes, &Resource::Nodes.object("", "n2"));
    assert_eq!(said(&mut lab), None);
}

#[test]
fn an_endpoint_without_an_identity_says_nothing_and_is_no_error() {
    let mut lab = Lab::new();
    let endpoint = |status: Value| json!({"metadata": {"name": "p", "namespace": "default"}, "status": status});
    let known = json!({"identity": {"id": 300, "labels": ["k8s:app=web"]}, "networking": {"addressing": [{"ipv4": "10.0.0.9"}]}});
    let count = |lab: &mut Lab| lab.store.objects().remote_endpoints.len();
    lab.change(Resource::CiliumEndpoints, &endpoint(known));
    assert_eq!(count(&mut lab), 1);
    lab.change(Resource::CiliumEndpoints, &endpoint(json!({})));
    assert_eq!((count(&mut lab), lab.refused()), (0, vec![]));
}

#[test]
fn a_policy_that_names_a_service_follows_the_service() {
    let mut lab = Lab::new();
    let policy = json!({"metadata": {"name": "a", "namespace": "default", "uid": "1"}, "spec": {
        "endpointSelector": {}, "egress": [{"toServices": [{"k8sService": {"serviceName": "db", "namespace": "default"}}]}]}});
    let service = json!({"metadata": {"name": "db", "namespace": "default"}, "spec": {"clusterIPs": ["10.96.0.9"], "ports": [{"port": 1}]}});
    let slice = |address: &str| {
        json!({"metadata": {"name": "db-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": []})
    };
    let said = |lab: &mut Lab| {
        format!(
            "{:?}",
            lab.store.objects().policies.values().next().unwrap()
        )
    };
    lab.change(POLICIES, &policy);
    assert!(!said(&mut lab).contains("192.0.2."));
    lab.change(Resource::Services, &service);
    lab.change(Resource::EndpointSlices, &slice("192.0.2.7"));
    assert!(said(&mut lab).contains("192.0.2.7"));
    lab.change(Resource::EndpointSlices, &slice("192.0.2.8"));
    let text = said(&mut lab);
    assert!(
        text.contains("192.0.2.8") && !text.contains("192.0.2.7"),
        "{text}"
    );
}

#[test]
fn a_service_is_joined_with_its_slices_whichever_comes_first() {
    let mut lab = Lab::new();
    let service = json!({"metadata": {"name": "db", "namespace": "default"},
        "spec": {"clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]}});
    let slice = |address: &str| {
        json!({"metadata": {"name": "db-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 8080}]})
    };
    let backends = |lab: &mut Lab| -> Vec<String> {
        let objects = lab.store.objects();
        let ports = objects.services.values().flat_map(|service| &service.ports);
        ports
            .flat_map(|port| port.backends.keys())
            .map(|backend| format!("{}:{}", backend.address, backend.port))
            .collect()
    };
    lab.change(Resource::EndpointSlices, &slice("192.0.2.7"));
    assert_eq!(backends(&mut lab), Vec::<String>::new());
    lab.change(Resource::Services, &service);
    assert_eq!(backends(&mut lab), ["192.0.2.7:8080"]);
    lab.change(Resource::EndpointSlices, &slice("192.0.2.8"));
    assert_eq!(backends(&mut lab), ["192.0.2.8:8080"]);
}

#[test]
fn a_slice_that_changes_concerns_the_service_that_it_belongs_to_and_no_other() {
    let mut lab = Lab::new();
    let service = |name: &str, address: &str| {
        json!({"metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIPs": [address], "ports": [{"port": 80}]}})
    };
    let slice = |of: &str| {
        json!({"metadata": {"name": "one", "namespace": "default", "labels": {"kubernetes.io/service-name": of}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.7"]}], "ports": [{"port": 8080}]})
    };
    for (name, address) in [("a", "10.96.0.1"), ("b", "10.96.0.2"), ("c", "10.96.0.3")] {
        lab.change(Resource::Services, &service(name, address));
    }
    let known = |lab: &mut Lab| lab.store.objects().services.clone();
    let backends = |services: &oxilium_model::world::Services| -> Vec<usize> {
        services
            .values()
            .map(|service| service.ports[0].backends.len())
            .collect()
    };
    lab.change(Resource::EndpointSlices, &slice("a"));
    let first = known(&mut lab);
    assert_eq!(backends(&first), [1, 0, 0]);

    lab.change(Resource::EndpointSlices, &slice("b"));
    let second = known(&mut lab);
    assert_eq!(
        backends(&second),
        [0, 1, 0],
        "it belongs to another one now"
    );
    let untouched = ServiceRef::new("default", "c");
    assert!(Arc::ptr_eq(&first[&untouched], &second[&untouched]));

    lab.change(Resource::EndpointSlices, &slice("b"));
    assert!(second.is_same(&known(&mut lab)), "nothing changed");

    for (resource, name) in [(Resource::EndpointSlices, "one"), (Resource::Services, "a")] {
        lab.store
            .delete(resource, &resource.object("default", name));
    }
    assert_eq!(backends(&known(&mut lab)), [0, 0]);
}

#[test]
fn the_api_servers_are_the_backends_of_its_own_service() {
    let mut lab = Lab::new();
    let slice = json!({"metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": []});
    lab.change(Resource::EndpointSlices, &slice);
    assert_eq!(
        lab.store.objects().api_servers,
        ["192.0.2.1".parse().unwrap()].into()
    );
}
