//! A name server whose answers change: for names that point elsewhere after they were judged.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

type Answering = Box<dyn FnMut(usize) -> Vec<Ipv4Addr> + Send>;

struct Shared {
    asked: usize,
    answer: Answering,
}

/// Answers every question for an IPv4 address of any name, with a lifetime of nothing (RFC 1035).
pub struct Dns {
    pub address: Ipv4Addr,
    shared: Arc<Mutex<Shared>>,
}

impl Dns {
    /// On port 53 of an address of loopback, as the resolver of the C library knows no other port. Nothing where this
    /// user may not listen there, or may not give a process a `resolv.conf` of its own.
    pub fn start() -> Option<Dns> {
        let may_mount = std::process::Command::new("unshare").args(["-m", "true"]).status();
        if !may_mount.is_ok_and(|status| status.success()) {
            return None;
        }
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high, low.max(2));
        let socket = UdpSocket::bind((address, 53)).ok()?;
        let answer: Answering = Box::new(|_| Vec::new());
        let shared = Arc::new(Mutex::new(Shared { asked: 0, answer }));
        let serving = shared.clone();
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((size, from)) = socket.recv_from(&mut question) {
                if let Some(answer) = reply(&question[..size], &serving) {
                    // Whoever asked may have gone.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Some(Dns { address, shared })
    }

    /// From now on answers so; the closure gets how many such questions there were before.
    pub fn answer(&self, answer: impl FnMut(usize) -> Vec<Ipv4Addr> + Send + 'static) {
        let mut shared = self.shared.lock().unwrap();
        (shared.asked, shared.answer) = (0, Box::new(answer));
    }

    /// Questions for an IPv4 address since [`Dns::answer`] was last called.
    pub fn asked(&self) -> usize {
        self.shared.lock().unwrap().asked
    }

    /// Words before a program that make it ask this server. Its file is put into `folder`.
    pub fn wrapper(&self, folder: &Path) -> Vec<String> {
        let file: PathBuf = folder.join("resolv.conf");
        std::fs::write(&file, format!("nameserver {}\noptions timeout:2\n", self.address)).unwrap();
        let script = format!("mount --bind '{}' /etc/resolv.conf && exec \"$@\"", file.display());
        ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }
}

/// The header of the question with other flags, the question, and an `A` for each address.
fn reply(question: &[u8], shared: &Mutex<Shared>) -> Option<Vec<u8>> {
    let mut end = 12;
    while *question.get(end)? != 0 {
        end += 1 + usize::from(*question.get(end)?);
    }
    let kind = question.get(end + 1..end + 3)?;
    let addresses = if kind == [0, 1] {
        let mut shared = shared.lock().unwrap();
        shared.asked += 1;
        let before = shared.asked - 1;
        (shared.answer)(before)
    } else {
        Vec::new()
    };
    let count = u8::try_from(addresses.len()).ok()?;
    let mut bytes = question[..2].to_vec();
    bytes.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    bytes.extend(question.get(12..end + 5)?);
    for address in addresses {
        // The name of the question, `A`, `IN`, 0 s, four bytes.
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        bytes.extend(address.octets());
    }
    Some(bytes)
}
