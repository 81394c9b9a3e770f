//! A directory of manifests as a source of objects, with the manners of an API server.
//!
//! A document is admitted or refused whole. What was admitted stays in force until its file says otherwise, also
//! across restarts. A file says otherwise when it is gone, or when all that is in it is accepted and the object is no
//! longer among it. A file with anything wrong in it (not YAML, half-written, empty, one document refused) takes
//! nothing away. Either must have been so for [`GONE_AFTER`]: editors take files away and put them back, and a file
//! that is being written may end with a whole document for a moment. Of two files that define one object, the first
//! by name has it. A policy that was admitted, and that this version or configuration of the agent refuses, is closed.
//!
//! [`admit_files`] is the pure core: what was admitted and what the files hold now in, what is admitted and the
//! state of each document out. [`ManifestDirectory`] is the thin edge that reads files and keeps the state.

mod admit;
mod expand;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, ObjectId};
use crate::object::Object;
use crate::policy::LowerOptions;
use crate::reader::Limits;
use crate::tree::{Node, Position};

use admit::{Memo, admit_with};
pub(crate) use store::list;
pub use store::{DirectoryError, GONE_AFTER, ManifestDirectory, is_manifest};

/// How documents are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The name of the local node.
    pub node: String,
    /// How policies are read.
    pub options: LowerOptions,
    /// How much a file may ask for.
    pub limits: Limits,
}

/// What a file holds, or why it could not be read.
pub type Content = Result<Arc<[u8]>, String>;

/// The files of the directory by name. A name that is not in here is a file that is gone.
pub type Listing = BTreeMap<Arc<str>, Content>;

/// What was admitted, file by file: the state that outlives the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Admitted {
    files: BTreeMap<Arc<str>, AdmittedFile>,
}

/// What was admitted of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct AdmittedFile {
    /// Its last line was complete.
    complete: bool,
    documents: Vec<Stored>,
}

/// An admitted document.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    id: ObjectId,
    tree: Arc<Node>,
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && (Arc::ptr_eq(&self.tree, &other.tree) || self.tree == other.tree)
    }
}

/// What became of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DocumentState {
    /// In force as it stands in the file.
    InForce,
    /// Of a kind that the agent does not read.
    Unread,
    /// Refused; an earlier version of the object is in force.
    RefusedEarlierInForce,
    /// Refused; the object is not there.
    Refused,
    /// Refused, though an earlier version or configuration of the agent admitted it: what the policy is for is closed,
    /// so that nothing is allowed that it denied.
    Closed,
    /// Another file, earlier by name, defines the object.
    Shadowed {
        /// Which.
        by: Arc<str>,
    },
    /// The file no longer has it, and something is wrong with the file: in force until that is mended, or the file gone.
    Retained,
    /// The file no longer has it: in force until the file has stood still for [`GONE_AFTER`].
    Leaving,
    /// The file could not be read: what it held when it could be is in force.
    Unreadable {
        /// How many objects that are.
        in_force: usize,
    },
}

/// A document, or a file that could not be read, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DocumentStatus {
    /// The file.
    pub file: Arc<str>,
    /// Where the document starts.
    #[serde(flatten)]
    pub position: Position,
    /// What it describes.
    pub object: ObjectId,
    /// What became of it.
    pub state: DocumentState,
    /// Why it was refused.
    pub errors: Vec<Diagnostic>,
    /// What is accepted, but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

/// What the directory says now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// All objects in force, each once.
    pub objects: Vec<Arc<Object>>,
    /// All documents, by file and place.
    pub documents: Vec<DocumentStatus>,
}

/// The pure core, of files that are written whole. See the module's text for the rules.
pub fn admit_files(
    before: &Admitted,
    listing: &Listing,
    settings: &Settings,
) -> (Admitted, Snapshot) {
    let whole = listing.keys().cloned().collect();
    admit_with(before, listing, &whole, settings, &mut Memo::default())
}
