//! Several systems in one process and in virtual time: the hub with its real door, store, router, maps, connectors
//! and engine; a MailingCore account and, where wanted, a Maileon account (the sandbox's); an application that is
//! told what happens. The network between them is a function.

use std::collections::{BTreeMap, VecDeque};

use axum::Router;
use axum::body::Body;
use axum::http::{Request as HttpRequest, StatusCode};
use mailspan_core::{Answer, DestinationId, Lost, Millis, Reason, Request};
use mailspan_engine::{Command, Engine, Fence, Happened};
use mailspan_sandbox::Faults;
use mailspan_sandbox::maileon::Maileon;
use mailspan_sandbox::mailingcore::MailingCore;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

use crate::app::{self, App, Live};
use crate::config::{self, Options};
use crate::deliver::settle::Settles;
use crate::deliver::{shell, sign, start};
use crate::http::auth::FromSocket;
use crate::http::router;
use crate::{erase, open, route, runtime};

const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:1"
public_url = "https://hub.example.com"

[storage]
url = "sqlite:FOLDER/hub.db"

[sources.app]
kind = "api"

[sources.core]
kind = "mailingcore"
secrets = [{ env = "CORE_SECRET" }]
account = "core"
tolerance = "30d"

[destinations.core]
kind = "mailingcore"
base_url = "https://core.example.com"
auth = { kind = "bearer", token = { env = "CORE_KEY" } }
account = "core"
rate = "1000/1s"
retry = { calendar = ["2s"], for = "30d" }
breaker = { failures = 0 }

[destinations.mail]
kind = "maileon"
base_url = "https://mail.example.com/1.0"
auth = { kind = "key", key = { env = "MAIL_KEY" } }
rate = "1000/1s"
retry = { calendar = ["2s"], for = "30d" }
breaker = { failures = 0 }

[destinations.application]
kind = "http"
url = "https://app.example.com/told"
rate = "1000/1s"
retry = { calendar = ["2s"], for = "30d" }
breaker = { failures = 0 }

[[routes]]
name = "audience"
events = ["contact.*", "email.complained", "email.bounced"]
to = [ACCOUNTS]

[[routes]]
name = "told"
events = ["contact.*", "email.complained", "email.bounced"]
from = ["core", "contacts"]
to = ["application"]
"#;

const SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";
const KEY: &str = "mc_live_0123456789abcdef";

/// What becomes of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Whole,
    /// The other side acted, and its answer was lost.
    LostAfter,
    /// 503, and nothing was done.
    Down,
}

/// A message between two systems, on its way.
#[derive(Debug, Clone)]
pub struct Message {
    pub path: &'static str,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub struct World {
    app: App,
    hub: Router,
    pub account: MailingCore,
    account_api: Router,
    /// A Maileon account beside it.
    pub mail: Maileon,
    mail_api: Router,
    /// What the application was told, oldest first.
    pub told: Vec<Value>,
    engine: Engine,
    inbox: mpsc::Receiver<Happened>,
    commands: Vec<Command>,
    /// Exchanges that the engine wants, not made yet.
    sends: VecDeque<Command>,
    wake: Option<Millis>,
    fence: Fence,
    destinations: BTreeMap<DestinationId, String>,
    /// The last erasure that the desks know of.
    erased: i64,
    pub intake_key: String,
    _folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
    _opened: open::Opened,
}

impl World {
    pub async fn new() -> World {
        World::with(&["core"]).await
    }

    /// `accounts`: which destinations hear of contacts.
    pub async fn with(accounts: &[&str]) -> World {
        runtime::virtual_clock::start();
        let memory = std::path::Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let env = |name: &str| match name {
            "CORE_SECRET" => Some(SECRET.to_owned()),
            "CORE_KEY" | "MAIL_KEY" => Some(KEY.to_owned()),
            _ => None,
        };
        let accounts: Vec<String> = accounts.iter().map(|name| format!("{name:?}")).collect();
        let text = CONFIG.replace("FOLDER", &folder.path().display().to_string());
        let text = text.replace("ACCOUNTS", &accounts.join(", "));
        let options = Options { env: &env, names: &[], dev: false };
        let hub =
            config::read("hub.toml", folder.path(), &text, &options).unwrap_or_else(|bad| panic!("{bad}"));
        let opened = open::store(&hub.storage, &hub.store_keys, hub.intake_queue).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let (happened, inbox) = mpsc::channel(4_096);
        let (asks, _) = mpsc::channel(1);
        let (stands, _) = mpsc::channel(16);
        let live = Live::new(hub, &opened.store).await.unwrap();
        let destinations = live.destinations.iter().map(|(id, one)| (*id, one.name.to_string())).collect();
        let app = App::new(live, opened.store.clone(), Some(app::Engine { happened, asks, stands }), stopped);
        let fence = start::lease(&app.store, "router", app.owner()).await.unwrap();
        start::open_desks(&app, app.owner()).await.unwrap();
        let account = MailingCore::new(KEY, Faults::default(), 7, runtime::clock());
        let mail = Maileon::new(KEY, &[], Faults::default(), 7, runtime::clock());
        account.add_endpoint("https://hub.example.com/in/core", SECRET);
        let hub = router::all(app.clone()).layer(axum::Extension(FromSocket));
        let mut world = World {
            hub,
            account_api: account.router(),
            account,
            mail_api: mail.router(),
            mail,
            told: Vec::new(),
            engine: Engine::new(11),
            inbox,
            commands: Vec::new(),
            sends: VecDeque::new(),
            wake: None,
            fence,
            destinations,
            erased: 0,
            intake_key: String::new(),
            app,
            _folder: folder,
            _stop: stop,
            _opened: opened,
        };
        let key = world.ask("POST", "/v1/keys", &[], &json!({ "scopes": ["contacts:write"] })).await;
        world.intake_key = key.1["key"].as_str().unwrap_or_else(|| panic!("no key: {key:?}")).to_owned();
        let free = json!({ "rate_per_minute": 0 });
        assert_eq!(world.ask("PATCH", "/v1/tenants/default", &[], &free).await.0, 200);
        world
    }

    /// A request to the hub: status and JSON.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: &Value,
    ) -> (u16, Value) {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.ask_raw(method, path, headers, bytes).await
    }

    pub async fn ask_raw(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
    ) -> (u16, Value) {
        let mut request = HttpRequest::builder().method(method).uri(path);
        let has_type = headers.iter().any(|(name, _)| name == "content-type");
        if !has_type {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = self.hub.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 24).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// A message arrives at the hub, which must take it.
    pub async fn arrive(&mut self, message: &Message) {
        let (status, body) = self.ask_raw("POST", message.path, &message.headers, message.body.clone()).await;
        let taken = [StatusCode::OK, StatusCode::ACCEPTED].map(|status| status.as_u16()).contains(&status);
        assert!(taken, "the hub refused a message: {status} {body}");
    }

    /// The webhooks that the account wants to post now; that each arrives is the business of whoever takes them.
    pub fn webhooks(&self) -> Vec<Message> {
        let due = self.account.due(1_000);
        for hook in &due {
            self.account.settle(hook.ticket, Some(200));
        }
        let message = |hook: mailspan_sandbox::mailingcore::Hook| Message {
            path: "/in/core",
            headers: hook.headers,
            body: hook.body.to_vec(),
        };
        due.into_iter().map(message).collect()
    }

    /// Routes what waits and lets the engine think, until it wants nothing but exchanges, or time.
    pub async fn settle(&mut self) {
        loop {
            let routed = route::follow::step(&self.app, self.fence).await.unwrap();
            let mut moved = routed > 0;
            while let Ok(happened) = self.inbox.try_recv() {
                moved = true;
                self.engine.step(runtime::steady(), happened, &mut self.commands);
            }
            for command in std::mem::take(&mut self.commands) {
                moved = true;
                self.carry_out(command).await;
            }
            moved |= self.erases().await;
            if !moved {
                return;
            }
        }
    }

    /// A page of what is erased, or a certificate; false where there is nothing to do now.
    async fn erases(&mut self) -> bool {
        erase::round(&self.app, &mut None, &mut self.erased).await.unwrap() == erase::STEP_MS
    }

    async fn carry_out(&mut self, command: Command) {
        match command {
            Command::WakeAt(at) => self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at))),
            Command::Settle { destination, fence, settlements, attempts } => {
                let mut settles = Settles::default();
                settles.add(destination, fence, settlements, attempts);
                for settle in settles.all {
                    settle.write(&self.app).await;
                }
            }
            Command::Claim { destination, room, held } => {
                let happened = shell::claim(&self.app, destination, room, held).await;
                self.engine.step(runtime::steady(), happened, &mut self.commands);
            }
            send @ Command::Send { .. } => self.sends.push_back(send),
            Command::Stand { paused, .. } => assert_eq!(paused, None, "a destination is paused"),
            Command::Left { .. } | Command::Announce { .. } => {}
        }
    }

    /// Makes one exchange that the engine waits for; false where there is none.
    pub async fn exchange(&mut self, which: usize, wire: Wire) -> bool {
        self.settle().await;
        if self.sends.is_empty() {
            return false;
        }
        let Some(Command::Send { call, destination, request, .. }) =
            self.sends.remove(which % self.sends.len())
        else {
            return false;
        };
        let settings = self.app.live().destinations[&destination].clone();
        let signed = sign::sign(&settings, request, runtime::now()).unwrap();
        let answer = match wire {
            Wire::Down => Ok(answer(503, Vec::new(), Vec::new())),
            Wire::Whole => Ok(self.transport(destination, signed).await),
            Wire::LostAfter => {
                self.transport(destination, signed).await;
                Err(Lost {
                    sent: true,
                    refused: false,
                    why: Reason::new("reset", "the connection was reset"),
                })
            }
        };
        self.engine.step(runtime::steady(), Happened::Answered { call, answer }, &mut self.commands);
        self.settle().await;
        true
    }

    async fn transport(&mut self, destination: DestinationId, request: Request) -> Answer {
        if self.destinations[&destination] == "application" {
            self.told.push(serde_json::from_slice(&request.body).unwrap());
            return answer(200, Vec::new(), Vec::new());
        }
        let mut asked = HttpRequest::builder().method(request.method).uri(&request.path);
        for (name, value) in &request.headers {
            asked = asked.header(name, value);
        }
        let asked = asked.body(Body::from(request.body)).unwrap();
        let api = if self.destinations[&destination] == "mail" { &self.mail_api } else { &self.account_api };
        let given = api.clone().oneshot(asked).await.unwrap();
        let status = given.status().as_u16();
        let headers = given.headers().iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        let headers = headers.collect();
        answer(status, headers, axum::body::to_bytes(given.into_body(), 1 << 24).await.unwrap().to_vec())
    }

    /// Time goes on until the engine wants something, at most so long; false where it wants nothing.
    pub async fn wait(&mut self) -> bool {
        let Some(at) = self.wake.take() else { return false };
        runtime::virtual_clock::advance(at.since(runtime::now()).max(1));
        self.engine.step(runtime::steady(), Happened::Tick, &mut self.commands);
        self.settle().await;
        true
    }

    /// What the hub shows of a contact, and why its address is suppressed.
    pub async fn shown(&mut self, external_id: &str, email: &str) -> (Option<Value>, Option<String>) {
        let (status, contact) = self.ask("GET", &format!("/contacts/{external_id}"), &[], &Value::Null).await;
        let contact = (status == 200).then_some(contact);
        let address = mailspan_core::Address::parse(email).unwrap();
        let tenant = mailspan_core::Name::default_tenant();
        let row = self.app.store.suppression_of(&tenant, &address).await.unwrap();
        (contact, row.map(|row| row.reason.name().to_owned()))
    }

    /// One step towards rest: an exchange, or the next timer. Something once nothing is pending: do the sums add up?
    pub async fn step_to_rest(&mut self) -> Option<Result<(), String>> {
        if self.exchange(0, Wire::Whole).await {
            return None;
        }
        let audit = self.audit().await;
        if audit["pending"] != 0 || audit["waiting"] != 0 {
            self.wait().await;
            return None;
        }
        let is_well = audit["adds_up"] == true && audit["dead"] == 0;
        Some(if is_well {
            Ok(())
        } else {
            Err(format!("the sums do not add up, or something is dead: {audit}"))
        })
    }

    /// Sums of the store: everything in exactly one place, nothing dead.
    pub async fn audit(&mut self) -> Value {
        self.ask("GET", "/v1/audit", &[], &Value::Null).await.1
    }

    /// What an operator would look at.
    pub async fn story(&mut self, email: &str) -> String {
        let mut text = String::new();
        for path in [format!("/v1/ledger?subject={email}"), "/v1/deliveries?limit=30".to_owned()] {
            let (_, rows) = self.ask("GET", &path, &[], &Value::Null).await;
            for row in rows["data"].as_array().or(rows["items"].as_array()).into_iter().flatten() {
                text.push_str(&format!("  {row}\n"));
            }
        }
        text
    }
}

fn answer(status: u16, headers: Vec<(String, String)>, body: Vec<u8>) -> Answer {
    Answer { at: runtime::steady(), status, headers, body, cut: false }
}
