//! The fake vendors served: for `demo` and `sandbox`.

pub mod demo;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use mailspan_core::Request;
use mailspan_egress::{Allowance, Egress, Target};
use mailspan_sandbox::mailtarget::{Post, Webhook};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::http::server;
use crate::runtime;

/// Binds and serves a fake until `stop`; the task to run.
pub async fn serve(
    address: SocketAddr,
    router: Router,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("listen on {address}: is another program there? --listen takes another address")
    })?;
    Ok(server::serve(listener, router, server::for_all(), stop, runtime::spawner()))
}

/// Posts webhooks to a URL, through the egress client with that one address allowed.
pub fn poster(url: &str) -> anyhow::Result<Post> {
    let parsed = url::Url::parse(url).with_context(|| format!("`{url}` is no URL"))?;
    let port = parsed.port_or_known_default().unwrap_or(80);
    // Rehearsals go where the user says: any address, this one port.
    let nets = ["0.0.0.0/0", "::/0"].map(|net| net.parse().context("a constant"));
    let mut allow = Vec::new();
    for net in nets {
        allow.push(Allowance { net: net?, port_min: port, port_max: port });
    }
    let egress = Arc::new(Egress::new(allow, runtime::clock()));
    let target = Arc::new(Target {
        key: "sandbox".to_owned(),
        base_url: url.to_owned(),
        concurrency: 64,
        timeout_ms: 10_000,
        ca: None,
        client_certificate: None,
        title_case_headers: false,
    });
    Ok(Arc::new(move |webhook: Webhook| {
        let (egress, target) = (egress.clone(), target.clone());
        let request =
            Request { method: "POST", path: String::new(), headers: webhook.headers, body: webhook.body };
        Box::pin(async move { egress.send(&target, request).await.ok().map(|answer| answer.status) })
    }))
}
