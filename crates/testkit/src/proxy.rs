//! A way to a server that can be cut: TCP on loopback in front of a unix socket.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Serves until the process ends.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: PathBuf,
    /// Bytes are held back, both ways, as where a cable is pulled.
    silent: AtomicBool,
    /// Raised by each cut: older connections end.
    cuts: AtomicU64,
    open: Mutex<Vec<(TcpStream, UnixStream)>>,
}

impl Proxy {
    /// In front of the socket at `upstream`.
    pub fn start(upstream: PathBuf) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            upstream,
            silent: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
        });
        let proxy = Proxy { port, shared };
        let serving = proxy.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serving.join(stream);
            }
        });
        proxy
    }

    /// Ends all connections; new ones are let through.
    pub fn cut(&self) {
        self.shared.cuts.fetch_add(1, Ordering::SeqCst);
        for (client, server) in self.shared.open.lock().unwrap().drain(..) {
            // Either may be gone already.
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// Connections stay, but nothing gets through until [`Proxy::speak`]; then what was held back does.
    pub fn silence(&self) {
        self.shared.silent.store(true, Ordering::SeqCst);
    }

    pub fn speak(&self) {
        self.shared.silent.store(false, Ordering::SeqCst);
    }

    fn join(&self, client: TcpStream) {
        // The server may be away: then the client sees its connection end.
        let Ok(server) = UnixStream::connect(&self.shared.upstream) else { return };
        client.set_nodelay(true).unwrap();
        let (to_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        self.shared.open.lock().unwrap().push((client.try_clone().unwrap(), server.try_clone().unwrap()));
        let (up, down) = (self.shared.clone(), self.shared.clone());
        std::thread::spawn(move || pump(&up, client, to_server));
        std::thread::spawn(move || pump(&down, server, to_client));
    }
}

fn pump(shared: &Shared, mut from: impl Read, mut to: impl Write + Ends) {
    let cuts = shared.cuts.load(Ordering::SeqCst);
    let mut buffer = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        while shared.silent.load(Ordering::SeqCst) && shared.cuts.load(Ordering::SeqCst) == cuts {
            std::thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    to.end();
}

trait Ends {
    fn end(&self);
}

impl Ends for TcpStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Ends for UnixStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}
