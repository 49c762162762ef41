//! A client of the hub's own API: through the socket beside the store, or in process when no hub runs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use mailspan_store::OpenError;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tower::ServiceExt;

use super::Common;
use crate::app::{App, Live};
use crate::config;
use crate::http::auth::FromSocket;
use crate::http::router;
use crate::hub::Storage;
use crate::open::{self, Opened};
use crate::runtime;

/// A hub that starts holds its lock before its socket is there: so many looks, 100 ms apart.
const LOOKS_MAX: usize = 50;
const LOOK_MS: u64 = 100;

pub struct Client {
    way: Way,
    /// Whose rows; nothing: the default tenant's, or all.
    tenant: Option<String>,
}

enum Way {
    Socket(std::path::PathBuf),
    InProcess { router: Router, opened: Opened, _stop: watch::Sender<bool> },
}

impl Client {
    /// Connects to the hub of the configuration, or opens its store.
    pub async fn open(common: &Common) -> anyhow::Result<Client> {
        let hub = match super::load(common) {
            Ok(hub) => hub,
            Err(problems) => return Client::of_running(common).await.ok_or(problems),
        };
        for _ in 0..LOOKS_MAX {
            match open::store(&hub.storage, &hub.store_keys, hub.intake_queue).await {
                Ok(opened) => return Client::in_process(hub, opened).await,
                Err(OpenError::Held(holder)) => {
                    let socket = holder.socket.unwrap_or_else(|| socket_of(&hub.storage));
                    if UnixStream::connect(&socket).await.is_ok() {
                        return Ok(Client::at_socket(socket));
                    }
                    tracing::debug!(holder.pid, "the store is held and the socket is not there yet");
                    runtime::sleep(LOOK_MS).await;
                }
                Err(error) => return Err(error).context("open the store"),
            }
        }
        bail!("the store is held by a process that answers no commands: is another command at work?")
    }

    /// Of a hub that runs on with an earlier text of a configuration that is wrong by now.
    async fn of_running(common: &Common) -> Option<Client> {
        let path = super::with_options(common, |options| config::sqlite_file(&common.config, options))?;
        let socket = open::socket_path(&path);
        UnixStream::connect(&socket).await.ok()?;
        tracing::warn!(
            "{} is not right (`mailspan check` says why): the running hub is asked, which has an earlier text",
            common.config.display()
        );
        Some(Client::at_socket(socket))
    }

    async fn in_process(hub: crate::hub::Hub, opened: Opened) -> anyhow::Result<Client> {
        let (stop, stopped) = watch::channel(false);
        let live = Live::new(hub, &opened.store).await.context("register names in the store")?;
        let app = App::new(live, opened.store.clone(), None, stopped);
        let router = router::all(app).layer(axum::Extension(FromSocket));
        Ok(Client { way: Way::InProcess { router, opened, _stop: stop }, tenant: None })
    }

    /// Of a hub that serves.
    pub fn at_socket(socket: std::path::PathBuf) -> Client {
        Client { way: Way::Socket(socket), tenant: None }
    }

    /// The same client, for the rows of one tenant.
    pub fn for_tenant(self, tenant: &str) -> Client {
        Client { tenant: Some(tenant.to_owned()), ..self }
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// A body that is sent to the letter.
    pub async fn post_text(&self, path: &str, body: String) -> anyhow::Result<Value> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// True where no hub runs: the store is ours.
    pub fn is_in_process(&self) -> bool {
        matches!(self.way, Way::InProcess { .. })
    }

    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None).await
    }

    /// The answer's JSON, or its problem as an error.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.send(method, path, body.map(Value::to_string)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<String>) -> anyhow::Result<Value> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "mailspan");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("x-tenant-id", tenant);
        }
        let bytes = body.unwrap_or_default();
        let (status, answer) = match &self.way {
            Way::Socket(socket) => over_socket(socket, request.body(Full::new(Bytes::from(bytes)))?).await?,
            Way::InProcess { router, .. } => {
                let response = router.clone().oneshot(request.body(Body::from(bytes))?).await?;
                let status = response.status();
                (status, response.into_body().collect().await?.to_bytes())
            }
        };
        let value: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(value);
        }
        let detail =
            value["detail"].as_str().map_or_else(|| format!("the hub answered {status}"), str::to_owned);
        Err(anyhow!(detail))
    }

    /// Ends an in-process store properly.
    pub async fn close(self) {
        if let Way::InProcess { router, opened, .. } = self.way {
            drop(router);
            opened.close(crate::open::CLOSE_MS_MAX).await;
        }
    }
}

fn socket_of(storage: &Storage) -> std::path::PathBuf {
    match storage {
        Storage::Sqlite { path } => open::socket_path(path),
        Storage::Postgres { .. } => std::path::PathBuf::new(),
    }
}

async fn over_socket(socket: &Path, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream =
        UnixStream::connect(socket).await.with_context(|| format!("connect to {}", socket.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    runtime::spawn(async move {
        // Its error reaches us through the request.
        let _ = connection.await;
    });
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    let patience = Duration::from_secs(60);
    runtime::within(patience.as_millis() as u64, exchange)
        .await
        .context("the hub did not answer within a minute")?
}
