//! An agent that answers each request as told, and the command run against it.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use oxilium_api::{Answer, ApiError, Envelope, Request, read_line};
use serde::Serialize;
use serde_json::Value;

/// Answers requests on a socket until the test ends.
pub(crate) struct FakeAgent {
    directory: tempfile::TempDir,
}

/// What the command printed, and its exit status.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl FakeAgent {
    /// Answers with the lines that `answer` gives for a request.
    pub(crate) fn new(answer: impl Fn(Request) -> Vec<String> + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let agent = Self { directory };
        let listener = UnixListener::bind(agent.path()).unwrap();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let line = read_line(&mut BufReader::new(socket.try_clone().unwrap()))
                    .unwrap()
                    .unwrap();
                let request: Envelope<Request> = serde_json::from_slice(&line).unwrap();
                for line in answer(request.body) {
                    socket.write_all(line.as_bytes()).unwrap();
                }
            }
        });
        agent
    }

    /// Answers every request with this.
    pub(crate) fn saying(answer: &impl Serialize) -> Self {
        let line = ok(answer);
        Self::new(move |_| vec![line.clone()])
    }

    /// Its socket.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// Runs `oxilium ARGS` against it.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oxilium"));
        run(command.arg("--socket").arg(self.path()).args(args))
    }

    /// The same with `-o json`, parsed.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let outcome = self.run(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&outcome.out).unwrap()
    }
}

/// A good answer as a line.
pub(crate) fn ok(answer: &impl Serialize) -> String {
    serde_json::to_string(&Envelope::new(Answer::Ok(answer))).unwrap() + "\n"
}

/// A failure as a line.
pub(crate) fn failure(error: ApiError) -> String {
    serde_json::to_string(&Envelope::new(Answer::<()>::Error(error))).unwrap() + "\n"
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let output = command.env_remove("CILIUM_SOCK").output().unwrap();
    Outcome {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `oxilium ARGS` without an agent.
pub(crate) fn offline(args: &[&str]) -> Outcome {
    run(Command::new(env!("CARGO_BIN_EXE_oxilium")).args(args))
}
