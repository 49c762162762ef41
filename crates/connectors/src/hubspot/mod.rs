//! HubSpot as a CRM: facts on contacts, notes, opt-outs, tasks for owners.

mod answer;
mod call;
mod consent;
mod contacts;
mod judge;
mod matching;
mod notes;
mod prepare;
mod settings;
mod tasks;

use std::sync::Arc;

use mailspan_core::{Answer, Request, Verdict};
use serde_json::Value;

use crate::contract::{BadSetting, Item, Judgement, Kind, Known, Plan, Policy, Sink, SinkKind, schema_of};
use call::{Call, call_of, gather};
pub use prepare::{Missing, Prepare, Property, prepare};
use settings::Settings;

/// The kind `hubspot`.
pub static KIND: Kind = Kind {
    name: "hubspot",
    title: "HubSpot",
    about: "Writes email engagement to contacts that exist (or creates them where the route says so): counts \
        and times as contact properties, activities as notes that hang on their contact and deal, opt-outs \
        through the subscriptions API, a complaint as a task for the owner. Needs a service key or a \
        private-app token with the scopes crm.objects.contacts.read and .write, crm.objects.owners.read, \
        crm.schemas.contacts.read (.write too where `prepare` creates properties), \
        communication_preferences.read_write and communication_preferences.statuses.batch.write, as `auth = { kind = \"bearer\", token = … }`. \
        `mailspan destinations prepare` shows which properties and scopes are missing. Rules: HubSpot's API \
        specifications 2026-03 (Contacts, Notes, Associations, Owners, Properties, Subscriptions) and its \
        pages «Usage guidelines» and «Error handling».",
    source: None,
    sink: Some(SinkKind {
        schema: schema_of::<Settings>,
        // The smallest limit of a private app; the batch limit of every batch call.
        defaults: Policy {
            rate: (100, 10_000),
            concurrency: 4,
            batch: 100,
            batch_wait_ms: 200,
            timeout_ms: 30_000,
            merges: true,
            coalesces: true,
        },
        base_url: "https://api.hubapi.com",
        audience: false,
        build,
    }),
    ask: None,
};

struct HubSpot {
    settings: Settings,
}

fn build(settings: &Value) -> Result<Arc<dyn Sink>, BadSetting> {
    Ok(Arc::new(HubSpot { settings: Settings::read(settings)? }))
}

impl Sink for HubSpot {
    fn plan(&self, items: &[Item], known: &Known) -> Plan {
        let settings = &self.settings;
        let settle = |verdict| Plan::Settle { takes: vec![0], verdict };
        let Some(first) = items.first() else {
            return Plan::Settle {
                takes: vec![],
                verdict: Verdict::skipped("no_items", "nothing was offered"),
            };
        };
        let call = match call_of(settings, first) {
            Ok(call) => call,
            Err(verdict) => return settle(verdict),
        };
        if !contacts::sets_something(settings, first.operation) {
            return settle(Verdict::skipped("no_fields", "none of the fields has a property at HubSpot"));
        }
        if let (Call::WriteTask, Some((question, owner))) = (call, tasks::question(first)) {
            match known.get(&question.0) {
                None => return Plan::Ask { question, request: tasks::ask_owner(settings, &owner) },
                Some("") if first.elsewhere => {
                    return settle(Verdict::handed_on(&format!("HubSpot knows no owner {owner}")));
                }
                Some(_) => {}
            }
        }
        let ready = |item: &Item| match call {
            Call::WriteTask => tasks::is_ready(item, known),
            _ => contacts::sets_something(settings, item.operation),
        };
        let inputs = gather(settings, call, items, ready);
        let request = match call {
            Call::UpdateByEmail | Call::UpdateByRecord | Call::Upsert => {
                contacts::write(settings, call, items, &inputs)
            }
            Call::UnsubscribeAll => consent::unsubscribe_all(settings, &inputs),
            Call::WriteStatuses => consent::write_statuses(settings, items, &inputs),
            Call::Erase => match inputs.first() {
                Some(input) => contacts::erase(settings, input),
                None => return settle(Verdict::skipped("no_person", "the event names no address")),
            },
            Call::FindContact => contacts::find(settings, &inputs),
            Call::WriteNote => notes::write(settings, items, &inputs),
            Call::HangNote | Call::HangNoteOnDeal | Call::HangTask => notes::hang(settings, call, &inputs),
            Call::DropNote => notes::drop_notes(settings, &inputs),
            Call::WriteTask => tasks::write(settings, items, &inputs, known),
        };
        let mut takes: Vec<usize> = inputs.into_iter().flat_map(|input| input.members).collect();
        takes.sort_unstable();
        Plan::Send { request, takes }
    }

    fn judge(&self, items: &[Item], answer: &Answer) -> Judgement {
        judge::judge(&self.settings, items, answer)
    }

    fn probe(&self) -> Request {
        Request {
            method: "GET",
            path: format!("/crm/objects/{}/contacts?limit=1", self.settings.version),
            headers: vec![("accept".to_owned(), "application/json".to_owned())],
            body: Default::default(),
        }
    }

    fn batch_key(&self, item: &Item) -> Option<String> {
        call_of(&self.settings, item).ok()?.batch_key().map(str::to_owned)
    }
}
