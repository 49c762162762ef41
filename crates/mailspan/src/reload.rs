//! SIGHUP: the configuration is read again, validated as a whole, and applied, or not at all.

use std::sync::Arc;

use mailspan_core::DestinationId;
use mailspan_engine::Happened;
use mailspan_store::{StandingRow, Store};

use crate::app::{App, Live};
use crate::config;
use crate::deliver::start;
use crate::hub::{Destination, Hub, Server};
use crate::intake::system;
use crate::runtime;
use tokio::signal::unix::Signal;

/// How often the files of the hub's own certificate are looked at: they change every few weeks, and the old one
/// is good for days after that.
const LOOK_MS: u64 = 5_000;
/// Between two looks for webhook endpoints of other processes: a process at rest asks less than once a second.
const ENDPOINTS_LOOK_MS: u64 = 20_000;

pub async fn on_signal(app: App, owner: u128, mut hangups: Signal) {
    while hangups.recv().await.is_some() && !app.stopping() {
        match reload(&app, owner).await {
            Ok(changed) => tracing::info!("configuration read again: {changed} destinations changed"),
            Err(why) => tracing::error!("the configuration was not applied, the old one stays:\n{why}"),
        }
    }
}

/// How many destinations were opened anew or closed, or why nothing was changed. All that can fail is
/// done before the new configuration takes the old one's place.
pub async fn reload(app: &App, owner: u128) -> Result<usize, String> {
    let before = app.live();
    let reading = before.clone();
    let read = runtime::blocking(move || read(&reading.hub)).await;
    let mut hub = read.ok_or("reading it panicked: please report this")??;
    // By the flag it may differ from the file's.
    hub.server.role = before.hub.server.role;
    if hub.sources.is_empty() && hub.destinations.is_empty() {
        return Err(
            "it names no source and no destination: was it read while it was being written?".to_owned()
        );
    }
    if let Some(why) = needs_restart(&before.hub, &hub) {
        return Err(why.to_owned());
    }
    apply(app, owner, |_| hub).await
}

/// After a change of webhook endpoints: the same file, the rows as they are now.
pub async fn endpoints(app: &App) -> Result<(), String> {
    apply(app, app.owner(), Hub::clone).await.map(|_| ())
}

/// Where several processes share a store: takes up the webhook endpoints that others made, changed or removed. A
/// notification says so at once; what one misses is found by a look each [`ENDPOINTS_LOOK_MS`].
pub async fn follow_endpoints(app: App) {
    let (mut stop, mut seen, mut said) = (app.stop.clone(), None, false);
    while !app.stopping() {
        match look_at_endpoints(&app, &mut seen).await {
            Ok(()) => said = false,
            Err(why) if said => {
                tracing::debug!("webhook endpoints of other processes are still unknown: {why}")
            }
            Err(why) => {
                tracing::warn!("webhook endpoints that another process changed are not known yet: {why}");
                said = true;
            }
        }
        tokio::select! {
            () = runtime::sleep(ENDPOINTS_LOOK_MS) => {}
            () = app.endpoints_wake.notified() => {}
            _ = stop.changed() => {}
        }
    }
}

async fn look_at_endpoints(app: &App, seen: &mut Option<(i64, i64)>) -> Result<(), String> {
    let mark = app.store.endpoints_mark().await.map_err(|trouble| trouble.to_string())?;
    if *seen != Some(mark) {
        // Read before the rows: what changes in between is looked at again.
        endpoints(app).await?;
        *seen = Some(mark);
    }
    Ok(())
}

/// Takes up the hub's own certificate when its files change: whoever renews one need not tell the hub. While
/// the files do not fit together (half of them is written) the old one is shown on.
pub async fn on_renewal(app: App, owner: u128) {
    let mut said = String::new();
    while !app.stopping() {
        runtime::sleep(LOOK_MS).await;
        let now = match renew(&app, owner).await {
            Ok(true) => {
                tracing::info!(
                    "the certificate of [server] tls was renewed: further connections get the new one"
                );
                String::new()
            }
            Ok(false) => String::new(),
            Err(why) => why,
        };
        if !now.is_empty() && now != said {
            tracing::error!(
                "the certificate of [server] tls changed and was not taken, the old one stays: {now}"
            );
        }
        said = now;
    }
}

/// True where another certificate took the old one's place.
async fn renew(app: &App, owner: u128) -> Result<bool, String> {
    let Some(own) = app.live().hub.server.tls.clone().filter(|own| own.is_of_files()) else {
        return Ok(false);
    };
    let read = runtime::blocking(move || own.renewed()).await;
    let Some(renewed) = read.ok_or("reading it panicked: please report this")?? else { return Ok(false) };
    let tls = Some(Arc::new(renewed));
    apply(app, owner, |hub| Hub { server: Server { tls, ..hub.server.clone() }, ..hub.clone() }).await?;
    Ok(true)
}

/// `next` makes the new configuration of the one in force.
async fn apply(app: &App, owner: u128, next: impl FnOnce(&Hub) -> Hub) -> Result<usize, String> {
    // One at a time: the later one must see what the earlier one put in its place.
    let _turn = app.applying.lock().await;
    let before = app.live();
    let live = Live::new(next(&before.hub), &app.store).await.map_err(|trouble| trouble.to_string())?;
    let mut opened = Vec::new();
    let changes = |(id, destination): &(&DestinationId, &Arc<Destination>)| {
        digest_of(&before, **id) != Some(destination.digest)
    };
    let changing: Vec<_> = live.destinations.iter().filter(changes).collect();
    let changed = changing.len();
    // On a database that several processes share each reads its own file, and those that hold leases see to
    // their desks (`leases`).
    if matches!(app.store, Store::Sqlite(_)) {
        for (id, destination) in changing {
            let desk = start::desk(&app.store, owner, *id, destination, app.flight.get()).await;
            opened.push(desk.map_err(|trouble| format!("destination {}: {trouble}", destination.name))?);
        }
    }
    let gone: Vec<DestinationId> =
        before.destinations.keys().filter(|id| !live.destinations.contains_key(*id)).copied().collect();
    let changed = changed + gone.len();
    let any_gone = !gone.is_empty();
    // A desk is closed before its settings go: what it still claims is not mapped under settings that are
    // not there.
    for destination in gone {
        app.tell(Happened::Closed { destination }).await;
    }
    app.swap(live);
    for one in opened.into_iter().flatten() {
        app.tell(one).await;
    }
    app.lease_wake.notify_one();
    if any_gone {
        runtime::spawn(tell_disabled(app.clone()));
    }
    app.round_wake.notify_one();
    Ok(changed)
}

/// Says which destinations are not in the configuration though deliveries wait for them: nothing else would.
pub async fn tell_disabled(app: App) {
    let rows = match app.store.destinations(None).await {
        Ok(rows) => rows,
        Err(trouble) => {
            tracing::warn!(
                "it is not known whether deliveries wait for destinations that are gone: {trouble}"
            );
            return;
        }
    };
    let live = app.live();
    let is_disabled =
        |row: &&StandingRow| row.pending > 0 && !live.destinations.contains_key(&row.destination);
    for StandingRow { tenant, name, pending, .. } in rows.iter().filter(is_disabled) {
        tracing::warn!(
            destination = %name, pending,
            "disabled: not in the configuration, and deliveries wait for it; put it back, or \
             `mailspan dead-letters discard --all --destination {name} --note WHY`"
        );
        system::disabled(&app, tenant, name, *pending).await;
    }
}

fn read(before: &Hub) -> Result<Hub, String> {
    let environment = |name: &str| runtime::env(name);
    let options =
        config::Options { env: &environment, names: &runtime::env_names("MAILSPAN_"), dev: before.dev };
    config::load(&before.file, &options).map_err(|problems| problems.to_string())
}

fn digest_of(live: &Live, id: DestinationId) -> Option<u64> {
    live.destinations.get(&id).map(|destination| destination.digest)
}

fn needs_restart(before: &Hub, after: &Hub) -> Option<&'static str> {
    if !before.storage.is(&after.storage) {
        return Some("[storage] url changed: that needs a restart");
    }
    if before.intake_queue != after.intake_queue {
        return Some("[limits] intake_queue changed: that needs a restart");
    }
    (before.server.listen != after.server.listen
        || before.server.operator_listen != after.server.operator_listen)
        .then_some("[server] listen or operator_listen changed: that needs a restart")
}
