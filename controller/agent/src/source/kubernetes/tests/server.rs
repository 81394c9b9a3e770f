//! An API server that says what a test tells it to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::super::resource::Resource;

/// More than anything takes.
pub(super) const LONG: Duration = Duration::from_mins(1);

/// An answer.
#[derive(Clone)]
pub(super) enum Answer {
    /// A status and an object.
    Object(u16, Value),
    /// A watch: events as they come.
    Events(Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Value>>>),
}

#[derive(Default)]
struct Script {
    /// By path, with the first of `watch`, `continue` that the query has.
    answers: HashMap<String, Answer>,
    asked: Vec<String>,
}

/// The server.
pub(super) struct Server {
    script: Arc<Mutex<Script>>,
    heard: Arc<Notify>,
    pub(super) client: Client,
}

/// The name under which an answer is kept.
fn key(target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let part = |name: &str| query.split('&').find(|part| part.starts_with(name));
    match part("watch=").or_else(|| part("continue=")) {
        Some(part) => format!("{path}?{part}"),
        None => path.to_owned(),
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::default()));
        let heard = Arc::new(Notify::new());
        let (answering, hearing) = (Arc::clone(&script), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answering), Arc::clone(&hearing)));
            }
        });
        let mut config = Config::new(url.parse().unwrap());
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        Self {
            script,
            heard,
            client,
        }
    }

    pub(super) fn answer(&self, target: &str, answer: Answer) {
        self.script
            .lock()
            .unwrap()
            .answers
            .insert(key(target), answer);
    }

    /// Answers a list with `items`, and its watch with what is sent afterwards.
    pub(super) fn lists(
        &self,
        resource: Resource,
        items: &[Value],
    ) -> mpsc::UnboundedSender<Value> {
        let list = json!({"metadata": {"resourceVersion": "10"}, "items": items});
        self.answer(&resource.path(), Answer::Object(200, list));
        self.watches(resource)
    }

    pub(super) fn watches(&self, resource: Resource) -> mpsc::UnboundedSender<Value> {
        let (sender, events) = mpsc::unbounded_channel();
        let events = Arc::new(tokio::sync::Mutex::new(events));
        let target = format!("{}?watch=true", resource.path());
        self.answer(&target, Answer::Events(events));
        sender
    }

    /// Says that a definition is there, with that UID and state.
    pub(super) fn defines(&self, resource: Resource, metadata: &Value) {
        let path = definition(resource);
        let object = json!({"kind": "PartialObjectMetadata", "metadata": metadata});
        self.answer(&path, Answer::Object(200, object));
    }

    /// Waits until this is asked for once more.
    pub(super) async fn is_asked_again(&self, target: &str) {
        let times = || self.asked().iter().filter(|asked| *asked == target).count();
        let before = times();
        while times() == before {
            let heard = timeout(LONG, self.heard.notified()).await;
            heard.unwrap_or_else(|_| panic!("{target} is not asked for"));
        }
    }

    /// What was asked for so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.script.lock().unwrap().asked.clone()
    }
}

/// Where a definition is.
pub(super) fn definition(resource: Resource) -> String {
    let name = resource.qualified();
    format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
}

/// An error as the API server writes it.
pub(super) fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "X", "metadata": {}})
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>, heard: Arc<Notify>) {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut part).await {
                Ok(count) if count > 0 => request.extend_from_slice(&part[..count]),
                _ => return,
            }
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        request.clear();
        let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = {
            let mut script = script.lock().unwrap();
            script.asked.push(target.clone());
            script.answers.get(&key(&target)).cloned()
        };
        heard.notify_one();
        let answer = answer.unwrap_or_else(|| Answer::Object(404, status(404, "not found")));
        match answer {
            Answer::Object(code, object) => {
                let body = object.to_string();
                let head = format!(
                    "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                if stream.write_all((head + &body).as_bytes()).await.is_err() {
                    return;
                }
            }
            Answer::Events(events) => {
                let head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
                if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
                let mut events = events.lock().await;
                while let Some(event) = events.recv().await {
                    let line = format!("{event}\n");
                    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
                    if stream.write_all(chunk.as_bytes()).await.is_err() {
                        return;
                    }
                }
                // The test lets the watch end.
                drop(stream.write_all(b"0\r\n\r\n").await);
            }
        }
    }
}
