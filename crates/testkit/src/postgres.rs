//! A throw-away PostgreSQL server: data in a temporary folder, a unix socket, fsync on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Started with the newest binaries that are installed; it ends with the process that started it.
pub struct PostgresServer {
    binaries: PathBuf,
    folder: tempfile::TempDir,
    child: Child,
}

impl PostgresServer {
    pub fn start() -> PostgresServer {
        let binaries = binaries();
        let folder = tempfile::tempdir().unwrap();
        if let Some((uid, gid)) = other_user() {
            let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::chown(folder.path(), Some(owner.0), Some(owner.1)).unwrap();
        }
        let data = folder.path().join("data");
        let made = command(&binaries.join("initdb"))
            .args(["--auth=trust", "--username=hub", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let child = run(&binaries, folder.path());
        let server = PostgresServer { binaries, folder, child };
        server.wait();
        server
    }

    /// A new database; its URL.
    pub fn database(&self, name: &str) -> String {
        let made = Command::new(self.binaries.join("createdb"))
            .arg("-h")
            .arg(self.folder.path())
            .args(["-U", "hub", name])
            .output()
            .unwrap();
        assert!(made.status.success(), "createdb failed: {}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://hub@{}/{name}", self.folder.path().display().to_string().replace('/', "%2F"))
    }

    /// A database as SQL; [`PostgresServer::load`] takes it.
    pub fn dump(&self, name: &str) -> String {
        let words = ["--inserts", "--no-owner", "--no-privileges", "-U", "hub", name];
        let made = Command::new(self.binaries.join("pg_dump"))
            .arg("-h")
            .arg(self.folder.path())
            .args(words)
            .output()
            .unwrap();
        assert!(made.status.success(), "pg_dump failed: {}", String::from_utf8_lossy(&made.stderr));
        // Lines for psql alone, with a word that differs at each dump.
        let text = String::from_utf8(made.stdout).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with('\\')).collect();
        kept.join("\n") + "\n"
    }

    /// Runs a file of SQL in an empty database.
    pub fn load(&self, name: &str, file: &Path) {
        let done = Command::new(self.binaries.join("psql"))
            .arg("-h")
            .arg(self.folder.path())
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "hub", "-d", name, "-f"])
            .arg(file)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(done.status.success(), "psql failed: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// As when the power goes, but for what the kernel holds: killed, and started again on the same data.
    pub fn killed_and_started(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // Its children end when they notice; until then the data is in use.
        loop {
            self.child = run(&self.binaries, self.folder.path());
            std::thread::sleep(Duration::from_millis(200));
            if self.child.try_wait().unwrap().is_none() {
                break;
            }
        }
        self.wait();
    }

    fn wait(&self) {
        for _ in 0..600 {
            let ready = Command::new(self.binaries.join("pg_isready"))
                .arg("-h")
                .arg(self.folder.path())
                .stdout(Stdio::null())
                .status()
                .unwrap();
            if ready.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the throw-away PostgreSQL server did not come up within 30 seconds");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.child.wait();
    }
}

fn run(binaries: &Path, folder: &Path) -> Child {
    command(&binaries.join("postgres"))
        .arg("-D")
        .arg(folder.join("data"))
        .arg("-k")
        .arg(folder)
        .args(["-c", "listen_addresses=", "-c", "fsync=on", "-c", "max_connections=100"])
        .args(["-c", "shared_buffers=64MB", "-c", "log_min_messages=fatal"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// PostgreSQL refuses to run as root: then as another user. It ends with the thread that started it.
fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=QUIT");
    if let Some((uid, gid)) = other_user() {
        command.args([format!("--reuid={uid}"), format!("--regid={gid}")]).arg("--clear-groups");
    }
    command.arg(program).current_dir("/");
    command
}

/// User and group to run the server as, where this is root.
fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let id = |flag: &str, user: &str| -> Option<u32> {
        let out = Command::new("id").args([flag, user]).output().ok()?;
        String::from_utf8(out.stdout).ok()?.trim().parse().ok()
    };
    ["postgres", "nobody"].iter().find_map(|user| Some((id("-u", user)?, id("-g", user)?)))
}

/// The newest that is installed.
fn binaries() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = vec![];
    for entry in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        found.push((version, entry.path().join("bin")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path).map(|folder| (0, folder)));
    found.retain(|(_, folder)| folder.join("initdb").is_file() && folder.join("postgres").is_file());
    found.sort();
    match found.pop() {
        Some((_, folder)) => folder,
        None => panic!(
            "no PostgreSQL server is installed: run `apt-get install postgresql` (15 or newer; initdb and postgres are looked for in /usr/lib/postgresql/*/bin and on PATH)"
        ),
    }
}
