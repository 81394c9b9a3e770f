//! The client against a socket that answers as told.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that fails should say where"
)]

use std::io::{BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use oxilium_api::{
    Client, ClientError, ErrorCode, MonitorFilter, MonitorKind, Ready, Request, call, read_line,
};

/// Answers one connection with `lines` and returns the request line that it got.
fn agent(lines: &'static str) -> (tempfile::TempDir, PathBuf, JoinHandle<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let answered = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let request = read_line(&mut BufReader::new(socket.try_clone().unwrap()))
            .unwrap()
            .unwrap();
        socket.write_all(lines.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (dir, path, answered)
}

fn client(path: &PathBuf) -> Client {
    Client::new(path, Duration::from_secs(5))
}

#[test]
fn a_request_is_one_line_with_version_and_method() {
    let (_dir, path, answered) = agent("{\"version\":1,\"ok\":[]}\n");
    let identities = client(&path).call(call::IdentityList).unwrap();
    assert!(identities.is_empty());
    assert_eq!(
        answered.join().unwrap(),
        r#"{"version":1,"method":"identity-list"}"#
    );
}

#[test]
fn parameters_go_beside_the_method() {
    let (_dir, path, answered) = agent("{\"version\":1,\"ok\":[]}\n");
    client(&path).call(call::BpfPolicy(Some(7))).unwrap();
    assert_eq!(
        answered.join().unwrap(),
        r#"{"version":1,"method":"bpf-policy","params":7}"#
    );
}

#[test]
fn a_failure_of_the_agent_keeps_its_class_and_its_retryability() {
    let (_dir, path, _answered) = agent(
        "{\"version\":1,\"error\":{\"code\":\"not-ready\",\"message\":\"reading\",\"retryable\":true}}\n",
    );
    let error = client(&path).call(Ready).unwrap_err();
    assert!(error.retryable());
    assert!(matches!(error, ClientError::Agent(e) if e.code == ErrorCode::NotReady));
}

#[test]
fn no_agent_is_retryable_and_told_from_an_agent_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let error = client(&dir.path().join("none.sock"))
        .call(Ready)
        .unwrap_err();
    assert!(error.retryable() && error.agent_absent());
}

#[test]
fn what_is_no_answer_is_not_taken_for_one() {
    for (line, retryable) in [
        ("nonsense\n", false),
        ("{\"version\":2,\"ok\":{}}\n", false),
        ("{\"version\":1}\n", false),
        ("{\"version\":1,\"ok\":", true),
        ("", true),
    ] {
        let (_dir, path, _answered) = agent(line);
        let error = client(&path).call(Ready).unwrap_err();
        assert_eq!(error.retryable(), retryable, "{line:?}: {error}");
    }
}

#[test]
fn a_silent_agent_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = Client::new(&path, Duration::from_millis(20))
        .call(Ready)
        .unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[test]
fn a_stream_ends_when_the_agent_closes_it() {
    let (_dir, path, answered) = agent("");
    let filter = MonitorFilter {
        kinds: vec![MonitorKind::Drop],
        ..MonitorFilter::default()
    };
    assert_eq!(client(&path).monitor(filter.clone()).unwrap().count(), 0);
    let request: oxilium_api::Envelope<Request> =
        serde_json::from_str(&answered.join().unwrap()).unwrap();
    assert_eq!(request.body, Request::Monitor(filter));
}
