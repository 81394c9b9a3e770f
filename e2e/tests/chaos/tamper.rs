//! What somebody else does to a node, and whether it is made good.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use oxilium_e2e::{
    dump,
    pod::{Pod, host_interface},
    process::{command, run},
    tables::{Change, Tables},
    tamper::{Victims, blows},
};

use crate::node::Node;

impl Node {
    /// A pod that there is no other traffic of than what policy denies, under either input.
    fn bystander(&self) -> &Pod {
        self.guest.as_ref().unwrap_or(&self.changeling)
    }

    /// Entries of all tables are removed, changed and added; one of the stranger's programs is taken off its hook, and
    /// one of another pod loses its pin.
    pub(crate) fn tamper(&mut self) -> Result<()> {
        let tables = Tables::new(&self.lab);
        let victims = Victims {
            subject: &self.subject,
            friend: &self.friend,
            stranger: &self.stranger,
            other: self.bystander(),
            service: self.input.idle(&self.subject, &self.friend).sockets(),
        };
        let changes: Vec<Change> = blows(&tables, &victims)?
            .into_iter()
            .map(|blow| blow.change)
            .collect();
        self.pins = self.pins()?;
        let pin = |pod: &Pod, program: &str| -> Result<PathBuf> {
            let endpoint = tables.endpoint(pod)?;
            Ok(tables.links().join(format!("{endpoint}_{program}")))
        };
        let attached = pin(&self.stranger, "from_container")?;
        let pinned = pin(self.bystander(), "to_container")?;
        if let Some(traffic) = &mut self.traffic {
            traffic.anything_may_pass();
        }
        self.tampered = true;
        tables.change(&changes)?;
        if dump::has_links() {
            run(command("bpftool")
                .args(["link", "detach", "pinned"])
                .arg(attached))?;
            fs::remove_file(&pinned).with_context(|| pinned.display().to_string())?;
        } else {
            let device = host_interface(&self.stranger.result)?;
            let mut tc = command("tc");
            tc.args(["qdisc", "del", "dev", &device, "clsact"]);
            self.lab.worker.netns.run(&mut tc)?;
        }
        Ok(())
    }

    fn pins(&self) -> Result<Vec<PathBuf>> {
        let links = Tables::new(&self.lab).links();
        if !links.exists() {
            return Ok(Vec::new());
        }
        let mut pins = fs::read_dir(links)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        pins.sort();
        Ok(pins)
    }

    /// The kernel holds what a fresh node's does, and all pins are there that were.
    pub(crate) fn is_repaired(&self) -> bool {
        // What is half repaired cannot be told in words.
        let held = dump::enforced(&self.lab, &self.pods()).ok();
        held.as_ref() == self.fresh.get(&self.input)
            && self.pins().is_ok_and(|pins| pins == self.pins)
    }
}
