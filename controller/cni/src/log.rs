//! The log file that the configuration may name.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::config::NetConf;
use crate::environment::Environment;
use crate::error::CniError;

/// Writes one line about a call: about failures always, about the others with `enable-debug`.
///
/// A log that cannot be written fails no call; stderr says so, which runtimes keep.
pub(crate) fn call(
    conf: &NetConf,
    environment: &Environment,
    took: Duration,
    outcome: Result<(), &CniError>,
) {
    let Some(file) = &conf.log_file else { return };
    if outcome.is_ok() && !conf.debug {
        return;
    }
    let time = oxilium_api::rfc3339(SystemTime::now());
    let (level, message) = match outcome {
        Ok(()) => ("debug", "done".to_owned()),
        Err(error) => ("error", error.to_string()),
    };
    let Environment {
        command,
        container_id,
        netns,
        interface,
        args,
    } = environment;
    let millis = took.as_millis();
    let line = if conf.log_format.as_deref() == Some("json") {
        json!({
            "time": time, "level": level, "msg": message, "command": command, "network": conf.name,
            "containerID": container_id, "netns": netns, "interface": interface, "args": args, "ms": millis,
        })
        .to_string()
    } else {
        format!(
            "time={time} level={level} msg={message:?} command={command} network={:?} containerID={container_id:?} \
             netns={netns:?} interface={interface:?} args={args:?} ms={millis}",
            conf.name
        )
    };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut log| log.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        // Nobody is left to tell when stderr is closed too.
        let told = writeln!(io::stderr(), "cannot log to {}: {error}", file.display());
        drop(told);
    }
}
