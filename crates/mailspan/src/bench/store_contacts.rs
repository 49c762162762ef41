//! Contacts on the store alone: written without HTTP by the one way in that the API has, then counted.

use anyhow::bail;
use mailspan_core::contact::{Change, ContactKey, ContactWrite, Turn, WriteMode};
use mailspan_core::{Address, Millis, Name};
use mailspan_store::floor::Floor;
use mailspan_store::{ContactFilter, ContactPage};
use serde_json::Value;

use super::contacts::people;
use super::figures::{Figure, Unit};
use super::store::together;
use crate::app::App;
use crate::contacts::door::{self, Origin};
use crate::runtime;

/// Contacts of a write: those of a bulk request.
const BULK: u64 = 1_000;
const LOAD: &str = "contacts";
const CHANGE: &str = "contacts one by one";

/// Makes contacts a thousand a write, then changes each in a write of its own, so many at once; false where one is
/// missing.
pub async fn measure(app: &App, contacts: u64, writers: u64) -> anyhow::Result<(Vec<Figure>, bool)> {
    let began = runtime::instant();
    for first in (0..contacts).step_by(BULK as usize) {
        write(app, (first..contacts.min(first + BULK)).map(|n| (n, 0))).await?;
    }
    let mut figures = vec![speed(LOAD, contacts, began)];
    let began = runtime::instant();
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let app = app.clone();
        tasks.push(async move {
            for k in (writer..contacts).step_by(usize::try_from(writers)?) {
                write(&app, std::iter::once((people::scattered(k, contacts), 1))).await?;
            }
            anyhow::Ok(())
        });
    }
    together(tasks).await?;
    figures.push(speed(CHANGE, contacts, began));
    let filter = ContactFilter { tenant: Some(Name::default_tenant()), ..ContactFilter::default() };
    let list = app.store.contacts(filter, ContactPage::Numbered { page: 1, limit: 1 }).await?;
    Ok((figures, list.total == Some(contacts)))
}

/// The same in a bare table.
pub async fn bare(floor: &mut Floor, contacts: u64, writers: u64) -> anyhow::Result<Vec<Figure>> {
    let mut figures = vec![];
    type Order = fn(u64, u64) -> u64;
    let orders: [(&str, u64, Order); 2] = [(LOAD, BULK, |k, _| k), (CHANGE, writers, people::scattered)];
    for (version, (name, at_once, order)) in (0_u32..).zip(orders) {
        let began = runtime::instant();
        for first in (0..contacts).step_by(usize::try_from(at_once)?) {
            let some = first..contacts.min(first + at_once);
            let updated = |k: u64| (u64::from(version) * contacts + k).cast_signed();
            let rows: Vec<_> = some.map(|k| people::bare(order(k, contacts), version, updated(k))).collect();
            floor.upsert(&rows).await?;
        }
        figures.push(Figure { name: name.to_owned(), ..speed(name, contacts, began) });
    }
    Ok(figures)
}

fn speed(part: &str, rows: u64, began: std::time::Instant) -> Figure {
    let speed = rows as f64 / began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    Figure::new(&format!("{part}, rows/s"), Unit::PerSecond, speed)
}

async fn write(app: &App, contacts: impl Iterator<Item = (u64, u32)>) -> anyhow::Result<()> {
    let tenant = Name::default_tenant();
    let origin = Origin { tenant: &tenant, credential: "bench", request: None, cuts: vec![] };
    let at = runtime::now();
    let writes = contacts.map(|(n, version)| contact_write(n, version, at)).collect();
    for outcome in door::write(app, origin, writes).await? {
        if let Turn::Refused(reason) = outcome.turn {
            bail!("the store refuses a contact of the bench: {reason}");
        }
    }
    Ok(())
}

fn contact_write(n: u64, version: u32, at: Millis) -> ContactWrite {
    let shown = people::contact(n, version);
    let text = |name: &str| shown[name].as_str().map_or(Change::Keep, |text| Change::Set(text.to_owned()));
    let address = Address::parse(&people::email(n)).ok();
    let key = ContactKey::Subject { address: address.clone(), external_id: Some(format!("u-{n}")) };
    let object = |name: &str| shown[name].as_object().cloned().unwrap_or_default();
    let standard = object("standardFields").into_iter();
    ContactWrite {
        address,
        external_id: text("externalId"),
        locale: text("locale"),
        consent_version: text("consentVersion"),
        source: text("source"),
        attributes: Change::Set(object("attributes").into_iter().collect()),
        standard: standard.map(|(name, value): (String, Value)| (name, Change::Set(value))).collect(),
        opt_in: Some(true),
        ..ContactWrite::new(key, WriteMode::Upsert, door::new_uid(), at, "bulk")
    }
}
