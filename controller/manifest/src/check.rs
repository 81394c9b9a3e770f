//! `policy check`: what the manifest directory would make of a file or directory, without an agent.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

use crate::diagnostic::Diagnostic;
use crate::directory::{
    Admitted, Content, DocumentState, DocumentStatus, Listing, Settings, Snapshot, admit_files,
    list,
};

/// Why nothing could be checked.
#[derive(Debug, Error)]
pub enum CheckError {
    /// Neither a file nor a directory that can be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// What was to be checked.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to check: most likely a wrong path in a pipeline.
    #[error("{} holds no manifests (files ending in .yaml, .yml or .json that are not hidden)", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
}

/// What was found. Displays one line a finding, as compilers print them, and a summary.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Every document passed.
    pub ok: bool,
    /// How many documents there are.
    pub documents: usize,
    /// How many are refused.
    pub refused: usize,
    /// How many warnings there are.
    pub warnings: usize,
    /// All of them.
    pub results: Vec<DocumentStatus>,
}

/// Checks a file, or all manifests of a directory together.
///
/// # Errors
/// [`CheckError`]: nothing was checked.
pub fn check(path: &Path, settings: &Settings) -> Result<(Report, Snapshot), CheckError> {
    let unreadable = |source| CheckError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let listing = if fs::metadata(path).map_err(unreadable)?.is_dir() {
        let listing = list(path).map_err(unreadable)?;
        if listing.is_empty() {
            return Err(CheckError::Empty {
                path: path.to_owned(),
            });
        }
        // Shown as people would type them.
        listing
            .into_iter()
            .map(|(name, content)| (path.join(&*name).display().to_string().into(), content))
            .collect()
    } else {
        let content: Content = Ok(Arc::from(fs::read(path).map_err(unreadable)?));
        Listing::from([(path.display().to_string().into(), content)])
    };
    let (_, snapshot) = admit_files(&Admitted::default(), &listing, settings);
    Ok((Report::of(&snapshot), snapshot))
}

impl Report {
    /// What became of the documents of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let results = snapshot.documents.clone();
        let refused = results
            .iter()
            .filter(|document| is_refused(document))
            .count();
        Self {
            ok: refused == 0,
            documents: results.len(),
            refused,
            warnings: results.iter().map(|document| document.warnings.len()).sum(),
            results,
        }
    }
}

fn is_refused(document: &DocumentStatus) -> bool {
    !document.errors.is_empty() || matches!(document.state, DocumentState::Shadowed { .. })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for document in &self.results {
            for error in &document.errors {
                line(f, "error", error)?;
            }
            if let DocumentState::Shadowed { by } = &document.state {
                let DocumentStatus {
                    file,
                    position,
                    object,
                    ..
                } = document;
                let at = format!("{file}:{}:{}", position.line, position.column);
                writeln!(
                    f,
                    "{at}: error: {object}: {by} defines it already; keep one of the two"
                )?;
            }
            for warning in &document.warnings {
                line(f, "warning", warning)?;
            }
        }
        let unread = self
            .results
            .iter()
            .filter(|document| document.state == DocumentState::Unread)
            .count();
        write!(
            f,
            "{} {}: {} refused",
            self.documents,
            plural("document", self.documents),
            self.refused
        )?;
        write!(
            f,
            ", {} {}",
            self.warnings,
            plural("warning", self.warnings)
        )?;
        if unread > 0 {
            write!(f, ", {unread} of kinds that are not read")?;
        }
        writeln!(f)
    }
}

fn line(f: &mut fmt::Formatter<'_>, severity: &str, diagnostic: &Diagnostic) -> fmt::Result {
    writeln!(f, "{}: {severity}: {diagnostic}", diagnostic.place())
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}
