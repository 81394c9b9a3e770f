//! What a proxy has to do: L7 rules, TLS server names, listeners.

use std::collections::BTreeSet;
use std::sync::Arc;

use oxilium_abi::Direction;
use oxilium_model::identity::Protocol;
use oxilium_model::policy::l7::{DnsRule, HttpRule, L7, L7Rules, Listener};

use super::{Lowering, ports};
use crate::diagnostic::Problem;
use crate::forms;
use crate::go_regex;
use crate::tree::Node;

/// Some of the lists in `rules` has an item. Empty lists are as if absent.
pub(super) fn has_rules(port_rule: &Node) -> bool {
    port_rule.get("rules").is_some_and(|rules| {
        ["http", "dns"]
            .iter()
            .any(|list| !rules.list(list).is_empty())
    })
}

impl<'t> Lowering<'t, '_> {
    /// The proxy's part of an item of `toPorts`.
    pub(super) fn l7(&mut self, node: &'t Node, direction: Direction) -> L7 {
        let names = node.list("serverNames");
        let rules = node.get("rules").filter(|_| has_rules(node));
        if let Some(rules) = rules {
            if !names.is_empty() && node.set("terminatingTLS").is_none() {
                self.findings.error_at(
                    node,
                    "serverNames",
                    Problem::Conflict(
                        "serverNames go with L7 rules only where terminatingTLS is set: set it, or write the names in an item of their own".into(),
                    ),
                );
            }
            self.ports_of_rules(node, rules);
        }
        self.same_names(node, names);
        L7 {
            rules: rules.map_or(L7Rules::None, |rules| self.rules(rules)),
            server_names: names.iter().filter_map(Node::text).map(Arc::from).collect(),
            listener: node
                .set("listener")
                .and_then(|listener| self.listener(listener, direction, rules.is_some())),
            intercepts_tls: ["terminatingTLS", "originatingTLS"]
                .iter()
                .any(|tls| node.set(tls).is_some()),
        }
    }

    fn same_names(&mut self, node: &'t Node, names: &'t [Node]) {
        let mut seen = BTreeSet::new();
        for name in names {
            if !name.text().is_none_or(|text| seen.insert(text)) {
                self.findings.warning(
                    name,
                    Problem::Conflict(
                        "this name is given twice; an API server refuses that".into(),
                    ),
                );
            }
        }
        if !names.is_empty() && node.list("ports").is_empty() {
            self.findings.warning(
                node,
                Problem::Conflict("without ports this item selects nothing".into()),
            );
        }
    }

    /// L7 rules need ports, other than 0, of TCP (DNS: also of UDP).
    fn ports_of_rules(&mut self, node: &'t Node, rules: &'t Node) {
        let dns = !rules.list("dns").is_empty();
        let list = node.list("ports");
        if list.is_empty() {
            if dns {
                self.findings.error_at(
                    node,
                    "ports",
                    Problem::Missing {
                        meaning: "DNS rules need their port, 53".into(),
                    },
                );
            } else {
                self.findings.warning(
                    node,
                    Problem::Conflict("without ports this item selects nothing".into()),
                );
            }
        }
        for port in list {
            let number = port
                .text_of("port")
                .filter(|text| !forms::is_service_name(text));
            if number.and_then(forms::port_number) == Some(0) {
                self.findings.error_at(
                    port,
                    "port",
                    Problem::Conflict("L7 rules do not go with port 0; write the ports".into()),
                );
            }
            let protocol = match port.set("protocol").and_then(Node::text) {
                None | Some("") => Some(Protocol::ANY),
                Some(name) => ports::protocol(name),
            };
            if !dns && protocol.is_some_and(|protocol| protocol != Protocol::TCP) {
                self.findings.error_at(
                    port,
                    "protocol",
                    Problem::Invalid {
                        value: port
                            .get("protocol")
                            .map_or_else(|| "no protocol (ANY)".into(), Node::shown),
                        allowed: "L7 rules other than DNS go with TCP only: write protocol: TCP"
                            .into(),
                    },
                );
            }
        }
    }

    fn rules(&mut self, rules: &'t Node) -> L7Rules {
        let http = rules.list("http");
        if !http.is_empty() {
            return L7Rules::Http(http.iter().map(|rule| self.http(rule)).collect());
        }
        L7Rules::Dns(
            rules
                .list("dns")
                .iter()
                .filter_map(|rule| {
                    match (rule.text_of("matchName"), rule.text_of("matchPattern")) {
                        (Some(name), _) => Some(DnsRule::Name(name.into())),
                        (None, Some(pattern)) => Some(DnsRule::Pattern(pattern.into())),
                        // The schema has said so already.
                        (None, None) => None,
                    }
                })
                .collect(),
        )
    }

    fn http(&mut self, node: &'t Node) -> HttpRule {
        for name in ["path", "method"] {
            let Some(field) = node.set(name) else {
                continue;
            };
            if let Some(Err(reason)) = field.text().map(go_regex::check) {
                self.findings.invalid(
                    field,
                    format!("write a regular expression (RE2, without look-around and back-references): {reason}"),
                );
            }
        }
        if let Some(host) = node.set("host")
            && let Some(Err(reason)) = host.text().map(go_regex::check)
        {
            self.findings.warning(
                host,
                Problem::Conflict(format!(
                    "no proxy can match this host, it is no regular expression: {reason}"
                )),
            );
        }
        let some = |name: &str| {
            node.set(name)
                .and_then(Node::text)
                .filter(|text| !text.is_empty())
                .map(Arc::from)
        };
        HttpRule {
            path: some("path"),
            method: some("method"),
            host: some("host"),
            headers: node
                .list("headers")
                .iter()
                .filter_map(Node::text)
                .map(Arc::from)
                .collect(),
            header_matches: node
                .list("headerMatches")
                .iter()
                .map(|m| self.header_match(m))
                .collect(),
        }
    }

    fn header_match(&mut self, node: &'t Node) -> Arc<str> {
        let empty_secret = node
            .set("secret")
            .and_then(|secret| secret.get("name"))
            .filter(|name| name.text() == Some(""));
        if let Some(name) = empty_secret {
            self.findings.invalid(name, "write the name of the secret");
        }
        let mut fields: Vec<(&str, serde_json::Value)> = node
            .members()
            .iter()
            .map(|member| (&*member.name, member.node.to_json()))
            .collect();
        fields.sort_by_key(|(name, _)| *name);
        let canonical: serde_json::Map<_, _> = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        serde_json::Value::Object(canonical).to_string().into()
    }

    fn listener(
        &mut self,
        node: &'t Node,
        direction: Direction,
        beside_rules: bool,
    ) -> Option<Listener> {
        if direction == Direction::Ingress {
            self.findings.error(
                node,
                Problem::Conflict(
                    "listeners are not supported on ingress; take it away or write an egress rule"
                        .into(),
                ),
            );
        }
        if beside_rules {
            self.findings.error(
                node,
                Problem::Conflict(
                    "a listener does not go with L7 rules; write them in an item of their own"
                        .into(),
                ),
            );
        }
        let config = node.get("envoyConfig")?;
        let kind = match config.text_of("kind") {
            Some(kind) => kind,
            None if self.policy.namespace.is_some() => "CiliumEnvoyConfig",
            None => "CiliumClusterwideEnvoyConfig",
        };
        if kind == "CiliumEnvoyConfig" && self.policy.namespace.is_none() {
            self.findings.warning(
                config,
                Problem::Conflict(
                    "a cluster-wide policy cannot use a CiliumEnvoyConfig, which is in a namespace: the endpoints that it selects get no policy; name a CiliumClusterwideEnvoyConfig".into(),
                ),
            );
        }
        Some(Listener {
            kind: kind.into(),
            config: config.text_of("name")?.into(),
            name: node.text_of("name")?.into(),
            priority: node
                .set("priority")
                .and_then(Node::integer)
                .and_then(|priority| u8::try_from(priority).ok())
                .filter(|priority| *priority != 0),
        })
    }
}
