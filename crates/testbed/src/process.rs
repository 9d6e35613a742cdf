//! Long-running programs: started, recorded in the state file, ended by pid.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::paths;
use crate::procfs::Identity;
use crate::state::{Entry, StateFile};

/// What to run, and where its output goes.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    /// Program and arguments; a program without a slash is looked up in the
    /// tools' directory, then in the system's.
    pub(crate) command: Vec<String>,
    pub(crate) log: PathBuf,
}

/// A program that can be ended and started again. Ended when dropped, and by the kernel when
/// this process ends in any way.
#[derive(Debug)]
pub(crate) struct Process {
    program: Program,
    state: Arc<StateFile>,
    child: Mutex<Option<Child>>,
}

impl Process {
    pub(crate) fn start_new(program: Program, state: &Arc<StateFile>) -> Result<Self> {
        let process = Self { program, state: Arc::clone(state), child: Mutex::new(None) };
        process.start()?;
        Ok(process)
    }

    pub(crate) fn name(&self) -> &str {
        &self.program.name
    }

    /// Starts the program; nothing happens if it runs.
    pub(crate) fn start(&self) -> Result<()> {
        let mut child = self.child();
        if let Some(child) = child.as_mut()
            && child.try_wait()?.is_none()
        {
            return Ok(());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.program.log)
            .with_context(|| self.program.log.display().to_string())?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .args(&self.program.command)
            // No proxy settings, no credentials: nothing of the caller's environment.
            .env_clear()
            .env("PATH", search_path())
            // A group of its own: Ctrl-C is for this process, which ends it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = spawn(command).with_context(|| format!("start {}", self.program.name))?;
        if let Some(identity) = Identity::of(started.id()) {
            self.state.add(&Entry::Process(identity))?;
        }
        *child = Some(started);
        Ok(())
    }

    /// Ends the program at once and waits for it; nothing happens if it does not run.
    pub(crate) fn kill(&self) -> Result<()> {
        if let Some(mut child) = self.child().take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        send(self.pid()?, signal).with_context(|| format!("signal {}", self.program.name))
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        let child = self.child();
        let child = child.as_ref();
        Ok(child.ok_or_else(|| anyhow!("{} does not run", self.program.name))?.id())
    }

    /// Fails with the end of the log if the program has ended by itself.
    pub(crate) fn check(&self) -> Result<()> {
        let ended = match self.child().as_mut() {
            Some(child) => child.try_wait()?,
            None => bail!("{} does not run", self.program.name),
        };
        let Some(status) = ended else {
            return Ok(());
        };
        let log = fs::read_to_string(&self.program.log).unwrap_or_default();
        let mut end: Vec<&str> = log.lines().rev().take(10).collect();
        end.reverse();
        bail!(
            "{} ended with {status}; the end of {}:\n{}",
            self.program.name,
            self.program.log.display(),
            end.join("\n")
        );
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell; the next start cleans up what stays.
        let _ = self.kill();
    }
}

/// Sends a signal to one process.
pub(crate) fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.context("not a pid")?, signal)?;
    Ok(())
}

/// The tools first, then the system's directories, also those that only root usually searches.
pub(crate) fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    let bin = paths::bin();
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin:{own}", bin.display())
}

/// Starts a child from a thread that lives as long as this process: the kernel sends the
/// parent-death signal when the *thread* that started the child ends, and a test's thread ends
/// long before a cluster that others go on using.
fn spawn(command: Command) -> io::Result<Child> {
    type Job = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in jobs {
                // The caller waits for the reply; it cannot have gone.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, answer) = channel();
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    spawner.send((command, reply)).map_err(|_| io::Error::other("the thread that starts processes is gone"))?;
    answer.recv().map_err(gone)?
}
