//! The network configuration on stdin.

use std::path::PathBuf;
use std::time::Duration;

use oxilium_api::{AttachmentKey, paths};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{CniError, Code};

/// Versions of the specification that this plugin speaks.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// How long ADD waits for the pod's policy, unless the configuration says otherwise.
const WAIT: u64 = 30;

/// Our stanza of the configuration list. Fields that Cilium's plugin knows and that mean nothing when
/// chained (`mtu`, `ipam`, `eni`, …) and unknown fields are ignored, as the specification asks.
#[derive(Debug, Deserialize)]
pub(crate) struct NetConf {
    /// Version of the specification; a configuration without it is of the first one.
    #[serde(rename = "cniVersion", default = "first_version")]
    pub(crate) version: String,
    /// Name of the network.
    #[serde(default)]
    pub(crate) name: String,
    /// What the plugin before us made.
    #[serde(rename = "prevResult")]
    pub(crate) previous: Option<Box<RawValue>>,
    /// GC: attachments that are still wanted.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub(crate) valid: Option<Vec<AttachmentKey>>,
    /// `generic-veth`, or absent.
    #[serde(rename = "chaining-mode", default)]
    pub(crate) chaining_mode: String,
    /// Log every call, not only what fails.
    #[serde(rename = "enable-debug", default)]
    pub(crate) debug: bool,
    /// Where to log; nowhere if absent.
    #[serde(rename = "log-file", default)]
    pub(crate) log_file: Option<PathBuf>,
    /// `json`, or text.
    #[serde(rename = "log-format", default)]
    pub(crate) log_format: Option<String>,
    /// The agent's socket.
    #[serde(default = "default_socket")]
    pub(crate) socket: PathBuf,
    /// Where DEL leaves word when the agent is down.
    #[serde(rename = "tombstones", default = "default_tombstones")]
    pub(crate) tombstones: PathBuf,
    /// How long ADD waits for the pod's policy to be enforced, in seconds.
    #[serde(rename = "wait-seconds", default = "default_wait")]
    wait_seconds: u64,
}

fn first_version() -> String {
    "0.1.0".to_owned()
}

fn default_socket() -> PathBuf {
    paths::SOCKET.into()
}

fn default_tombstones() -> PathBuf {
    paths::TOMBSTONES.into()
}

fn default_wait() -> u64 {
    WAIT
}

impl NetConf {
    /// Reads the configuration.
    pub(crate) fn parse(input: &[u8]) -> Result<Self, CniError> {
        let conf: Self = serde_json::from_slice(input).map_err(|error| {
            CniError::new(
                Code::Decode,
                format!("cannot read the network configuration: {error}"),
                "it must be one JSON object on stdin",
            )
        })?;
        if !VERSIONS.contains(&conf.version.as_str()) {
            return Err(CniError::new(
                Code::IncompatibleVersion,
                format!("cniVersion {:?} is not supported", conf.version),
                format!("supported: {}", VERSIONS.join(", ")),
            ));
        }
        if !["", "generic-veth"].contains(&conf.chaining_mode.as_str()) {
            return Err(CniError::new(
                Code::InvalidConfig,
                format!("chaining-mode {:?} is not supported", conf.chaining_mode),
                "allowed: generic-veth, or no chaining-mode at all",
            ));
        }
        Ok(conf)
    }

    /// How long ADD waits.
    pub(crate) fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_seconds)
    }

    /// Is the specification's version at least `major.minor`?
    pub(crate) fn at_least(&self, major: u32, minor: u32) -> bool {
        version_numbers(&self.version) >= (major, minor)
    }

    /// The previous plugin's result, or the error that there is none.
    pub(crate) fn previous(&self) -> Result<&RawValue, CniError> {
        self.previous.as_deref().ok_or_else(|| {
            CniError::new(
                Code::InvalidConfig,
                format!("network {:?} has no prevResult for this plugin", self.name),
                "it is a chained plugin: put it in a list (.conflist) after one that makes a veth, e.g. bridge",
            )
        })
    }
}

/// Major and minor number of a version; zero where there is none.
pub(crate) fn version_numbers(version: &str) -> (u32, u32) {
    let mut parts = version
        .split('.')
        .map(|part| part.parse().unwrap_or_default());
    (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    )
}

/// The version to answer in: the configuration's, or the newest where it cannot be read.
pub(crate) fn version_of(input: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Only {
        #[serde(rename = "cniVersion")]
        version: String,
    }
    serde_json::from_slice::<Only>(input)
        .map_or_else(|_| VERSIONS[4].to_owned(), |only| only.version)
}
