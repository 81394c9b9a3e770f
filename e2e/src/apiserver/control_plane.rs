//! The processes: etcd and kube-apiserver.

use std::{
    fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::reaper::Directory;
use crate::{
    netns::Netns,
    process::{self, Process},
    wait,
};

/// Enough for a start, which takes some ten seconds of a processor, on a machine that is busy with other things.
pub(super) const LIMIT: Duration = Duration::from_mins(4);

/// How often ports are chosen anew when somebody takes one between choosing and binding.
const ATTEMPTS: u32 = 5;

/// etcd and kube-apiserver, which end with this value.
#[derive(Debug)]
pub(super) struct ControlPlane {
    place: Place,
    etcd: Process,
    apiserver: Option<Process>,
}

/// What the processes are told.
#[derive(Clone, Debug)]
struct Place {
    programs: PathBuf,
    directory: PathBuf,
    token: String,
    etcd: SocketAddr,
    apiserver: SocketAddr,
}

impl ControlPlane {
    /// Starts both inside `netns`, kube-apiserver at `address`. Both listen when this returns.
    pub(super) fn start(
        programs: &Path,
        directory: &Directory,
        netns: Option<&Netns>,
        address: IpAddr,
    ) -> Result<Self> {
        let token = random_hex()?;
        directory.write(
            "tokens.csv",
            &format!("{token},admin,admin,system:masters\n"),
        )?;
        // The server signs ServiceAccounts' tokens with this key, and knows them by it: it reads both from the form that
        // `ecparam` writes, and only the private one from `genpkey`'s.
        let key = directory.write("sa.key", "")?;
        process::run(
            process::command("openssl")
                .args([
                    "ecparam",
                    "-name",
                    "prime256v1",
                    "-genkey",
                    "-noout",
                    "-out",
                ])
                .arg(key),
        )?;
        for attempt in 1..=ATTEMPTS {
            let [etcd, apiserver] =
                inside(netns, || free_ports([Ipv4Addr::LOCALHOST.into(), address]))?;
            let place = Place {
                programs: programs.to_owned(),
                directory: directory.path().to_owned(),
                token: token.clone(),
                etcd,
                apiserver,
            };
            match Self::launch(place, directory, netns) {
                // What it left must not be taken for the next one's.
                Err(error) if attempt < ATTEMPTS && is_port_taken(&error) => {
                    for name in ["etcd.log", "kube-apiserver.log"] {
                        directory.remove(name)?;
                    }
                    directory.remove("etcd")?;
                }
                result => return result,
            }
        }
        bail!("others took the ports {ATTEMPTS} times between choosing and binding")
    }

    fn launch(place: Place, directory: &Directory, netns: Option<&Netns>) -> Result<Self> {
        let started = Instant::now();
        let mut etcd = spawn("etcd", &mut place.etcd_command(), directory, netns)?;
        until_listens(&mut etcd, place.etcd, netns)?;
        tell("etcd listens", started);
        let mut own = Self {
            place,
            etcd,
            apiserver: None,
        };
        own.start_apiserver(directory, netns)?;
        Ok(own)
    }

    /// Starts kube-apiserver on the same data and waits until it listens.
    pub(super) fn start_apiserver(
        &mut self,
        directory: &Directory,
        netns: Option<&Netns>,
    ) -> Result<()> {
        let started = Instant::now();
        let mut command = self.place.apiserver_command();
        let mut apiserver = spawn("kube-apiserver", &mut command, directory, netns)?;
        until_listens(&mut apiserver, self.place.apiserver, netns)?;
        self.apiserver = Some(apiserver);
        tell("kube-apiserver listens", started);
        Ok(())
    }

    pub(super) fn stop_apiserver(&mut self) -> Result<()> {
        let mut process = self
            .apiserver
            .take()
            .context("kube-apiserver is stopped already")?;
        process.crash()
    }

    pub(super) fn signal_apiserver(&self, signal: Signal) -> Result<()> {
        let process = self
            .apiserver
            .as_ref()
            .context("kube-apiserver is stopped")?;
        process.signal(signal)
    }

    /// An error if one of them has ended: with its log.
    pub(super) fn still_runs(&mut self) -> Result<()> {
        for process in [Some(&mut self.etcd), self.apiserver.as_mut()]
            .into_iter()
            .flatten()
        {
            if let Some(status) = process.ended()? {
                bail!("ended, {status}: {}", process.log());
            }
        }
        Ok(())
    }

    /// The administrator's kubeconfig.
    pub(super) fn admin_kubeconfig(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.place.apiserver),
                "certificate-authority": self.place.certificates().join("apiserver.crt"),
            }}],
            "users": [{"name": "admin", "user": {"token": self.place.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        })
    }
}

impl Place {
    fn certificates(&self) -> PathBuf {
        self.directory.join("certificates")
    }

    fn etcd_command(&self) -> Command {
        let mut command = Command::new(self.programs.join("etcd"));
        let client = format!("http://{}", self.etcd);
        command
            .arg("--data-dir")
            .arg(self.directory.join("etcd"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", "http://127.0.0.1:0"])
            .args(["--log-level", "warn"])
            // The data go with the test.
            .arg("--unsafe-no-fsync");
        command
    }

    fn apiserver_command(&self) -> Command {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        for (option, value) in [
            ("etcd-servers", format!("http://{}", self.etcd)),
            ("bind-address", self.apiserver.ip().to_string()),
            ("advertise-address", self.apiserver.ip().to_string()),
            ("secure-port", self.apiserver.port().to_string()),
            // It makes itself a certificate there.
            ("cert-dir", self.certificates().display().to_string()),
            ("token-auth-file", file("tokens.csv")),
            ("service-account-signing-key-file", file("sa.key")),
            ("service-account-key-file", file("sa.key")),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc.cluster.local".to_owned(),
            ),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("enable-admission-plugins", "NodeRestriction".to_owned()),
            ("service-cluster-ip-range", self.service_ranges()),
            ("allow-privileged", "true".to_owned()),
            // An address that pods reach has no meaning here.
            ("endpoint-reconciler-type", "none".to_owned()),
        ] {
            command.arg(format!("--{option}={value}"));
        }
        command
    }

    /// Of both families; the first is that of the server's own address.
    fn service_ranges(&self) -> String {
        let mut ranges = ["10.96.0.0/16", "fd00:10:96::/112"];
        if self.apiserver.is_ipv6() {
            ranges.reverse();
        }
        ranges.join(",")
    }
}

/// Says on stderr what was done and how long it took.
#[expect(clippy::print_stderr, reason = "for whoever waits")]
pub(super) fn tell(what: &str, started: Instant) {
    eprintln!(
        "apiserver: {what} ({:.1} s)",
        started.elapsed().as_secs_f64()
    );
}

fn spawn(
    name: &str,
    command: &mut Command,
    directory: &Directory,
    netns: Option<&Netns>,
) -> Result<Process> {
    let log = directory.path().join(format!("{name}.log"));
    // Its working directory is the test's, which may go before it does.
    command.current_dir("/");
    let process = inside(netns, || Process::spawn(name, command, log))?;
    directory.take_along(process.pid())?;
    Ok(process)
}

fn inside<T: Send>(netns: Option<&Netns>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    match netns {
        Some(netns) => netns.enter(work)?,
        None => work(),
    }
}

fn until_listens(process: &mut Process, address: SocketAddr, netns: Option<&Netns>) -> Result<()> {
    let what = format!("something listens at {address}");
    wait::until(&what, LIMIT, || {
        if let Some(status) = process.ended()? {
            return Ok(Some(Err(Ended {
                status: status.to_string(),
                log: process.log(),
            })));
        }
        inside(netns, || Ok(TcpStream::connect(address)?))?;
        Ok(Some(Ok(())))
    })
    .with_context(|| process.log())?
    .map_err(Into::into)
}

/// A process ended that should run.
#[derive(Debug)]
struct Ended {
    status: String,
    log: String,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ended, {}: {}", self.status, self.log)
    }
}

impl std::error::Error for Ended {}

fn is_port_taken(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Ended>()
        .is_some_and(|ended| ended.log.contains("address already in use"))
}

/// A port at each address that nobody has now.
fn free_ports<const N: usize>(addresses: [IpAddr; N]) -> Result<[SocketAddr; N]> {
    // All are held until all are chosen, so that none is chosen twice.
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(TcpListener::bind((address, 0)).with_context(|| address.to_string())?);
    }
    let chosen = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<std::io::Result<Vec<_>>>()?;
    chosen.try_into().ok().context("one port per address")
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_chosen_together_differ() {
        let [one, two] = free_ports([Ipv4Addr::LOCALHOST.into(); 2]).unwrap();
        assert_ne!(one, two);
    }

    #[test]
    fn a_port_that_somebody_took_is_told_from_other_ends() {
        let ended = |log: &str| {
            anyhow::Error::from(Ended {
                status: "exit status: 1".to_owned(),
                log: log.to_owned(),
            })
        };
        assert!(is_port_taken(&ended(
            "listen tcp 127.0.0.1:2379: bind: address already in use"
        )));
        assert!(!is_port_taken(&ended("no space left on device")));
        assert!(!is_port_taken(&anyhow::anyhow!("address already in use")));
    }
}
