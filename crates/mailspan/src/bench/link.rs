//! One keep-alive connection to a program of the bench itself. No egress: it would add its own work
//! to what is measured, and the addresses are the bench's.
#![allow(
    clippy::disallowed_methods,
    reason = "it dials only loopback addresses that the bench itself listens at"
)]

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::runtime;

/// Longer than any latency that is worth a figure.
const ANSWER_MS_MAX: u64 = 30_000;

/// Connects at the first request and again after a failure.
pub struct Link {
    address: SocketAddr,
    host: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Link {
    pub fn new(address: SocketAddr) -> Link {
        Link { address, host: address.to_string(), sender: None }
    }

    /// Connects now, so that the first request does not have to.
    pub async fn open(&mut self) -> anyhow::Result<()> {
        let connected =
            runtime::within(ANSWER_MS_MAX, self.connect()).await.context("no connection within 30 s")?;
        self.sender = Some(connected?);
        Ok(())
    }

    pub async fn get(&mut self, path: &str) -> anyhow::Result<(u16, Bytes)> {
        self.send(Method::GET, path, None, Bytes::new()).await
    }

    /// Posts JSON, with one more header where it is given.
    pub async fn post(
        &mut self,
        path: &str,
        more: Option<(&str, &str)>,
        body: Bytes,
    ) -> anyhow::Result<(u16, Bytes)> {
        self.send(Method::POST, path, more, body).await
    }

    /// One request; a body that is not empty is JSON.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        more: Option<(&str, &str)>,
        body: Bytes,
    ) -> anyhow::Result<(u16, Bytes)> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some((name, value)) = more {
            request = request.header(name, value);
        }
        self.exchange(request.body(Full::new(body))?).await
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<(u16, Bytes)> {
        let exchange = async {
            let kept = self.sender.take();
            let mut sender = match kept {
                Some(sender) if !sender.is_closed() => sender,
                _ => self.connect().await?,
            };
            if sender.ready().await.is_err() {
                // The other side closed it while it was idle: nothing was sent.
                sender = self.connect().await?;
                sender.ready().await?;
            }
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes();
            anyhow::Ok((sender, status, body))
        };
        let done = runtime::within(ANSWER_MS_MAX, exchange).await.context("no answer within 30 s")?;
        let (sender, status, body) = done?;
        self.sender = Some(sender);
        Ok((status, body))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream =
            TcpStream::connect(self.address).await.with_context(|| format!("connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        runtime::spawn(async move {
            // Its error reaches us through the request.
            let _ = connection.await;
        });
        Ok(sender)
    }
}
