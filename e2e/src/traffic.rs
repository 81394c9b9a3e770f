//! Traffic that goes on by itself, every packet of it numbered: what was lost or let through is counted, not guessed.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{netns::Netns, server, wait};

/// Time between two packets of a stream.
const EVERY: Duration = Duration::from_millis(2);
/// Bytes that a socket may hold: seconds of packets. A thread that gets no CPU for so long loses none.
const BUFFER: usize = 16 << 20;
/// How long a thread waits for a packet before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// Which numbers came.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<bool>>);

impl Seen {
    fn note(&self, number: u64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(at) = usize::try_from(number) else {
            return;
        };
        if at >= seen.len() {
            seen.resize(at + 1, false);
        }
        seen[at] = true;
    }

    fn of(&self, range: &Range<u64>, there: bool) -> Vec<u64> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        range
            .clone()
            .filter(|number| {
                let at = usize::try_from(*number).unwrap_or(usize::MAX);
                seen.get(at).copied().unwrap_or_default() == there
            })
            .collect()
    }
}

/// Does whoever gets a datagram send it back?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Each.
    Yes,
    /// None. To be chosen where programs are missing for a while: an answer that is on its way when they come back
    /// is, as UDP has no beginning, the first word of a flow of the answering pod's own, and what comes then is its
    /// answer.
    No,
}

/// Flows by which datagrams go to a service. Each is sent to a backend of its own choice: with so many it is all but
/// certain that not all choose the same one of two.
const FLOWS: usize = 8;

/// Numbered datagrams.
#[derive(Debug)]
pub struct Datagrams {
    name: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    arrived: Arc<Seen>,
    answered: Arc<Seen>,
    echo: Echo,
    ends: Vec<Netns>,
    queues_before: [u64; 3],
}

impl Datagrams {
    /// Sends from one namespace to `address` in the other, without end.
    ///
    /// # Errors
    /// If a socket cannot be had.
    pub fn start(
        name: &str,
        [from, to]: [&Netns; 2],
        address: SocketAddr,
        echo: Echo,
    ) -> Result<Self> {
        Self::begin(name, (from, 1), address, &[(to, address)], echo)
    }

    /// Sends from one namespace to a service's `frontend`, by several flows in turn, without end. Each number must get to
    /// one of `backends`, whichever, and its answer comes from the frontend, or is not heard.
    ///
    /// # Errors
    /// If a socket cannot be had.
    pub fn to_service(
        name: &str,
        from: &Netns,
        frontend: SocketAddr,
        backends: &[(&Netns, SocketAddr)],
        echo: Echo,
    ) -> Result<Self> {
        Self::begin(name, (from, FLOWS), frontend, backends, echo)
    }

    fn begin(
        name: &str,
        (from, flows): (&Netns, usize),
        address: SocketAddr,
        servers: &[(&Netns, SocketAddr)],
        echo: Echo,
    ) -> Result<Self> {
        let answering = servers
            .iter()
            .map(|(to, address)| {
                to.enter(|| UdpSocket::bind(address))?
                    .with_context(|| format!("UDP {address}"))
            })
            .collect::<Result<Vec<UdpSocket>>>()?;
        let client = || -> io::Result<UdpSocket> {
            let any: SocketAddr = if address.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                (Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            Ok(socket)
        };
        let asking: Vec<UdpSocket> =
            from.enter(|| (0..flows).map(|_| client()).collect::<io::Result<_>>())??;
        let mut ends = vec![from.clone()];
        ends.extend(servers.iter().map(|(to, _)| (*to).clone()));
        let this = Self {
            name: name.to_owned(),
            stop: Arc::default(),
            sent: Arc::default(),
            arrived: Arc::default(),
            answered: Arc::default(),
            echo,
            queues_before: overflows(&ends)?,
            ends,
        };
        for socket in answering.iter().chain(&asking) {
            socket.set_read_timeout(Some(PATIENCE))?;
            setsockopt(socket, sockopt::RcvBufForce, &BUFFER).context("a socket's buffer")?;
        }
        for server in answering {
            this.answer(server, echo);
        }
        for client in &asking {
            this.hear(client.try_clone()?);
        }
        this.send(asking);
        Ok(this)
    }

    fn send(&self, sockets: Vec<UdpSocket>) {
        let (stop, sent) = (Arc::clone(&self.stop), Arc::clone(&self.sent));
        thread::spawn(move || {
            for socket in sockets.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // Counted before it is sent: what is sent after a look at the count has a later number.
                let number = sent.fetch_add(1, Ordering::SeqCst);
                // A refusal of the one before is told here; it is missed by its number.
                drop(socket.send(&number.to_be_bytes()));
                thread::sleep(EVERY);
            }
        });
    }

    fn answer(&self, socket: UdpSocket, echo: Echo) {
        let (stop, arrived) = (Arc::clone(&self.stop), Arc::clone(&self.arrived));
        thread::spawn(move || {
            let mut number = [0; 8];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((8, from)) = socket.recv_from(&mut number) {
                    arrived.note(u64::from_be_bytes(number));
                    if echo == Echo::Yes {
                        // Missed by its number where it does not get back.
                        drop(socket.send_to(&number, from));
                    }
                }
            }
        });
    }

    fn hear(&self, socket: UdpSocket) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        thread::spawn(move || {
            let mut number = [0; 8];
            while !stop.load(Ordering::Relaxed) {
                if let Ok(8) = socket.recv(&mut number) {
                    answered.note(u64::from_be_bytes(number));
                }
            }
        });
    }

    /// The number of the next datagram.
    pub fn now(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Waits until a datagram from after this call was sent.
    ///
    /// # Errors
    /// If none is.
    pub fn goes_on(&self) -> Result<u64> {
        let before = self.now();
        wait::until("another datagram", wait::LONG, || {
            Ok((self.now() > before + 1).then_some(()))
        })?;
        Ok(self.now())
    }

    /// Each of `range` got there, and back where it is sent back.
    ///
    /// # Errors
    /// With the numbers of those that did not.
    pub fn all_passed(&self, range: &Range<u64>) -> Result<()> {
        let lost = || {
            let mut lost = self.arrived.of(range, false);
            if self.echo == Echo::Yes {
                lost.extend(self.answered.of(range, false));
            }
            lost
        };
        let done = wait::until("all have arrived", Duration::from_secs(5), || {
            Ok(lost().is_empty().then_some(()))
        });
        if done.is_err() {
            let (lost, name) = (lost(), &self.name);
            let now = overflows(&self.ends)?;
            let [receive, send, backlog] =
                [0, 1, 2].map(|queue| now[queue] - self.queues_before[queue]);
            bail!(
                "{name}: {} of {range:?} lost: {} (dropped for full queues meanwhile, of all traffic: {receive} when \
                 received, {send} when sent, {backlog} in the backlogs of this machine's CPUs)",
                lost.len(),
                runs(lost)
            );
        }
        Ok(())
    }

    /// None of `range` got there. To be asked after something that was sent later did.
    ///
    /// # Errors
    /// With the numbers of those that did.
    pub fn none_passed(&self, range: &Range<u64>) -> Result<()> {
        let passed = self.arrived.of(range, true);
        if !passed.is_empty() {
            bail!(
                "{}: {} of {range:?} let through: {}",
                self.name,
                passed.len(),
                runs(passed)
            );
        }
        Ok(())
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One long TCP connection, on which a number goes every few milliseconds and comes back.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    ends: [Netns; 2],
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    retransmitted_before: u64,
}

impl Connection {
    /// Connects from one namespace to `address` in the other.
    ///
    /// # Errors
    /// If it cannot.
    pub fn start(from: &Netns, to: &Netns, address: SocketAddr) -> Result<Self> {
        Self::through(from, address, to, address)
    }

    /// Connects from one namespace to `frontend`, behind which is `backend` in the other.
    ///
    /// # Errors
    /// If it cannot.
    pub fn through(
        from: &Netns,
        frontend: SocketAddr,
        to: &Netns,
        backend: SocketAddr,
    ) -> Result<Self> {
        let listener = to
            .enter(|| TcpListener::bind(backend))?
            .with_context(|| format!("TCP {backend}"))?;
        let stream = server::connect(from, frontend, wait::LONG)?;
        let (mut serving, _) = listener.accept()?;
        for end in [&stream, &serving] {
            end.set_nodelay(true)?;
        }
        thread::spawn(move || {
            let mut number = [0; 8];
            while serving.read_exact(&mut number).is_ok() && serving.write_all(&number).is_ok() {}
        });
        let ends = [from.clone(), to.clone()];
        let this = Self {
            retransmitted_before: retransmitted(&ends)?,
            stream,
            ends,
            sent: Arc::default(),
            answered: Arc::default(),
        };
        this.talk()?;
        Ok(this)
    }

    fn talk(&self) -> Result<()> {
        let (mut writing, mut reading) = (self.stream.try_clone()?, self.stream.try_clone()?);
        let (sent, answered) = (Arc::clone(&self.sent), Arc::clone(&self.answered));
        thread::spawn(move || {
            loop {
                let number = sent.fetch_add(1, Ordering::SeqCst);
                if writing.write_all(&number.to_be_bytes()).is_err() {
                    return;
                }
                thread::sleep(EVERY);
            }
        });
        thread::spawn(move || {
            let mut number = [0; 8];
            while reading.read_exact(&mut number).is_ok() {
                answered.store(u64::from_be_bytes(number) + 1, Ordering::SeqCst);
            }
        });
        Ok(())
    }

    /// All that was said before this call is answered, perhaps after having been sent again.
    ///
    /// # Errors
    /// If the connection stands still.
    pub fn goes_on(&self) -> Result<()> {
        let said = self.sent.load(Ordering::SeqCst);
        wait::until("the connection goes on", wait::LONG, || {
            Ok((self.answered.load(Ordering::SeqCst) >= said).then_some(()))
        })
    }

    /// All that was said before this call is answered, and no segment of it was lost on the way.
    ///
    /// # Errors
    /// If the connection stands still, or a segment had to be sent again that its receiver did not have already.
    pub fn is_unharmed(&self) -> Result<()> {
        self.goes_on()?;
        let lost = || -> Result<u64> {
            Ok(retransmitted(&self.ends)?.saturating_sub(self.retransmitted_before))
        };
        // A loaded machine sends some twice; the receiver then says that it has them.
        wait::until("no segment was lost", Duration::from_secs(5), || {
            Ok((lost()? == 0).then_some(()))
        })
        .with_context(|| format!("{:?} segments lost", lost().ok()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        server::hang_up(&self.stream);
    }
}

/// Numbers as people write many: `3, 7..=9`.
fn runs(mut numbers: Vec<u64>) -> String {
    numbers.sort_unstable();
    numbers.dedup();
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    let words: Vec<String> = runs
        .filter_map(|run| match run {
            [one] => Some(one.to_string()),
            [first, .., last] => Some(format!("{first}..={last}")),
            [] => None,
        })
        .collect();
    words.join(", ")
}

/// Segments that were sent again in these namespaces, without those that the other side had already.
fn retransmitted(ends: &[Netns]) -> Result<u64> {
    let mut count = 0_u64;
    for end in ends {
        let (snmp, netstat) = end.enter(|| -> io::Result<(String, String)> {
            Ok((
                fs::read_to_string("/proc/thread-self/net/snmp")?,
                fs::read_to_string("/proc/thread-self/net/netstat")?,
            ))
        })??;
        let again = counter(&snmp, "Tcp:", "RetransSegs")?;
        let needless = counter(&netstat, "TcpExt:", "TCPDSACKRecv")?;
        count += again.saturating_sub(needless);
    }
    Ok(count)
}

/// Datagrams that were dropped in these namespaces for full buffers of sockets, when they were received and when they were
/// sent, and packets that were dropped on this machine because a CPU's backlog was full: no policy's doing.
fn overflows(ends: &[Netns]) -> Result<[u64; 3]> {
    let (mut receive, mut send) = (0, 0);
    for end in ends {
        for (file, group) in [("snmp", "Udp:"), ("snmp6", "Udp6")] {
            let path = format!("/proc/thread-self/net/{file}");
            let table = end.enter(|| fs::read_to_string(&path))??;
            let of = |name: &str| match file {
                "snmp" => counter(&table, group, name),
                // A line for each counter.
                _ => Ok(table
                    .lines()
                    .find_map(|line| line.strip_prefix(&format!("{group}{name}")))
                    .and_then(|value| value.trim().parse().ok())
                    .unwrap_or_default()),
            };
            receive += of("RcvbufErrors")?;
            send += of("SndbufErrors")?;
        }
    }
    // A line for each CPU, in hexadecimal: the second number is of drops.
    let softnet = fs::read_to_string("/proc/net/softnet_stat")?;
    let dropped = softnet.lines().filter_map(|line| {
        let word = line.split_whitespace().nth(1)?;
        u64::from_str_radix(word, 16).ok()
    });
    Ok([receive, send, dropped.sum()])
}

/// A number of the two-line tables of `/proc/net`: names above, values below.
fn counter(table: &str, group: &str, name: &str) -> Result<u64> {
    let mut lines = table.lines().filter(|line| line.starts_with(group));
    let (names, values) = lines.next().zip(lines.next()).context("two lines")?;
    let at = names
        .split_whitespace()
        .position(|word| word == name)
        .with_context(|| format!("no {name} in {names}"))?;
    let value = values.split_whitespace().nth(at).context("a value")?;
    value.parse().with_context(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_name() {
        let table = "Ip: Forwarding\nIp: 1\nTcp: ActiveOpens RetransSegs\nTcp: 4 17\n";
        assert_eq!(counter(table, "Tcp:", "RetransSegs").unwrap(), 17);
        assert!(counter(table, "Tcp:", "OutRsts").is_err());
    }

    #[test]
    fn what_did_not_come_is_told_by_number() {
        let seen = Seen::default();
        for number in [0, 2, 5] {
            seen.note(number);
        }
        assert_eq!(seen.of(&(0..7), false), [1, 3, 4, 6]);
        assert_eq!(seen.of(&(1..6), true), [2, 5]);
    }

    #[test]
    fn numbers_that_follow_each_other_are_one_word() {
        assert_eq!(runs(vec![9, 3, 7, 8, 3]), "3, 7..=9");
        assert_eq!(runs(Vec::new()), "");
    }
}
