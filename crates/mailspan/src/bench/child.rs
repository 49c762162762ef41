//! Programs that the bench starts: this binary again, as a hub or as a floor.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::link::Link;
use crate::runtime;

/// The very file that runs, also where a build has put another in its place since (proc_pid_exe(5)).
const THIS_PROGRAM: &str = "/proc/self/exe";
const READY_MS_MAX: u64 = 30_000;
const LOOK_MS: u64 = 20;
/// A hub drains for at most eight seconds.
const STOP_MS_MAX: u64 = 12_000;
/// What is shown of a log when its program did not start.
const LOG_BYTES_SHOWN: usize = 2_000;

/// A running program; killed where it is dropped before [`Child::stop`].
pub struct Child {
    process: tokio::process::Child,
    pub pid: u32,
    log: PathBuf,
}

/// Starts this binary with arguments. It sees no environment: a variable of the user's must not
/// change what is measured. What it logs goes to a file of the folder.
pub fn start(folder: &Path, args: &[&OsStr]) -> anyhow::Result<Child> {
    let log = folder.join("log");
    let file = std::fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let mut command = tokio::process::Command::new(THIS_PROGRAM);
    command.arg0("mailspan").args(args).env_clear().current_dir(folder).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let process = command.spawn().context("start this program again")?;
    let pid = process.id().context("it ended at once")?;
    Ok(Child { process, pid, log })
}

/// An address of this machine with a port that nobody uses now.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?)
}

impl Child {
    /// Waits until `GET path` is answered 200.
    pub async fn ready(&mut self, address: SocketAddr, path: &str) -> anyhow::Result<()> {
        let began = runtime::instant();
        while began.elapsed().as_millis() < u128::from(READY_MS_MAX) {
            if let Some(status) = self.process.try_wait()? {
                bail!("a program of the bench ended at its start ({status}):\n{}", self.logged());
            }
            if let Ok((200, _)) = Link::new(address).get(path).await {
                return Ok(());
            }
            runtime::sleep(LOOK_MS).await;
        }
        bail!("a program of the bench was not ready after {READY_MS_MAX} ms:\n{}", self.logged())
    }

    fn logged(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(LOG_BYTES_SHOWN);
        text.get(text.ceil_char_boundary(from)..).unwrap_or_default().to_owned()
    }

    /// SIGTERM, then SIGKILL where that does not help.
    pub async fn stop(mut self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // It may have ended by itself.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        if runtime::within(STOP_MS_MAX, self.process.wait()).await.is_none() {
            let _ = self.process.kill().await;
        }
    }
}
