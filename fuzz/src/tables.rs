//! The kernel's tables in memory: takes one planned write at a time and refuses what contradicts what is there, as the
//! real maps do.

use oxilium_abi::{EndpointWord, NodeWord, ShapeWord};
use oxilium_model::{
    observed::{AttachedProgram, Observed, Place},
    plan::Write,
};

/// Makes one change.
///
/// # Panics
/// If it inserts what is there, or replaces or deletes what is not.
pub fn apply(tables: &mut Observed, write: &Write) {
    match *write {
        Write::HighWater(epoch) => {
            tables.node_words[NodeWord::HighWater as usize] = epoch.get();
        }
        Write::Publish(epoch) => tables.node_words[NodeWord::Published as usize] = epoch.get(),
        Write::IpcacheWord(word) => tables.node_words[NodeWord::Ipcache as usize] = word.0,
        Write::PolicyInsert { key, value } => {
            assert!(tables.policy.insert(key, value).is_none(), "{write}");
        }
        Write::PolicyReplace { key, value } => {
            assert!(tables.policy.insert(key, value).is_some(), "{write}");
        }
        Write::PolicyDelete { key } => {
            assert!(tables.policy.remove(&key).is_some(), "{write}");
        }
        Write::ShapeWord {
            table,
            direction,
            word,
        } => {
            tables.shapes.insert((table, direction), word);
            tables
                .shapes
                .retain(|_, word| *word != ShapeWord::default());
        }
        Write::IpcacheUpsert { key, value } => {
            tables.ipcache.insert(key, value);
        }
        Write::IpcacheDelete { key } => {
            assert!(tables.ipcache.remove(&key).is_some(), "{write}");
        }
        Write::InterfaceInsert { ifindex, config } => {
            assert!(
                tables.interfaces.insert(ifindex, config).is_none(),
                "{write}"
            );
        }
        Write::InterfaceReplace { ifindex, config } => {
            assert!(
                tables.interfaces.insert(ifindex, config).is_some(),
                "{write}"
            );
        }
        Write::InterfaceDelete { ifindex } => {
            assert!(tables.interfaces.remove(&ifindex).is_some(), "{write}");
        }
        Write::EndpointWord {
            endpoint,
            bank,
            word,
        } => {
            tables.endpoint_words.entry(endpoint).or_default()[bank as usize] = word;
            let none = [EndpointWord::default(); 2];
            tables.endpoint_words.retain(|_, words| *words != none);
        }
        Write::Service { key, value } => {
            tables.services.insert(key, value);
        }
        Write::ServiceDelete { key } => {
            assert!(tables.services.remove(&key).is_some(), "{write}");
        }
        Write::Backend { id, value } => {
            tables.backends.insert(id, value);
        }
        Write::BackendDelete { id } => {
            assert!(tables.backends.remove(&id).is_some(), "{write}");
        }
        Write::ReverseNat { id, value } => {
            tables.reverse_nat.insert(id, value);
        }
        Write::ReverseNatDelete { id } => {
            assert!(tables.reverse_nat.remove(&id).is_some(), "{write}");
        }
        Write::ServicesInUse(used) => {
            tables.node_words[NodeWord::Services as usize] = u64::from(used);
        }
        Write::Attach { point, program, .. } | Write::Replace { point, program, .. } => {
            let replaces = matches!(write, Write::Replace { .. });
            let program = AttachedProgram {
                tag: program,
                place: match write {
                    Write::Attach { staged: true, .. } => Place::Staged,
                    _ => Place::Settled,
                },
            };
            let old = tables.attachments.insert(point, program);
            assert_eq!(old.is_some(), replaces, "{write}");
        }
        Write::Detach { point } => {
            tables.attachments.remove(&point);
        }
        Write::PurgeConntrack { endpoint } => {
            let mut live = tables.interfaces.values();
            assert!(
                live.all(|config| config.endpoint != endpoint),
                "{write} while packets pass through it"
            );
        }
        Write::Barrier => {}
    }
}
