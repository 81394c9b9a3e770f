//! What the kernel holds after a write, without reading it again.

use oxilium_abi::NodeWord;
use oxilium_model::observed::{AttachedProgram, Observed, Place, Settled};
use oxilium_model::plan::{Table, Write};

/// Notes a write that the kernel made. A sweep compares what is noted with what is there.
pub(super) fn note(observed: &mut Observed, write: &Write) {
    if is_of_services(write) {
        observed.settled_services = Settled::default();
    }
    if let Write::IpcacheUpsert { .. } | Write::IpcacheDelete { .. } = write {
        observed.settled_ipcache = Settled::default();
    }
    let mut word = |slot: NodeWord, value: u64| observed.node_words[slot as usize] = value;
    match *write {
        Write::HighWater(epoch) => word(NodeWord::HighWater, epoch.get()),
        Write::Publish(epoch) => word(NodeWord::Published, epoch.get()),
        Write::IpcacheWord(ipcache) => word(NodeWord::Ipcache, ipcache.0),
        Write::PolicyInsert { key, value } | Write::PolicyReplace { key, value } => {
            observed.policy.insert(key, value);
        }
        Write::PolicyDelete { key } => {
            observed.policy.remove(&key);
        }
        Write::ShapeWord {
            table,
            direction,
            word,
        } => {
            if word.0 == 0 {
                observed.shapes.remove(&(table, direction));
            } else {
                observed.shapes.insert((table, direction), word);
            }
        }
        Write::IpcacheUpsert { key, value } => {
            observed.ipcache.insert(key, value);
        }
        Write::IpcacheDelete { key } => {
            observed.ipcache.remove(&key);
        }
        Write::InterfaceInsert { ifindex, config }
        | Write::InterfaceReplace { ifindex, config } => {
            observed.interfaces.insert(ifindex, config);
        }
        Write::InterfaceDelete { ifindex } => {
            observed.interfaces.remove(&ifindex);
        }
        Write::EndpointWord {
            endpoint,
            bank,
            word,
        } => {
            let words = observed.endpoint_words.entry(endpoint).or_default();
            if let Some(slot) = words.get_mut(bank as usize) {
                *slot = word;
            }
            if words.iter().all(|word| word.0 == 0) {
                observed.endpoint_words.remove(&endpoint);
            }
        }
        Write::Attach {
            point,
            program,
            staged: true,
            ..
        } => {
            let staged = AttachedProgram {
                tag: program,
                place: Place::Staged,
            };
            observed.attachments.insert(point, staged);
        }
        Write::Service { key, value } => {
            observed.services.insert(key, value);
        }
        Write::ServiceDelete { key } => {
            observed.services.remove(&key);
        }
        Write::Backend { id, value } => {
            observed.backends.insert(id, value);
        }
        Write::BackendDelete { id } => {
            observed.backends.remove(&id);
        }
        Write::ReverseNat { id, value } => {
            observed.reverse_nat.insert(id, value);
        }
        Write::ReverseNatDelete { id } => {
            observed.reverse_nat.remove(&id);
        }
        Write::ServicesInUse(used) => word(NodeWord::Services, u64::from(used)),
        Write::Attach { point, program, .. } | Write::Replace { point, program, .. } => {
            let attached = AttachedProgram {
                tag: program,
                place: Place::Settled,
            };
            observed.attachments.insert(point, attached);
        }
        Write::Detach { point } => {
            observed.attachments.remove(&point);
        }
        Write::PurgeConntrack { .. } | Write::Barrier => {}
    }
}

/// It changes what services come to.
fn is_of_services(write: &Write) -> bool {
    match write.target() {
        Some((Table::Services | Table::Backends | Table::ReverseNat, _)) => true,
        _ => matches!(write, Write::ServicesInUse(_)),
    }
}
