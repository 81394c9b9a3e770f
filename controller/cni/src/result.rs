//! The previous plugin's result: read for what it says of the pod, and passed on.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::{NetConf, version_numbers};
use crate::error::{CniError, Code};

/// What all versions of a result since 0.3.0 have.
#[derive(Debug, Deserialize)]
pub(crate) struct Previous {
    #[serde(rename = "cniVersion", default)]
    version: Option<String>,
    /// Interfaces that were made; an entry with a sandbox is inside the container.
    #[serde(default)]
    pub(crate) interfaces: Vec<Interface>,
    /// Addresses that were given.
    #[serde(default)]
    pub(crate) ips: Vec<Ip>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) sandbox: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Ip {
    address: String,
    #[serde(default)]
    interface: Option<usize>,
}

impl Previous {
    /// Reads a result of any version since 0.3.0.
    pub(crate) fn parse(raw: &RawValue) -> Result<Self, CniError> {
        let refused = |problem: &str| {
            CniError::new(
                Code::Decode,
                format!("cannot read prevResult: {problem}"),
                "it must be a CNI result of version 0.3.0 or later",
            )
        };
        // serde would read a list as the fields in their order.
        if !raw.get().starts_with('{') {
            return Err(refused("it is no object"));
        }
        serde_json::from_str(raw.get()).map_err(|error| refused(&error.to_string()))
    }

    /// Addresses of the container's interface `name`: those that say so, and those that name no interface.
    pub(crate) fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, CniError> {
        let mut addresses = Vec::new();
        for ip in self.ips_of(name) {
            let text = ip.address.split('/').next().unwrap_or_default();
            addresses.push(text.parse().map_err(|_| {
                CniError::new(
                    Code::InvalidConfig,
                    format!("prevResult has the address {:?}", ip.address),
                    "an address of IPv4 or IPv6 with its prefix length is expected",
                )
            })?);
        }
        Ok(addresses)
    }

    /// Length of the subnet of the interface's IPv6 addresses, the shortest if they differ.
    pub(crate) fn ipv6_prefix_length(&self, name: &str) -> Option<u8> {
        self.ips_of(name)
            .filter_map(|ip| ip.address.split_once('/'))
            .filter(|(address, _)| address.contains(':'))
            .filter_map(|(_, length)| length.parse().ok())
            .filter(|length| (1..=128).contains(length))
            .min()
    }

    /// What was given to the container's interface `name`: what says so, and what names no interface.
    fn ips_of(&self, name: &str) -> impl Iterator<Item = &Ip> {
        self.ips.iter().filter(move |ip| {
            ip.interface.is_none_or(|index| {
                self.interfaces.get(index).is_some_and(|interface| {
                    interface.name == name && !interface.sandbox.is_empty()
                })
            })
        })
    }
}

/// The result to give: `raw` as it stands, unless it is in another version than the configuration asks
/// for (runtimes keep them equal; a delegating plugin may not).
pub(crate) fn pass_on(
    conf: &NetConf,
    raw: &RawValue,
    previous: &Previous,
) -> Result<String, CniError> {
    if previous.version.as_deref() == Some(conf.version.as_str()) {
        return Ok(raw.get().to_owned());
    }
    let mut value: Value = serde_json::from_str(raw.get()).map_err(|error| {
        CniError::new(Code::Decode, format!("cannot read prevResult: {error}"), "")
    })?;
    value["cniVersion"] = conf.version.as_str().into();
    let with_family = version_numbers(&conf.version) < (1, 0);
    for ip in value["ips"].as_array_mut().into_iter().flatten() {
        let Some(ip) = ip.as_object_mut() else {
            continue;
        };
        if with_family {
            let six = ip
                .get("address")
                .and_then(Value::as_str)
                .is_some_and(|a| a.contains(':'));
            ip.insert("version".into(), if six { "6" } else { "4" }.into());
        } else {
            ip.remove("version");
        }
    }
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix_length(ips: &str) -> Option<u8> {
        let interfaces = r#"[{"name":"cni0"},{"name":"eth0","sandbox":"/run/netns/a"}]"#;
        let raw = format!(r#"{{"cniVersion":"1.0.0","interfaces":{interfaces},"ips":{ips}}}"#);
        let raw = RawValue::from_string(raw).unwrap();
        Previous::parse(&raw).unwrap().ipv6_prefix_length("eth0")
    }

    #[test]
    fn the_subnet_is_the_widest_of_the_containers_ipv6_addresses() {
        for (ips, expected) in [
            ("[]", None),
            (r#"[{"address":"10.1.0.7/24"}]"#, None),
            (r#"[{"address":"fd00::7/64"}]"#, Some(64)),
            (
                r#"[{"address":"fd00::7/80","interface":1},{"address":"fd00::1/48","interface":0}]"#,
                Some(80),
            ),
            (
                r#"[{"address":"fd00::7/128"},{"address":"fd01::7/56"}]"#,
                Some(56),
            ),
            (r#"[{"address":"fd00::7/0"}]"#, None),
            (r#"[{"address":"fd00::7/129"}]"#, None),
            (r#"[{"address":"fd00::7"}]"#, None),
        ] {
            assert_eq!(prefix_length(ips), expected, "{ips}");
        }
    }
}
