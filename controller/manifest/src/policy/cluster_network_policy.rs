//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
//!
//! Tier, priority, subject and actions are as its resource definition has them. Rules without peers and peers
//! without fields, which a newer definition refuses, mean what they mean to Cilium's agent, with a warning.

use oxilium_abi::Direction;
use oxilium_model::identity::Protocol;
use oxilium_model::policy::l7::{DnsRule, L7, L7Rules};
use oxilium_model::policy::peer::{CidrPeer, FqdnPeer, Peer, Peers};
use oxilium_model::policy::rule::{
    Action, PortMatch, PortRule, PortRules, PortSpec, Rule, RulePriority, RuleRef, Subject, Tier,
};
use oxilium_model::policy::selector::{LabelSelector, PeerScope, Scope, SelectorKey};
use std::sync::Arc;

use super::Lowering;
use super::selector::Keys;
use crate::diagnostic::Problem;
use crate::forms;
use crate::tree::{Node, Value};

const PEERS: [&str; 5] = ["pods", "namespaces", "nodes", "networks", "domainNames"];

/// What all rules of an item share.
struct Item {
    origin: Arc<RuleRef>,
    subject: Subject,
    direction: Direction,
    action: Action,
    tier: Tier,
    priority: RulePriority,
}

impl Item {
    fn rule(&self, action: Action, peers: Peers, ports: PortRules) -> Rule {
        Rule {
            origin: self.origin.clone(),
            subject: self.subject.clone(),
            direction: self.direction,
            action,
            tier: self.tier,
            priority: self.priority,
            default_deny: false,
            peers,
            ports,
            auth: None,
        }
    }
}

impl<'t> Lowering<'t, '_> {
    /// `spec`.
    pub(super) fn cluster_network_policy(&mut self, root: &'t Node) -> Vec<Rule> {
        let Some(spec) = root.set("spec") else {
            return Vec::new();
        };
        let Some((subject, scope)) = self.pods_subject(spec) else {
            return Vec::new();
        };
        let tier = match spec.text_of("tier") {
            Some("Baseline") => Tier::Baseline,
            _ => Tier::Admin,
        };
        let policy = spec
            .get("priority")
            .and_then(Node::integer)
            .and_then(|priority| u32::try_from(priority).ok())
            .unwrap_or_default();
        let mut rules = Vec::new();
        for (direction, list, peers) in [
            (Direction::Ingress, "ingress", "from"),
            (Direction::Egress, "egress", "to"),
        ] {
            for (index, node) in spec.list(list).iter().enumerate() {
                let item = Item {
                    origin: self.origin(&format!("spec.{list}[{index}]"), node, direction),
                    subject: subject.clone(),
                    direction,
                    action: match node.text_of("action") {
                        Some("Deny") => Action::Deny,
                        Some("Pass") => Action::Pass,
                        _ => Action::Allow,
                    },
                    tier,
                    priority: RulePriority {
                        policy,
                        rule: u32::try_from(index).unwrap_or(u32::MAX),
                    },
                };
                self.cluster_rules(node, node.get(peers), &item, &scope, &mut rules);
            }
        }
        rules
    }

    fn pods_subject(&mut self, spec: &'t Node) -> Option<(Subject, PeerScope)> {
        let subject = spec.set("subject")?;
        let scope = self.scope();
        let (namespaces, pods) = if let Some(namespaces) = subject.set("namespaces") {
            (
                self.selector(namespaces, Keys::Kubernetes),
                LabelSelector::default(),
            )
        } else {
            self.namespaces_and_pods(subject.set("pods")?)
        };
        let (selector, scope) = scope.pods(&namespaces, &pods);
        Some((Subject::Endpoints(selector), scope))
    }

    fn namespaces_and_pods(&mut self, node: &'t Node) -> (LabelSelector, LabelSelector) {
        let mut of = |name: &str| {
            node.set(name).map_or_else(LabelSelector::default, |node| {
                self.selector(node, Keys::Kubernetes)
            })
        };
        (of("namespaceSelector"), of("podSelector"))
    }

    fn cluster_rules(
        &mut self,
        node: &'t Node,
        list: Option<&'t Node>,
        item: &Item,
        scope: &PeerScope,
        rules: &mut Vec<Rule>,
    ) {
        let ports = self.cluster_ports(node);
        let peers = list.map_or(&[][..], Node::items);
        if peers.is_empty() {
            self.findings.warning(
                node,
                Problem::Conflict(
                    "without peers this rule is for everyone; an API server may refuse that".into(),
                ),
            );
            rules.push(item.rule(item.action, Peers::Anyone, ports));
            return;
        }
        let mut all = Vec::new();
        for peer in peers {
            self.one_peer_field(peer);
            match self.cluster_peers(peer, item, scope) {
                Some(found) => {
                    if let Some(dns) = dns_rules(&found, peer) {
                        rules.push(item.rule(Action::Allow, kube_dns(scope), dns));
                    }
                    all.extend(found);
                }
                // A peer of a kind that is not known: an Accept is for nobody, everything else denies everyone.
                None if item.action == Action::Allow => {}
                None => rules.push(item.rule(Action::Deny, Peers::Anyone, ports.clone())),
            }
        }
        if !all.is_empty() {
            rules.push(item.rule(item.action, Peers::AnyOf(all), ports));
        }
    }

    fn one_peer_field(&mut self, peer: &'t Node) {
        let given: Vec<String> = PEERS
            .iter()
            .filter(|name| peer.set(name).is_some())
            .map(|name| (*name).to_owned())
            .collect();
        match given.len() {
            0 if matches!(peer.value, Value::Object(_)) => self.findings.warning(
                peer,
                Problem::Conflict(
                    "a peer without fields: Accept is for nobody then, Deny and Pass deny everyone"
                        .into(),
                ),
            ),
            0 | 1 => {}
            _ => self.findings.error(
                peer,
                Problem::Exclusive {
                    fields: given,
                    fix: "write a peer for each of them".into(),
                },
            ),
        }
    }

    /// None: the peer has no field that is known.
    fn cluster_peers(
        &mut self,
        peer: &'t Node,
        item: &Item,
        scope: &PeerScope,
    ) -> Option<Vec<Peer>> {
        if let Some(pods) = peer.set("pods") {
            let (namespaces, pods) = self.namespaces_and_pods(pods);
            return Some(vec![Peer::Endpoints(scope.pods(Some(&namespaces), &pods))]);
        }
        if let Some(namespaces) = peer.set("namespaces") {
            let namespaces = self.selector(namespaces, Keys::Kubernetes);
            // Unlike `pods`, not restricted to the local cluster.
            let (_, everywhere) = Scope::clusterwide(None).endpoints(&LabelSelector::default());
            let selector = everywhere.pods(Some(&namespaces), &LabelSelector::default());
            return Some(vec![Peer::Endpoints(selector)]);
        }
        if let Some(nodes) = peer.set("nodes") {
            if !self.config.node_selector_labels {
                self.findings.error(
                    nodes,
                    Problem::SwitchedOff {
                        feature: "selecting nodes",
                        option: "enable-node-selector-labels",
                    },
                );
            }
            let selector = self.selector(nodes, Keys::Kubernetes);
            return Some(vec![Peer::Nodes(scope.nodes(&selector))]);
        }
        if let Some(networks) = peer.set("networks") {
            let prefixes = networks
                .items()
                .iter()
                .filter_map(|node| self.network(node));
            return Some(
                prefixes
                    .map(|prefix| Peer::Cidr(CidrPeer::new(prefix, [])))
                    .collect(),
            );
        }
        let names = peer.set("domainNames")?;
        self.domain_names(names, item);
        Some(
            names
                .items()
                .iter()
                .filter_map(Node::text)
                .map(|name| Peer::Fqdn(FqdnPeer(domain_name(name).1.into())))
                .collect(),
        )
    }

    fn network(&mut self, node: &'t Node) -> Option<ipnet::IpNet> {
        match node.text().map(forms::prefix_or_address)? {
            Some(prefix) => Some(prefix),
            None => self.prefix(node),
        }
    }

    fn domain_names(&mut self, names: &'t Node, item: &Item) {
        if item.action != Action::Allow {
            self.findings.error(
                names,
                Problem::Conflict(
                    "domainNames go with action Accept only; deny networks instead".into(),
                ),
            );
        }
        if !self.config.l7_proxy {
            self.findings.error(
                names,
                Problem::SwitchedOff {
                    feature: "domainNames",
                    option: "enable-l7-proxy",
                },
            );
        }
        for node in names.items() {
            let Some(text) = node.text() else { continue };
            let (is_pattern, name) = domain_name(text);
            let valid = name.len() <= 255
                && !name.is_empty()
                && name.chars().all(|c| {
                    c.is_ascii_alphanumeric()
                        || matches!(c, '-' | '_' | '.')
                        || (is_pattern && c == '*')
                });
            if !valid {
                self.findings.invalid(
                    node,
                    "write a DNS name of letters, digits, '-', '_' and '.', with '*.' before it for all names below",
                );
            }
        }
    }

    fn cluster_ports(&mut self, node: &'t Node) -> PortRules {
        let items = node.list("protocols");
        if items.is_empty() {
            return PortRules::All;
        }
        PortRules::AnyOf(
            items
                .iter()
                .filter_map(|item| self.cluster_port(item))
                .map(|port| PortRule {
                    ports: vec![port],
                    l7: L7::default(),
                })
                .collect(),
        )
    }

    fn cluster_port(&mut self, node: &'t Node) -> Option<PortMatch> {
        const FIELDS: [&str; 4] = ["tcp", "udp", "sctp", "destinationNamedPort"];
        let given: Vec<&str> = FIELDS
            .into_iter()
            .filter(|name| node.set(name).is_some())
            .collect();
        let names = |fields: &[&str]| fields.iter().map(|name| (*name).to_owned()).collect();
        let field = match given.as_slice() {
            [field] => *field,
            [] => {
                if matches!(node.value, Value::Object(_)) {
                    self.findings.error(
                        node,
                        Problem::NoneOf {
                            fields: names(&FIELDS),
                            meaning: "leave protocols out for all".into(),
                        },
                    );
                }
                return None;
            }
            many => {
                self.findings.error(
                    node,
                    Problem::Exclusive {
                        fields: names(many),
                        fix: "write an item for each of them".into(),
                    },
                );
                return None;
            }
        };
        let value = node.get(field)?;
        if field == "destinationNamedPort" {
            let name = value.text()?;
            if !forms::is_service_name(name) {
                self.findings.invalid(
                    value,
                    "write the name of a port: at most 15 letters, digits and single dashes between them, one letter at least",
                );
            }
            let port = PortSpec::Named(name.to_ascii_lowercase().into());
            return Some(PortMatch {
                protocol: Protocol::ANY,
                port,
            });
        }
        let protocol = match field {
            "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            _ => Protocol::SCTP,
        };
        let port = match value.set("destinationPort") {
            None => PortSpec::Any,
            Some(port) => self.cluster_port_spec(port)?,
        };
        Some(PortMatch { protocol, port })
    }

    fn cluster_port_spec(&mut self, node: &'t Node) -> Option<PortSpec> {
        let one = |node: &Node| node.integer().and_then(|number| u16::try_from(number).ok());
        match (node.set("number"), node.set("range")) {
            (Some(number), None) => {
                let port = one(number)?;
                Some(PortSpec::Range {
                    first: port,
                    last: port,
                })
            }
            (None, Some(range)) => {
                let first = one(range.get("start")?)?;
                let last = one(range.get("end")?)?;
                if last <= first {
                    self.findings.warning(
                        range,
                        Problem::Conflict(format!("the end {last} is not above the start {first}: only port {first} is meant then")),
                    );
                }
                Some(PortSpec::Range {
                    first,
                    last: last.max(first),
                })
            }
            (Some(_), Some(_)) => {
                self.findings.error(
                    node,
                    Problem::Exclusive {
                        fields: vec!["number".into(), "range".into()],
                        fix: "write an item for each of them".into(),
                    },
                );
                None
            }
            (None, None) => {
                if matches!(node.value, Value::Object(_)) {
                    self.findings.error(
                        node,
                        Problem::NoneOf {
                            fields: vec!["number".into(), "range".into()],
                            meaning: "leave destinationPort out for all ports".into(),
                        },
                    );
                }
                None
            }
        }
    }
}

/// A name, or a pattern for all names below one: `*.` is one label to Cilium, `**.` any number of them.
fn domain_name(text: &str) -> (bool, String) {
    if text.starts_with("**") {
        (true, text.to_owned())
    } else if text.starts_with('*') {
        (true, format!("*{text}"))
    } else {
        (false, text.to_owned())
    }
}

/// Names are learnt from DNS answers, so the queries for them must be allowed, through the proxy.
fn dns_rules(peers: &[Peer], peer: &Node) -> Option<PortRules> {
    peer.set("domainNames").filter(|_| !peers.is_empty())?;
    let rules = peer
        .list("domainNames")
        .iter()
        .filter_map(Node::text)
        .map(|text| match domain_name(text) {
            (true, pattern) => DnsRule::Pattern(pattern.into()),
            (false, name) => DnsRule::Name(name.into()),
        })
        .collect();
    let ports = ["dns", "dns-tcp"].map(|name| PortMatch {
        protocol: Protocol::ANY,
        port: PortSpec::Named(name.into()),
    });
    Some(PortRules::AnyOf(vec![PortRule {
        ports: ports.to_vec(),
        l7: L7 {
            rules: L7Rules::Dns(rules),
            ..L7::default()
        },
    }]))
}

/// The cluster's DNS servers.
fn kube_dns(scope: &PeerScope) -> Peers {
    let mut pods = LabelSelector::default();
    pods.labels
        .insert(SelectorKey::any("k8s-app"), "kube-dns".into());
    Peers::AnyOf(vec![Peer::Endpoints(
        scope.pods(Some(&LabelSelector::default()), &pods),
    )])
}
