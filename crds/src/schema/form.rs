//! The forms of texts and numbers, to be named by `#[schemars(with = "…")]` on fields that hold them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Types that have a schema and nothing else.
macro_rules! forms {
    ($($(#[$meta:meta])* $name:ident = $schema:tt;)*) => {
        $(
            $(#[$meta])*
            #[derive(Debug)]
            pub(crate) struct $name;

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )*
    };
}

/// Letters and digits, between them also `-`, `_`, `.`; at most 63.
macro_rules! qualified {
    () => {
        "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
    };
}

/// A DNS subdomain in lower case.
macro_rules! subdomain {
    () => {
        r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
    };
}

/// A number without leading zeros.
macro_rules! decimal {
    () => {
        "(0|[1-9][0-9]{0,2})"
    };
}

/// The number of an ICMP type, in quotes.
macro_rules! byte {
    () => {
        "0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]"
    };
}

/// The name of a port (RFC 6335), beside `maxLength: 15`.
pub(crate) const PORT_NAME: &str = "^([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*$";

/// 0 to 65535, as Go reads it: decimal, octal after `0`, binary after `0b`. (With `0x` it is the name of a port.)
const PORT_NUMBER: &str = "^(0+([0-7]{0,5}|1[0-7]{5})|0[bB][01]{1,16}|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$";

/// ICMP types. Cilium's definition refuses the name `ExtendedEchoReply` by a slip of the pen; a policy shall do in both.
pub(crate) const ICMP_V4: &str = concat!(
    "^(",
    byte!(),
    "|EchoReply|DestinationUnreachable|Redirect|Echo|EchoRequest|RouterAdvertisement|RouterSelection|TimeExceeded|ParameterProblem|Timestamp|TimestampReply|Photuris|ExtendedEchoRequest)$"
);

/// ICMPv6 types.
pub(crate) const ICMP_V6: &str = concat!(
    "^(",
    byte!(),
    "|DestinationUnreachable|PacketTooBig|TimeExceeded|ParameterProblem|EchoRequest|EchoReply|MulticastListenerQuery|MulticastListenerReport|MulticastListenerDone|RouterSolicitation|RouterAdvertisement|NeighborSolicitation|NeighborAdvertisement|RedirectMessage|RouterRenumbering|ICMPNodeInformationQuery|ICMPNodeInformationResponse|InverseNeighborDiscoverySolicitation|InverseNeighborDiscoveryAdvertisement|HomeAgentAddressDiscoveryRequest|HomeAgentAddressDiscoveryReply|MobilePrefixSolicitation|MobilePrefixAdvertisement|DuplicateAddressRequestCodeSuffix|DuplicateAddressConfirmationCodeSuffix|ExtendedEchoRequest)$"
);

forms! {
    /// Anything in an object of which nothing is read.
    Anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": true};
    /// A text with something in it.
    NotEmpty = {"type": "string", "minLength": 1};
    /// A time, RFC 3339.
    Time = {"type": "string", "format": "date-time"};
    /// `address/length`. The format is a sloppy reader's, which takes leading zeros; and beside the type it would let a
    /// list pass for a text.
    Prefix = {
        "type": "string",
        "pattern": concat!(
            "^([0-9a-fA-F:]+|([0-9a-fA-F:]*:)?(", decimal!(), r"\.){3}", decimal!(), ")/", decimal!(), "$",
        ),
        "allOf": [{"format": "cidr"}],
    };
    /// The value of a label.
    LabelValue = {"type": "string", "maxLength": 63, "pattern": concat!("^(", qualified!(), ")?$")};
    /// The key of a label, with or without `source:` before it.
    LabelKey = {
        "type": "string",
        "pattern": concat!("^([a-zA-Z0-9]+:)?(", subdomain!(), "/)?", qualified!(), "$"),
    };
    /// What a requirement asks of a label.
    Operator = {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]};
    /// The name of an object.
    ObjectName = {"type": "string", "maxLength": 253, "pattern": concat!("^", subdomain!(), "$")};
    /// A class of peers.
    Entity = {"type": "string", "enum": [
        "all", "world", "cluster", "cluster-mesh", "host", "init", "ingress", "unmanaged", "remote-node", "health", "none",
        "kube-apiserver",
    ]};
    /// A DNS name.
    DnsName = {"type": "string", "maxLength": 255, "pattern": "^([-a-zA-Z0-9_]+[.]?)+$"};
    /// A DNS name with `*` in it.
    DnsPattern = {"type": "string", "maxLength": 255, "pattern": "^([-a-zA-Z0-9_*]+[.]?)+$"};
    /// At most 32 characters that can be printed.
    LogValue = {"type": "string", "maxLength": 32, "pattern": r"^\PC*$"};
    /// The number or name of a port.
    Port = {"type": "string", "anyOf": [{"pattern": PORT_NUMBER}, {"pattern": PORT_NAME, "maxLength": 15}]};
    /// The last port of a range; 0 is as if absent.
    EndPort = {"type": "integer", "format": "int32", "minimum": 0, "maximum": 65535};
    /// A protocol.
    ProtocolName = {"type": "string", "enum": [
        "TCP", "UDP", "SCTP", "VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH", "ANY",
    ]};
    /// What is done with a request whose header differs.
    Mismatch = {"type": "string", "enum": ["LOG", "ADD", "DELETE", "REPLACE"]};
    /// The kind of an Envoy configuration.
    EnvoyConfigKind = {"type": "string", "enum": ["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"]};
    /// The order of listeners.
    Priority = {"type": "integer", "format": "int32", "minimum": 1, "maximum": 100};
    /// An address family.
    Family = {"type": "string", "enum": ["IPv4", "IPv6"]};
    /// The number or name of an ICMP type; the family says which names.
    IcmpType = {
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "minimum": 0,
        "maximum": 255,
    };
    /// How flows are authenticated.
    AuthMode = {"type": "string", "enum": ["disabled", "required", "test-always-fail"]};
    /// The state of an endpoint.
    EndpointState = {"type": "string", "enum": [
        "creating", "waiting-for-identity", "not-ready", "waiting-to-regenerate", "regenerating", "restoring", "ready",
        "disconnecting", "disconnected", "invalid",
    ]};
}
