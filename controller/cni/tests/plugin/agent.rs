//! An agent that answers every request alike.

use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use oxilium_api::{Answer, ApiError, Attached, Done, Envelope, Request, read_line};
use serde_json::{Value, json};

pub(crate) struct FakeAgent {
    directory: tempfile::TempDir,
    requests: Receiver<Request>,
}

type Line = Option<String>;

impl FakeAgent {
    /// Answers ADD.
    pub(crate) fn attaching() -> Self {
        Self::answering(Some(line(Answer::Ok(Attached {
            endpoint: 7,
            identity: 256,
            revision: 1,
        }))))
    }

    /// Answers what has nothing to tell.
    pub(crate) fn done() -> Self {
        Self::answering(Some(line(Answer::Ok(Done {}))))
    }

    pub(crate) fn failing(error: ApiError) -> Self {
        Self::answering(Some(line::<Done>(Answer::Error(error))))
    }

    /// Reads the request and goes away.
    pub(crate) fn closing() -> Self {
        Self::answering(None)
    }

    /// There is no agent.
    pub(crate) fn absent() -> Self {
        let (_, requests) = channel();
        Self {
            directory: tempfile::tempdir().unwrap(),
            requests,
        }
    }

    fn answering(answer: Line) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (sender, requests) = channel();
        let agent = Self {
            directory,
            requests,
        };
        let listener = UnixListener::bind(agent.socket()).unwrap();
        thread::spawn(move || {
            for connection in listener.incoming() {
                serve(connection.unwrap(), &sender, answer.as_deref());
            }
        });
        agent
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub(crate) fn tombstone_directory(&self) -> PathBuf {
        self.directory.path().join("deleted")
    }

    /// Requests since the last call of this.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.try_iter().collect()
    }

    /// Name and content of each tombstone.
    pub(crate) fn tombstones(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.tombstone_directory()) else {
            return Vec::new();
        };
        let mut all: Vec<String> = entries
            .map(|entry| {
                let entry = entry.unwrap();
                let content = fs::read_to_string(entry.path()).unwrap();
                format!("{} {content}", entry.file_name().to_string_lossy())
            })
            .collect();
        all.sort();
        all
    }

    /// A configuration that leads to this agent.
    pub(crate) fn conf(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "test",
            "type": "cilium-cni",
            "socket": self.socket(),
            "tombstones": self.tombstone_directory(),
            "wait-seconds": 1,
        })
    }
}

fn line<T: serde::Serialize>(answer: Answer<T>) -> String {
    serde_json::to_string(&Envelope::new(answer)).unwrap() + "\n"
}

fn serve(mut socket: UnixStream, requests: &Sender<Request>, answer: Option<&str>) {
    let line = read_line(&mut BufReader::new(socket.try_clone().unwrap()))
        .unwrap()
        .unwrap();
    let request: Envelope<Request> = serde_json::from_slice(&line).unwrap();
    requests.send(request.body).unwrap();
    if let Some(answer) = answer {
        socket.write_all(answer.as_bytes()).unwrap();
    }
}
