//! A directory of manifests as a source of objects, with the manners of an API server.
//!
//! A document is admitted or refused whole. What was admitted stays in force while its file is there, whatever
//! becomes of the file's content (bad, half-written, empty), also across restarts; only a file that is gone takes
//! its objects with it. Of two files that define one object, the first by name has it.
//!
//! [`admit_files`] is the pure core: what was admitted and what the files hold now in, what is admitted and the
//! state of each document out. [`ManifestDirectory`] is the thin edge that reads files and keeps the state.

mod expand;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oxilium_crds::{EndpointSlice, Service};
use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, Findings, ObjectId, Problem};
use crate::object::{self, Input, Object};
use crate::policy::LowerOptions;
use crate::policy::service::Services;
use crate::reader::{self, Limits};
use crate::tree::{Node, Position};

pub(crate) use store::list;
pub use store::{DirectoryError, ManifestDirectory, is_manifest};

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    id: ObjectId,
    tree: Arc<Node>,
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
    /// Another file, earlier by name, defines the object.
    Shadowed {
        /// Which.
        by: Arc<str>,
    },
    /// The file is there and no longer has it: in force until the file is gone.
    Retained,
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

/// The pure core. See the module's text for the rules.
pub fn admit_files(
    before: &Admitted,
    listing: &Listing,
    settings: &Settings,
) -> (Admitted, Snapshot) {
    let mut work = Work {
        settings,
        admitted: Admitted::default(),
        documents: Vec::new(),
    };
    for (file, content) in listing {
        let earlier = before.files.get(file).cloned().unwrap_or_default();
        let now = work.file(file, content, earlier);
        work.admitted.files.insert(file.clone(), now);
    }
    let objects = work.in_force();
    let mut documents = work.documents;
    documents.sort_by(|a, b| (&a.file, a.position).cmp(&(&b.file, b.position)));
    (work.admitted, Snapshot { objects, documents })
}

struct Work<'s> {
    settings: &'s Settings,
    admitted: Admitted,
    documents: Vec<DocumentStatus>,
}

impl Work<'_> {
    /// The admitted documents of one file.
    fn file(&mut self, file: &Arc<str>, content: &Content, earlier: AdmittedFile) -> AdmittedFile {
        let complete = content.as_ref().is_ok_and(|bytes| is_complete(bytes));
        let documents = match content {
            Ok(_) if earlier.complete && !complete => Err(unreadable(file, HALF_WRITTEN)),
            Ok(bytes) => reader::read(bytes, &self.settings.limits)
                .map_err(|error| Diagnostic::unreadable(Some(file.clone()), error)),
            Err(reason) => Err(unreadable(file, reason)),
        };
        let documents = match documents {
            Ok(documents) => expand::lists(documents),
            Err(error) => {
                self.documents.push(DocumentStatus {
                    file: file.clone(),
                    position: error.position,
                    object: error.object.clone(),
                    state: DocumentState::Unreadable {
                        in_force: earlier.documents.len(),
                    },
                    errors: vec![error],
                    warnings: Vec::new(),
                });
                return earlier;
            }
        };
        let earlier = earlier.documents;
        let mut stored: Vec<Stored> = Vec::new();
        let mut seen: BTreeSet<ObjectId> = BTreeSet::new();
        for tree in documents {
            self.document(file, tree, &earlier, &mut seen, &mut stored);
        }
        for gone in earlier.iter().filter(|gone| !seen.contains(&gone.id)) {
            self.documents.push(DocumentStatus {
                file: file.clone(),
                position: Position::NONE,
                object: gone.id.clone(),
                state: DocumentState::Retained,
                errors: Vec::new(),
                warnings: Vec::new(),
            });
            stored.push(gone.clone());
        }
        AdmittedFile {
            complete,
            documents: stored,
        }
    }

    fn document(
        &mut self,
        file: &Arc<str>,
        tree: Node,
        earlier: &[Stored],
        seen: &mut BTreeSet<ObjectId>,
        stored: &mut Vec<Stored>,
    ) {
        let position = tree.position;
        let mut result = self.check(file, &tree);
        if let Ok(object) = &result
            && object.input != Input::Unread
            && seen.contains(&object.id)
        {
            let mut findings = Findings::default();
            findings.error(
                &tree,
                Problem::Conflict(
                    "this file defines the object twice; the first one counts".into(),
                ),
            );
            let id = object.id.clone();
            result = Err(findings.locate(&tree, &id, Some(file)).errors);
        }
        let (object, state, errors, warnings) = match result {
            Ok(object) if object.input == Input::Unread => (
                object.id,
                DocumentState::Unread,
                Vec::new(),
                object.warnings,
            ),
            Ok(object) => {
                seen.insert(object.id.clone());
                stored.push(Stored {
                    id: object.id.clone(),
                    tree: Arc::new(tree),
                });
                (
                    object.id,
                    DocumentState::InForce,
                    Vec::new(),
                    object.warnings,
                )
            }
            Err(errors) => {
                let id = crate::kind::Header::of(&tree).object;
                let version = earlier.iter().find(|stored| stored.id == id);
                let state = match version {
                    Some(version) if seen.insert(id.clone()) => {
                        stored.push(version.clone());
                        DocumentState::RefusedEarlierInForce
                    }
                    _ => DocumentState::Refused,
                };
                (id, state, errors, Vec::new())
            }
        };
        self.documents.push(DocumentStatus {
            file: file.clone(),
            position,
            object,
            state,
            errors,
            warnings,
        });
    }

    fn check(&self, file: &Arc<str>, tree: &Node) -> Result<Object, Vec<Diagnostic>> {
        let none = Services::new();
        object::admit(
            tree,
            Some(file),
            &self.settings.node,
            &self.settings.options.config(&none),
        )
    }

    /// The objects in force: of each the one in the first file. Marks the documents of the others.
    fn in_force(&mut self) -> Vec<Arc<Object>> {
        let mut owners: BTreeMap<&ObjectId, (&Arc<str>, &Arc<Node>)> = BTreeMap::new();
        let mut shadowed: BTreeMap<(Arc<str>, ObjectId), Arc<str>> = BTreeMap::new();
        for (file, admitted) in &self.admitted.files {
            for stored in &admitted.documents {
                let (owner, _) = *owners.entry(&stored.id).or_insert((file, &stored.tree));
                if owner != file {
                    shadowed.insert((file.clone(), stored.id.clone()), owner.clone());
                }
            }
        }
        let services = self.services(owners.values().map(|(file, tree)| (*file, *tree)));
        let config = self.settings.options.config(&services);
        let mut objects = Vec::with_capacity(owners.len());
        for (id, (file, tree)) in owners {
            match object::admit(tree, Some(file), &self.settings.node, &config) {
                Ok(object) => objects.push(Arc::new(object)),
                // Admitted by another version of the agent or another configuration.
                Err(errors) => self.documents.push(DocumentStatus {
                    file: file.clone(),
                    position: tree.position,
                    object: id.clone(),
                    state: DocumentState::Refused,
                    errors,
                    warnings: Vec::new(),
                }),
            }
        }
        for document in &mut self.documents {
            let key = (document.file.clone(), document.object.clone());
            if document.state != DocumentState::Refused
                && let Some(by) = shadowed.get(&key)
            {
                document.state = DocumentState::Shadowed { by: by.clone() };
            }
        }
        objects
    }

    fn services<'t>(&self, trees: impl Iterator<Item = (&'t Arc<str>, &'t Arc<Node>)>) -> Services {
        let (mut services, mut slices): (Vec<Service>, Vec<EndpointSlice>) = Default::default();
        for (file, tree) in trees {
            if !matches!(tree.text_of("kind"), Some("Service" | "EndpointSlice")) {
                continue;
            }
            match self.check(file, tree).map(|object| object.input) {
                Ok(Input::Service(service)) => services.push(*service),
                Ok(Input::EndpointSlice(slice)) => slices.push(*slice),
                // Reported where all objects are admitted.
                _ => {}
            }
        }
        object::services(&services, &slices)
    }
}

/// A file that used to end with a whole line and no longer does is taken for one that is being written.
const HALF_WRITTEN: &str =
    "its last line does not end, unlike before: it seems half-written; end it with a newline";

/// The text ends with a whole line; or it is JSON, which says itself where it ends.
fn is_complete(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|c| !c.is_ascii_whitespace());
    bytes.last().is_none_or(|c| *c == b'\n') || matches!(first, Some(b'{' | b'['))
}

fn unreadable(file: &Arc<str>, reason: &str) -> Diagnostic {
    Diagnostic {
        file: Some(file.clone()),
        position: Position::NONE,
        object: ObjectId::default(),
        path: String::new(),
        problem: Problem::Conflict(format!("the file cannot be read: {reason}")),
    }
}
