//! What the configuration asks for and does not get: in the log, and in `status`.

use std::collections::BTreeMap;

use oxilium_api::{ConfigurationStatus, UnsupportedKey};

use super::settle::Configured;

impl Configured {
    /// One line of the log a reason.
    pub fn log(&self) {
        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for unsupported in &self.unsupported {
            let setting = format!("{}={}", unsupported.key, unsupported.value);
            reasons.entry(unsupported.why).or_default().push(setting);
        }
        for (reason, settings) in reasons {
            tracing::info!(keys = settings.join(" "), reason, "not supported yet");
        }
        if !self.unknown.is_empty() {
            let keys = self.unknown.join(" ");
            tracing::warn!(
                keys,
                "keys of the configuration that nobody knows are ignored"
            );
        }
    }

    /// For `status`.
    pub fn status(&self) -> ConfigurationStatus {
        let unsupported = self.unsupported.iter().map(|unsupported| UnsupportedKey {
            key: unsupported.key.to_owned(),
            value: unsupported.value.clone(),
            origin: unsupported.origin.to_string(),
            reason: unsupported.why.to_owned(),
        });
        ConfigurationStatus {
            unsupported: unsupported.collect(),
            unknown: self.unknown.clone(),
        }
    }
}
