//! One kind of policies: all listed once, then their changes, for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::Client;
use kube::api::{DynamicObject, ListParams, WatchParams};
use kube::core::WatchEvent;
use oxilium_agent::kubernetes::Backoff;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::PolicyKind;
use super::say::say;
use crate::OperatorError;
use crate::error::code;

/// Objects of one answer.
const PAGE: u32 = 500;
/// Writes at a time.
const AT_ONCE: usize = 8;
/// A watch that says nothing for so long, not even how far it is, is asked for anew.
const SILENCE: Duration = Duration::from_secs(150);
/// The answer to a version that is too old.
const GONE: u16 = 410;
/// The answer where the kind is not defined.
const NOT_FOUND: u16 = 404;

/// Which policy of a kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    namespace: Option<String>,
    name: String,
}

impl Name {
    fn of(object: &DynamicObject) -> Self {
        Self {
            namespace: object.metadata.namespace.clone(),
            name: object.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Follows policies of one kind.
pub struct Follower {
    client: Client,
    kind: PolicyKind,
    /// From where to go on watching; none: list again.
    version: Option<String>,
    backoff: Backoff,
    /// Of these not all was said. They are as they were then; of one that is another by now the watch tells.
    unsaid: BTreeMap<Name, DynamicObject>,
    next_try: Instant,
    tries: Backoff,
}

impl Follower {
    /// Nothing is asked yet.
    pub fn new(client: Client, kind: PolicyKind) -> Self {
        Self {
            client,
            kind,
            version: None,
            backoff: Backoff::default(),
            unsaid: BTreeMap::new(),
            next_try: Instant::now(),
            tries: Backoff::default(),
        }
    }

    /// For ever.
    pub async fn run(mut self) {
        loop {
            let kind = self.kind.kind;
            match self.follow().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(OperatorError::Request { source, .. }) if code(&source) == Some(GONE) => {
                    self.version = None;
                }
                Err(OperatorError::Request { source, .. })
                    if self.kind.optional && code(&source) == Some(NOT_FOUND) =>
                {
                    self.version = None;
                    tracing::debug!(kind, "not defined on this cluster");
                }
                Err(error) => {
                    self.version = None;
                    tracing::warn!(kind, %error, "policies are not looked at; trying again");
                }
            }
            sleep(self.backoff.wait()).await;
        }
    }

    /// Until the API server ends the watch. True: it lasted as long as watches do.
    async fn follow(&mut self) -> Result<bool, OperatorError> {
        let version = match self.version.take() {
            Some(version) => version,
            None => self.all().await?,
        };
        let started = Instant::now();
        let watched = self.watch(version).await;
        let worked = started.elapsed() > Backoff::WORKED;
        if worked {
            self.backoff.reset();
        }
        watched.map(|()| worked)
    }

    /// Looks at all policies; returns the version from which changes are asked for.
    ///
    /// # Errors
    /// If they cannot be listed. A policy of which not all could be said is looked at again while changes are followed.
    pub async fn all(&mut self) -> Result<String, OperatorError> {
        let api = self.kind.all(&self.client);
        let mut params = ListParams::default().limit(PAGE);
        self.unsaid.clear();
        loop {
            let page = api.list(&params).await;
            let page = page.map_err(OperatorError::request("list", self.kind.plural))?;
            self.look(page.items).await;
            let more = page.metadata.continue_.filter(|token| !token.is_empty());
            match more {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(page.metadata.resource_version.unwrap_or_default()),
            }
        }
    }

    /// Looks at changes from that version on, until the API server ends it.
    async fn watch(&mut self, from: String) -> Result<(), OperatorError> {
        let plural = self.kind.plural;
        let failed = |source| OperatorError::request("watch", plural)(source);
        let api = self.kind.all(&self.client);
        let events = api.watch(&WatchParams::default(), &from).await;
        let mut events = pin!(events.map_err(failed)?);
        self.version = Some(from);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                event = timeout_at(heard + SILENCE, events.next()) => match event {
                    Ok(Some(event)) => {
                        heard = Instant::now();
                        self.event(event.map_err(failed)?).await?;
                    }
                    // It ended, as it must now and then, or nobody is there.
                    Ok(None) | Err(_) => return Ok(()),
                },
                () = sleep_until(self.next_try), if !self.unsaid.is_empty() => {
                    self.again().await;
                }
            }
        }
    }

    async fn event(&mut self, event: WatchEvent<DynamicObject>) -> Result<(), OperatorError> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.advance(object.metadata.resource_version.clone());
                self.look(vec![object]).await;
            }
            WatchEvent::Deleted(object) => {
                self.unsaid.remove(&Name::of(&object));
                self.advance(object.metadata.resource_version);
            }
            WatchEvent::Bookmark(bookmark) => {
                self.advance(Some(bookmark.metadata.resource_version));
            }
            WatchEvent::Error(status) => {
                let error = kube::Error::Api(status);
                return Err(OperatorError::request("watch", self.kind.plural)(error));
            }
        }
        Ok(())
    }

    fn advance(&mut self, version: Option<String>) {
        if version.as_ref().is_some_and(|version| !version.is_empty()) {
            self.version = version;
        }
    }

    /// Looks at these policies. Those of which not all could be said are kept.
    async fn look(&mut self, objects: Vec<DynamicObject>) {
        let (client, kind) = (&self.client, self.kind);
        let looked = futures_util::stream::iter(objects)
            .map(|object| async move {
                let said = say(client, kind, &object).await;
                (object, said)
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        for (object, said) in looked {
            let name = Name::of(&object);
            let Err(error) = said else {
                self.unsaid.remove(&name);
                continue;
            };
            tracing::warn!(kind = kind.kind, %name, %error, "not all is said of a policy; trying again");
            if self.unsaid.is_empty() {
                self.tries.reset();
                self.next_try = Instant::now() + self.tries.wait();
            }
            self.unsaid.insert(name, object);
        }
    }

    /// Looks again at those of which not all was said.
    async fn again(&mut self) {
        let unsaid = self.unsaid.values().cloned().collect();
        self.next_try = Instant::now() + self.tries.wait();
        self.look(unsaid).await;
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("kind", &self.kind.kind)
            .field("unsaid", &self.unsaid.keys())
            .finish_non_exhaustive()
    }
}
