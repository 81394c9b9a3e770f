//! Events of the programs, in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use oxilium_abi::{Direction, DropReason, Event, EventKind, EventTranslation, TraceState};
use oxilium_api::{MonitorEvent, MonitorKind, MonitorVerdict};
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::Frontend;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86DD;

/// Who is who on the node, for what people read.
pub trait Names {
    /// `namespace/pod` of an endpoint.
    fn pod(&self, endpoint: u16) -> Option<String>;
    /// Identity of an endpoint.
    fn identity(&self, endpoint: u16) -> Option<NumericIdentity>;
    /// The endpoint of an address.
    fn endpoint(&self, address: IpAddr) -> Option<u16>;
    /// `namespace/name` of the service that has a frontend.
    fn service(&self, frontend: &Frontend) -> Option<String>;
    /// `namespace/pod` of the address of a pod on another node.
    fn remote_pod(&self, address: IpAddr) -> Option<String>;
    /// Labels of an identity.
    fn identity_labels(&self, identity: NumericIdentity) -> Option<String>;

    /// `namespace/pod` of an address.
    fn address(&self, address: IpAddr) -> Option<String> {
        let local = self.endpoint(address).and_then(|id| self.pod(id));
        local.or_else(|| self.remote_pod(address))
    }
}

/// The moment that was `since_boot` after the boot.
fn wall_clock(since_boot: Duration) -> SystemTime {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(since_boot, Duration::from);
    SystemTime::now()
        .checked_sub(now.saturating_sub(since_boot))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The event in words; none for one of a kind that this agent does not know.
pub fn describe(event: &Event, names: &impl Names) -> Option<MonitorEvent> {
    let kind = match event.kind {
        kind if kind == EventKind::Drop as u8 => MonitorKind::Drop,
        kind if kind == EventKind::PolicyVerdict as u8 => MonitorKind::PolicyVerdict,
        kind if kind == EventKind::Trace as u8 => MonitorKind::Trace,
        _ => return None,
    };
    let ingress = event.direction == Direction::Ingress as u8;
    let local = names
        .identity(event.endpoint)
        .map_or(0, |identity| identity.0);
    let (source_identity, destination_identity) = if ingress {
        (event.remote_identity, local)
    } else {
        (local, event.remote_identity)
    };
    let packet = Packet::of(event);
    let service = ServiceFlow::of(event, &packet);
    let pod = names.pod(event.endpoint);
    let remote = if ingress {
        packet.source
    } else {
        packet.destination
    };
    let peer_endpoint = remote.and_then(|address| names.endpoint(address));
    let name = |address: Option<IpAddr>, identity: u32, is_local: bool| {
        let named = if is_local {
            pod.clone()
        } else {
            peer_endpoint.and_then(|endpoint| names.pod(endpoint))
        };
        named
            .or_else(|| names.remote_pod(address?))
            .or_else(|| match NumericIdentity(identity) {
                NumericIdentity::ANY => None,
                identity => match identity.name() {
                    Some(reserved) => Some(reserved.to_owned()),
                    None => names.identity_labels(identity),
                },
            })
    };
    let dropped = kind == MonitorKind::Drop;
    let reason = DropReason::from_number(event.reason).map(|reason| reason.text().to_owned());
    Some(MonitorEvent {
        time: oxilium_api::rfc3339(wall_clock(Duration::from_nanos(event.time))),
        kind,
        reason: (dropped || event.reason != 0).then_some(event.reason),
        reason_desc: (dropped || event.reason != 0)
            .then(|| reason.unwrap_or_else(|| format!("reason {}", event.reason))),
        verdict: (kind == MonitorKind::PolicyVerdict).then_some(if event.reason == 0 {
            MonitorVerdict::Allow
        } else {
            MonitorVerdict::Deny
        }),
        matched: (kind == MonitorKind::PolicyVerdict).then(|| matched(event.matched).to_owned()),
        state: (kind == MonitorKind::Trace).then(|| state(event.state).to_owned()),
        direction: if ingress { "ingress" } else { "egress" }.to_owned(),
        endpoint: event.endpoint,
        peer_endpoint,
        source_name: name(packet.source, source_identity, !ingress),
        destination_name: name(packet.destination, destination_identity, ingress),
        pod,
        ifindex: event.ifindex,
        source_identity,
        destination_identity,
        source: packet.with_port(packet.source, event.source_port.get()),
        destination: packet.with_port(packet.destination, event.destination_port.get()),
        service: service
            .as_ref()
            .and_then(|flow| names.service(&flow.frontend)),
        frontend: service
            .as_ref()
            .map(|flow| socket(&flow.frontend.address, flow.frontend.port)),
        backend: service.map(|flow| socket(&flow.backend.0, flow.backend.1)),
        destination_port: number(event),
        protocol: event.protocol,
        summary: summary(event),
        length: event.length,
    })
}

/// What kind of entry decided, in Cilium's words.
fn matched(bits: u8) -> &'static str {
    let shape = bits & 0x1F;
    // Shape 0 is for any protocol, shape 1 for every port of one.
    match ((bits >> 5) & 3, shape) {
        (0, _) => "none",
        (3, 0) => "all",
        (3, 1) => "Proto-Only",
        (3, _) => "L4-Only",
        (_, 0) => "L3-Only",
        (_, 1) => "L3-Proto",
        (_, _) => "L3-L4",
    }
}

fn state(number: u8) -> &'static str {
    match number {
        state if state == TraceState::New as u8 => "new",
        state if state == TraceState::Established as u8 => "established",
        state if state == TraceState::Reply as u8 => "reply",
        state if state == TraceState::Related as u8 => "related",
        _ => "untracked",
    }
}

/// The packet that an event is about.
struct Packet {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    translated: Option<IpAddr>,
    ports: bool,
}

/// A flow to a service.
struct ServiceFlow {
    frontend: Frontend,
    backend: (IpAddr, u16),
}

impl ServiceFlow {
    /// Of an event that tells of a translation.
    fn of(event: &Event, packet: &Packet) -> Option<Self> {
        let other = (packet.translated?, event.translated_port.get());
        let (frontend, backend) = match event.translation {
            kind if kind == EventTranslation::ToBackend as u8 => {
                ((packet.destination?, event.destination_port.get()), other)
            }
            kind if kind == EventTranslation::FromFrontend as u8 => {
                (other, (packet.source?, event.source_port.get()))
            }
            _ => return None,
        };
        let frontend = Frontend {
            address: frontend.0,
            port: frontend.1,
            protocol: event.protocol,
        };
        Some(Self { frontend, backend })
    }
}

fn socket(address: &IpAddr, port: u16) -> String {
    SocketAddr::new(*address, port).to_string()
}

impl Packet {
    fn of(event: &Event) -> Self {
        let address = |bytes: [u8; 16]| match event.ether_type.get() {
            ETHERTYPE_IPV6 => Some(IpAddr::V6(Ipv6Addr::from(bytes))),
            ETHERTYPE_IPV4 | ETHERTYPE_ARP => {
                let [a, b, c, d, ..] = bytes;
                Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
            }
            _ => None,
        };
        Self {
            source: address(event.source),
            destination: address(event.destination),
            translated: address(event.translated),
            ports: event.ether_type.get() != ETHERTYPE_ARP
                && matches!(event.protocol, 6 | 17 | 132),
        }
    }

    fn with_port(&self, address: Option<IpAddr>, port: u16) -> String {
        match address {
            None => "unknown".to_owned(),
            Some(IpAddr::V6(address)) if self.ports => format!("[{address}]:{port}"),
            Some(address) if self.ports => format!("{address}:{port}"),
            Some(address) => address.to_string(),
        }
    }
}

/// What a policy would know as the packet's port: the destination port, or the type of an ICMP message.
fn number(event: &Event) -> u16 {
    match event.protocol {
        1 | 58 if event.ether_type.get() != ETHERTYPE_ARP => event.source_port.get() >> 8,
        _ => event.destination_port.get(),
    }
}

fn summary(event: &Event) -> String {
    match event.ether_type.get() {
        ETHERTYPE_ARP => return "arp".to_owned(),
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => {}
        other => return format!("ethertype {other:#06x}"),
    }
    let [icmp_type, code] = event.source_port.get().to_be_bytes();
    match event.protocol {
        6 => format!("tcp {}", tcp_flags(event.tcp_flags))
            .trim_end()
            .to_owned(),
        17 => "udp".to_owned(),
        132 => "sctp".to_owned(),
        1 => icmp4(icmp_type, code),
        58 => icmp6(icmp_type, code),
        other => format!("protocol {other}"),
    }
}

fn tcp_flags(bits: u8) -> String {
    [(0x02, "SYN"), (0x10, "ACK"), (0x04, "RST"), (0x01, "FIN")]
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| *name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn icmp4(icmp_type: u8, code: u8) -> String {
    match icmp_type {
        0 => "EchoReply".to_owned(),
        3 => format!("DestinationUnreachable({code})"),
        5 => "Redirect".to_owned(),
        8 => "EchoRequest".to_owned(),
        11 => "TimeExceeded".to_owned(),
        12 => "ParameterProblem".to_owned(),
        other => format!("ICMP({other}/{code})"),
    }
}

fn icmp6(icmp_type: u8, code: u8) -> String {
    match icmp_type {
        1 => format!("DestinationUnreachable({code})"),
        2 => "PacketTooBig".to_owned(),
        3 => "TimeExceeded".to_owned(),
        4 => "ParameterProblem".to_owned(),
        128 => "EchoRequest".to_owned(),
        129 => "EchoReply".to_owned(),
        133 => "RouterSolicitation".to_owned(),
        134 => "RouterAdvertisement".to_owned(),
        135 => "NeighborSolicitation".to_owned(),
        136 => "NeighborAdvertisement".to_owned(),
        137 => "Redirect".to_owned(),
        other => format!("ICMPv6({other}/{code})"),
    }
}
