//! A fake vendor as a process: `mailspan sandbox …`.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{free_port, get, post, until};

/// A fake vendor; killed when dropped.
pub struct Sandbox {
    pub port: u16,
    process: Child,
}

impl Sandbox {
    /// `mailspan sandbox hubspot` on a port of its own, with further words of the command line.
    pub fn hubspot(binary: &str, token: &str, more: &[&str]) -> Sandbox {
        Sandbox::start(binary, "hubspot", &[&["--token", token], more].concat())
    }

    /// `mailspan sandbox VENDOR` on a port of its own, with further words of the command line.
    pub fn start(binary: &str, vendor: &str, more: &[&str]) -> Sandbox {
        Sandbox::start_at(binary, vendor, free_port(), more)
    }

    /// The same on a port that others know already.
    pub fn start_at(binary: &str, vendor: &str, port: u16, more: &[&str]) -> Sandbox {
        let process = Command::new(binary)
            .args(["sandbox", vendor, "--listen", &format!("127.0.0.1:{port}")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut sandbox = Sandbox { port, process };
        until(20, "the sandbox does not answer", || {
            if let Some(status) = sandbox.process.try_wait().unwrap() {
                panic!("the sandbox ended with {status}");
            }
            get(port, "/_sandbox/state").ok().filter(|reply| reply.status == 200)
        });
        sandbox
    }

    /// Contacts, notes, tasks, statuses, totals and the latest requests.
    pub fn state(&self) -> Value {
        get(self.port, "/_sandbox/state").unwrap().json()
    }

    /// Breaks it, like `server_error=50%`; `none` mends it.
    pub fn faults(&self, text: &str) {
        let reply = post(self.port, "/_sandbox/faults", &[], text.as_bytes()).unwrap();
        assert_eq!(reply.status, 200, "{text}: {}", String::from_utf8_lossy(&reply.body));
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
