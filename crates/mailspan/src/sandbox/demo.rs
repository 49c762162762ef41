//! `mailspan demo`: a hub, fake vendors and live traffic; nothing to configure.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use mailspan_core::Span;
use mailspan_sandbox::Faults;
use mailspan_sandbox::hubspot::HubSpot;
use mailspan_sandbox::mailtarget::{Mailtarget, Reader, Settings, crm_metadata};
use mailspan_sandbox::receiver::Receiver;
use tokio::sync::watch;

use crate::app::App;
use crate::cli::table::say;
use crate::http::v1::keys::new_secret;
use crate::{config, runtime, serve};

/// People in the demo's CRM.
const PEOPLE: usize = 40;
/// How the configuration of a demo begins, and so its folder is known again.
const FIRST_LINE: &str = "# Made by `mailspan demo`.";
const CONFIGURATION: &str = "hub.toml";
/// All that a demo writes.
const FILES: [&str; 11] = [
    CONFIGURATION,
    "webhook.secret",
    "hubspot.secret",
    "hub.db",
    "hub.db-wal",
    "hub.db-shm",
    "hub.db.lock",
    "hub.db.sock",
    "hub.db.flight",
    "hub.db.key",
    "hub.db.erased",
];
const OWNER: &str = "alice@example.com";
/// Between two lines about what happened.
const REPORT_MS: u64 = 5_000;

#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Where the hub listens; the fake CRMs take the next two ports
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where its configuration and its store go; made anew at each start
    #[arg(long, default_value = "mailspan-demo")]
    folder: PathBuf,
    /// A mail is sent so often
    #[arg(long, default_value = "700ms")]
    every: String,
    /// Stop after so long, like 10s; without it at Ctrl-C
    #[arg(long = "for", value_name = "TIME")]
    until: Option<String>,
}

/// Runs until it is told to stop.
pub async fn run(demo: Demo) -> anyhow::Result<()> {
    let every = Span::parse(&demo.every).map_err(anyhow::Error::msg)?;
    let until = demo.until.as_deref().map(Span::parse).transpose().map_err(anyhow::Error::msg)?;
    let port = |n: u16| {
        let port = demo
            .listen
            .port()
            .checked_add(n)
            .context("--listen: the fake CRMs take the two ports above it")?;
        anyhow::Ok(SocketAddr::new(demo.listen.ip(), port))
    };
    let (crm_at, receiver_at) = (port(1)?, port(2)?);
    let secrets = prepare(&demo, crm_at, receiver_at)?;

    let (stop, stopped) = watch::channel(false);
    let hubspot = HubSpot::new(&secrets.token, Faults::default(), runtime::random_u64(), runtime::clock());
    let receiver = Receiver::new(Faults::default(), runtime::random_u64(), runtime::clock());
    runtime::spawn(super::serve(crm_at, hubspot.router(), stopped.clone()).await?);
    runtime::spawn(super::serve(receiver_at, receiver.router(), stopped.clone()).await?);

    let file = demo.folder.join(CONFIGURATION);
    // Variables are for the hub of whoever tries this: the demo touches nothing of it.
    let options = config::Options { env: &|_: &str| None, names: &[], dev: false };
    let hub = config::load(&file, &options).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let serving = serve::begin(hub).await?;

    let platform = mailtarget(&secrets.webhook, &hubspot);
    let post = super::poster(&format!("http://{}/webhooks/mailtarget", demo.listen))?;
    runtime::spawn(platform.clone().run(post, runtime::spawner(), Some(every)));
    say(format_args!("{}", what_to_look_at(&demo, crm_at, receiver_at)));
    let end = async {
        match until {
            Some(span) => runtime::sleep(span.ms).await,
            None => runtime::told_to_stop().await,
        }
    };
    tokio::select! {
        () = end => {}
        () = report(&serving.app, &platform, &hubspot) => {}
    }
    say(format_args!("stopping; what is kept in {} can still be looked at", demo.folder.display()));
    serve::end(serving).await;
    // The fakes end with the program.
    let _ = stop.send(true);
    Ok(())
}

struct Secrets {
    webhook: String,
    token: String,
}

/// Writes secrets and configuration; an earlier demo's store goes, and nothing that is not a demo's.
fn prepare(demo: &Demo, crm_at: SocketAddr, receiver_at: SocketAddr) -> anyhow::Result<Secrets> {
    let folder = &demo.folder;
    if let Some(holder) = mailspan_store::holder(&folder.join("hub.db")).ok().flatten() {
        bail!(
            "process {} runs a demo in {}: end it first, or take another --folder",
            holder.pid,
            folder.display()
        );
    }
    std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
    let made_by_us =
        |file: &Path| std::fs::read_to_string(file).is_ok_and(|text| text.starts_with(FIRST_LINE));
    let there: Vec<PathBuf> =
        FILES.iter().map(|name| folder.join(name)).filter(|file| file.exists()).collect();
    if !there.is_empty() && !made_by_us(&folder.join(CONFIGURATION)) {
        bail!(
            "{} is there already, and no demo made it: take an empty or a new --folder",
            there.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    for file in there.iter().filter(|file| !file.ends_with(CONFIGURATION)) {
        std::fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
    }
    let secrets = Secrets { webhook: new_secret("demo_"), token: new_secret("demo_") };
    // First, so that a folder of ours is known again whatever comes between.
    write(folder, CONFIGURATION, &configuration(demo.listen, crm_at, receiver_at))?;
    write(folder, "webhook.secret", &secrets.webhook)?;
    write(folder, "hubspot.secret", &secrets.token)?;
    Ok(secrets)
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.join(name);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    file.with_context(|| format!("write {}", path.display()))
}

fn configuration(listen: SocketAddr, crm_at: SocketAddr, receiver_at: SocketAddr) -> String {
    format!(
        r#"{FIRST_LINE}

[server]
listen = "{listen}"
public_url = "http://{listen}"

[storage]
url = "sqlite:hub.db"

[egress]                                     # the fake vendors are on this machine
allow = ["{crm_at}", "{receiver_at}"]

[sources.mailtarget]                         # a mailing platform that signs what it posts
kind = "mailtarget"
path = "/webhooks/mailtarget"
secrets = [{{ file = "webhook.secret" }}]

[sources.app]                                # POST /v1/events
kind = "api"

[destinations.hubspot]                       # the fake HubSpot
kind = "hubspot"
base_url = "http://{crm_at}"
auth = {{ kind = "bearer", token = {{ file = "hubspot.secret" }} }}
rate = "100/10s"
batch = {{ max = 100, wait = "200ms" }}
retry = ["1s", "2s", "3s"]                   # short, so that a dead letter can be seen soon

[destinations.crm]                           # a CRM of one's own
kind = "http"
url = "http://{receiver_at}/activities"
rate = "100/1s"
retry = ["1s", "2s", "3s"]

[[routes]]
name = "engagement"                          # the built-in map: no code
from = ["mailtarget"]
to = ["hubspot"]

[[routes]]
name = "clicks"                              # a condition and a map in VRL
events = ["email.clicked"]
when = 'exists(.data.url)'
map = '{{ "person": .subject, "link": .data.url, "at": .time }}'
to = ["crm"]

[[routes]]
name = "app"
from = ["app"]
to = ["crm"]
"#
    )
}

fn mailtarget(secret: &str, hubspot: &HubSpot) -> Mailtarget {
    let settings = Settings {
        api_key: new_secret("demo_"),
        secret: secret.to_owned(),
        speed: 200,
        calendar: [500, 1_000, 2_000, 5_000].map(|ms| Span { ms }).to_vec(),
        seed: runtime::random_u64(),
        ..Settings::default()
    };
    let platform = Mailtarget::new(settings, runtime::clock());
    hubspot.add_owner(OWNER);
    let person = |n: usize| {
        let email = format!("person{n}@example.com");
        let contact = hubspot.add_contact(&email);
        Reader { email, metadata: crm_metadata(&contact, OWNER) }
    };
    platform.set_people((1..=PEOPLE).map(person).collect());
    platform
}

fn what_to_look_at(demo: &Demo, crm_at: SocketAddr, receiver_at: SocketAddr) -> String {
    let config = demo.folder.join(CONFIGURATION);
    let config = config.display();
    format!(
        "
The hub runs at http://{listen}; mail is being sent, opened and clicked.

  the fake HubSpot          http://{crm_at}/
  a CRM of one's own        http://{receiver_at}/
  the configuration         {config}

In another terminal:

  mailspan --config {config} events list --limit 5
  mailspan --config {config} explain EVENT
  mailspan --config {config} deliveries list --limit 10
  mailspan --config {config} audit

Break the CRM, look at the dead letters, mend it, replay one:

  curl -d down http://{crm_at}/_sandbox/faults
  mailspan --config {config} dead-letters list
  curl -d none http://{crm_at}/_sandbox/faults
  mailspan --config {config} dead-letters replay ID

(`mailspan` is target/release/mailspan after `cargo run --release -- demo`.) Ctrl-C ends it.
",
        listen = demo.listen
    )
}

/// A line every five seconds; never ends.
async fn report(app: &App, platform: &Mailtarget, hubspot: &HubSpot) {
    loop {
        runtime::sleep(REPORT_MS).await;
        match app.store.audit().await {
            Ok(audit) => say(format_args!(
                "{:>6} mails  {:>6} events accepted  {:>6} delivered  {:>4} skipped  {:>4} pending  {:>4} dead   HubSpot: {} notes",
                platform.sends(),
                audit.accepted,
                audit.delivered,
                audit.skipped,
                audit.pending,
                audit.dead,
                hubspot.notes().len()
            )),
            Err(trouble) => say(format_args!("the store cannot be read: {trouble}")),
        }
    }
}
