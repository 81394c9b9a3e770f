//! `networking.k8s.io/v1` NetworkPolicy.
//!
//! Cilium's agent trusts the API server to have validated these. What would widen the policy if nobody had
//! (a port that is none, a prefix that is none, selectors beside an `ipBlock`) is refused here; what is merely
//! not what the API server takes gets a warning.

use oxilium_abi::Direction;
use oxilium_model::identity::Protocol;
use oxilium_model::policy::l7::L7;
use oxilium_model::policy::peer::{CidrPeer, Peer, Peers};
use oxilium_model::policy::rule::{
    Action, PortMatch, PortRule, PortRules, PortSpec, Rule, RulePriority, Subject, Tier,
};
use oxilium_model::policy::selector::{EndpointSelector, LabelSelector, PeerScope};

use super::selector::Keys;
use super::{Lowering, ports};
use crate::diagnostic::Problem;
use crate::forms;
use crate::schema::Admission;
use crate::tree::{Node, Position, Value};

static EMPTY: Node = Node {
    value: Value::Object(Vec::new()),
    position: Position::NONE,
};

impl<'t> Lowering<'t, '_> {
    /// `spec`.
    pub(super) fn network_policy(&mut self, root: &'t Node) -> Vec<Rule> {
        let spec = root.set("spec").unwrap_or(&EMPTY);
        let selector = spec
            .set("podSelector")
            .map_or_else(LabelSelector::default, |node| {
                self.selector(node, Keys::Kubernetes)
            });
        let (subject, scope) = self.scope().endpoints(&selector);
        let mut rules = Vec::new();
        for (direction, list, peers) in [
            (Direction::Ingress, "ingress", "from"),
            (Direction::Egress, "egress", "to"),
        ] {
            for (index, item) in spec.list(list).iter().enumerate() {
                let path = format!("spec.{list}[{index}]");
                let ports = self.network_policy_ports(item);
                let peers = self.network_policy_peers(item.list(peers), &scope);
                rules.push(self.network_policy_rule(
                    item,
                    &path,
                    direction,
                    &subject,
                    (peers, ports),
                ));
            }
            let types = spec.list("policyTypes");
            let named = |name: &str| types.iter().any(|item| item.text() == Some(name));
            let applies = match direction {
                Direction::Ingress => named("Ingress") || !named("Egress"),
                Direction::Egress => named("Egress"),
            };
            if spec.list(list).is_empty() && applies {
                let nobody = (Peers::Nobody, PortRules::All);
                rules.push(self.network_policy_rule(
                    spec,
                    "spec.policyTypes",
                    direction,
                    &subject,
                    nobody,
                ));
            }
        }
        rules
    }

    fn network_policy_rule(
        &self,
        node: &Node,
        path: &str,
        direction: Direction,
        subject: &EndpointSelector,
        (peers, ports): (Peers, PortRules),
    ) -> Rule {
        Rule {
            origin: self.origin(path, node, direction),
            subject: Subject::Endpoints(subject.clone()),
            direction,
            action: Action::Allow,
            tier: Tier::Normal,
            priority: RulePriority::default(),
            default_deny: true,
            peers,
            ports,
            auth: None,
        }
    }

    fn network_policy_peers(&mut self, items: &'t [Node], scope: &PeerScope) -> Peers {
        if items.is_empty() {
            return Peers::Anyone;
        }
        Peers::from_list(
            items
                .iter()
                .filter_map(|item| self.network_policy_peer(item, scope))
                .collect(),
        )
    }

    fn network_policy_peer(&mut self, node: &'t Node, scope: &PeerScope) -> Option<Peer> {
        let (pods, namespaces, block) = (
            node.set("podSelector"),
            node.set("namespaceSelector"),
            node.set("ipBlock"),
        );
        if let Some(block) = block {
            if pods.is_some() || namespaces.is_some() {
                self.findings.error(
                    node,
                    Problem::Exclusive {
                        fields: vec![
                            "ipBlock".into(),
                            "podSelector".into(),
                            "namespaceSelector".into(),
                        ],
                        fix: "write a peer for the addresses and another for the pods".into(),
                    },
                );
            }
            return self.ip_block(block);
        }
        if pods.is_none() && namespaces.is_none() && matches!(node.value, Value::Object(_)) {
            self.findings.warning(
                node,
                Problem::Conflict("an API server refuses a peer without fields; all pods of the namespace are meant here".into()),
            );
        }
        let namespaces = namespaces.map(|node| self.selector(node, Keys::Kubernetes));
        let pods = pods.map_or_else(LabelSelector::default, |node| {
            self.selector(node, Keys::Kubernetes)
        });
        Some(Peer::Endpoints(scope.pods(namespaces.as_ref(), &pods)))
    }

    fn ip_block(&mut self, node: &'t Node) -> Option<Peer> {
        let cidr = self.prefix(node.set("cidr")?)?;
        let mut except = Vec::new();
        for item in node.list("except") {
            let Some(prefix) = self.prefix(item) else {
                continue;
            };
            if !cidr.contains(&prefix) {
                self.findings.warning(
                    item,
                    Problem::Conflict(format!(
                        "{prefix} is not within {cidr}; an API server refuses this exception"
                    )),
                );
            }
            except.push(prefix);
        }
        Some(Peer::Cidr(CidrPeer::new(cidr, except)))
    }

    /// Somebody else has checked it: what got past that means what it means to Cilium's agent.
    fn is_checked(&self) -> bool {
        self.config.admission == Admission::Agent
    }

    /// A prefix, or what is wrong with it.
    pub(super) fn prefix(&mut self, node: &'t Node) -> Option<ipnet::IpNet> {
        let text = node.text()?;
        let prefix = if self.is_checked() {
            forms::prefix_or_address(text)
        } else {
            forms::prefix(text)
        };
        if prefix.is_none() {
            self.findings
                .invalid(node, "write a prefix such as 10.0.0.0/8 or 2001:db8::/32");
        }
        prefix
    }

    fn network_policy_ports(&mut self, item: &'t Node) -> PortRules {
        let items = item.list("ports");
        if items.is_empty() {
            return PortRules::All;
        }
        PortRules::AnyOf(
            items
                .iter()
                .filter_map(|node| self.network_policy_port(node))
                .map(|port| PortRule {
                    ports: vec![port],
                    l7: L7::default(),
                })
                .collect(),
        )
    }

    fn network_policy_port(&mut self, node: &'t Node) -> Option<PortMatch> {
        let protocol = match node.set("protocol") {
            None => Protocol::TCP,
            Some(field) => {
                let found = ports::protocol(field.text()?);
                if found.is_none() {
                    self.findings.invalid(field, "write TCP, UDP or SCTP");
                }
                found?
            }
        };
        let end_field = node.set("endPort");
        let end = end_field.and_then(Node::integer).unwrap_or(0);
        if let Some(field) = end_field.filter(|_| !(0..=65535).contains(&end)) {
            self.findings.invalid(field, "write a port from 1 to 65535");
            return None;
        }
        let Some(field) = node.set("port") else {
            if let Some(field) = end_field.filter(|_| end != 0 && !self.is_checked()) {
                self.findings.error(
                    field,
                    Problem::Conflict("endPort needs port, the first port of the range".into()),
                );
            }
            return Some(PortMatch {
                protocol,
                port: PortSpec::Any,
            });
        };
        let first = match &field.value {
            Value::Integer(0) if self.is_checked() => {
                return Some(PortMatch {
                    protocol,
                    port: PortSpec::Any,
                });
            }
            Value::Integer(number) => u16::try_from(*number).ok().filter(|number| *number != 0),
            Value::Text(name) if forms::is_service_name(name) => {
                if end != 0 {
                    self.findings.warning(
                        node,
                        Problem::Conflict("endPort is ignored beside the name of a port; write numbers for a range".into()),
                    );
                }
                let port = PortSpec::Named(name.to_ascii_lowercase().into());
                return Some(PortMatch { protocol, port });
            }
            Value::Text(text) => {
                let number = forms::port_number(text).filter(|number| *number != 0);
                if number.is_some() {
                    self.findings.warning(
                        field,
                        Problem::Conflict("an API server takes a number in quotes for a name; take the quotes away".into()),
                    );
                }
                number
            }
            _ => return None,
        };
        let Some(first) = first else {
            self.findings.invalid(
                field,
                "write a port from 1 to 65535, or the name of a port: at most 15 letters, digits and single dashes between them, one letter at least; leave it out for every port",
            );
            return None;
        };
        let port = self.range(node, first, end)?;
        Some(PortMatch { protocol, port })
    }
}
