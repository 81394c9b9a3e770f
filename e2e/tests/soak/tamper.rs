//! What somebody else, with bpftool, tc and rm, does to what the agent made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use oxilium_e2e::{
    pod::host_interface,
    process::{command, run},
};
use serde_json::Value;

use crate::{dice::Dice, stage::Stage};

const TABLES: [&str; 3] = ["ox_ipcache", "ox_policy", "ox_interfaces"];

/// All files below `directory`. What goes meanwhile is not one of them.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in directory.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn pins_named(stage: &Stage, part: &str) -> Vec<PathBuf> {
    let mut pins = files(&stage.lab.bpf_root());
    pins.retain(|path| path.to_string_lossy().contains(part));
    pins
}

pub(crate) fn something(stage: &mut Stage, dice: &mut Dice) -> Result<()> {
    match dice.below(5) {
        0 => remove_entry(stage, dice),
        1 => {
            let pins = pins_named(stage, "/links/");
            if let Some(pin) = dice.one_of(&pins) {
                // The agent may be at it, too.
                drop(run(command("bpftool")
                    .args(["link", "detach", "pinned"])
                    .arg(pin)));
                stage.note("links detached", &pin.display().to_string());
            }
            Ok(())
        }
        2 => {
            let pins = files(&stage.lab.bpf_root());
            if let Some(pin) = dice.one_of(&pins) {
                drop(fs::remove_file(pin));
                stage.note("pins removed", &pin.display().to_string());
            }
            Ok(())
        }
        3 => {
            fs::remove_dir_all(stage.lab.bpf_root().join("oxilium")).or_else(
                |error| match error.kind() {
                    // The agent made something in it meanwhile.
                    std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                },
            )?;
            stage.note("places of pins removed", "");
            Ok(())
        }
        _ => {
            let resident = dice.one_of(&stage.residents).context("residents")?;
            let device = host_interface(&resident.result)?;
            let mut delete = command("tc");
            delete.args(["qdisc", "del", "dev", &device, "clsact"]);
            // None is there where nothing was ever staged.
            drop(stage.lab.worker.netns.run(&mut delete));
            stage.note("qdiscs removed", &device);
            Ok(())
        }
    }
}

fn remove_entry(stage: &mut Stage, dice: &mut Dice) -> Result<()> {
    let table = dice.one_of(&TABLES).copied().unwrap_or_default();
    let Some(pin) = pins_named(stage, table).pop() else {
        return Ok(());
    };
    let Ok(dump) = run(command("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(&pin))
    else {
        return Ok(());
    };
    let entries: Value = serde_json::from_str(&dump)?;
    let entries = entries.as_array().context("a list of entries")?;
    let Some(entry) = dice.one_of(entries) else {
        return Ok(());
    };
    let mut delete = command("bpftool");
    delete.args(["map", "delete", "pinned"]).arg(&pin);
    delete.args(["key", "hex"]);
    for byte in entry["key"].as_array().into_iter().flatten() {
        delete.arg(byte.as_str().unwrap_or_default().trim_start_matches("0x"));
    }
    // The agent may have been quicker with it.
    drop(run(&mut delete));
    stage.note("entries removed", table);
    Ok(())
}
