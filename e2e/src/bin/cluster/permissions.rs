//! What the chart's roles allow, and what was asked of the API server under them.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use oxilium_e2e::apiserver::CLUSTER_NETWORK_POLICY;
use oxilium_e2e::cluster::{Cluster, LONG};
use oxilium_e2e::wait;
use serde_json::Value;

use crate::policies::{event, told_of};
use crate::stage::{AGENTS, Stage, say};

/// A verb on a kind of objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    /// With its subresource, if it has one: `nodes/status`.
    resource: String,
    /// Of that object only; none: of all.
    name: Option<String>,
    verb: String,
}

impl Right {
    /// As if it were one to all objects.
    fn nameless(&self) -> Self {
        Self {
            name: None,
            ..self.clone()
        }
    }

    /// Whether these requests needed it. Of a right to some objects by name, each verb must be needed for one of them, and
    /// each name for one of the verbs: no run makes and upgrades all that could be missing or old.
    fn is_used(&self, used: &BTreeSet<Self>) -> bool {
        let of_verb = |asked: &Self| asked.nameless() == self.nameless();
        let of_name = |asked: &Self| {
            (&asked.group, &asked.resource, &asked.name)
                == (&self.group, &self.resource, &self.name)
        };
        used.iter().any(of_verb) && (self.name.is_none() || used.iter().any(of_name))
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            resource,
            name,
            verb,
        } = self;
        match group.as_str() {
            "" => write!(f, "{verb} {resource}"),
            _ => write!(f, "{verb} {resource}.{group}"),
        }?;
        name.iter().try_for_each(|name| write!(f, " {name}"))
    }
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// What a Role or ClusterRole allows.
fn allowed(role: &Value) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let names: Vec<_> = match texts(&rule["resourceNames"]).map(str::to_owned).collect() {
            names if Vec::is_empty(&names) => vec![None],
            names => names.into_iter().map(Some).collect(),
        };
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for name in &names {
                    rights.extend(texts(&rule["verbs"]).map(|verb| Right {
                        group: group.to_owned(),
                        resource: resource.to_owned(),
                        name: name.clone(),
                        verb: verb.to_owned(),
                    }));
                }
            }
        }
    }
    rights
}

/// From the audit log: what this user asked, and what of it was forbidden.
fn asked(log: &str, user: &str) -> Result<(BTreeSet<Right>, BTreeSet<Right>)> {
    let (mut all, mut forbidden) = (BTreeSet::new(), BTreeSet::new());
    for line in log.lines() {
        let event: Value =
            serde_json::from_str(line).with_context(|| format!("no audit event: {line}"))?;
        let object = &event["objectRef"];
        if event["user"]["username"] != user || object.is_null() {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = match object["subresource"].as_str() {
            Some(part) => format!("{}/{part}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        let right = Right {
            group: text(&object["apiGroup"]),
            resource,
            name: object["name"].as_str().map(str::to_owned),
            verb: text(&event["verb"]),
        };
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid" {
            forbidden.insert(right.clone());
        }
        // A patch that makes the object is allowed to whoever may create it as well; the log says nothing of that.
        if right.verb == "patch" && event["responseStatus"]["code"] == 201 {
            all.insert(Right {
                verb: "create".to_owned(),
                ..right.clone()
            });
        }
        all.insert(right);
    }
    Ok((all, forbidden))
}

fn named<'r>(rights: impl IntoIterator<Item = &'r Right>) -> String {
    let texts: Vec<_> = rights.into_iter().map(ToString::to_string).collect();
    if texts.is_empty() {
        return "none".to_owned();
    }
    texts.join(", ")
}

fn role(cluster: &Cluster, kind: &str, name: &str) -> Result<BTreeSet<Right>> {
    let get = ["--namespace", "kube-system", "get", kind, name];
    Ok(allowed(&cluster.json(&get)?))
}

/// Agents take no network that is none.
const OPTIONAL_REFUSED: &str = "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: e2e-refused}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {nobody: has}}}
  egress: [{action: Deny, to: [{networks: [192.0.2.0/33]}]}]
";

/// Defines the optional kind until every agent reads it, and the operator has told of a policy that is refused.
fn optional_kind(stage: &Stage<'_>) -> Result<()> {
    stage.apply(CLUSTER_NETWORK_POLICY)?;
    for agent in stage.cluster.ready_pods("kube-system", AGENTS)? {
        wait::until(&format!("{agent} to read the new kind"), LONG * 2, || {
            let status = agent.exec(stage.cluster, &["oxilium", "status"])?.1;
            let line = status
                .lines()
                .find(|line| line.starts_with("ClusterNetworkPolicy:"));
            Ok(line.is_some_and(|line| line.contains(" Ok ")).then_some(()))
        })?;
    }
    wait::until("the API serves the kind", LONG, || {
        Ok(stage.apply(OPTIONAL_REFUSED).is_ok().then_some(()))
    })?;
    let told = event(stage.cluster, "default", ["e2e-refused", "PolicyRefused"])?;
    say(&format!(
        "event on a ClusterNetworkPolicy that is refused: {told}"
    ));
    stage.delete(CLUSTER_NETWORK_POLICY)
}

/// Each right that the chart gives was used by now, and none that was asked for is missing.
pub(crate) fn as_used(stage: &mut Stage<'_>) -> Result<()> {
    optional_kind(stage)?;
    told_of(stage)?;
    let log = oxilium_e2e::process::run(&mut stage.cluster.script("audit-log")?)?;
    let operators = role(stage.cluster, "clusterrole", "cilium-operator")?
        .into_iter()
        .chain(role(stage.cluster, "role", "cilium-operator")?)
        .collect();
    let roles = [
        ("cilium", role(stage.cluster, "clusterrole", "cilium")?),
        ("cilium-operator", operators),
    ];
    for (name, given) in roles {
        let (used, forbidden) = asked(&log, &format!("system:serviceaccount:kube-system:{name}"))?;
        let asked: BTreeSet<Right> = used.iter().map(Right::nameless).collect();
        say(&format!("{name} asked: {}", named(&asked)));
        let what = format!("asked by {name} and not given");
        stage.compare(&what, "none", &named(&forbidden));
        let unused = given.iter().filter(|right| !right.is_used(&used));
        let what = format!("given to {name} and not used");
        stage.compare(&what, "none", &named(unused));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_right_by_name_is_used_where_its_verb_and_its_name_are() {
        let role = json!({"rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["crds"], "resourceNames": ["a", "b", "c"], "verbs": ["get", "update", "watch"]},
        ]});
        let event = |verb: &str, resource: &str, name: Option<&str>| {
            let object = json!({"resource": resource, "name": name});
            json!({"user": {"username": "u"}, "verb": verb, "objectRef": object}).to_string()
        };
        let log = [
            event("get", "pods", Some("p")),
            event("get", "crds", Some("a")),
            event("get", "crds", Some("b")),
            event("update", "crds", Some("b")),
        ];
        let (used, forbidden) = asked(&log.join("\n"), "u").unwrap();
        assert!(forbidden.is_empty());
        let given = allowed(&role);
        let unused = given.iter().filter(|right| !right.is_used(&used));
        assert_eq!(
            named(unused),
            "watch crds a, watch crds b, get crds c, update crds c, watch crds c, list pods"
        );
    }
}
