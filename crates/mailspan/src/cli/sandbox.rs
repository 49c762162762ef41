//! `mailspan sandbox`: one fake vendor, to rehearse against.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::anyhow;
use axum::Router;
use clap::{Args, Subcommand};
use mailspan_core::Span;
use mailspan_sandbox::Faults;
use mailspan_sandbox::hubspot::HubSpot;
use mailspan_sandbox::maileon::Maileon;
use mailspan_sandbox::mailingcore::MailingCore;
use mailspan_sandbox::mailtarget::{Generation, Mailtarget, Reader, Settings, crm_metadata};
use mailspan_sandbox::receiver::Receiver;
use tokio::sync::watch;

use super::table::say;
use crate::{runtime, sandbox};

#[derive(Debug, Subcommand)]
pub enum Sandbox {
    /// A HubSpot: contacts, notes, tasks, associations, opt-outs, limits
    Hubspot(Hubspot),
    /// A Mailtarget: takes sends, posts signed webhooks about them
    Mailtarget(Platform),
    /// A MailingCore: contacts, suppressions, signed webhooks, the list of what has changed
    Mailingcore(Contacts),
    /// A Maileon: contacts by REST 1.0, synchronisation, unsubscriptions
    Maileon(Lists),
    /// A plain receiver that shows what it got
    Receiver(Common),
}

#[derive(Debug, Args)]
pub struct Common {
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// What shall go wrong, like `server_error=5%,slow=10%:2s`; an unknown name lists them all
    #[arg(long, default_value = "none")]
    faults: String,
    /// The same seed breaks the same way
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
pub struct Hubspot {
    #[command(flatten)]
    common: Common,
    /// The service key that callers must bring
    #[arg(long, env = "MAILSPAN_SANDBOX_TOKEN", default_value = "sandbox")]
    token: String,
    /// Addresses of contacts that exist
    #[arg(long = "contact")]
    contacts: Vec<String>,
    /// Without the properties that `destinations prepare` creates
    #[arg(long)]
    bare: bool,
}

#[derive(Debug, Args)]
pub struct Contacts {
    #[command(flatten)]
    common: Common,
    /// The API key that callers must bring
    #[arg(long, env = "MAILSPAN_SANDBOX_API_KEY", default_value = "mc_test_sandbox")]
    api_key: String,
    /// Where webhooks go, beside the endpoints that are registered through the API
    #[arg(long, requires = "secret")]
    to: Option<String>,
    /// Signs the webhooks to `--to`
    #[arg(long, env = "MAILSPAN_SANDBOX_SECRET")]
    secret: Option<String>,
    /// Addresses of contacts that exist and are opted in
    #[arg(long = "contact")]
    contacts: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Lists {
    #[command(flatten)]
    common: Common,
    /// The API key that callers must bring
    #[arg(long, env = "MAILSPAN_SANDBOX_API_KEY", default_value = "sandbox")]
    api_key: String,
    /// Custom fields that exist
    #[arg(long = "custom-field")]
    custom_fields: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Platform {
    #[command(flatten)]
    common: Common,
    /// Where webhooks go
    #[arg(long)]
    to: String,
    /// Signs the webhooks
    #[arg(long, env = "MAILSPAN_SANDBOX_SECRET")]
    secret: String,
    /// The key that sends must bring
    #[arg(long, env = "MAILSPAN_SANDBOX_API_KEY", default_value = "sandbox")]
    api_key: String,
    /// Batches with times in milliseconds (generation B) instead of single events
    #[arg(long)]
    batches: bool,
    /// Sends one mail so often by itself, like 1s
    #[arg(long)]
    every: Option<String>,
    /// How much faster than life people read
    #[arg(long, default_value_t = 100)]
    speed: u64,
}

/// Runs until it is told to stop.
pub async fn run(command: Sandbox) -> anyhow::Result<ExitCode> {
    let (stop, stopped) = watch::channel(false);
    let (common, router) = match command {
        Sandbox::Hubspot(hubspot) => {
            let faults = faults(&hubspot.common)?;
            let make = if hubspot.bare { HubSpot::bare } else { HubSpot::new };
            let account = make(&hubspot.token, faults, hubspot.common.seed, runtime::clock());
            for email in &hubspot.contacts {
                say(format_args!("contact {email} is record {}", account.add_contact(email)));
            }
            (hubspot.common, account.router())
        }
        Sandbox::Receiver(common) => {
            let receiver = Receiver::new(faults(&common)?, common.seed, runtime::clock());
            (common, receiver.router())
        }
        Sandbox::Mailtarget(platform) => mailtarget(platform)?,
        Sandbox::Mailingcore(contacts) => mailingcore(contacts)?,
        Sandbox::Maileon(lists) => {
            let faults = faults(&lists.common)?;
            let fields: Vec<&str> = lists.custom_fields.iter().map(String::as_str).collect();
            let account = Maileon::new(&lists.api_key, &fields, faults, lists.common.seed, runtime::clock());
            (lists.common, account.router())
        }
    };
    let serving = sandbox::serve(common.listen, router, stopped).await?;
    say(format_args!(
        "http://{}/ shows what happened; POST a text to /_sandbox/faults to break it, `none` mends it",
        common.listen
    ));
    runtime::spawn(serving);
    runtime::told_to_stop().await;
    // The task ends with the program.
    let _ = stop.send(true);
    Ok(ExitCode::SUCCESS)
}

fn faults(common: &Common) -> anyhow::Result<Faults> {
    Faults::parse(&common.faults).map_err(|why| anyhow!(why))
}

fn mailingcore(contacts: Contacts) -> anyhow::Result<(Common, Router)> {
    let (faults, seed) = (faults(&contacts.common)?, contacts.common.seed);
    let account = MailingCore::new(&contacts.api_key, faults, seed, runtime::clock());
    for email in &contacts.contacts {
        let contact = serde_json::json!({"email": email, "optIn": true});
        account.upsert(&contact).map_err(|why| anyhow!("--contact {email}: {why}"))?;
    }
    if let (Some(to), Some(secret)) = (&contacts.to, &contacts.secret) {
        account.add_endpoint(to, secret);
    }
    runtime::spawn(account.clone().run(sandbox::hook_poster(), runtime::spawner()));
    Ok((contacts.common, account.router()))
}

fn mailtarget(platform: Platform) -> anyhow::Result<(Common, Router)> {
    let every = platform.every.as_deref().map(Span::parse).transpose().map_err(anyhow::Error::msg)?;
    let settings = Settings {
        api_key: platform.api_key,
        secret: platform.secret,
        generation: if platform.batches { Generation::B } else { Generation::A },
        speed: platform.speed,
        faults: faults(&platform.common)?,
        seed: platform.common.seed,
        ..Settings::default()
    };
    let fake = Mailtarget::new(settings, runtime::clock());
    let person = |n: u32| Reader {
        email: format!("person{n}@example.com"),
        metadata: crm_metadata(&n.to_string(), "alice@example.com"),
    };
    fake.set_people((1..=20).map(person).collect());
    let post = sandbox::poster(&platform.to)?;
    runtime::spawn(fake.clone().run(post, runtime::spawner(), every));
    Ok((platform.common, fake.router()))
}
