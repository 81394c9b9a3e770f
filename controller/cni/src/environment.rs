//! The CNI_* variables of a call.

use std::env;

use oxilium_api::{AttachmentKey, Pod};

use crate::error::{CniError, Code};

/// What the runtime tells by environment. Empty and missing are the same.
#[derive(Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: String,
}

impl Environment {
    /// Of this process.
    pub fn from_process() -> Self {
        let get = |name| {
            env::var_os(name)
                .map(|value| value.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        Self {
            command: get("CNI_COMMAND"),
            container_id: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            interface: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
        }
    }

    /// Container id and interface name, checked: they become part of a file name.
    pub(crate) fn key(&self) -> Result<AttachmentKey, CniError> {
        let id = required("CNI_CONTAINERID", &self.container_id)?;
        let interface = required("CNI_IFNAME", &self.interface)?;
        let id_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if !id.as_bytes()[0].is_ascii_alphanumeric() || !id.bytes().all(id_byte) || id.len() > 200 {
            return Err(invalid(
                "CNI_CONTAINERID",
                id,
                "letters and digits, then also _ . and -, at most 200 of them",
            ));
        }
        let interface_byte = |byte: u8| !byte.is_ascii_whitespace() && !b"/:".contains(&byte);
        if interface.len() > 15
            || [".", ".."].contains(&interface)
            || !interface.bytes().all(interface_byte)
        {
            return Err(invalid(
                "CNI_IFNAME",
                interface,
                "an interface name: 1 to 15 bytes, no slash, colon or white space",
            ));
        }
        Ok(AttachmentKey {
            container_id: id.to_owned(),
            interface: interface.to_owned(),
        })
    }

    /// Path of the pod's network namespace.
    pub(crate) fn netns(&self) -> Result<&str, CniError> {
        required("CNI_NETNS", &self.netns)
    }

    /// The pod that the runtime names in CNI_ARGS.
    pub(crate) fn pod(&self) -> Result<Pod, CniError> {
        let mut pairs = Vec::new();
        for pair in self.args.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(invalid("CNI_ARGS", pair, "KEY=VALUE;KEY=VALUE"));
            };
            pairs.push((key.trim(), value.trim()));
        }
        let get = |name: &str| {
            pairs
                .iter()
                .rfind(|(key, value)| *key == name && !value.is_empty())
                .map(|(_, value)| (*value).to_owned())
        };
        let needed = |name: &str| {
            get(name).ok_or_else(|| {
                CniError::new(
                    Code::InvalidEnvironment,
                    format!("CNI_ARGS has no {name}"),
                    "policy is by pod: the container runtime must name it, as Kubernetes runtimes do",
                )
            })
        };
        Ok(Pod {
            namespace: needed("K8S_POD_NAMESPACE")?,
            name: needed("K8S_POD_NAME")?,
            uid: get("K8S_POD_UID"),
        })
    }
}

fn required<'a>(name: &str, value: &'a str) -> Result<&'a str, CniError> {
    if value.is_empty() {
        return Err(CniError::new(
            Code::InvalidEnvironment,
            format!("{name} is not set"),
            "this program is started by a container runtime, which sets it",
        ));
    }
    Ok(value)
}

fn invalid(name: &str, value: &str, allowed: &str) -> CniError {
    CniError::new(
        Code::InvalidEnvironment,
        format!("{name} has {value:?}"),
        format!("allowed: {allowed}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_args(args: &str) -> Environment {
        Environment {
            args: args.into(),
            ..Environment::default()
        }
    }

    #[test]
    fn the_pod_is_read_from_the_arguments_whatever_else_is_there() {
        let pod = with_args(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=d;X=y=z",
        )
        .pod()
        .unwrap();
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("a", "b"));
        assert_eq!(pod.uid.as_deref(), Some("d"));
    }

    #[test]
    fn a_pod_without_uid_is_accepted_and_one_without_name_is_not() {
        let pod = with_args("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=").pod();
        assert_eq!(pod.unwrap().uid, None);
        for args in [
            "",
            "K8S_POD_NAME=b",
            "K8S_POD_NAMESPACE=a;K8S_POD_NAME=",
            "nonsense",
        ] {
            let error = with_args(args).pod().unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment, "{args:?}");
        }
    }

    #[test]
    fn a_key_that_could_leave_a_directory_is_refused() {
        for (id, interface, good) in [
            ("0a1b", "eth0", true),
            ("a_b.c-d", "net1.5", true),
            ("", "eth0", false),
            ("a", "", false),
            ("../a", "eth0", false),
            ("a/b", "eth0", false),
            ("-a", "eth0", false),
            ("a", "..", false),
            ("a", "eth/0", false),
            ("a", "sixteen-bytes-xx", false),
        ] {
            let environment = Environment {
                container_id: id.into(),
                interface: interface.into(),
                ..Environment::default()
            };
            assert_eq!(environment.key().is_ok(), good, "{id:?} {interface:?}");
        }
    }
}
