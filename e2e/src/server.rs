//! Servers in namespaces: real nginx, and small ones in this process for what needs to be watched closely.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket;

use crate::{
    netns::Netns,
    pod::Pod,
    process::{Process, command},
    wait,
};

/// Starts nginx in the pod, on both families, on each of `ports`; returns when all of them accept.
///
/// # Errors
/// If it does not start; with its log.
pub fn nginx(pod: &Pod, ports: &[u16]) -> Result<Process> {
    let root = pod.files.join("nginx");
    fs::create_dir_all(&root)?;
    fs::write(root.join("index.html"), format!("{}\n", pod.name()))?;
    let listen: Vec<String> = ports
        .iter()
        .map(|port| format!("    listen {port};\n    listen [::]:{port};\n"))
        .collect();
    let listen = listen.concat();
    let place = root.display();
    let config = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\nevents {{}}\nhttp {{\n  \
         access_log off;\n  client_body_temp_path {place}/body;\n  proxy_temp_path {place}/proxy;\n  \
         fastcgi_temp_path {place}/fastcgi;\n  uwsgi_temp_path {place}/uwsgi;\n  scgi_temp_path {place}/scgi;\n  \
         server {{\n{listen}    root {place};\n  }}\n}}\n"
    );
    let file = root.join("nginx.conf");
    fs::write(&file, config)?;
    let mut start = command("nginx");
    start
        .arg("-c")
        .arg(&file)
        .arg("-p")
        .arg(&root)
        .arg("-e")
        .arg(root.join("error.log"));
    let mut process = pod
        .netns
        .enter(|| Process::spawn("nginx", &mut start, root.join("output.log")))??;
    for port in ports {
        let address = SocketAddr::from((IpAddr::from(Ipv6Addr::LOCALHOST), *port));
        wait::until(&format!("nginx listens on {port}"), wait::LONG, || {
            if let Some(status) = process.ended()? {
                anyhow::bail!("nginx ended: {status}: {}", process.log());
            }
            let tried = pod.netns.enter(|| TcpStream::connect(address))?;
            Ok(tried.is_ok().then_some(()))
        })?;
    }
    Ok(process)
}

/// A TCP server in this process. Each connection is handed to a thread; dropping the server ends them all.
#[derive(Debug)]
pub struct TcpServer {
    listener: TcpListener,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl TcpServer {
    /// Sends back what it gets.
    ///
    /// # Errors
    /// If the port cannot be bound in the namespace.
    pub fn echo(netns: &Netns, port: u16) -> Result<Self> {
        Self::start(netns, port, |mut stream, _, _| {
            let mut buffer = [0; 4096];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => stream.write_all(&buffer[..count])?,
                }
            }
        })
    }

    /// Sends without end to whoever connects.
    ///
    /// # Errors
    /// If the port cannot be bound in the namespace.
    pub fn download(netns: &Netns, port: u16) -> Result<Self> {
        Self::start(netns, port, |mut stream, stop, sent| {
            stream.set_write_timeout(Some(Duration::from_millis(100)))?;
            let block = [b'o'; 1024];
            while !stop.load(Ordering::Relaxed) {
                match stream.write(&block) {
                    Ok(count) => {
                        sent.fetch_add(count as u64, Ordering::Relaxed);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        })
    }

    fn start(
        netns: &Netns,
        port: u16,
        serve: fn(TcpStream, &AtomicBool, &AtomicU64) -> io::Result<()>,
    ) -> Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = netns
            .enter(|| TcpListener::bind(any))?
            .with_context(|| format!("TCP port {port} in {}", netns.name()))?;
        let this = Self {
            listener,
            stop: Arc::default(),
            sent: Arc::default(),
        };
        let accepting = this.listener.try_clone()?;
        let (stop, sent) = (Arc::clone(&this.stop), Arc::clone(&this.sent));
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
                // A peer that resets the connection ends it; there is nobody to tell.
                thread::spawn(move || drop(serve(stream, &stop, &sent)));
            }
        });
        Ok(this)
    }

    /// How many bytes the kernel has taken from the server.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then finds its socket closed.
        socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both).ok();
    }
}

/// A UDP server that sends back what it gets.
#[derive(Debug)]
pub struct UdpEcho {
    stop: Arc<AtomicBool>,
}

impl UdpEcho {
    /// Starts it on `address`, an address of the namespace (not the wildcard: its answers must come from where they were
    /// asked).
    ///
    /// # Errors
    /// If the port cannot be bound in the namespace.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let socket = netns
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| format!("UDP {address} in {}", netns.name()))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let this = Self {
            stop: Arc::default(),
        };
        let stop = Arc::clone(&this.stop);
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((count, from)) = socket.recv_from(&mut buffer) {
                    // A refused answer shows at the client.
                    drop(socket.send_to(&buffer[..count], from));
                }
            }
        });
        Ok(this)
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A TCP connection from a namespace.
///
/// # Errors
/// The socket's own: `TimedOut` when nobody answers, `ConnectionRefused` for an RST.
pub fn connect(netns: &Netns, address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    netns
        .enter(|| TcpStream::connect_timeout(&address, limit))
        .map_err(io::Error::other)?
}

/// Ends a connection at once, both ways; one that is gone already is fine.
pub fn hang_up(stream: &TcpStream) {
    drop(stream.shutdown(Shutdown::Both));
}
