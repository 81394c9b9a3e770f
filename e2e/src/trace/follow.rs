//! The thread that follows a process from one system call to the next.

use std::{
    collections::HashMap,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
    sync::mpsc::Sender,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    Trace,
    call::{self, Meaning, Process},
};
use crate::process::built_binary;

/// The program's file.
const TRACED: &str = "oxilium-e2e-traced";

/// What a thread is in the middle of.
struct Pending {
    meaning: Meaning,
    number: Option<usize>,
    /// The process dies when it is over.
    last: bool,
}

struct Follower {
    trace: Trace,
    id: Pid,
    process: Process,
    /// By thread: the call that it is in.
    pending: HashMap<Pid, Pending>,
}

/// Starts `command` and follows it to its end. To be run on a thread of its own: a tracer is a thread.
pub(crate) fn follow(mut command: Command, trace: &Trace, started: &Sender<Result<u32>>) {
    let id = match start(&mut command) {
        Ok(id) => id,
        Err(error) => {
            // Who waits for it is told, or is gone.
            drop(started.send(Err(error)));
            return;
        }
    };
    drop(started.send(Ok(id.as_raw().cast_unsigned())));
    let mut follower = Follower {
        trace: trace.clone(),
        id,
        process: Process::new(id),
        pending: HashMap::new(),
    };
    if let Err(error) = follower.run() {
        trace.state().problem = Some(format!("{error:#}"));
        // Untraced it may not go on: nobody would see what it does. It may be gone.
        kill(id, Signal::SIGKILL).ok();
    }
}

/// `command`, run by the program that stops before it begins, so that not one of its calls is missed, and that has the
/// kernel stop it at the calls that matter and at no others.
pub(crate) fn stopped(command: &Command) -> Result<Command> {
    let mut traced = Command::new(built_binary(TRACED)?);
    traced.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    Ok(traced)
}

fn start(command: &mut Command) -> Result<Pid> {
    // Waited for by the loop below and by nobody else.
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let id = Pid::from_raw(i32::try_from(child.id())?);
    match waitpid(id, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::__WNOTHREAD))? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
        other => bail!("it did not wait to be traced: {other:?}"),
    }
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(id, options).context("ptrace")?;
    kill(id, Signal::SIGCONT)?;
    Ok(id)
}

impl Follower {
    fn run(&mut self) -> Result<()> {
        loop {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let status = match waitpid(Pid::from_raw(-1), Some(flags)) {
                Err(Errno::EINTR) => continue,
                status => status.context("wait for the next call")?,
            };
            match status {
                WaitStatus::Exited(id, code) if id == self.id => {
                    self.trace.state().ended = Some(ExitStatus::from_raw(code << 8));
                    return Ok(());
                }
                WaitStatus::Signaled(id, signal, _) if id == self.id => {
                    self.trace.state().ended = Some(ExitStatus::from_raw(signal as i32));
                    return Ok(());
                }
                WaitStatus::Exited(id, _) | WaitStatus::Signaled(id, ..) => {
                    self.pending.remove(&id);
                }
                WaitStatus::PtraceEvent(id, _, libc::PTRACE_EVENT_SECCOMP) => {
                    alive(self.entered(id))?;
                    self.resume(id, None)?;
                }
                WaitStatus::PtraceSyscall(id) => {
                    alive(self.left(id))?;
                    self.resume(id, None)?;
                }
                WaitStatus::PtraceEvent(id, _, event) => {
                    if event == libc::PTRACE_EVENT_EXEC {
                        self.process.executed();
                    }
                    self.resume(id, None)?;
                }
                WaitStatus::Stopped(id, signal) => self.resume(id, Some(signal))?,
                WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
            }
        }
    }

    /// A thread goes on: to the end of the call that it is in, if what becomes of it matters.
    fn resume(&self, thread: Pid, signal: Option<Signal>) -> Result<()> {
        let result = if self.pending.contains_key(&thread) {
            ptrace::syscall(thread, signal)
        } else {
            ptrace::cont(thread, signal)
        };
        alive(result.context("go on"))
    }

    fn entered(&mut self, thread: Pid) -> Result<()> {
        let call = call::entered(thread)?;
        let meaning = self
            .process
            .meaning(&call)
            .with_context(|| format!("call {}", call.number))?;
        let (mut number, mut last) = (None, false);
        if let Some(site) = &meaning.site {
            last = self.trace.dies_after(site);
            let (begun, dies) = self.trace.begins(site);
            if dies {
                // Dead in this stop, it never makes the call.
                kill(self.id, Signal::SIGKILL)?;
                return Ok(());
            }
            if let Some(errno) = self.trace.is_refused(site) {
                call::refuse(thread, errno).context("refuse a call")?;
            }
            number = Some(begun);
        }
        if number.is_some() || meaning.names.is_some() {
            let pending = Pending {
                meaning,
                number,
                last,
            };
            self.pending.insert(thread, pending);
        }
        Ok(())
    }

    fn left(&mut self, thread: Pid) -> Result<()> {
        let Some(pending) = self.pending.remove(&thread) else {
            return Ok(());
        };
        let result = call::returned(thread)?;
        if let Some(number) = pending.number
            && self.trace.is_over(number, result, pending.last)
        {
            kill(self.id, Signal::SIGKILL)?;
            return Ok(());
        }
        if let Some(named) = pending.meaning.names
            && result >= 0
        {
            self.process.name(result, named);
        }
        Ok(())
    }
}

/// A thread may die by SIGKILL whenever something is asked of it: that is told by the next wait.
fn alive(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.root_cause().downcast_ref::<Errno>() == Some(&Errno::ESRCH) => Ok(()),
        Err(error)
            if error
                .root_cause()
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::raw_os_error)
                == Some(libc::ESRCH) =>
        {
            Ok(())
        }
        result => result,
    }
}
