//! Plans for people to read: table by table, each write in its order.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use oxilium_abi::{
    Direction, InterfaceConfig, LbAddress, PolicyKey, PolicyValue, ServiceKey, ServiceWord,
    ShapeMask,
};

use super::{Operation, Plan, Reason, Table, Write, ipcache_prefix, lb_address, service_frontend};
use crate::identity::{NumericIdentity, Protocol};

const TABLES: [Table; 11] = [
    Table::Policy,
    Table::Shapes,
    Table::Ipcache,
    Table::Interfaces,
    Table::Services,
    Table::Backends,
    Table::ReverseNat,
    Table::EndpointWords,
    Table::NodeWords,
    Table::Attachments,
    Table::Conntrack,
];

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing to do");
        }
        for table in TABLES {
            let of_table = || {
                self.steps()
                    .iter()
                    .filter(move |step| step.write.target().is_some_and(|(t, _)| t == table))
            };
            let count = of_table().count();
            if count == 0 {
                continue;
            }
            let noun = if count == 1 { "write" } else { "writes" };
            writeln!(f, "{table}: {count} {noun}")?;
            let mut reasons = BTreeSet::new();
            for step in of_table() {
                writeln!(f, "  {}", step.write)?;
                reasons.insert(step.reason);
            }
            for reason in reasons {
                writeln!(f, "  # {reason}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewEndpoint(id) => write!(f, "endpoint {id} is new"),
            Self::GoneEndpoint(id) => write!(f, "endpoint {id} is gone"),
            Self::PolicyChange { table } => write!(f, "policy of table {table} changes"),
            Self::Narrowing { table } => write!(
                f,
                "policy of table {table} changes; for want of room some allowed packets may be dropped on the way"
            ),
            Self::Staging { table } => write!(f, "table {table} is built beside those in use"),
            Self::Unused { table } => write!(f, "table {table} is not used any more"),
            Self::AddressChange => f.write_str("addresses change their identity"),
            Self::ServiceChange => f.write_str("services or their backends change"),
            Self::GoneService => f.write_str("services or backends are gone"),
            Self::Epoch => f.write_str("recorded verdicts become stale"),
            Self::Program => f.write_str("programs are missing or not the loaded ones"),
            Self::Settle => {
                f.write_str("programs that were attached by filters for quickness get their links")
            }
            Self::Repair => f.write_str("what is there contradicts itself or is nobody's"),
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.target() {
            Some((_, Operation::Insert)) => '+',
            Some((_, Operation::Update)) => '~',
            Some((_, Operation::Delete)) => '-',
            None => '.',
        };
        write!(f, "{sign} ")?;
        match self {
            Self::HighWater(epoch) => write!(f, "high water = {}", epoch.get()),
            Self::PolicyInsert { key, value } | Self::PolicyReplace { key, value } => {
                show_key(f, key)?;
                show_value(f, value)
            }
            Self::PolicyDelete { key } => show_key(f, key),
            Self::ShapeWord {
                table,
                direction,
                word,
            } => {
                let direction = direction_name(*direction);
                write!(f, "table {table} {direction} = {:#x}", word.0)
            }
            Self::IpcacheUpsert { key, value } => {
                show_prefix(f, key)?;
                let [first, second] = [0, 1].map(|bank| NumericIdentity(value.identity(bank)));
                if first == second {
                    return write!(f, " = {first}");
                }
                write!(f, " = {first} | {second}")
            }
            Self::IpcacheDelete { key } => show_prefix(f, key),
            Self::InterfaceInsert { ifindex, config }
            | Self::InterfaceReplace { ifindex, config } => show_interface(f, *ifindex, config),
            Self::InterfaceDelete { ifindex } => write!(f, "interface {ifindex}"),
            Self::EndpointWord {
                endpoint,
                bank,
                word,
            } => write!(
                f,
                "endpoint {endpoint} = table {} epoch {} (bank {bank})",
                word.table(),
                word.epoch().get()
            ),
            Self::IpcacheWord(word) => write!(
                f,
                "ipcache = bank {} epoch {}",
                word.bank(),
                word.epoch().get()
            ),
            Self::Publish(epoch) => write!(f, "published = {}", epoch.get()),
            Self::Attach {
                point,
                endpoint,
                program,
                ..
            }
            | Self::Replace {
                point,
                endpoint,
                program,
            } => {
                write!(
                    f,
                    "{} on interface {} of endpoint {endpoint} = {program}",
                    point.hook, point.ifindex
                )?;
                match self {
                    Self::Attach { staged: true, .. } => f.write_str(" (staged)"),
                    _ => Ok(()),
                }
            }
            Self::Service { key, value } => {
                show_service(f, key)?;
                let word = ServiceWord(value.word);
                if key.slot != 0 {
                    return write!(f, " = backend {}", value.word);
                }
                write!(f, " = {} backends, id {}", word.slots(), word.id())?;
                match word.affinity() {
                    0 => Ok(()),
                    seconds => write!(f, ", affinity {seconds} s"),
                }
            }
            Self::ServiceDelete { key } => show_service(f, key),
            Self::Backend { id, value } => show_lb_address(f, "backend", *id, value),
            Self::BackendDelete { id } => write!(f, "backend {id}"),
            Self::ReverseNat { id, value } => show_lb_address(f, "frontend", *id, value),
            Self::ReverseNatDelete { id } => write!(f, "frontend {id}"),
            Self::ServicesInUse(used) => write!(f, "services = {}", u8::from(*used)),
            Self::Detach { point } => write!(f, "{} on interface {}", point.hook, point.ifindex),
            Self::PurgeConntrack { endpoint } => write!(f, "flows of endpoint {endpoint}"),
            Self::Barrier => f.write_str("wait for running programs"),
        }
    }
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn show_key(f: &mut fmt::Formatter<'_>, key: &PolicyKey) -> fmt::Result {
    let direction = direction_name(key.direction());
    write!(f, "table {} {direction} ", key.table)?;
    match NumericIdentity(key.identity) {
        NumericIdentity::ANY => f.write_str("any")?,
        identity => write!(f, "{identity}")?,
    }
    write!(f, " {}", Protocol(key.protocol))?;
    if key.shape() > 1 {
        let mask = ShapeMask::port_mask(key.shape());
        let first = key.port.get();
        write!(f, "/{first}")?;
        if mask != u16::MAX {
            write!(f, "-{}", first | !mask)?;
        }
    }
    Ok(())
}

fn show_value(f: &mut fmt::Formatter<'_>, value: &PolicyValue) -> fmt::Result {
    let precedence = value.precedence();
    let class = if precedence.is_deny() {
        "deny"
    } else if precedence.is_redirect() {
        "redirect"
    } else {
        "allow"
    };
    write!(f, " = {class}")?;
    if value.auth().kind() != 0 {
        f.write_str(" with authentication")?;
    }
    write!(f, " ({:#010x})", precedence.0)
}

fn show_prefix(f: &mut fmt::Formatter<'_>, key: &oxilium_abi::IpcacheKey) -> fmt::Result {
    match ipcache_prefix(key) {
        Some(prefix) => write!(f, "{prefix}"),
        None => write!(f, "damaged key of length {}", key.prefix_len),
    }
}

fn show_service(f: &mut fmt::Formatter<'_>, key: &ServiceKey) -> fmt::Result {
    match service_frontend(key) {
        Some(frontend) => write!(f, "{frontend} ({})", key.slot),
        None => write!(f, "damaged key of family {}", key.family),
    }
}

fn show_lb_address(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    id: u32,
    value: &LbAddress,
) -> fmt::Result {
    write!(f, "{what} {id} = ")?;
    match lb_address(id, value) {
        Some(address) => {
            let socket = SocketAddr::new(address.address, address.port);
            write!(f, "{socket}/{}", Protocol(value.protocol))?;
        }
        None => f.write_str("damaged")?,
    }
    if value.is_active() {
        return Ok(());
    }
    f.write_str(" (resting)")
}

fn show_interface(
    f: &mut fmt::Formatter<'_>,
    ifindex: u32,
    config: &InterfaceConfig,
) -> fmt::Result {
    let identity = NumericIdentity(config.identity);
    write!(
        f,
        "interface {ifindex} = endpoint {} identity {identity}",
        config.endpoint
    )
}
