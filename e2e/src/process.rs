//! Child processes that end with their guard.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{Seek, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    trace::{Trace, follow, stopped},
    wait,
};

/// Where Debian keeps what is not on a user's path.
const EXTRA_PATH: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The program's file, on the path or where Debian keeps daemons.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(EXTRA_PATH.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// A command for `name`, found by [`find_program`] if it can be.
pub fn command(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| name.into()))
}

/// One of the workspace's binaries: from `OXILIUM_BIN_DIR`, else from the directory that this test was built into.
///
/// # Errors
/// If the running program's own path is not known.
pub fn built_binary(name: &str) -> Result<PathBuf> {
    if let Some(directory) = env::var_os("OXILIUM_BIN_DIR") {
        return Ok(Path::new(&directory).join(name));
    }
    let this = env::current_exe().context("the path of the running program")?;
    let mut directory = this.parent().context("a program lies in a directory")?;
    if directory.file_name() == Some(OsStr::new("deps")) {
        directory = directory.parent().context("deps lies in a directory")?;
    }
    Ok(directory.join(name))
}

/// Runs to the end and returns the output.
///
/// # Errors
/// If it cannot be started or its status is not 0: with the command line and what it wrote to stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    text_of(command, &output)
}

/// Runs to the end with `input` to read, and returns the output.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    // A file, since a pipe that nobody reads yet would block the writer.
    let mut file = tempfile::tempfile().context("a temporary file")?;
    file.write_all(input.as_bytes())?;
    file.rewind()?;
    let output = command
        .stdin(file)
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    text_of(command, &output)
}

fn text_of(command: &Command, output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end, whatever its status.
///
/// # Errors
/// If it cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))
}

/// A process that is killed when this is dropped. Its output goes to a file.
#[derive(Debug)]
pub struct Process {
    body: Body,
    name: String,
    log: PathBuf,
}

#[derive(Debug)]
enum Body {
    Child(Child),
    /// Its tracer alone may wait for it.
    Traced {
        id: u32,
        trace: Trace,
    },
}

impl Body {
    fn id(&self) -> u32 {
        match self {
            Self::Child(child) => child.id(),
            Self::Traced { id, .. } => *id,
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match self {
            Self::Child(child) => Ok(child.try_wait()?),
            Self::Traced { trace, .. } => trace.ended(),
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.id())?), signal)?)
    }

    /// SIGKILL, and waits until it is gone.
    fn crash(&mut self) -> Result<()> {
        match self {
            Self::Child(child) => {
                child.kill()?;
                child.wait()?;
                Ok(())
            }
            Self::Traced { trace, .. } => {
                if trace.ended()?.is_some() {
                    return Ok(());
                }
                // Between the question and now it may have ended; then its tracer says so.
                match self.signal(Signal::SIGKILL) {
                    Err(error) if error.downcast_ref::<Errno>() != Some(&Errno::ESRCH) => {
                        return Err(error);
                    }
                    _ => {}
                }
                wait::until("a killed process is gone", wait::LONG, || {
                    Ok(self.ended()?.map(drop))
                })
            }
        }
    }
}

fn output_to(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    Ok(())
}

impl Process {
    /// Starts `command` in the caller's namespaces; stdout and stderr are appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be opened or the program not started.
    pub fn spawn(name: &str, command: &mut Command, log: PathBuf) -> Result<Self> {
        output_to(command, &log)?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self {
            body: Body::Child(child),
            name: name.to_owned(),
            log,
        })
    }

    /// As [`Process::spawn`], with every write seen; `trace` may be told before when it is to die.
    ///
    /// # Errors
    /// As for [`Process::spawn`], or if it may not be traced.
    pub fn spawn_traced(name: &str, command: &Command, log: PathBuf, trace: Trace) -> Result<Self> {
        let mut command = stopped(command)?;
        output_to(&mut command, &log)?;
        let (started, told) = channel();
        let followed = trace.clone();
        // A thread of its own: only the thread that traces may ask, and it is in the caller's namespaces.
        thread::Builder::new()
            .name(format!("trace {name}"))
            .spawn(move || follow(command, &followed, &started))?;
        let id = told.recv().context("the tracer ended")??;
        Ok(Self {
            body: Body::Traced { id, trace },
            name: name.to_owned(),
            log,
        })
    }

    /// The process id, for evidence from outside (`/proc`, strace).
    pub fn pid(&self) -> u32 {
        self.body.id()
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|e| format!("({}: {e})", self.log.display()))
    }

    /// The exit status if it has ended.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.body.ended()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If it still runs after `limit`: with its log.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        let body = &mut self.body;
        wait::until(&what, limit, || body.ended()).with_context(|| self.log())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has already been waited for, or the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.body
            .signal(signal)
            .with_context(|| format!("{signal} to {}", self.name))
    }

    /// Kills it at once (SIGKILL) and waits: a crash.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn crash(&mut self) -> Result<()> {
        self.body.crash()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing can be done about a process that is gone already.
        drop(self.body.crash());
    }
}
