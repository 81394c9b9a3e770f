//! Ports, L7 rules, ICMP types and authentication.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fqdn;
use crate::meta::IntOrString;
use crate::schema::{form, rules};

/// Ports, and what a proxy has to do with flows to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::port_rule)]
pub struct PortRule {
    /// The ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::forty)]
    pub ports: Option<Vec<PortProtocol>>,
    /// Requests that are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<L7Rules>,
    /// TLS server names that are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::DnsPattern>>", transform = rules::names)]
    pub server_names: Option<Vec<String>>,
    /// The proxy's listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
    /// TLS towards the client.
    #[serde(
        rename = "terminatingTLS",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub terminating_tls: Option<TlsContext>,
    /// TLS towards the server.
    #[serde(
        rename = "originatingTLS",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub originating_tls: Option<TlsContext>,
}

/// Ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortDenyRule {
    /// The ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::forty)]
    pub ports: Option<Vec<PortProtocol>>,
}

/// A port or a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::port)]
pub struct PortProtocol {
    /// A number or a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::Port>")]
    pub port: Option<String>,
    /// The last port of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::EndPort>")]
    pub end_port: Option<i64>,
    /// `TCP`, `UDP`, `SCTP`…; absent: any that has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::ProtocolName>")]
    pub protocol: Option<String>,
}

/// Requests that are allowed: of one protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::l7_rules)]
pub struct L7Rules {
    /// HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<HttpRule>>,
    /// DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Vec<Fqdn>>,
}

/// An HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRule {
    /// Regular expression of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Regular expression of the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Regular expression of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Headers that must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<String>>,
    /// Headers and their values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_matches: Option<Vec<HeaderMatch>>,
}

/// A header and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::header_match)]
pub struct HeaderMatch {
    /// `LOG`, `ADD`, `DELETE` or `REPLACE`; absent: the request is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::Mismatch>")]
    pub mismatch: Option<String>,
    /// Its name.
    #[schemars(with = "form::NotEmpty")]
    pub name: String,
    /// A secret with its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The name of a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Certificates and key.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsContext {
    /// The secret that holds them.
    pub secret: Secret,
    /// The item with the authority.
    #[serde(rename = "trustedCA", default, skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<String>,
    /// The item with the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The item with the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
}

/// A listener of the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Where it is defined.
    pub envoy_config: EnvoyConfig,
    /// Its name.
    #[schemars(with = "form::NotEmpty")]
    pub name: String,
    /// 1 (first) … 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::Priority>")]
    pub priority: Option<u8>,
}

/// The name of an Envoy configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvoyConfig {
    /// `CiliumEnvoyConfig` or `CiliumClusterwideEnvoyConfig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::EnvoyConfigKind>")]
    pub kind: Option<String>,
    /// Its name.
    #[schemars(with = "form::NotEmpty")]
    pub name: String,
}

/// ICMP types.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IcmpRule {
    /// The types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::forty)]
    pub fields: Option<Vec<IcmpField>>,
}

/// An ICMP type.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::icmp_field)]
pub struct IcmpField {
    /// `IPv4` (when absent) or `IPv6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::Family>")]
    pub family: Option<String>,
    /// A number or a name.
    #[serde(rename = "type")]
    #[schemars(with = "form::IcmpType")]
    pub icmp_type: IntOrString,
}

/// Authentication that a flow needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authentication {
    /// `disabled`, `required` or `test-always-fail`.
    #[schemars(with = "form::AuthMode")]
    pub mode: String,
}
