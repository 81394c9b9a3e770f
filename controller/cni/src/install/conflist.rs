//! Network configuration lists, changed without touching what is not ours.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{ALIAS, InstallError, PROGRAM};

/// How the plugin is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stanza {
    /// Where it logs; nowhere if none.
    pub log_file: Option<String>,
    /// Log each call.
    pub debug: bool,
}

impl Stanza {
    fn to_json(&self) -> Value {
        let mut stanza = json!({
            "type": ALIAS,
            "chaining-mode": "generic-veth",
            "enable-debug": self.debug,
        });
        if let Some(file) = &self.log_file {
            stanza["log-file"] = file.as_str().into();
        }
        stanza
    }
}

/// A list of plugins.
#[derive(Debug)]
pub(super) struct Conflist {
    list: Map<String, Value>,
}

/// Reads a list, or a single plugin's configuration as a list of one.
pub(super) fn read(path: &Path) -> Result<Conflist, InstallError> {
    let text = fs::read_to_string(path).map_err(|source| InstallError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|reason| InstallError::Malformed {
        path: PathBuf::from(path),
        reason,
    })
}

fn parse(text: &str) -> Result<Conflist, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Value::Object(mut list) = value else {
        return Err("it is no JSON object".to_owned());
    };
    match list.get("name").and_then(Value::as_str) {
        None | Some("") => return Err("it has no name".to_owned()),
        Some(_) => {}
    }
    match list.get("plugins") {
        Some(Value::Array(plugins)) => {
            if plugins.is_empty() || plugins.iter().any(|plugin| kind(plugin).is_none()) {
                return Err("its plugins do not each have a type".to_owned());
            }
        }
        Some(_) => return Err("its plugins are no list".to_owned()),
        None if list.contains_key("type") => {
            let shared = ["cniVersion", "name"];
            let mut whole = Map::new();
            for key in shared {
                whole.extend(list.shift_remove(key).map(|value| (key.to_owned(), value)));
            }
            whole.insert("plugins".to_owned(), json!([list]));
            list = whole;
        }
        None => return Err("it has neither plugins nor a type".to_owned()),
    }
    Ok(Conflist { list })
}

fn kind(plugin: &Value) -> Option<&str> {
    plugin.get("type").and_then(Value::as_str)
}

impl Conflist {
    /// Name of the network.
    pub(super) fn name(&self) -> &str {
        self.list.get("name").and_then(Value::as_str).unwrap_or("")
    }

    /// Does it call this plugin?
    pub(super) fn is_ours(&self) -> bool {
        let plugins = self.list.get("plugins").and_then(Value::as_array);
        plugins
            .into_iter()
            .flatten()
            .filter_map(kind)
            .any(|kind| kind == ALIAS || kind == PROGRAM)
    }

    /// The same with our stanza at the end, unless it is there.
    pub(super) fn chained(mut self, stanza: &Stanza) -> Self {
        if !self.is_ours()
            && let Some(Value::Array(plugins)) = self.list.get_mut("plugins")
        {
            plugins.push(stanza.to_json());
        }
        self
    }

    /// As it is written to disk.
    pub(super) fn to_text(&self) -> String {
        format!("{:#}\n", Value::Object(self.list.clone()))
    }
}
