//! The systems that have to know: fake accounts of three vendors and an endpoint of an application, in this process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use mailspan_sandbox::Faults;
use mailspan_sandbox::hubspot::HubSpot;
use mailspan_sandbox::maileon::Maileon;
use mailspan_sandbox::mailingcore::MailingCore;
use serde_json::Value;
use tokio::sync::watch;

use crate::bench::child::free_address;
use crate::bench::contacts::people;
use crate::bench::write_private;
use crate::http::v1::keys::new_secret;
use crate::{runtime, sandbox};

pub const SYSTEMS: [&str; 4] = ["mailingcore", "maileon", "hubspot", "application"];
const SECRET_FILE: &str = "vendor.secret";
/// None of the fakes has a limit of its own; these are never reached.
const FREE_RATE: &str = "rate = \"10000/1s\"\n";

/// All of them, listening until this is dropped.
pub struct Vendors {
    pub core: MailingCore,
    pub maileon: Maileon,
    pub hubspot: HubSpot,
    pub application: Arc<Application>,
    pub key: String,
    pub addresses: [SocketAddr; 4],
    _stop: watch::Sender<bool>,
}

/// How often the application was told of each contact.
#[derive(Default)]
pub struct Application(Mutex<HashMap<u64, u64>>);

/// Starts them at free ports; their one key goes into the folder.
pub async fn start(folder: &Path) -> anyhow::Result<Vendors> {
    let key = new_secret("bench_");
    write_private(&folder.join(SECRET_FILE), &key)?;
    let (seed, clock) = (runtime::random_u64(), runtime::clock());
    let core = MailingCore::new(&key, Faults::default(), seed, clock.clone());
    let maileon = Maileon::new(&key, &[], Faults::default(), seed, clock.clone());
    let hubspot = HubSpot::new(&key, Faults::default(), seed, clock);
    let application = Arc::new(Application::default());
    let own = Router::new().route("/hook", post(told)).with_state(application.clone());
    let (stop, stopped) = watch::channel(false);
    let mut addresses = [free_address()?; 4];
    for (place, router) in [core.router(), maileon.router(), hubspot.router(), own].into_iter().enumerate() {
        addresses[place] = free_address()?;
        runtime::spawn(sandbox::serve(addresses[place], router, stopped.clone()).await?);
    }
    Ok(Vendors { core, maileon, hubspot, application, key, addresses, _stop: stop })
}

async fn told(State(application): State<Arc<Application>>, body: Bytes) -> StatusCode {
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(n) = event["data"]["email"].as_str().and_then(people::number) {
        *application.lock().entry(n).or_default() += 1;
    }
    StatusCode::OK
}

impl Application {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn times(&self, n: u64) -> u64 {
        self.lock().get(&n).copied().unwrap_or(0)
    }
}

impl Vendors {
    /// Whether each of [`SYSTEMS`] knows that this contact has unsubscribed.
    pub fn know(&self, n: u64) -> [bool; 4] {
        let email = people::email(n);
        [
            self.core.contact(&email).is_some_and(|contact| !contact.opt_in),
            self.maileon.is_marked(&email) && self.maileon.contact(&email).is_none(),
            self.hubspot.status(&email).is_some_and(|status| status.unsubscribed_all),
            self.application.times(n) > 0,
        ]
    }

    /// Whether both that keep an audience have the contact, opted in.
    pub fn have(&self, n: u64) -> bool {
        let email = people::email(n);
        self.core.contact(&email).is_some_and(|contact| contact.opt_in)
            && self.maileon.contact(&email).is_some()
    }

    /// The version of a contact's profile that MailingCore has.
    pub fn version(&self, n: u64) -> Option<u32> {
        let contact = self.core.contact(&people::email(n))?;
        u32::try_from(contact.attributes.get("version")?.as_u64()?).ok()
    }

    /// Sections of a hub's configuration. `limited`: the kinds' own limits, which are the vendors'.
    pub fn sections(&self, limited: bool) -> String {
        let [core, maileon, hubspot, application] = self.addresses;
        let rate = if limited { "" } else { FREE_RATE };
        let token = format!("{{ file = \"{SECRET_FILE}\" }}");
        format!(
            "\n[egress]\nallow = [\"{core}\", \"{maileon}\", \"{hubspot}\", \"{application}\"]\n\
             \n[sources.app]\nkind = \"api\"\n\
             \n[destinations.mailingcore]\nkind = \"mailingcore\"\nbase_url = \"http://{core}\"\n\
             auth = {{ kind = \"bearer\", token = {token} }}\n{rate}\
             \n[destinations.maileon]\nkind = \"maileon\"\nbase_url = \"http://{maileon}/1.0\"\n\
             auth = {{ kind = \"key\", key = {token} }}\n{rate}\
             \n[destinations.hubspot]\nkind = \"hubspot\"\nbase_url = \"http://{hubspot}\"\n\
             auth = {{ kind = \"bearer\", token = {token} }}\n{rate}\
             \n[[routes]]\nname = \"audience\"\nevents = [\"contact.*\"]\nto = [\"mailingcore\", \"maileon\"]\n\
             \n[[routes]]\nname = \"crm\"\nevents = [\"contact.*\"]\nto = [\"hubspot\"]\n"
        )
    }
}
