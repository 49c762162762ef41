//! A throw-away PostgreSQL server: data in a temporary folder, in memory where there is room, a unix socket, fsync on.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::proxy::Proxy;

/// Where `scripts/postgres` puts the newest server.
const NEWEST: &str = "target/tools/postgres/native/bin";

const LOG: &str = "server.log";

/// A file system in memory: a new database is some hundred files, and no test cuts the power of a server.
const MEMORY: &str = "/dev/shm";
/// What has to be free there.
const MEMORY_BYTES: u64 = 4 << 30;

/// One that ends with the thread that started it.
pub struct PostgresServer {
    binaries: PathBuf,
    folder: tempfile::TempDir,
    settings: Vec<String>,
    child: Child,
}

impl PostgresServer {
    /// The one of this machine's packages (Debian 12: version 15); another by `MAILSPAN_TEST_POSTGRES`, the folder
    /// of its `postgres` and `initdb`.
    pub fn start() -> PostgresServer {
        let chosen = std::env::var_os("MAILSPAN_TEST_POSTGRES").map(PathBuf::from);
        PostgresServer::start_in(chosen.unwrap_or_else(installed), |_| Vec::new())
    }

    /// The newest that can be had.
    pub fn start_newest() -> PostgresServer {
        let binaries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(NEWEST);
        let found = binaries.canonicalize().ok().filter(|folder| folder.join("postgres").is_file());
        let Some(found) = found else {
            panic!("there is no server in {NEWEST}: run scripts/test, which fetches it (or scripts/postgres)")
        };
        PostgresServer::start_in(found, |_| Vec::new())
    }

    /// With TLS, at a TCP port of loopback: [`PostgresServer::tls_url`]. PEM texts.
    pub fn start_tls(certificate: &str, key: &str) -> PostgresServer {
        PostgresServer::start_tls_asking(certificate, key, None)
    }

    /// The same; over TCP it lets in only whose certificate is of this authority and names the user.
    pub fn start_tls_asking(certificate: &str, key: &str, authority: Option<&str>) -> PostgresServer {
        PostgresServer::start_in(installed(), |folder| {
            let (cert, private) = (folder.join("server.crt"), folder.join("server.key"));
            std::fs::write(&cert, certificate).unwrap();
            std::fs::write(&private, key).unwrap();
            std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).unwrap();
            give(&cert);
            give(&private);
            let mut settings = vec![
                "listen_addresses=127.0.0.1".to_owned(),
                format!("port={}", crate::free_port()),
                "ssl=on".to_owned(),
                format!("ssl_cert_file={}", cert.display()),
                format!("ssl_key_file={}", private.display()),
            ];
            if let Some(authority) = authority {
                let (known, rules) = (folder.join("clients.crt"), folder.join("hba.conf"));
                std::fs::write(&known, authority).unwrap();
                std::fs::write(&rules, "local all all trust\nhostssl all all 127.0.0.1/32 cert\n").unwrap();
                give(&known);
                give(&rules);
                settings.push(format!("ssl_ca_file={}", known.display()));
                settings.push(format!("hba_file={}", rules.display()));
            }
            settings
        })
    }

    fn start_in(binaries: PathBuf, settings: impl FnOnce(&Path) -> Vec<String>) -> PostgresServer {
        let folder = if has_memory() { tempfile::tempdir_in(MEMORY) } else { tempfile::tempdir() }.unwrap();
        give(folder.path());
        let made = command(&binaries.join("initdb"))
            .args(["--auth=trust", "--username=hub", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(folder.path().join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let settings = settings(folder.path());
        let child = run(&binaries, folder.path(), &settings);
        let server = PostgresServer { binaries, folder, settings, child };
        server.wait();
        server
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(format!(".s.PGSQL.{}", self.port()))
    }

    fn port(&self) -> &str {
        self.settings.iter().find_map(|setting| setting.strip_prefix("port=")).unwrap_or("5432")
    }

    /// The URL of a database of [`PostgresServer::start_tls`] under a host name of loopback.
    pub fn tls_url(&self, host: &str, database: &str, query: &str) -> String {
        format!("postgres://hub@{host}:{}/{database}?{query}", self.port())
    }

    /// A way to it that can be cut; the URL of a database by that way.
    pub fn behind(&self, proxy: &Proxy, database: &str) -> String {
        format!("postgres://hub@127.0.0.1:{}/{database}", proxy.port)
    }

    /// Its files.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A new database; its URL.
    pub fn database(&self, name: &str) -> String {
        let made = Command::new(installed().join("createdb"))
            .arg("-h")
            .arg(self.folder.path())
            .args(["-p", self.port(), "-U", "hub", name])
            .output()
            .unwrap();
        assert!(made.status.success(), "createdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let host = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://hub@{host}:{}/{name}", self.port())
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
        self.down();
        self.up();
    }

    /// Killed, until [`PostgresServer::up`]: its children end when they notice, and serve until then.
    pub fn down(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let data = self.data();
        crate::until(10, "processes of the server that was killed go on", || {
            (!is_anybodys_folder(&data)).then_some(())
        });
    }

    pub fn up(&mut self) {
        self.start_again();
    }

    /// As an operator restarts it: what is in flight is ended, what is committed is kept.
    pub fn restart(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap();
        self.start_again();
    }

    fn start_again(&mut self) {
        // Its children end when they notice; until then the data is in use.
        loop {
            self.child = run(&self.binaries, self.folder.path(), &self.settings);
            std::thread::sleep(Duration::from_millis(200));
            if self.child.try_wait().unwrap().is_none() {
                break;
            }
        }
        self.wait();
    }

    /// From now on new sessions of this database log each statement.
    pub fn log_statements(&self, database: &str) {
        for setting in ["log_statement = 'all'", "log_min_messages = 'log'"] {
            self.ask("postgres", &format!("ALTER DATABASE {database} SET {setting}"));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(LOG)).unwrap()
    }

    /// What `psql` prints for a statement: rows alone, a line each.
    pub fn ask(&self, database: &str, sql: &str) -> String {
        let asked = Command::new(installed().join("psql"))
            .arg("-h")
            .arg(self.folder.path())
            .args(["-p", self.port()])
            .args(["-U", "hub", "-d", database, "-Atqc", sql])
            .output()
            .unwrap();
        assert!(asked.status.success(), "psql failed: {}", String::from_utf8_lossy(&asked.stderr));
        String::from_utf8(asked.stdout).unwrap()
    }

    fn wait(&self) {
        for _ in 0..600 {
            let ready = Command::new(installed().join("pg_isready"))
                .arg("-h")
                .arg(self.folder.path())
                .args(["-p", self.port()])
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

fn run(binaries: &Path, folder: &Path, settings: &[String]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join(LOG)).unwrap();
    command(&binaries.join("postgres"))
        .arg("-D")
        .arg(folder.join("data"))
        .arg("-k")
        .arg(folder)
        .args(["-c", "listen_addresses=", "-c", "fsync=on", "-c", "max_connections=100"])
        .args(["-c", "shared_buffers=64MB", "-c", "log_min_messages=fatal"])
        .args(settings.iter().flat_map(|setting| ["-c", setting.as_str()]))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A process works in this folder (proc(5)).
fn is_anybodys_folder(folder: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .map(|entry| entry.path().join("cwd"))
        .any(|cwd| std::fs::read_link(cwd).is_ok_and(|at| at == folder))
}

fn has_memory() -> bool {
    rustix::fs::statvfs(MEMORY).is_ok_and(|room| room.f_bavail * room.f_frsize >= MEMORY_BYTES)
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

/// To the user that the server runs as.
fn give(path: &Path) {
    if let Some((uid, gid)) = other_user() {
        let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chown(path, Some(owner.0), Some(owner.1)).unwrap();
    }
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

/// The newest of this machine's packages; its client programs serve every version.
fn installed() -> PathBuf {
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
