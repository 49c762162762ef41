//! Erasures after their first transaction: pages of the walk beside live traffic, then the certificate.

pub mod certificate;
pub mod list;
pub mod person;
mod proofs;
mod turned_away;

use std::collections::{BTreeMap, BTreeSet};

use mailspan_core::contact::{ContactKey, ContactWrite, WriteMode};
use mailspan_core::{Name, Subject};
use mailspan_store::{Certified, ErasedHash, ErasureRow, ErasureVerdict, Store, Trouble, Write, Wrote};

use crate::app::App;
use crate::contacts::door::{self, Origin};
use crate::deliver::start;
use crate::intake::door::keep;
use crate::poll::resync;
use crate::runtime;
use list::List;

/// Between two pages.
pub const STEP_MS: u64 = 5;
/// Between two looks while destinations are asked.
const ASKING_MS: u64 = 500;
/// After trouble with the store.
const TROUBLE_MS: u64 = 1_000;
/// Between two looks when nobody is erased; a new erasure wakes us.
const REST_MS: u64 = 60_000;
/// The same where another process may have taken the request, or died over its work.
const SHARED_REST_MS: u64 = 20_000;

/// Runs until the program stops.
pub async fn run(app: App, list: Option<List>) {
    let (mut stop, mut list, mut seen) = (app.stop.clone(), list, 0);
    while !app.stopping() {
        let wait = match round(&app, &mut list, &mut seen).await {
            Ok(wait) => wait,
            Err(trouble) => {
                tracing::warn!("erasures wait: {trouble}");
                TROUBLE_MS
            }
        };
        tokio::select! {
            () = runtime::sleep(wait) => {}
            () = app.erase_wake.notified() => {}
            _ = stop.changed() => {}
        }
    }
}

/// Certificates and a page; how long to wait before the next. `seen`: the last erasure that the desks know of.
pub async fn round(app: &App, list: &mut Option<List>, seen: &mut i64) -> Result<u64, Trouble> {
    let open = app.store.open_erasures().await?;
    let Some(last) = open.newest else {
        let is_shared = matches!(app.store, Store::Postgres(_));
        return Ok(if is_shared { SHARED_REST_MS } else { REST_MS });
    };
    if last > *seen {
        drop_claimed(app).await?;
        *seen = last;
        if let Some(list) = list.as_mut() {
            list.bring_up(&app.store).await?;
        }
    }
    certify(app, &open.certifying, list).await?;
    let has_moved = page(app).await? || !open.certifying.is_empty();
    Ok(if has_moved { STEP_MS } else { ASKING_MS })
}

/// What desks have claimed and not sent is claimed again: deliveries that an erasure gave up are not among it.
async fn drop_claimed(app: &App) -> Result<(), Trouble> {
    let live = app.live();
    for (id, destination) in live.destinations.iter().filter(|(id, _)| app.serves(**id)) {
        let opened = start::desk(&app.store, app.owner(), *id, destination, app.flight.get()).await;
        match opened {
            Ok(opened) => {
                for one in opened {
                    app.tell(one).await;
                }
            }
            // Another process serves it by now.
            Err(Trouble::FenceLost) => {}
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(())
}

/// True when something was done, and more may be left.
async fn page(app: &App) -> Result<bool, Trouble> {
    match app.store.write(Write::Erase).await? {
        Wrote::Erasing { moved } => Ok(moved),
        _ => Err(Trouble::Broken("the store gave another answer than to an erasure".to_owned())),
    }
}

/// Writes the certificates. The walk may have found former addresses: they are in the list by then.
async fn certify(app: &App, rows: &[ErasureRow], list: &mut Option<List>) -> Result<(), Trouble> {
    if let Some(list) = list.as_mut().filter(|_| !rows.is_empty()) {
        list.bring_up(&app.store).await?;
    }
    for row in rows {
        let (verdicts, now) = (app.store.erasure_verdicts(row.id).await?, runtime::now());
        tell_of_namesakes(app, row, &verdicts).await?;
        let certificate = certificate::write(&app.live(), row, &verdicts, now).to_string();
        app.store.write(Write::Certify(Certified { id: row.id, certificate, at: now })).await?;
        tracing::info!(erasure = row.id, tenant = %row.tenant, "an erasure is done");
        app.has_moved();
    }
    Ok(())
}

/// Somebody may have signed up under the same address or external id while a destination was still asked to erase,
/// and was erased there too: it is told of them again, whatever it answered, as the answer that erased them may have
/// been lost. Once more after a kill, which changes nothing.
async fn tell_of_namesakes(app: &App, row: &ErasureRow, verdicts: &[ErasureVerdict]) -> Result<(), Trouble> {
    let hash =
        |hash: &String| ErasedHash { tenant: row.tenant.clone(), hash: hash.clone(), at: row.asked_at };
    let here = app.store.here_anew(row.hashes.iter().map(hash).collect()).await?;
    let mut contacts = BTreeMap::new();
    for (tenant, Subject { address, external_id }) in here {
        let found = app.store.contact(&tenant, &ContactKey::Subject { address, external_id }).await?;
        contacts.extend(found.map(|row| (row.contact.uid.clone(), row)));
    }
    let asked = verdicts.iter().map(|one| &one.destination);
    let (destinations, now): (BTreeSet<&Name>, _) = (asked.collect(), runtime::now());
    let pairs = contacts.values().flat_map(|contact| destinations.iter().map(move |to| (*to, contact)));
    let arrivals: Vec<_> =
        (0_u32..).zip(pairs).map(|(part, (to, contact))| resync::arrived(to, part, contact, now)).collect();
    if !arrivals.is_empty() {
        keep(app, Box::new(resync::told(&row.tenant, arrivals, now))).await?;
    }
    Ok(())
}

/// All that can be done without a hub that delivers: what the hub holds.
pub async fn drive(app: &App) -> Result<(), Trouble> {
    while page(app).await? {}
    loop {
        let open = app.store.open_erasures().await?;
        if open.certifying.is_empty() {
            return Ok(());
        }
        certify(app, &open.certifying, &mut None).await?;
    }
}

/// Erases a person of a tenant; false where there is nobody of that name.
pub async fn erase(
    app: &App,
    tenant: &Name,
    subject: &Subject,
    by: &str,
    origin: &str,
) -> Result<bool, Trouble> {
    let key =
        ContactKey::Subject { address: subject.address.clone(), external_id: subject.external_id.clone() };
    let known = app.store.contact(tenant, &key).await?;
    if known.is_none() && app.store.person(tenant, subject).await?.is_none_or(|person| person.erased) {
        return Ok(false);
    }
    // By its id where there is one: the event then has what it is known by now.
    let (key, mode) = match known {
        Some(row) => (ContactKey::Id(row.contact.uid), WriteMode::Update),
        None => (key, WriteMode::Upsert),
    };
    let mut write = ContactWrite::new(key, mode, door::new_uid(), runtime::now(), origin);
    write.erase = true;
    write.evidence.actor = Some(by.to_owned());
    let origin = Origin { tenant, credential: by, request: None, cuts: Vec::new() };
    door::write(app, origin, vec![write]).await?;
    match app.engine {
        Some(_) => app.erase_wake.notify_one(),
        None => drive(app).await?,
    }
    Ok(true)
}

/// Before a hub serves: who was erased since this store was saved is erased again, from the list beside it.
/// Gives the list, which holds all erasures then; nothing where there is no file, or none can be written.
pub async fn again(app: &App) -> Result<Option<List>, Trouble> {
    let path = app.store.path();
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let mut list = match List::open(&list::path_beside(path)) {
        Ok(list) => list,
        Err(error) => {
            let shown = path.display();
            tracing::warn!(%error, "the list of erasures beside {shown} cannot be used: a restored back-up will not know them");
            return Ok(None);
        }
    };
    let erased = erase_listed(app, list.known()).await?;
    if erased > 0 {
        tracing::warn!(erased, "the store is older than these erasures: they were done again before serving");
        while page(app).await? {}
    }
    list.bring_up(&app.store).await?;
    Ok(Some(list))
}

/// Erases those of the list who are here; how many.
pub async fn erase_listed(app: &App, hashes: Vec<mailspan_store::ErasedHash>) -> Result<u64, Trouble> {
    let mut erased = 0;
    for part in hashes.chunks(list::PAGE) {
        for (tenant, subject) in app.store.here_again(part.to_vec()).await? {
            erased += u64::from(erase(app, &tenant, &subject, "restore", "restore").await?);
        }
    }
    Ok(erased)
}
