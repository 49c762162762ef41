//! `mailspan events` and `mailspan explain`.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use mailspan_core::{Answer, RawRequest, Request};
use mailspan_egress::{Allowance, Egress, Target};
use serde_json::Value;

use super::client::Client;
use super::deliveries::{pages, segment};
use super::{Common, table};
use crate::hub::{Access, Hub, Source};
use crate::runtime;

#[derive(Debug, Subcommand)]
pub enum Events {
    /// List events, the newest first
    List {
        #[arg(long)]
        source: Option<String>,
        #[arg(long = "type")]
        event_type: Option<String>,
        /// An address or external id
        #[arg(long)]
        subject: Option<String>,
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one event to the letter, with the raw request that it came in
    Show { id: String },
    /// Sign a sample with the source's secret and send it through the front door
    Send(Send),
}

#[derive(Debug, Args)]
pub struct Send {
    /// A source of the configuration
    source: String,
    /// The body to send; `-` reads standard input; without it a sample of the source's kind
    file: Option<PathBuf>,
    /// An API key of scope events:write, for a source of kind api
    #[arg(long, env = "MAILSPAN_API_KEY", hide_env_values = true)]
    key: Option<String>,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// An event's id
    event: String,
}

pub async fn run(common: &Common, command: Events) -> anyhow::Result<ExitCode> {
    match command {
        Events::List { source, event_type, subject, limit } => {
            let given = [("source", &source), ("type", &event_type), ("subject", &subject)];
            let query: Vec<(&str, &str)> = given
                .iter()
                .filter_map(|(name, value)| value.as_deref().map(|value| (*name, value)))
                .collect();
            let items = pages(common, "/v1/events", &query, limit).await?;
            let columns = ["id", "received_at", "source", "type", "subject", "place", "deliveries"];
            let none = if query.is_empty() { "no event has arrived yet" } else { "no such event" };
            table::rows(common, &columns, &items, none);
        }
        Events::Show { id } => {
            table::one(common, &get(common, &format!("/v1/events/{}", segment(&id))).await?)
        }
        Events::Send(send) => return send_sample(common, send).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(common: &Common, path: &str) -> anyhow::Result<Value> {
    let client = Client::open(common).await?;
    let answer = client.get(path).await;
    client.close().await;
    answer
}

pub async fn explain(common: &Common, command: Explain) -> anyhow::Result<ExitCode> {
    let value = get(common, &format!("/v1/events/{}/explain", segment(&command.event))).await?;
    if common.json {
        table::one(common, &value);
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").replace('\n', " ");
    table::say(format_args!(
        "{} about {}, from {}: {}",
        text(&value["type"]),
        text(&value["subject"]),
        text(&value["source"]),
        text(&value["place"])
    ));
    if value["several_recipients"] == true {
        table::say(format_args!(
            "its transmission has several recipients: record ids in its metadata decide nothing"
        ));
    }
    for route in value["routes"].as_array().into_iter().flatten() {
        let mark = if route["matched"] == true { "matched" } else { "not matched" };
        table::say(format_args!("\nroute {}: {mark}: {}", text(&route["route"]), text(&route["why"])));
        for row in route["deliveries"].as_array().into_iter().flatten() {
            let error = row["last_error"].as_str().map(|error| format!(" ({error})")).unwrap_or_default();
            let by = row["carried_by"].as_str().map(|id| format!(" into delivery {id}")).unwrap_or_default();
            table::say(format_args!(
                "  delivery {} to {}: {}{by}, attempts: {}{error}",
                text(&row["id"]),
                text(&row["destination"]),
                text(&row["state"]),
                row["attempts"]
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn send_sample(common: &Common, send: Send) -> anyhow::Result<ExitCode> {
    let hub = super::load(common)?;
    let names = || hub.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
    let source = hub.source(&send.source);
    let source =
        source.with_context(|| format!("there is no source `{}`: there are {}", send.source, names()))?;
    let body = match &send.file {
        None => sample(source),
        Some(path) if path.as_os_str() == "-" => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).context("read standard input")?;
            body
        }
        Some(path) => std::fs::read(path).with_context(|| format!("read {}", path.display()))?,
    };
    let answer = post(&hub, source, body, send.key.as_deref()).await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    if !common.json {
        table::say(format_args!("HTTP {}", answer.status));
    }
    table::one(common, &value);
    let kept = value["accepted"] != 0 || value["quarantined"] == 0 || value["quarantined"].is_null();
    if !kept {
        tracing::warn!(
            "nothing of it could be read (`mailspan quarantined` says why): name a FILE with a body as its platform posts it"
        );
    }
    let taken = (200..300).contains(&answer.status) && kept;
    Ok(if taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn post(hub: &Hub, source: &Source, body: Vec<u8>, key: Option<&str>) -> anyhow::Result<Answer> {
    let mut path = source.path.clone();
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    match &source.access {
        _ if source.kind.name == "api" => {
            let key = key.context("a source of kind api needs a key: `--key KEY`; `mailspan keys create --scope events:write` makes one")?;
            headers.push(("authorization".to_owned(), format!("Bearer {key}")));
        }
        None => {}
        Some(Access::Bearer { token }) => {
            headers.push(("authorization".to_owned(), format!("Bearer {}", token.secret.expose())))
        }
        Some(Access::Basic { user, password }) => {
            use base64::Engine;
            let both = format!("{user}:{}", password.secret.expose());
            let both = base64::engine::general_purpose::STANDARD.encode(both);
            headers.push(("authorization".to_owned(), format!("Basic {both}")));
        }
        Some(Access::Path { secret }) => path = format!("{path}/{}", secret.secret.expose()),
    }
    let raw = RawRequest {
        method: "POST".to_owned(),
        url: format!("{}{path}", hub.server.public_url),
        path: path.clone(),
        query: String::new(),
        headers: headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect(),
        body: body.into(),
        received_at: runtime::now(),
    };
    if let Some(secret) = source.secrets.first() {
        headers.extend(source.logic.sign(&raw, secret, runtime::now()));
    }
    let request = Request { method: "POST", path, headers, body: raw.body };
    let listen = hub.server.listen;
    let address = if listen.ip().is_unspecified() {
        std::net::SocketAddr::from(([127, 0, 0, 1], listen.port()))
    } else {
        listen
    };
    let allow = Allowance { net: address.ip().into(), port_min: address.port(), port_max: address.port() };
    let egress = Egress::new(vec![allow], runtime::clock());
    let target = Target {
        key: "front-door".to_owned(),
        base_url: format!("http://{address}"),
        concurrency: 1,
        timeout_ms: 30_000,
        ca: None,
        client_certificate: None,
        title_case_headers: false,
    };
    match egress.send(&target, request).await {
        Ok(answer) => Ok(answer),
        Err(lost) => {
            bail!("the hub at {address} was not reached ({}): does `mailspan serve` run?", lost.why.text)
        }
    }
}

/// A body of the source's kind, about a person who exists nowhere.
fn sample(source: &Source) -> Vec<u8> {
    let now = runtime::now().rfc3339();
    let id = format!("{:016x}", runtime::random_u64());
    let value = match source.kind.name {
        "mailtarget" => serde_json::json!({
            "transmissionId": format!("sample-{id}"), "messageId": id, "event": "click", "timestamp": now,
            "recipient": "sample@example.com", "campaignId": null,
            "metadata": { "crm_contact_id": "1", "crm_deal_id": "2", "crm_owner": "owner@example.com" },
            "raw": { "url": "https://example.com/offer" },
        }),
        _ => serde_json::json!({
            "type": "app.sample", "subject": "sample@example.com", "timestamp": now, "data": { "sample": id },
        }),
    };
    value.to_string().into_bytes()
}
