//! SIGHUP: the configuration is read again, validated as a whole, and applied, or not at all.

use mailspan_core::DestinationId;
use mailspan_engine::Happened;

use crate::app::{App, Live};
use crate::config;
use crate::deliver::start;
use crate::hub::{Hub, Storage};
use crate::runtime;

pub async fn on_signal(app: App, owner: u128) {
    while !app.stopping() {
        runtime::told_to_reload().await;
        match reload(&app, owner).await {
            Ok(changed) => tracing::info!("configuration read again: {changed} destinations changed"),
            Err(why) => tracing::error!("the configuration was not applied, the old one stays:\n{why}"),
        }
    }
}

/// How many destinations were opened anew or closed, or why nothing was changed.
pub async fn reload(app: &App, owner: u128) -> Result<usize, String> {
    let before = app.live();
    let hub = read(&before.hub)?;
    if let Some(why) = needs_restart(&before.hub, &hub) {
        return Err(why.to_owned());
    }
    let live = Live::new(hub, &app.store).await.map_err(|trouble| trouble.to_string())?;
    app.swap(live);
    let after = app.live();
    let mut changed = 0;
    for (id, destination) in &after.destinations {
        if digest_of(&before, *id) != Some(destination.digest) {
            changed += 1;
            let opened = start::open_desk(app, &after, owner, *id, &destination.name).await;
            opened.map_err(|trouble| format!("destination {}: {trouble}", destination.name))?;
        }
    }
    for id in before.destinations.keys() {
        if !after.destinations.contains_key(id) {
            changed += 1;
            app.tell(Happened::Closed { destination: *id }).await;
        }
    }
    Ok(changed)
}

fn read(before: &Hub) -> Result<Hub, String> {
    let environment = |name: &str| runtime::env(name);
    let options = config::Options { env: &environment, dev: before.dev };
    config::load(&before.file, &options).map_err(|problems| problems.to_string())
}

fn digest_of(live: &Live, id: DestinationId) -> Option<u64> {
    live.destinations.get(&id).map(|destination| destination.digest)
}

fn needs_restart(before: &Hub, after: &Hub) -> Option<&'static str> {
    let Storage::Sqlite { path: was } = &before.storage;
    let Storage::Sqlite { path: is } = &after.storage;
    if was != is {
        return Some("[storage] url changed: that needs a restart");
    }
    (before.server.listen != after.server.listen
        || before.server.operator_listen != after.server.operator_listen)
        .then_some("[server] listen or operator_listen changed: that needs a restart")
}
