//! Does it get through? Asked with what people ask with.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{netns::Netns, process::command, server};

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came.
    Answered,
    /// Nothing came in time: dropped on the way there or back.
    Silence,
    /// Somebody said no: an RST or an ICMP error.
    Refused(String),
}

impl Outcome {
    /// True when an answer came.
    pub fn is_answered(&self) -> bool {
        *self == Self::Answered
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered => f.write_str("works"),
            Self::Silence => f.write_str("no answer"),
            Self::Refused(how) => write!(f, "refused: {how}"),
        }
    }
}

/// How long nothing must come for it to be called silence. Answers here take well under a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

/// `ping -c 1`.
///
/// # Errors
/// If ping cannot be run or does not understand.
pub fn ping(from: &Netns, to: IpAddr) -> Result<Outcome> {
    let mut ping = command("ping");
    ping.args(["-n", "-q", "-c", "1", "-W", "1"])
        .arg(to.to_string());
    let output = from.output(&mut ping)?;
    match output.status.code() {
        Some(0) => Ok(Outcome::Answered),
        Some(1) => {
            let text = String::from_utf8_lossy(&output.stdout);
            match text.lines().find(|line| line.contains("+1 errors")) {
                Some(line) => Ok(Outcome::Refused(line.trim().to_owned())),
                None => Ok(Outcome::Silence),
            }
        }
        _ => bail!(
            "ping {to} in {}: {}: {}",
            from.name(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}

/// `curl http://to:port/`.
///
/// # Errors
/// If curl cannot be run, or the answer is not 200.
pub fn curl(from: &Netns, to: IpAddr, port: u16) -> Result<Outcome> {
    let mut curl = command("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--globoff"])
        .args(["--connect-timeout", "1", "--max-time", "3"])
        .args(["--output", "/dev/null", "--write-out", "%{http_code}"])
        .arg(format!("http://{}/", SocketAddr::from((to, port))));
    let output = from.output(&mut curl)?;
    let code = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) if code == "200" => Ok(Outcome::Answered),
        Some(0) => bail!("{to}:{port} answered with HTTP {code}"),
        Some(7) => {
            let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Ok(Outcome::Refused(told))
        }
        Some(28) => Ok(Outcome::Silence),
        _ => bail!(
            "curl {to}:{port} in {}: {}: {}",
            from.name(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}

/// A TCP handshake.
///
/// # Errors
/// If the socket fails in a way that says nothing about the network.
pub fn tcp(from: &Netns, to: SocketAddr) -> Result<Outcome> {
    outcome(server::connect(from, to, PATIENCE).map(drop)).with_context(|| format!("TCP to {to}"))
}

/// A UDP datagram and its echo, of `size` bytes: above the MTU it travels in fragments.
///
/// # Errors
/// If the socket fails in a way that says nothing about the network.
pub fn udp(from: &Netns, to: SocketAddr, size: usize) -> Result<Outcome> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let ask = || -> io::Result<()> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        let question: Vec<u8> = (0_u8..=250).cycle().take(size).collect();
        socket.send(&question)?;
        let mut answer = vec![0; size + 1];
        let count = socket.recv(&mut answer)?;
        if answer[..count] == question[..] {
            Ok(())
        } else {
            Err(io::Error::other("the echo is not what was sent"))
        }
    };
    outcome(from.enter(ask)?).with_context(|| format!("UDP to {to}"))
}

fn outcome(result: io::Result<()>) -> Result<Outcome> {
    match result {
        Ok(()) => Ok(Outcome::Answered),
        Err(error) => match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Ok(Outcome::Silence),
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::PermissionDenied => Ok(Outcome::Refused(error.to_string())),
            _ => Err(error.into()),
        },
    }
}
