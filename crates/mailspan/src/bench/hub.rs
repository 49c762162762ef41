//! The hub under load: a configuration as a user would write it, a process of its own.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail};
use mailspan_core::Millis;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Goal, MapKind, Plan, SECRET_FILE, child};
use crate::cli::client::Client;
use crate::hub::Storage;
use crate::open;
use crate::runtime;

const CONFIG_FILE: &str = "hub.toml";
const URL_FILE: &str = "store.url";
/// How long the router may need for what was accepted.
const ROUTED_MS_MAX: u64 = 120_000;
const LOOK_MS: u64 = 50;
/// Pages of a thousand events.
const PAGES_MAX: usize = 10_000;
/// Never reached: the bench measures the hub, not a limit that a user would set.
const RATE: &str = "1000000/1s";

/// A hub that was started, with its command socket.
pub struct Running {
    pub child: child::Child,
    pub address: SocketAddr,
    client: Client,
}

/// Starts a hub in a folder. `receiver` is where its destinations send.
/// With `dropping`, retention drops what is older than an hour; else nothing that the bench writes.
pub async fn start(
    plan: &Plan,
    folder: &Path,
    receiver: SocketAddr,
    dropping: bool,
) -> anyhow::Result<Running> {
    if plan.signed() {
        let key = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            runtime::random_u128().to_be_bytes().repeat(2),
        );
        super::write_private(&folder.join("sign.secret"), &format!("whsec_{key}"))?;
    }
    let kept = if dropping { "1h" } else { "3650d" };
    let kept = format!("\n[retention]\nrequests = \"{kept}\"\nevents = \"{kept}\"\ndedupe = \"{kept}\"\n");
    let running = start_with(|listen| configuration(plan, listen, receiver) + &kept, folder).await?;
    if let Goal::Ingest { matching: true, .. } = plan.goal {
        running
            .client
            .post("/v1/destinations/crm0/pause", &json!({}))
            .await
            .context("pause the destination")?;
    }
    Ok(running)
}

/// Starts a hub with the configuration that `text` makes of its own address.
pub async fn start_with(text: impl Fn(SocketAddr) -> String, folder: &Path) -> anyhow::Result<Running> {
    let address = child::free_address()?;
    let config = folder.join(CONFIG_FILE);
    super::write_private(&config, &text(address))?;
    let args = [OsStr::new("--config"), config.as_os_str(), OsStr::new("serve")];
    let mut child = child::start(folder, &args)?;
    child.ready(address, "/readyz").await?;
    let client = Client::at_socket(open::socket_path(&folder.join("hub.db")));
    Ok(Running { child, address, client })
}

/// Starts a hub on a store of the bench; `more` are further sections. On PostgreSQL it has no socket.
pub async fn start_on(storage: &Storage, more: String, folder: &Path) -> anyhow::Result<Running> {
    let url = match storage {
        Storage::Sqlite { path } => format!("\"sqlite:{}\"", path.display()),
        Storage::Postgres { url, .. } => {
            // The URL may hold a password.
            super::write_private(&folder.join(URL_FILE), url.expose())?;
            format!("{{ file = \"{URL_FILE}\" }}")
        }
    };
    start_with(|listen| format!("[server]\nlisten = \"{listen}\"\n\n[storage]\nurl = {url}\n{more}"), folder)
        .await
}

impl Running {
    pub async fn audit(&self) -> anyhow::Result<Value> {
        self.client.get("/v1/audit").await.context("ask the hub for its audit")
    }

    /// Waits until nothing waits for the router.
    pub async fn routed(&self) -> anyhow::Result<()> {
        let began = runtime::instant();
        while began.elapsed().as_millis() < u128::from(ROUTED_MS_MAX) {
            if self.audit().await?["waiting"] == 0 {
                return Ok(());
            }
            runtime::sleep(LOOK_MS).await;
        }
        bail!("after {ROUTED_MS_MAX} ms the hub had not routed what it accepted")
    }

    /// The ids of the events since then in the order of the journal.
    pub async fn journal(&self, since: Millis) -> anyhow::Result<Vec<u128>> {
        let mut newest_first = Vec::new();
        let mut path = "/v1/events?limit=1000".to_owned();
        for _ in 0..PAGES_MAX {
            let page = self.client.get(&path).await.context("list the hub's events")?;
            let items = page["items"].as_array().map_or(&[][..], Vec::as_slice);
            let id = |item: &Value| Uuid::parse_str(item["id"].as_str()?).ok();
            let before = newest_first.len();
            let ids = items.iter().filter_map(id).map(|id| id.as_u128());
            newest_first.extend(ids.filter(|id| made_at(*id) >= since));
            if newest_first.len() - before < items.len() {
                break;
            }
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/v1/events?limit=1000&before={next}");
        }
        newest_first.reverse();
        Ok(newest_first)
    }
}

/// The time in a UUID of version 7: its first 48 bits.
fn made_at(id: u128) -> Millis {
    Millis(i64::try_from(id >> 80).unwrap_or(i64::MAX))
}

/// The configuration of a hub that listens at one address and delivers to another.
pub fn configuration(plan: &Plan, listen: SocketAddr, receiver: SocketAddr) -> String {
    let mut text = format!(
        "[server]\nlisten = \"{listen}\"\n\n[storage]\nurl = \"sqlite:hub.db\"\n\n[egress]\nallow = [\"{receiver}\"]\n\n\
         [sources.mailtarget]\nkind = \"mailtarget\"\nsecrets = [{{ file = \"{SECRET_FILE}\" }}]\n"
    );
    for number in 0..plan.destinations() {
        text += &destination(plan, number, receiver);
    }
    match plan.goal {
        Goal::Ingest { routes, matching } => {
            let condition = match matching {
                true => ".data.provider == \"mailtarget\"",
                false => ".data.url == \"https://elsewhere.example/\"",
            };
            for number in 0..routes {
                text += &format!(
                    "\n[[routes]]\nname = \"route{number}\"\nevents = [\"email.clicked\"]\n\
                     when = '{condition}'\nto = [\"crm0\"]\n"
                );
            }
        }
        Goal::Deliver { map, fan_out, .. } => {
            let to: Vec<String> = (0..fan_out).map(|number| format!("\"crm{number}\"")).collect();
            text += &format!("\n[[routes]]\nname = \"all\"\nto = [{}]\n", to.join(", "));
            if map == MapKind::Vrl {
                text += VRL_MAP;
            }
        }
    }
    text
}

/// The same activity that the floor makes in native code.
const VRL_MAP: &str = r#"map = '''
{
  "eventId": .data.raw.eventId,
  "person": .subject,
  "kind": "click",
  "link": .data.url,
  "contact": .data.correlation.crm_contact_id,
  "deal": .data.correlation.crm_deal_id,
  "at": .time,
}
'''
"#;

fn destination(plan: &Plan, number: u16, receiver: SocketAddr) -> String {
    let concurrency = super::floor::POSTERS;
    let mut text = format!(
        "\n[destinations.crm{number}]\nkind = \"http\"\nurl = \"http://{receiver}/{number}\"\nrate = \"{RATE}\"\n\
         concurrency = {concurrency}\nretry = [\"1s\", \"2s\", \"5s\"]\n"
    );
    if let Goal::Deliver { batch, signed, .. } = plan.goal {
        if batch > 1 {
            text += &format!("batch = {{ max = {batch}, wait = \"50ms\" }}\n");
        }
        if signed {
            text += "sign = { kind = \"standard_webhooks\", secret = { file = \"sign.secret\" } }\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn check(goal: Goal) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SECRET_FILE), "a-secret-of-the-bench-0123456789").unwrap();
        let sign = "whsec_bWFpbHNwYW4tYmVuY2gtc2VjcmV0LTAxMjM0NTY3ODk=";
        std::fs::write(folder.path().join("sign.secret"), sign).unwrap();
        let plan = Plan { goal, ..Plan::default() };
        let address = "127.0.0.1:18080".parse().unwrap();
        let file = folder.path().join(CONFIG_FILE);
        std::fs::write(&file, configuration(&plan, address, address)).unwrap();
        let options = config::Options { env: &|_| None, names: &[], dev: false };
        if let Err(problems) = config::load(&file, &options) {
            panic!("the bench wrote a configuration that the hub does not take:\n{problems}");
        }
    }

    #[test]
    fn the_configuration_holds() {
        check(Goal::Ingest { routes: 1, matching: false });
        check(Goal::Ingest { routes: 10, matching: true });
        check(Goal::Deliver { batch: 1, fan_out: 1, signed: false, map: MapKind::Vrl });
        check(Goal::Deliver { batch: 100, fan_out: 10, signed: true, map: MapKind::None });
    }
}
