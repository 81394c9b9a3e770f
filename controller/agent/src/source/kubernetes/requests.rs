//! The requests that the source makes: pages of lists, watches, definitions.

use std::ops::Range;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::health::{Failure, Health};
use super::resource::Resource;

/// Objects that are asked for at once.
const PAGE: u32 = 500;
/// How long the API server may take for one answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The API server ends a watch after this many seconds, and up to half as many more: not all nodes' at once.
const WATCH_SECONDS: u32 = 240;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str = "customresourcedefinitions.apiextensions.k8s.io";
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Asks the API server about the objects of one node.
#[derive(Clone)]
pub(super) struct Requests {
    client: Client,
    node: String,
}

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page {
    metadata: ListMeta,
    body: String,
    /// Where the objects are in it.
    items: Vec<Range<usize>>,
}

#[derive(Debug, Deserialize)]
struct PageBody<'b> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'b RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    r#continue: String,
}

impl Page {
    /// Where the next part begins; empty after the last one.
    pub(super) fn next(&self) -> &str {
        &self.metadata.r#continue
    }

    /// The version from which changes are asked for.
    pub(super) fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// The JSON of each object.
    pub(super) fn objects(&self) -> impl Iterator<Item = &str> {
        self.items
            .iter()
            .filter_map(|place| self.body.get(place.clone()))
    }

    fn of(body: String) -> serde_json::Result<Self> {
        let PageBody { metadata, items } = serde_json::from_str(&body)?;
        let start = body.as_ptr().addr();
        let place = |item: &RawValue| {
            let offset = item.get().as_ptr().addr() - start;
            offset..offset + item.get().len()
        };
        let items = items.unwrap_or_default().into_iter().map(place).collect();
        Ok(Self {
            metadata,
            body,
            items,
        })
    }
}

/// A CustomResourceDefinition, as far as the belief in what it defines depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Crd {
    /// Its UID: another one has other objects, whatever they are called.
    pub(super) uid: String,
    /// Objects of a definition of this name that is gone are given up.
    pub(super) gives_up_former: bool,
}

/// On a CustomResourceDefinition: what an earlier one of its name defined is not wanted any more.
pub(super) const GIVE_UP_FORMER: &str = "oxilium.io/give-up-former-objects";

#[derive(Clone, Debug, Deserialize)]
struct PartialObject {
    metadata: PartialMeta,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialMeta {
    uid: String,
    deletion_timestamp: Option<String>,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// What the API server says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    /// `v1.36.3`.
    pub(super) git_version: String,
    /// `linux/amd64`.
    pub(super) platform: String,
}

impl Requests {
    pub(super) fn new(client: Client, node: &str) -> Self {
        Self {
            client,
            node: node.to_owned(),
        }
    }

    /// One page of all objects, from where `next` says.
    pub(super) async fn page(&self, resource: Resource, next: &str) -> Result<Page, Failure> {
        let mut query = format!("limit={PAGE}");
        if !next.is_empty() {
            query = format!("{query}&continue={}", escaped(next));
        }
        let request = self.request(resource, &query)?;
        let qualified = resource.qualified();
        let failed = |error: kube::Error| Failure::of(&error, "list", &qualified);
        let body = answer(self.client.request_text(request)).await?;
        Page::of(body.map_err(failed)?).map_err(|error| failed(kube::Error::SerdeError(error)))
    }

    /// Changes since `version`, until the API server ends it.
    pub(super) async fn watch(
        &self,
        resource: Resource,
        version: &str,
        spread: u32,
    ) -> Result<
        impl Stream<Item = Result<WatchEvent<Box<RawValue>>, Failure>> + Send + use<>,
        Failure,
    > {
        let seconds = WATCH_SECONDS + spread % (WATCH_SECONDS / 2);
        let version = escaped(version);
        let query = format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={seconds}"
        );
        let request = self.request(resource, &query)?;
        let qualified = resource.qualified();
        let events = answer(self.client.request_events(request)).await?;
        let events = events.map_err(|error| Failure::of(&error, "watch", &qualified))?;
        Ok(events.map(move |event: kube::Result<_>| {
            event.map_err(|error| Failure::of(&error, "watch", &qualified))
        }))
    }

    /// What defines a kind: there, and not on its way out.
    pub(super) async fn definition(&self, resource: Resource) -> Result<Crd, Failure> {
        let path = format!("{DEFINITIONS}/{}", resource.qualified());
        let request = Request::get(path)
            .header(http::header::ACCEPT, METADATA_ONLY)
            .body(Vec::new())
            .map_err(|error| Failure::away(&error.to_string()))?;
        let found: PartialObject = self.get(request, "get", DEFINITION).await?;
        let metadata = found.metadata;
        if metadata.deletion_timestamp.is_some() {
            return Err(Failure::Unwell(Health::Terminating));
        }
        Ok(Crd {
            uid: metadata.uid,
            gives_up_former: metadata
                .annotations
                .is_some_and(|annotations| annotations.contains_key(GIVE_UP_FORMER)),
        })
    }

    /// Until a kind is defined, as far as that can be found out without asking again and again.
    pub(super) async fn until_defined(&self, resource: Resource) -> Result<(), Failure> {
        let name = escaped(&format!("metadata.name={}", resource.qualified()));
        let uri =
            format!("{DEFINITIONS}?watch=true&fieldSelector={name}&timeoutSeconds={WATCH_SECONDS}");
        let request = Request::get(uri)
            .header(http::header::ACCEPT, METADATA_ONLY)
            .body(Vec::new())
            .map_err(|error| Failure::away(&error.to_string()))?;
        let failed = |error: kube::Error| Failure::of(&error, "watch", DEFINITION);
        let events = answer(self.client.request_events::<PartialObject>(request)).await?;
        let mut events = std::pin::pin!(events.map_err(failed)?);
        while let Some(event) = events.next().await {
            let event: kube::Result<_> = event;
            if let WatchEvent::Added(found) | WatchEvent::Modified(found) = event.map_err(failed)?
                && found.metadata.deletion_timestamp.is_none()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What the API server is: a question that everybody may ask.
    pub(super) async fn version(&self) -> Result<Version, Failure> {
        let request = Request::get("/version")
            .body(Vec::new())
            .map_err(|error| Failure::away(&error.to_string()))?;
        self.get(request, "get", "/version").await
    }

    fn request(&self, resource: Resource, query: &str) -> Result<Request<Vec<u8>>, Failure> {
        let path = resource.path();
        let mut uri = format!("{path}?{query}");
        if resource == Resource::Pods {
            let selector = format!("spec.nodeName={}", self.node);
            uri = format!("{uri}&fieldSelector={}", escaped(&selector));
        }
        Request::get(uri)
            .body(Vec::new())
            .map_err(|error| Failure::away(&error.to_string()))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        request: Request<Vec<u8>>,
        verb: &'static str,
        what: &str,
    ) -> Result<T, Failure> {
        answer(self.client.request(request))
            .await?
            .map_err(|error| Failure::of(&error, verb, what))
    }
}

async fn answer<T>(request: impl Future<Output = T>) -> Result<T, Failure> {
    let seconds = ANSWER.as_secs();
    timeout(ANSWER, request)
        .await
        .map_err(|_| Failure::away(&format!("no answer within {seconds} s")))
}

/// As part of a query.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                for half in [byte >> 4, byte & 15] {
                    out.push(char::from(DIGITS[usize::from(half)]));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_of_a_page_are_as_the_server_wrote_them() {
        let cases: [(&str, &[&str]); 4] = [
            (
                r#"{"metadata":{"continue":"t"},"items":[{"a": "\u00fc"}, 7,{}]}"#,
                &[r#"{"a": "\u00fc"}"#, "7", "{}"],
            ),
            (r#"{"items": [],"metadata":{"continue":"t"}}"#, &[]),
            (r#"{"items": null,"metadata":{"continue":"t"}}"#, &[]),
            (r#"{"metadata":{"continue":"t"}}"#, &[]),
        ];
        for (body, expected) in cases {
            let page = Page::of(body.to_owned()).unwrap();
            assert_eq!(page.objects().collect::<Vec<_>>(), expected, "{body}");
            assert_eq!(page.next(), "t");
        }
        assert!(Page::of("{\"items\": [{]}".to_owned()).is_err());
    }

    #[test]
    fn a_query_keeps_what_it_was_made_of() {
        assert_eq!(
            escaped("spec.nodeName=a b/ü"),
            "spec.nodeName%3Da%20b%2F%C3%BC"
        );
    }
}
