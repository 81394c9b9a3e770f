//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

use oxilium_abi::Direction;
use oxilium_model::label::{self, LabelSource};
use oxilium_model::policy::l7::AuthMode;
use oxilium_model::policy::peer::{CidrGroupPeer, CidrPeer, Entity, FqdnPeer, Peer, Peers};
use oxilium_model::policy::rule::{Action, PortRules, Rule, RulePriority, Subject, Tier};
use oxilium_model::policy::selector::{PeerScope, Requirement, SelectorKey};

use super::selector::Keys;
use super::{Lowering, groups, l7};
use crate::diagnostic::Problem;
use crate::forms;
use crate::tree::{Node, Value};

/// One of the four lists of a rule.
struct Direct {
    list: &'static str,
    direction: Direction,
    action: Action,
}

const LISTS: [Direct; 4] = [
    Direct {
        list: "ingress",
        direction: Direction::Ingress,
        action: Action::Allow,
    },
    Direct {
        list: "ingressDeny",
        direction: Direction::Ingress,
        action: Action::Deny,
    },
    Direct {
        list: "egress",
        direction: Direction::Egress,
        action: Action::Allow,
    },
    Direct {
        list: "egressDeny",
        direction: Direction::Egress,
        action: Action::Deny,
    },
];

const INGRESS_PEERS: &[&str] = &[
    "fromEndpoints",
    "fromEntities",
    "fromCIDR",
    "fromCIDRSet",
    "fromNodes",
    "fromGroups",
];
const EGRESS_PEERS: &[&str] = &[
    "toEndpoints",
    "toEntities",
    "toCIDR",
    "toCIDRSet",
    "toFQDNs",
    "toServices",
    "toNodes",
    "toGroups",
];

/// Whom a rule is for, and what its peers may reach.
struct Target {
    subject: Subject,
    scope: PeerScope,
}

impl Target {
    fn is_host(&self) -> bool {
        matches!(self.subject, Subject::Nodes(_))
    }
}

impl<'t> Lowering<'t, '_> {
    /// `spec` and `specs`.
    pub(super) fn cilium_policy(&mut self, root: &'t Node) -> Vec<Rule> {
        let mut rules = Vec::new();
        let (spec, specs) = (root.set("spec"), root.set("specs"));
        if spec.is_none() && specs.is_none() {
            self.findings.error(
                root,
                Problem::NoneOf {
                    fields: vec!["spec".into(), "specs".into()],
                    meaning: "write the rules of the policy".into(),
                },
            );
        }
        if let Some(spec) = spec {
            self.cilium_rule(spec, "spec", &mut rules);
        }
        for (index, spec) in specs.map_or(&[][..], Node::items).iter().enumerate() {
            self.cilium_rule(spec, &format!("specs[{index}]"), &mut rules);
        }
        rules
    }

    fn cilium_rule(&mut self, spec: &'t Node, path: &str, rules: &mut Vec<Rule>) {
        if !matches!(spec.value, Value::Object(_)) {
            return;
        }
        let lists = LISTS.map(|direct| direct.list);
        if lists
            .iter()
            .all(|list| spec.set(list).is_none_or(is_empty_list))
        {
            self.findings.error(
                spec,
                Problem::NoneOf {
                    fields: lists.map(str::to_owned).to_vec(),
                    meaning: "a policy without rules does nothing; an empty rule ({}) in a list switches default deny on".into(),
                },
            );
        }
        let Some(target) = self.target(spec) else {
            return;
        };
        for direct in &LISTS {
            for (index, item) in spec.list(direct.list).iter().enumerate() {
                let path = format!("{path}.{}[{index}]", direct.list);
                let default_deny = self.default_deny(spec, direct.direction);
                let rule = self.cilium_item(item, direct, &target, &path);
                rules.push(Rule {
                    default_deny,
                    ..rule
                });
            }
        }
    }

    fn default_deny(&self, spec: &Node, direction: Direction) -> bool {
        let field = match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        !self.config.non_default_deny
            || spec
                .get("enableDefaultDeny")
                .and_then(|config| config.get(field))
                .and_then(Node::boolean)
                .unwrap_or(true)
    }

    /// The subject. None: there is none, which the schema has said already.
    fn target(&mut self, spec: &'t Node) -> Option<Target> {
        let scope = self.scope();
        if let Some(node) = spec.set("nodeSelector") {
            if self.policy.namespace.is_some() {
                self.findings.error_at(
                    spec,
                    "nodeSelector",
                    Problem::Conflict(
                        "a CiliumNetworkPolicy is for pods of its namespace; rules for nodes go into a CiliumClusterwideNetworkPolicy".into(),
                    ),
                );
            }
            let selector = self.selector(node, Keys::Cilium);
            let (nodes, scope) = scope.nodes(&selector);
            return Some(Target {
                subject: Subject::Nodes(nodes),
                scope,
            });
        }
        let node = spec.set("endpointSelector")?;
        let selector = self.selector(node, Keys::Cilium);
        let own = self.policy.namespace.clone();
        let named = [
            SelectorKey::k8s(label::POD_NAMESPACE),
            SelectorKey::any(label::POD_NAMESPACE),
        ];
        for (key, value) in &selector.labels {
            if own.as_ref().is_some_and(|own| own != value) && named.contains(key) {
                self.findings.warning(
                    node,
                    Problem::Conflict(format!(
                        "namespace {value:?} is ignored: a CiliumNetworkPolicy is for pods of its own namespace"
                    )),
                );
            }
        }
        let (endpoints, scope) = scope.endpoints(&selector);
        Some(Target {
            subject: Subject::Endpoints(endpoints),
            scope,
        })
    }

    fn cilium_item(
        &mut self,
        item: &'t Node,
        direct: &Direct,
        target: &Target,
        path: &str,
    ) -> Rule {
        let deny = direct.action == Action::Deny;
        self.l7_support(item, direct, target);
        let ports = self.port_rules(item, direct.direction, deny);
        let peers = self.peers(item, direct.direction, &target.scope, &ports);
        let auth = item
            .get("authentication")
            .and_then(|auth| auth.text_of("mode"))
            .and_then(auth_mode)
            .filter(|_| !deny);
        Rule {
            origin: self.origin(path, item, direct.direction),
            subject: target.subject.clone(),
            direction: direct.direction,
            action: direct.action,
            tier: Tier::Normal,
            priority: RulePriority::default(),
            default_deny: true,
            peers,
            ports,
            auth,
        }
    }

    /// Which L7 rules go where.
    fn l7_support(&mut self, item: &'t Node, direct: &Direct, target: &Target) {
        if direct.action == Action::Deny {
            return;
        }
        let ingress = direct.direction == Direction::Ingress;
        for rules in item
            .list("toPorts")
            .iter()
            .filter(|port_rule| l7::has_rules(port_rule))
            .filter_map(|port_rule| port_rule.get("rules"))
        {
            if !self.config.l7_proxy {
                self.findings.error(
                    rules,
                    Problem::SwitchedOff {
                        feature: "L7 rules",
                        option: "enable-l7-proxy",
                    },
                );
            }
            let (http, dns) = (
                !rules.list("http").is_empty(),
                !rules.list("dns").is_empty(),
            );
            let problem = if ingress && target.is_host() {
                "L7 rules are not supported on the ingress of nodes"
            } else if ingress && dns {
                "DNS rules are not supported on ingress; write them in egress"
            } else if !ingress && target.is_host() && http {
                "HTTP rules are not supported on the egress of nodes"
            } else {
                continue;
            };
            self.findings
                .error(rules, Problem::Conflict(problem.into()));
        }
    }

    fn port_rules(&mut self, item: &'t Node, direction: Direction, deny: bool) -> PortRules {
        let (to_ports, icmps) = (item.list("toPorts"), item.list("icmps"));
        if !to_ports.is_empty() && !icmps.is_empty() {
            self.findings.error(
                item,
                Problem::Exclusive {
                    fields: vec!["toPorts".into(), "icmps".into()],
                    fix: "write two rules".into(),
                },
            );
        }
        let mut rules = Vec::with_capacity(to_ports.len() + icmps.len());
        for node in to_ports {
            rules.push(self.port_rule(node, direction, deny));
        }
        for node in icmps {
            rules.push(self.icmp_rule(node));
        }
        if rules.is_empty() {
            PortRules::All
        } else {
            PortRules::AnyOf(rules)
        }
    }

    fn peers(
        &mut self,
        item: &'t Node,
        direction: Direction,
        scope: &PeerScope,
        ports: &PortRules,
    ) -> Peers {
        let fields = match direction {
            Direction::Ingress => INGRESS_PEERS,
            Direction::Egress => EGRESS_PEERS,
        };
        let set: Vec<(&str, &'t Node)> = fields
            .iter()
            .filter_map(|name| item.set(name).map(|node| (*name, node)))
            .collect();
        let full: Vec<&str> = set
            .iter()
            .filter(|(_, node)| !is_empty_list(node))
            .map(|(name, _)| *name)
            .collect();
        if full.len() > 1 {
            self.findings.error(
                item,
                Problem::Exclusive {
                    fields: full.iter().map(|name| (*name).to_owned()).collect(),
                    fix: "write one rule for each of them".into(),
                },
            );
        }
        let mut peers = Vec::new();
        let mut empty = false;
        for (name, list) in set {
            empty |= is_empty_list(list);
            if let "fromNodes" | "toNodes" = name
                && !is_empty_list(list)
                && !self.config.node_selector_labels
            {
                self.findings.error(
                    list,
                    Problem::SwitchedOff {
                        feature: "selecting nodes",
                        option: "enable-node-selector-labels",
                    },
                );
            }
            for node in list.items() {
                peers.extend(self.peer(name, node, scope));
            }
            empty |= peers.is_empty();
        }
        match (empty, peers.is_empty(), ports) {
            // A field that is there and selects nothing makes the rule select nothing.
            (true, _, _) | (false, true, PortRules::All) => Peers::Nobody,
            (false, true, PortRules::AnyOf(_)) => Peers::Anyone,
            (false, false, _) => Peers::AnyOf(peers),
        }
    }

    fn peer(&mut self, field: &str, node: &'t Node, scope: &PeerScope) -> Vec<Peer> {
        match field {
            "fromEndpoints" | "toEndpoints" => {
                let selector = self.selector(node, Keys::Cilium);
                vec![Peer::Endpoints(scope.endpoints(&selector))]
            }
            "fromNodes" | "toNodes" => {
                let selector = self.selector(node, Keys::Cilium);
                vec![Peer::Nodes(scope.nodes(&selector))]
            }
            "fromEntities" | "toEntities" => node
                .text()
                .and_then(Entity::from_name)
                .map(Peer::Entity)
                .into_iter()
                .collect(),
            "fromCIDR" | "toCIDR" => node
                .text()
                .and_then(forms::prefix_or_address)
                .map(|prefix| Peer::Cidr(CidrPeer::new(prefix, [])))
                .into_iter()
                .collect(),
            "fromCIDRSet" | "toCIDRSet" => self.cidr_rule(node).into_iter().collect(),
            "toFQDNs" => ["matchName", "matchPattern"]
                .iter()
                .find_map(|field| node.text_of(field))
                .map(|text| Peer::Fqdn(FqdnPeer(text.into())))
                .into_iter()
                .collect(),
            "toServices" => self.services(node, scope),
            "fromGroups" | "toGroups" => {
                let key = SelectorKey {
                    source: Some(LabelSource::CidrGroup),
                    key: groups::label_key(node).into(),
                };
                vec![Peer::CidrGroup(CidrGroupPeer {
                    requirements: vec![Requirement::exists(key)],
                    except: Vec::new(),
                })]
            }
            _ => Vec::new(),
        }
    }

    fn cidr_rule(&mut self, node: &'t Node) -> Option<Peer> {
        let cidr = node.text_of("cidr").and_then(forms::prefix);
        let mut except = Vec::new();
        for item in node.list("except") {
            let Some(prefix) = item.text().and_then(forms::prefix) else {
                continue;
            };
            if let Some(cidr) = cidr.filter(|cidr| !cidr.contains(&prefix)) {
                self.findings.invalid(
                    item,
                    format!("write a prefix within {cidr}, or leave it out"),
                );
            }
            except.push(prefix);
        }
        if let Some(cidr) = cidr {
            return Some(Peer::Cidr(CidrPeer::new(cidr, except)));
        }
        if let Some(name) = node.text_of("cidrGroupRef") {
            return Some(Peer::CidrGroup(CidrGroupPeer::named(name, except)));
        }
        let selector = self.selector(node.set("cidrGroupSelector")?, Keys::CidrGroup);
        let labels = selector
            .labels
            .into_iter()
            .map(|(key, value)| Requirement::is(key, &value));
        Some(Peer::CidrGroup(CidrGroupPeer {
            requirements: labels.chain(selector.expressions).collect(),
            except,
        }))
    }
}

/// `[]`. Something that is no list counts as full: the schema complains of it.
fn is_empty_list(node: &Node) -> bool {
    matches!(&node.value, Value::List(items) if items.is_empty())
}

fn auth_mode(name: &str) -> Option<AuthMode> {
    match name {
        "disabled" => Some(AuthMode::Disabled),
        "required" => Some(AuthMode::Required),
        "test-always-fail" => Some(AuthMode::AlwaysFail),
        _ => None,
    }
}
