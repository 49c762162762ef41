//! `mailspan events send`.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use mailspan_connectors::contract::{Sample, SampleOf};
use mailspan_core::{Answer, RawRequest, Request};
use mailspan_egress::{Allowance, Egress, Target};
use serde_json::Value;

use super::{Common, table};
use crate::hub::{Access, Hub, Source};
use crate::runtime;

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

pub async fn run(common: &Common, send: Send) -> anyhow::Result<ExitCode> {
    let hub = super::load(common)?;
    let names = || hub.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
    let source = hub.source(&send.source);
    let source =
        source.with_context(|| format!("there is no source `{}`: there are {}", send.source, names()))?;
    let of = SampleOf { id: format!("{:016x}", runtime::random_u64()), now: runtime::now() };
    // Headers and query are the sender's too where the body is somebody's own.
    let Sample { query, mut headers, body } = source.logic.sample(&of);
    headers.insert(0, ("content-type".to_owned(), "application/json".to_owned()));
    let body = match &send.file {
        None => body.into_bytes(),
        Some(path) if path.as_os_str() == "-" => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).context("read standard input")?;
            body
        }
        Some(path) => std::fs::read(path).with_context(|| format!("read {}", path.display()))?,
    };
    let (path, proof) = access(source, send.key.as_deref())?;
    headers.extend(proof);
    let raw = signed(&hub, source, path, query, headers, body);
    let answer = post(&hub, &raw).await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    if !common.json {
        table::say(format_args!("HTTP {}", answer.status));
    }
    table::one(common, &value);
    let taken = (200..300).contains(&answer.status);
    let kept = value["accepted"] != 0 || value["quarantined"] == 0 || value["quarantined"].is_null();
    if taken {
        say_what_arrived(common, source, &raw, kept, send.file.is_none());
    }
    Ok(if taken && kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a source's own program makes of the body, and what to do where nothing could be read.
fn say_what_arrived(common: &Common, source: &Source, raw: &RawRequest, kept: bool, sample: bool) {
    let made = source.parse.as_ref().map(|program| program.parse(raw));
    let body = if sample { "the sample of its sender" } else { "this body" };
    match made {
        Some(Err(reason)) => {
            eprintln!("its `parse` program fails on {body}: {reason}");
        }
        Some(Ok(events)) if events.is_empty() => {
            eprintln!("its `parse` program makes no event of {body}: the raw request alone is kept");
        }
        Some(Ok(events)) if !common.json => {
            let kind = |text: &String| {
                let event: Value = serde_json::from_str(text).unwrap_or_default();
                event["type"].as_str().unwrap_or("no `type`").to_owned()
            };
            let kinds: Vec<String> = events.iter().take(10).map(kind).collect();
            let count = events.len();
            table::say(format_args!("its `parse` program makes {count} of it: {}", kinds.join(", ")));
        }
        _ => {}
    }
    if !kept {
        eprintln!(
            "nothing of it could be read (`mailspan quarantined` says why): name a FILE with a body as its platform posts it"
        );
    }
}

/// The path to post to, and the credential that stands beside a signature.
fn access(source: &Source, key: Option<&str>) -> anyhow::Result<(String, Vec<(String, String)>)> {
    let path = source.path.clone();
    let authorization = |value: String| vec![("authorization".to_owned(), value)];
    Ok(match &source.access {
        _ if source.kind.name == "api" => {
            let key = key.context("a source of kind api needs a key: `--key KEY`; `mailspan keys create --scope events:write` makes one")?;
            (path, authorization(format!("Bearer {key}")))
        }
        None => (path, Vec::new()),
        Some(Access::Bearer { token }) => (path, authorization(format!("Bearer {}", token.secret.expose()))),
        Some(Access::Basic { user, password }) => {
            use base64::Engine;
            let both = format!("{user}:{}", password.secret.expose());
            let both = base64::engine::general_purpose::STANDARD.encode(both);
            (path, authorization(format!("Basic {both}")))
        }
        Some(Access::Path { secret }) => (format!("{path}/{}", secret.secret.expose()), Vec::new()),
    })
}

/// The request as the hub will see it, with what its sender's signature adds.
fn signed(
    hub: &Hub,
    source: &Source,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
) -> RawRequest {
    let bytes = |(name, value): (String, String)| (name, value.into_bytes());
    let mark = if query.is_empty() { "" } else { "?" };
    let mut raw = RawRequest {
        method: "POST".to_owned(),
        url: format!("{}{path}{mark}{query}", hub.server.public_url),
        path,
        query,
        headers: headers.into_iter().map(bytes).collect(),
        body: body.into(),
        received_at: runtime::now(),
    };
    if let Some(secret) = source.secrets.first() {
        let added = source.logic.sign(&raw, secret, runtime::now());
        raw.headers.extend(added.into_iter().map(bytes));
    }
    raw
}

async fn post(hub: &Hub, raw: &RawRequest) -> anyhow::Result<Answer> {
    let mark = if raw.query.is_empty() { "" } else { "?" };
    let path = format!("{}{mark}{}", raw.path, raw.query);
    let text =
        |(name, value): &(String, Vec<u8>)| (name.clone(), String::from_utf8_lossy(value).into_owned());
    let headers = raw.headers.iter().map(text).collect();
    let request = Request { method: "POST", path, headers, body: raw.body.clone() };
    let (target, allow) = front_door(hub);
    let egress = Egress::new(allow, runtime::clock());
    match egress.send(&target, request).await {
        Ok(answer) => Ok(answer),
        Err(lost) => {
            let door = &target.base_url;
            bail!("the hub at {door} was not reached ({}): does `mailspan serve` run?", lost.why.text)
        }
    }
}

/// Where the hub listens. With a certificate of its own that is its public address, as the certificate has that
/// name; who signed it need not be known to this machine.
fn front_door(hub: &Hub) -> (Target, Vec<Allowance>) {
    let listen = hub.server.listen;
    let address = match listen.ip().is_unspecified() {
        true => std::net::SocketAddr::from(([127, 0, 0, 1], listen.port())),
        false => listen,
    };
    let at = |net, port| Allowance { net, port_min: port, port_max: port };
    let (base_url, ca, allow) = match &hub.server.tls {
        None => (format!("http://{address}"), None, vec![at(address.ip().into(), address.port())]),
        Some(own) => {
            let url = hub.server.public_url.replacen("http://", "https://", 1);
            let port = url::Url::parse(&url).ok().and_then(|url| url.port_or_known_default()).unwrap_or(443);
            let everywhere = [ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()];
            let allow = everywhere.into_iter().map(|net| at(net, port)).collect();
            (url, Some(own.chain_pem().as_bytes().to_vec()), allow)
        }
    };
    let target = Target {
        key: "front-door".to_owned(),
        base_url,
        concurrency: 1,
        timeout_ms: 30_000,
        ca,
        client_certificate: None,
        title_case_headers: false,
    };
    (target, allow)
}
