//! Admission: file by file, document by document, and of each object one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use oxilium_crds::{EndpointSlice, Service};

use super::{
    Admitted, AdmittedFile, Content, DocumentState, DocumentStatus, Listing, Settings, Snapshot,
    Stored, expand,
};
use crate::diagnostic::{Diagnostic, Findings, ObjectId, Problem};
use crate::kind::Header;
use crate::object::{self, Input, Object};
use crate::policy::LowerConfig;
use crate::policy::service::Services;
use crate::reader;
use crate::tree::{Node, Position};

/// What was worked out before, so that a change costs what it changes. It never changes a result.
#[derive(Debug, Default)]
pub(super) struct Memo {
    files: BTreeMap<Arc<str>, FileMemo>,
    objects: BTreeMap<ObjectId, ObjectMemo>,
}

#[derive(Debug)]
struct FileMemo {
    content: Content,
    /// What had been admitted before.
    earlier: AdmittedFile,
    /// Objects are in force that the file no longer has, until it is known to be written whole.
    leaving: bool,
    admitted: AdmittedFile,
    documents: Vec<DocumentStatus>,
}

#[derive(Debug)]
struct ObjectMemo {
    file: Arc<str>,
    tree: Arc<Node>,
    object: Arc<Object>,
}

impl Memo {
    /// The file was listed last.
    pub(super) fn has(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    /// Files that lose objects once their content is known to be whole.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &Arc<str>> {
        let leaving = self.files.iter().filter(|(_, memo)| memo.leaving);
        leaving.map(|(file, _)| file)
    }
}

impl FileMemo {
    /// The same content on the same state gives the same; and so does it on its own result.
    fn holds(&self, content: &Content, earlier: &AdmittedFile, whole: bool) -> bool {
        let undecided = self.leaving && whole;
        !undecided
            && self.content == *content
            && (same(&self.admitted, earlier) || same(&self.earlier, earlier))
    }
}

impl ObjectMemo {
    /// What names services is worked out anew each time: services may have changed.
    fn holds(&self, file: &Arc<str>, tree: &Arc<Node>) -> bool {
        let names_services =
            matches!(&self.object.input, Input::Policy(lowered) if lowered.names_services);
        self.file == *file && Arc::ptr_eq(&self.tree, tree) && !names_services
    }
}

fn same(a: &AdmittedFile, b: &AdmittedFile) -> bool {
    a.complete == b.complete
        && a.documents.len() == b.documents.len()
        && a.documents
            .iter()
            .zip(&b.documents)
            .all(|(a, b)| Arc::ptr_eq(&a.tree, &b.tree))
}

/// [`super::admit_files`], with what was worked out before, and of files of which only `whole` have stood still for
/// long enough to be known to be written whole. A memo goes with one [`Settings`].
pub(super) fn admit_with(
    before: &Admitted,
    listing: &Listing,
    whole: &BTreeSet<Arc<str>>,
    settings: &Settings,
    memo: &mut Memo,
) -> (Admitted, Snapshot) {
    let mut work = Work {
        settings,
        admitted: Admitted::default(),
        documents: Vec::new(),
    };
    let mut files = BTreeMap::new();
    for (file, content) in listing {
        let earlier = before.files.get(file).cloned().unwrap_or_default();
        let whole = whole.contains(file);
        let found = match memo
            .files
            .remove(file)
            .filter(|memo| memo.holds(content, &earlier, whole))
        {
            Some(memo) => memo,
            None => work.fresh_file(file, content, earlier, whole),
        };
        work.documents.extend(found.documents.iter().cloned());
        work.admitted
            .files
            .insert(file.clone(), found.admitted.clone());
        files.insert(file.clone(), found);
    }
    memo.files = files;
    let objects = work.in_force(&mut memo.objects);
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
    fn fresh_file(
        &mut self,
        file: &Arc<str>,
        content: &Content,
        earlier: AdmittedFile,
        whole: bool,
    ) -> FileMemo {
        let others = std::mem::take(&mut self.documents);
        let admitted = self.file(file, content, earlier.clone(), whole);
        let documents = std::mem::replace(&mut self.documents, others);
        FileMemo {
            content: content.clone(),
            earlier,
            leaving: !whole
                && documents
                    .iter()
                    .any(|document| document.state == DocumentState::Leaving),
            admitted,
            documents,
        }
    }

    /// The admitted documents of one file.
    fn file(
        &mut self,
        file: &Arc<str>,
        content: &Content,
        earlier: AdmittedFile,
        whole: bool,
    ) -> AdmittedFile {
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
        let mut stored: Vec<Stored> = Vec::new();
        let mut seen: HashSet<ObjectId> = HashSet::new();
        for tree in documents {
            stored.extend(self.document(file, tree, &mut seen));
        }
        // A file without an error says what it says; one with an error, or without a document, may be half-written.
        let says_all =
            complete && !self.documents.is_empty() && self.documents.iter().all(is_accepted);
        for before in earlier.documents {
            if seen.contains(&before.id) || says_all && whole {
                continue;
            }
            seen.insert(before.id.clone());
            let state = if says_all {
                DocumentState::Leaving
            } else {
                DocumentState::Retained
            };
            self.retain(file, &before.id, state);
            stored.push(before);
        }
        AdmittedFile {
            complete,
            documents: stored,
        }
    }

    /// The document, if it is admitted.
    fn document(
        &mut self,
        file: &Arc<str>,
        tree: Node,
        seen: &mut HashSet<ObjectId>,
    ) -> Option<Stored> {
        let position = tree.position;
        let mut result = self.check(file, &tree);
        if let Ok(object) = &result
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
        let mut admitted = None;
        let (object, state, errors, warnings) = match result {
            Ok(object) if object.input == Input::Unread => (
                object.id,
                DocumentState::Unread,
                Vec::new(),
                object.warnings,
            ),
            Ok(object) => {
                seen.insert(object.id.clone());
                admitted = Some(Stored {
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
            Err(errors) => (
                Header::of(&tree).object,
                DocumentState::Refused,
                errors,
                Vec::new(),
            ),
        };
        self.documents.push(DocumentStatus {
            file: file.clone(),
            position,
            object,
            state,
            errors,
            warnings,
        });
        admitted
    }

    /// An earlier version stays in force: the file's own is refused, or there is none any more.
    fn retain(&mut self, file: &Arc<str>, id: &ObjectId, state: DocumentState) {
        let mut refused = false;
        for document in self
            .documents
            .iter_mut()
            .filter(|document| document.object == *id)
        {
            document.state = DocumentState::RefusedEarlierInForce;
            refused = true;
        }
        if !refused {
            self.documents.push(DocumentStatus {
                file: file.clone(),
                position: Position::NONE,
                object: id.clone(),
                state,
                errors: Vec::new(),
                warnings: Vec::new(),
            });
        }
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
    fn in_force(&mut self, memo: &mut BTreeMap<ObjectId, ObjectMemo>) -> Vec<Arc<Object>> {
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
        let (mut kept, mut refused) = (BTreeMap::new(), Vec::new());
        for (id, (file, tree)) in owners {
            let known = memo.remove(id).filter(|memo| memo.holds(file, tree));
            let object = match known {
                Some(memo) => Ok(memo.object),
                None => self.admit_again(file, tree, &config),
            };
            match object {
                Ok(object) => {
                    kept.insert(
                        id.clone(),
                        ObjectMemo {
                            file: file.clone(),
                            tree: tree.clone(),
                            object: object.clone(),
                        },
                    );
                    objects.push(object);
                }
                Err(errors) => {
                    refused.push((file.clone(), id.clone(), tree.position, errors));
                    objects.extend(object::closed(tree, Some(file), &config).map(Arc::new));
                }
            }
        }
        *memo = kept;
        for (file, id, position, errors) in refused {
            let closed = objects.iter().any(|object| object.id == id);
            self.no_longer_admitted((file, id), position, errors, closed);
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

    /// What was admitted once, perhaps by another version of the agent or in another configuration.
    fn admit_again(
        &self,
        file: &Arc<str>,
        tree: &Node,
        config: &LowerConfig<'_>,
    ) -> Result<Arc<Object>, Vec<Diagnostic>> {
        let object = object::admit(tree, Some(file), &self.settings.node, config)?;
        // What is not read is never admitted: this kind was read then.
        if object.input == Input::Unread {
            return Err(object.warnings);
        }
        Ok(Arc::new(object))
    }

    fn no_longer_admitted(
        &mut self,
        (file, object): (Arc<str>, ObjectId),
        position: Position,
        errors: Vec<Diagnostic>,
        closed: bool,
    ) {
        let state = if closed {
            DocumentState::Closed
        } else {
            DocumentState::Refused
        };
        let known = self
            .documents
            .iter_mut()
            .find(|document| document.file == file && document.object == object);
        match known {
            Some(document) => {
                document.state = state;
                document.errors.extend(errors);
                document.errors.dedup();
            }
            None => self.documents.push(DocumentStatus {
                file,
                position,
                object,
                state,
                errors,
                warnings: Vec::new(),
            }),
        }
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

/// Nothing is wrong with the document.
fn is_accepted(document: &DocumentStatus) -> bool {
    matches!(
        document.state,
        DocumentState::InForce | DocumentState::Unread
    )
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{Memo, admit_with};
    use crate::directory::{Admitted, Content, Listing, Settings};

    const POLICY: &str = "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: NAME}\nspec:\n  endpointSelector: {}\n  egress:\n  - toServices: [{k8sService: {serviceName: db}}]\n    toPorts: [{ports: [{port: \"PORT\"}]}]\n";
    const SERVICE: &str =
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {selector: {app: PORT}}\n";

    fn document() -> impl Strategy<Value = String> {
        let text = prop::sample::select(vec![
            POLICY,
            POLICY,
            SERVICE,
            "--- [broken",
            "---\nkind: x\n",
        ]);
        let (name, port) = (
            prop::sample::select(vec!["p", "q"]),
            prop::sample::select(vec!["80", "81", "bad port"]),
        );
        (text, name, port)
            .prop_map(|(text, name, port)| text.replace("NAME", name).replace("PORT", port))
    }

    /// A file to remove, or to write with these documents, up to so many bytes.
    fn edit() -> impl Strategy<Value = (usize, Option<(Vec<String>, usize)>)> {
        let content = (
            prop::collection::vec(document(), 0..3),
            prop_oneof![Just(usize::MAX), 0..400usize],
        );
        (0..3usize, prop::option::weighted(0.8, content))
    }

    proptest! {
        #[test]
        fn what_was_worked_out_before_changes_no_result(edits in prop::collection::vec(edit(), 1..12)) {
            let settings = Settings::default();
            let (mut listing, mut memo) = (Listing::new(), Memo::default());
            let (mut kept, mut plain) = (Admitted::default(), Admitted::default());
            for (file, change) in edits {
                let name: Arc<str> = format!("{file}.yaml").into();
                match change {
                    None => drop(listing.remove(&name)),
                    Some((documents, length)) => {
                        let text: String = documents.concat();
                        let end = length.min(text.len());
                        let content: Content = Ok(Arc::from(&text.as_bytes()[..end]));
                        listing.insert(name, content);
                    }
                }
                let all: BTreeSet<Arc<str>> = listing.keys().cloned().collect();
                for whole in [BTreeSet::new(), BTreeSet::new(), all.clone(), all] {
                    let (now, snapshot) = admit_with(&kept, &listing, &whole, &settings, &mut memo);
                    let mut none = Memo::default();
                    let (fresh, expected) = admit_with(&plain, &listing, &whole, &settings, &mut none);
                    prop_assert_eq!(&snapshot, &expected);
                    prop_assert_eq!(&now, &fresh);
                    (kept, plain) = (now, fresh);
                }
            }
        }
    }
}
