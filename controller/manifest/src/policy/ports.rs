//! `toPorts` and `icmps` of Cilium's rules.

use oxilium_abi::Direction;
use oxilium_model::identity::Protocol;
use oxilium_model::policy::l7::L7;
use oxilium_model::policy::rule::{PortMatch, PortRule, PortSpec};

use super::Lowering;
use crate::diagnostic::{Problem, nearest};
use crate::forms;
use crate::schema::Admission;
use crate::tree::{Node, Value};

/// Names of protocols in policies, and their numbers. `ANY` stands for TCP, UDP and SCTP.
const PROTOCOLS: [(&str, Protocol); 11] = [
    ("TCP", Protocol::TCP),
    ("UDP", Protocol::UDP),
    ("SCTP", Protocol::SCTP),
    ("VRRP", Protocol(112)),
    ("IGMP", Protocol(2)),
    ("GRE", Protocol(47)),
    ("IPIP", Protocol(4)),
    ("IPV6", Protocol(41)),
    ("ESP", Protocol(50)),
    ("AH", Protocol(51)),
    ("ANY", Protocol::ANY),
];

/// ICMP types by name, as Cilium names them.
const ICMP_V4: [(&str, u8); 14] = [
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

/// ICMPv6 types by name, as Cilium names them.
const ICMP_V6: [(&str, u8); 27] = [
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

/// The protocol of that name in any case of letters.
pub(super) fn protocol(name: &str) -> Option<Protocol> {
    PROTOCOLS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, protocol)| *protocol)
}

fn has_no_ports(protocol: Protocol) -> bool {
    protocol != Protocol::ANY && !Protocol::WITH_PORTS.contains(&protocol)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit())
}

impl<'t> Lowering<'t, '_> {
    /// An item of `toPorts`. `deny`: nothing but ports, the schema refuses the rest.
    pub(super) fn port_rule(
        &mut self,
        node: &'t Node,
        direction: Direction,
        deny: bool,
    ) -> PortRule {
        let l7 = if deny {
            L7::default()
        } else {
            self.l7(node, direction)
        };
        let dns = !deny
            && node
                .get("rules")
                .is_some_and(|rules| !rules.list("dns").is_empty());
        let ports = node
            .list("ports")
            .iter()
            .filter_map(|port| self.port(port, dns))
            .collect();
        PortRule { ports, l7 }
    }

    fn port(&mut self, node: &'t Node, dns: bool) -> Option<PortMatch> {
        let protocol = match node.set("protocol") {
            None => Protocol::ANY,
            Some(name) => match name.text() {
                // The agent takes an empty protocol for none.
                Some("") => Protocol::ANY,
                Some(name) => protocol(name)?,
                None => return None,
            },
        };
        let text = match node.set("port") {
            None => "",
            Some(port) => port.text()?,
        };
        let port = self.port_spec(node, text, protocol, dns)?;
        Some(PortMatch { protocol, port })
    }

    fn port_spec(
        &mut self,
        node: &'t Node,
        text: &str,
        protocol: Protocol,
        dns: bool,
    ) -> Option<PortSpec> {
        let end = node.set("endPort").and_then(Node::integer).unwrap_or(0);
        if text.is_empty() {
            if !self.config.extended_protocols {
                self.findings.error_at(
                    node,
                    "port",
                    Problem::Missing {
                        meaning:
                            "a port from 0 (every port) to 65535 or the name of a port, in quotes"
                                .into(),
                    },
                );
                return None;
            }
            return Some(PortSpec::Any);
        }
        let at = node.get("port").unwrap_or(node);
        if forms::is_service_name(text) {
            if end > 0 {
                self.findings.warning(
                    node,
                    Problem::Conflict(
                        "endPort is ignored beside the name of a port; write numbers for a range"
                            .into(),
                    ),
                );
            }
            return Some(PortSpec::Named(text.to_ascii_lowercase().into()));
        }
        if text != "0" && has_no_ports(protocol) {
            self.findings.invalid(
                at,
                format!("{protocol} has no ports: write \"0\" or leave the port out"),
            );
            return None;
        }
        let Some(first) = forms::port_number(text) else {
            self.findings.invalid(
                at,
                "write a port from 0 (every port) to 65535, or the name of a port: at most 15 letters, digits and single dashes between them, one letter at least",
            );
            return None;
        };
        if dns && end > i64::from(first) {
            self.findings.error_at(
                node,
                "endPort",
                Problem::Conflict(
                    "DNS rules do not go with a range of ports; write each port".into(),
                ),
            );
        }
        self.range(node, first, end)
    }

    /// One port, or a range if `end` is above it. An `end` of 0 is as if absent.
    pub(super) fn range(&mut self, node: &'t Node, first: u16, end: i64) -> Option<PortSpec> {
        // Out of range: reported already.
        let last = u16::try_from(end).ok()?;
        if first == 0 {
            return Some(PortSpec::Any);
        }
        if last != 0 && last < first {
            self.findings.warning(
                node.get("endPort").unwrap_or(node),
                Problem::Conflict(format!(
                    "endPort {last} is below port {first}: only port {first} is meant then"
                )),
            );
        }
        Some(PortSpec::Range {
            first,
            last: last.max(first),
        })
    }

    /// An item of `icmps`.
    pub(super) fn icmp_rule(&mut self, node: &'t Node) -> PortRule {
        let ports = node
            .list("fields")
            .iter()
            .filter_map(|field| self.icmp_type(field))
            .collect();
        PortRule {
            ports,
            l7: L7::default(),
        }
    }

    fn icmp_type(&mut self, node: &'t Node) -> Option<PortMatch> {
        let (protocol, names, family) = match node.set("family").and_then(Node::text) {
            Some("IPv6") => (Protocol::ICMPV6, &ICMP_V6[..], "IPv6"),
            _ => (Protocol::ICMP, &ICMP_V4[..], "IPv4"),
        };
        let field = node.set("type")?;
        let number = match &field.value {
            Value::Integer(number) => u8::try_from(*number).ok(),
            Value::Text(text) if is_number(text) => text
                .parse::<u8>()
                .ok()
                .filter(|number| number.to_string() == **text),
            Value::Text(text) => {
                return self
                    .icmp_name(field, text, names, family)
                    .map(|number| PortMatch::icmp(protocol, number));
            }
            _ => return None,
        };
        if number.is_none() {
            self.findings
                .invalid(field, "write an ICMP type from 0 to 255");
        }
        Some(PortMatch::icmp(protocol, number?))
    }

    /// None: reported.
    fn icmp_name(
        &mut self,
        field: &'t Node,
        text: &str,
        names: &[(&str, u8)],
        family: &str,
    ) -> Option<u8> {
        let Some((_, number)) = names.iter().find(|(name, _)| *name == text) else {
            let all: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            let meant = nearest(text, all.iter().copied())
                .map_or(String::new(), |name| format!(", did you mean {name}?"));
            self.findings.invalid(
                field,
                format!(
                    "{family} has the types 0 to 255 and the names {}{meant}",
                    all.join(", ")
                ),
            );
            return None;
        };
        // The pattern in Cilium's resource definition misspells this one name.
        if text == "ExtendedEchoReply" && self.config.admission == Admission::Schema {
            self.findings.invalid(
                field,
                format!(
                    "Cilium's resource definition refuses this name, write the number {number}"
                ),
            );
            return None;
        }
        Some(*number)
    }
}
