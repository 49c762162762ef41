//! Connects to the vetted addresses, and to nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use mailspan_core::Lost;
use rustix::net::RecvFlags;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use url::Host;

use crate::address::Address;
use crate::trouble::{of_handshake, refused, unsent};

/// What is known of a connection's bytes while others hold the connection itself.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Bytes that the kernel took, TLS included.
    pub written: AtomicU64,
    /// Set before a used connection carries another request: its first write looks first.
    pub look: AtomicBool,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// TCP to the first address that answers. Each gets its share of the time that is left, so that
/// one that swallows packets does not use it all.
pub(crate) async fn connect(
    to: &Address,
    vetted: &[SocketAddr],
    deadline: Instant,
) -> Result<(Socket, Arc<Wire>), Lost> {
    let mut failures = Vec::new();
    for (position, address) in vetted.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(vetted.len() - position).unwrap_or(1);
        #[allow(clippy::disallowed_methods, reason = "the one place that dials, what was judged alone")]
        let dialled = timeout_at(Instant::now() + share, TcpStream::connect(address)).await;
        match dialled {
            Ok(Ok(tcp)) => {
                // Without it a small request may wait 40 ms for an acknowledgement (RFC 896).
                let _ = tcp.set_nodelay(true);
                let wire = Arc::new(Wire::default());
                return Ok((Socket { tcp, wire: wire.clone() }, wire));
            }
            Ok(Err(error)) => failures.push(format!("{address}: {}", plain(&error))),
            Err(_) => failures.push(format!("{address}: no answer in {} ms", share.as_millis())),
        }
    }
    Err(unsent("connect", format!("{}: cannot connect to {}", to.shown(), failures.join(", "))))
}

/// TLS on top, with the URL's host as the name that the certificate must carry; an address is
/// compared with the certificate's addresses, and no name is sent (RFC 6066, 3).
pub(crate) async fn handshake(
    to: &Address,
    socket: Socket,
    config: Arc<ClientConfig>,
) -> Result<Box<dyn Stream>, Lost> {
    let name = match &to.host {
        Host::Ipv4(ip) => ServerName::IpAddress(IpAddr::V4(*ip).into()),
        Host::Ipv6(ip) => ServerName::IpAddress(IpAddr::V6(*ip).into()),
        Host::Domain(name) => ServerName::try_from(name.clone())
            .map_err(|_| refused("bad_url", format!("`{name}` cannot be the name of a certificate")))?,
    };
    match tokio_rustls::TlsConnector::from(config).connect(name, socket).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(of_handshake(&to.shown(), &error)),
    }
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "connection refused; is the receiver running on that port?".to_owned()
        }
        _ => error.to_string(),
    }
}

/// TCP that counts what was written, so that «nothing was sent» is known and not guessed.
pub(crate) struct Socket {
    tcp: TcpStream,
    wire: Arc<Wire>,
}

impl Socket {
    /// A receiver that closes idle connections has left an end of file (or a TLS goodbye, or a 408) in
    /// the kernel. It is looked for at the last moment, past tokio's knowledge of the socket: then no
    /// byte of this request has left, and it may safely take another connection.
    fn look(&self) -> io::Result<()> {
        if !self.wire.look.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let mut byte = [0_u8; 1];
        match rustix::net::recv(&self.tcp, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the receiver had closed it")),
        }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.wire.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.look()?;
        let written = Pin::new(&mut this.tcp).poll_write(cx, buf);
        this.count(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.look()?;
        let written = Pin::new(&mut this.tcp).poll_write_vectored(cx, bufs);
        this.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
