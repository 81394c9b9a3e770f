//! Lists, read page by page into types that keep only what is needed.

use http::Request;
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::OperatorError;
use crate::error::code;

/// Objects of one answer.
const PAGE: u32 = 500;
/// A list that went stale while it was read is read anew, this many times.
const ATTEMPTS: u32 = 3;
/// The answer to a continuation that is too old.
const GONE: u16 = 410;

/// What each object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its namespace, if it has one.
    pub namespace: String,
    /// Which of all that ever had this name.
    pub uid: String,
    /// Which version of it.
    pub resource_version: String,
    /// When it was made, in RFC 3339.
    pub creation_timestamp: Option<String>,
    /// Whom it belongs to.
    pub owner_references: Vec<Owner>,
    /// Annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// It is being deleted.
    pub deletion_timestamp: Option<String>,
}

/// Whom an object belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Which of all that ever had this name.
    pub uid: String,
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMetadata,
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue", default)]
    more: String,
}

/// All objects under `path`, as of one moment after the call.
pub(crate) async fn list<T: DeserializeOwned>(
    client: &Client,
    path: &str,
) -> Result<Vec<T>, OperatorError> {
    let mut attempt = 1;
    loop {
        match pages(client, path).await {
            Err(OperatorError::Request { source, .. })
                if code(&source) == Some(GONE) && attempt < ATTEMPTS =>
            {
                tracing::debug!(path, attempt, "the list went stale while it was read");
                attempt += 1;
            }
            other => return other,
        }
    }
}

async fn pages<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Vec<T>, OperatorError> {
    let mut objects = Vec::new();
    let mut more = String::new();
    loop {
        let uri = if more.is_empty() {
            format!("{path}?limit={PAGE}")
        } else {
            format!("{path}?limit={PAGE}&continue={more}")
        };
        let request =
            Request::get(&uri)
                .body(Vec::new())
                .map_err(|error| OperatorError::Malformed {
                    what: path.to_owned(),
                    reason: error.to_string(),
                })?;
        let page: Page<T> = client
            .request(request)
            .await
            .map_err(OperatorError::request("list", path))?;
        objects.extend(page.items);
        if page.metadata.more.is_empty() {
            return Ok(objects);
        }
        more = encoded(&page.metadata.more);
    }
}

/// Continuations are base64, which a query cannot hold as it is.
fn encoded(text: &str) -> String {
    text.replace('%', "%25")
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D")
}
