//! Warnings: events on objects, which `kubectl describe` shows.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

/// Longest text that an event may have, in bytes.
const LONGEST: usize = 1024;
/// Longest name of an object, without what the hash and its point take of it.
const LONGEST_NAME: usize = 253 - 17;

/// Something that whoever owns an object must know.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// What it is about.
    pub about: ObjectReference,
    /// Which of the object's generations, where it has some.
    pub generation: Option<i64>,
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
    /// Who warns.
    pub component: &'static str,
    /// And on which node.
    pub host: Option<String>,
}

impl Warning {
    /// The event. Its name follows from what it says, so that the same is told once for as long as events are kept.
    fn event(self, now: Timestamp) -> Event {
        let mut hash = DefaultHasher::new();
        (&self.about.uid, self.generation, self.reason, &self.message).hash(&mut hash);
        let name = self.about.name.as_deref().unwrap_or_default();
        let name = name.get(..LONGEST_NAME).unwrap_or(name);
        let name = name.trim_end_matches(['-', '.']);
        let namespace = self.about.namespace.as_deref().unwrap_or("default");
        let time = Time(now);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:016x}", hash.finish())),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some(self.reason.to_owned()),
            message: Some(shortened(self.message)),
            source: Some(EventSource {
                component: Some(self.component.to_owned()),
                host: self.host,
            }),
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time),
            count: Some(1),
            involved_object: self.about,
            ..Event::default()
        }
    }
}

fn shortened(mut text: String) -> String {
    const MORE: &str = "…";
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST - MORE.len()));
        text.push_str(MORE);
    }
    text
}

/// Tells it, unless it was told already.
///
/// # Errors
/// What the API server, or the way to it, says.
pub async fn warn(client: &Client, warning: Warning) -> Result<(), kube::Error> {
    let event = warning.event(Timestamp::now());
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    match api.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        told => told.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(name: &str, message: &str) -> Warning {
        Warning {
            about: ObjectReference {
                name: Some(name.to_owned()),
                namespace: Some("shop".to_owned()),
                uid: Some("uid".to_owned()),
                ..ObjectReference::default()
            },
            generation: None,
            reason: "Reason",
            message: message.to_owned(),
            component: "test",
            host: None,
        }
    }

    fn name(warning: Warning) -> String {
        let event = warning.event(Timestamp::UNIX_EPOCH);
        event.metadata.name.unwrap_or_default()
    }

    #[test]
    fn what_says_the_same_has_the_same_name() {
        let told = name(warning("web", "one"));
        assert_eq!(told, name(warning("web", "one")));
        assert_ne!(told, name(warning("web", "another")));
        let other_life = Warning {
            about: ObjectReference {
                uid: Some("later".to_owned()),
                ..warning("web", "one").about
            },
            ..warning("web", "one")
        };
        assert_ne!(told, name(other_life));
    }

    #[test]
    fn no_event_is_longer_than_the_api_server_takes() {
        let long = format!("{}-{}", "a".repeat(LONGEST_NAME - 1), "b".repeat(17));
        let name = name(warning(&long, ""));
        assert!(name.len() <= 253, "{name}");
        assert!(name.starts_with("aaa") && !name.contains("-."), "{name}");
        let event = warning("web", &"ä".repeat(LONGEST)).event(Timestamp::UNIX_EPOCH);
        let message = event.message.unwrap_or_default();
        assert!(message.len() <= LONGEST, "{} bytes", message.len());
        assert!(message.ends_with("ä…"), "{message}");
    }
}
