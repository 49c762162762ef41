//! The program under test, as a process in a folder of its own.

use std::cell::RefCell;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Reply, get, post};
use crate::until;

/// A port that nobody listens on just now. It is below those that the system gives to outgoing
/// connections (32,768 and up): a sender that dials a dead hub could get the hub's own port, and would
/// talk to itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() as u16).wrapping_mul(251);
    let ports = (0..).map(|_| 10_000 + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000);
    ports.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// The store that configurations of tests name.
const FILE: &str = "sqlite:hub.db";

thread_local! {
    /// What gives each hub of this thread a store of its own.
    static STORES: RefCell<Option<Box<dyn Fn() -> String>>> = const { RefCell::new(None) };
}

/// From now on the hubs of this thread are on stores of these URLs, wherever their configuration says
/// `sqlite:hub.db`.
pub fn use_stores(url: impl Fn() -> String + 'static) {
    STORES.set(Some(Box::new(url)));
}

/// A hub with its configuration; killed when dropped.
pub struct Hub {
    pub port: u16,
    folder: TempDir,
    binary: PathBuf,
    env: Vec<(String, String)>,
    process: Option<Child>,
    /// Put before the program: a tracer, a library to preload.
    wrapper: Vec<String>,
    words: Vec<String>,
}

impl Hub {
    /// Writes `hub.toml`; `{HUB}` in it becomes the hub's port.
    pub fn new(binary: &str, config: &str, env: &[(&str, &str)]) -> Hub {
        let port = free_port();
        let folder = tempfile::Builder::new().prefix("mailspan-it-").tempdir().unwrap();
        let mut text = config.replace("{HUB}", &port.to_string());
        STORES.with_borrow(|stores| {
            if let Some(stores) = stores.as_ref().filter(|_| text.contains(FILE)) {
                text = text.replace(FILE, &stores());
            }
        });
        std::fs::write(folder.path().join("hub.toml"), text).unwrap();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Hub {
            port,
            folder,
            binary: binary.into(),
            env,
            process: None,
            wrapper: Vec::new(),
            words: Vec::new(),
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A further variable of the environment of what is started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Starts `serve` under a wrapper from now on.
    pub fn wrap(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Further words of the command line of `serve`.
    pub fn serve_with(&mut self, words: &[&str]) {
        self.words = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts `serve` and waits until it is ready.
    pub fn start(&mut self) {
        self.spawn();
        if !self.ready() {
            panic!("serve ended:\n{}", self.log());
        }
    }

    /// Starts `serve` and waits for nothing.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder().join("serve.log")).unwrap();
        let mut words = self.wrapper.clone();
        words.push(self.binary.display().to_string());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(["serve", "--config", "hub.toml"])
            .args(&self.words)
            .current_dir(self.folder())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Waits until the hub is ready; false when it ended before.
    pub fn ready(&mut self) -> bool {
        let port = self.port;
        let look = |hub: &mut Hub| {
            if hub.has_ended() {
                return Some(false);
            }
            get(port, "/readyz").ok().filter(|reply| reply.status == 200).map(|_| true)
        };
        until(30, "the hub does not become ready", || look(self))
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    /// Waits until the process has ended by itself.
    pub fn wait_for_end(&mut self, seconds: u64, text: &str) {
        until(seconds, text, || self.has_ended().then_some(()));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("serve.log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: frozen until [`Hub::thaw`].
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap().success());
    }

    /// SIGTERM; its exit status.
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.process.take().unwrap();
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        until(15, "the hub does not stop", || child.try_wait().unwrap()).code()
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        post(self.port, path, headers, body).unwrap()
    }

    /// A command beside the hub, or without it.
    pub fn run(&self, words: &[&str]) -> Output {
        Command::new(&self.binary)
            .args(words)
            .args(["--config", "hub.toml"])
            .current_dir(self.folder())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// A listing: one object a line.
    pub fn rows(&self, words: &[&str]) -> Vec<Value> {
        let output = self.run(&[words, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", words.join(" "));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- serve.log\n{}", self.log());
        }
    }
}
