//! A play: what three systems do, in which order their messages arrive, how often, and what the wire does to them.

use mailspan_core::Millis;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::rules::{Demand, Rules, Said};
use super::world::{Message, Wire, World};
use crate::runtime;

/// Persons of a play.
pub const PEOPLE: usize = 2;
/// Steps after the last act until everybody has heard everything.
const STEPS_MAX: usize = 5_000;

/// One thing that happens. The first number is the person.
#[derive(Debug, Clone)]
pub enum Act {
    /// The application says so, by a message that arrives some time.
    Subscribe(usize),
    Confirm(usize),
    Unsubscribe(usize),
    Erase(usize),
    /// Requests to the hub's contacts API: at once.
    Put(usize, bool),
    Delete(usize),
    /// A form asks for a confirmation; the visitor clicks the newest link that the application was given.
    Ask(usize),
    Click(usize),
    /// A file says that they agreed so many seconds ago.
    Import(usize, i64),
    /// At the mailing platform: the hosted page, a complaint, a hard bounce.
    Leave(usize),
    Complain(usize),
    Bounce(usize),
    /// One of the messages on their way arrives; true: and is repeated later.
    Arrive(usize, bool),
    /// One of the requests that the hub wants to make is made.
    Exchange(usize, Wire),
    /// The clock goes on until the hub wants something.
    Wait,
}

/// Any play.
pub fn any_play() -> impl Strategy<Value = Vec<Act>> {
    let who = 0..PEOPLE;
    let wire = prop_oneof![4 => Just(Wire::Whole), 1 => Just(Wire::LostAfter), 1 => Just(Wire::Down)];
    let act = prop_oneof![
        4 => who.clone().prop_map(Act::Subscribe),
        2 => who.clone().prop_map(Act::Confirm),
        3 => who.clone().prop_map(Act::Unsubscribe),
        1 => who.clone().prop_map(Act::Erase),
        3 => (who.clone(), prop::bool::ANY).prop_map(|(who, opt_in)| Act::Put(who, opt_in)),
        1 => who.clone().prop_map(Act::Delete),
        2 => who.clone().prop_map(Act::Ask),
        2 => who.clone().prop_map(Act::Click),
        2 => (who.clone(), 0..20_i64).prop_map(|(who, ago)| Act::Import(who, ago)),
        3 => who.clone().prop_map(Act::Leave),
        1 => who.clone().prop_map(Act::Complain),
        1 => who.prop_map(Act::Bounce),
        8 => (0..8_usize, prop::bool::weighted(0.2)).prop_map(|(which, again)| Act::Arrive(which, again)),
        8 => (0..4_usize, wire).prop_map(|(which, wire)| Act::Exchange(which, wire)),
        1 => Just(Act::Wait),
    ];
    prop::collection::vec(act, 1..32)
}

/// What a message says by the rules; once, however often it arrives.
#[derive(Debug, Clone, Copy)]
enum Effect {
    Subscribed(i64),
    Confirmed(i64),
    Unsubscribed(i64),
    Erased(i64),
    Complained(i64),
    Bounced(i64),
    /// The account tells of what the hub did there itself.
    Echo,
}

struct OnItsWay {
    who: usize,
    message: Message,
    effect: Effect,
    is_copy: bool,
}

/// A link to confirm, and the life of the person in which it was asked for.
struct Link {
    who: usize,
    path: String,
    life: u32,
    used: bool,
}

/// One play on a world that others used before: with people of its own.
pub struct Play<'w> {
    world: &'w mut World,
    number: u64,
    rules: Vec<Rules>,
    on_their_way: Vec<OnItsWay>,
    links: Vec<Link>,
    messages: u64,
    /// What the application was told before this play.
    told_before: usize,
    /// Confirmations asked for: of whom, when, and in which life.
    asked: Vec<(usize, i64, u32)>,
    /// Revocations at the platform, by type.
    revoked: Vec<(usize, &'static str)>,
    log: Vec<String>,
}

impl<'w> Play<'w> {
    pub fn new(world: &'w mut World, number: u64) -> Play<'w> {
        let told_before = world.told.len();
        Play {
            world,
            number,
            rules: vec![Rules::default(); PEOPLE],
            on_their_way: Vec::new(),
            links: Vec::new(),
            messages: 0,
            told_before,
            asked: Vec::new(),
            revoked: Vec::new(),
            log: Vec::new(),
        }
    }

    /// Plays it through and waits until everybody has heard everything; what then is not as the rules demand.
    pub async fn run(mut self, acts: &[Act]) -> Result<(), String> {
        for act in acts {
            runtime::virtual_clock::advance(1_000);
            self.note(format!("{act:?}"));
            self.act(act).await;
            self.hear().await;
        }
        self.rest().await?;
        self.compare().await
    }

    fn note(&mut self, text: String) {
        self.log.push(format!("{} {text}", Millis(runtime::now().0).rfc3339()));
    }

    fn email(&self, who: usize) -> String {
        format!("p{}x{who}@example.com", self.number)
    }

    fn external_id(&self, who: usize) -> String {
        format!("u-{}-{who}", self.number)
    }

    async fn act(&mut self, act: &Act) {
        let now = runtime::now().0;
        match *act {
            Act::Subscribe(who) => self.says(who, "subscribed", Effect::Subscribed(now)),
            Act::Confirm(who) => self.says(who, "confirmed", Effect::Confirmed(now)),
            Act::Unsubscribe(who) => self.says(who, "unsubscribed", Effect::Unsubscribed(now)),
            Act::Erase(who) => self.says(who, "erased", Effect::Erased(now)),
            Act::Put(who, opt_in) => self.put(who, opt_in).await,
            Act::Delete(who) => {
                let path = format!("/contacts/{}", self.external_id(who));
                let (status, _) = self.world.ask("DELETE", &path, &[], &Value::Null).await;
                assert_eq!(status, if self.rules[who].contact { 200 } else { 404 });
                if status == 200 {
                    self.rules[who].erase(now);
                }
            }
            Act::Ask(who) => self.ask(who).await,
            Act::Click(who) => self.click(who).await,
            Act::Import(who, ago) => self.import(who, now - ago * 1_000).await,
            Act::Leave(who) => self.leave(who),
            Act::Complain(who) => self.mail(who, "email.complained", json!({})),
            Act::Bounce(who) => self.mail(who, "email.bounced", json!({ "bounceType": "hard" })),
            Act::Arrive(which, again) => self.arrive(which, again).await,
            Act::Exchange(which, wire) => drop(self.world.exchange(which, wire).await),
            Act::Wait => drop(self.world.wait().await),
        }
    }

    /// The application puts a message on its way.
    fn says(&mut self, who: usize, kind: &str, effect: Effect) {
        self.messages += 1;
        let contact = json!({ "email": self.email(who), "external_id": self.external_id(who) });
        let event = json!([{
            "type": format!("contact.{kind}"), "id": format!("{}-{}", self.number, self.messages),
            "subject": self.email(who), "time": runtime::now().rfc3339(), "data": { "contact": contact },
        }]);
        let message =
            Message { path: "/v1/events", headers: Vec::new(), body: event.to_string().into_bytes() };
        self.on_their_way.push(OnItsWay { who, message, effect, is_copy: false });
    }

    async fn put(&mut self, who: usize, opt_in: bool) {
        let now = runtime::now().0;
        let body = json!({ "email": self.email(who), "externalId": self.external_id(who), "optIn": opt_in });
        let (status, answer) = self.world.ask("PUT", "/contacts", &[], &body).await;
        assert_eq!(status, 200, "{answer}");
        self.rules[who].wishes(now, opt_in);
    }

    async fn ask(&mut self, who: usize) {
        let key = self.world.intake_key.clone();
        let email = self.email(who).replace('@', "%40");
        let form = format!("email={email}&external_id={}&doi=true&src=form", self.external_id(who));
        let headers = [("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
        let path = format!("/webhooks/contacts/email?key={key}");
        let (status, answer) = self.world.ask_raw("POST", &path, &headers, form.into_bytes()).await;
        assert_eq!(status, 200, "{answer}");
        self.rules[who].is_asked();
        self.asked.push((who, runtime::now().0, self.rules[who].life));
    }

    async fn click(&mut self, who: usize) {
        let Some(link) = self.links.iter_mut().rev().find(|link| link.who == who) else { return };
        let (path, is_good) = (link.path.clone(), !link.used && link.life == self.rules[who].life);
        link.used = true;
        self.world.ask_raw("POST", &path, &[], Vec::new()).await;
        if is_good {
            self.rules[who].opts_in(runtime::now().0, Said::Confirmed);
        }
    }

    async fn import(&mut self, who: usize, agreed_at: i64) {
        self.messages += 1;
        let digest = format!("{}-{}", self.number, self.messages);
        let begin = json!({ "file": "people.csv", "digest": digest });
        let (_, job) = self.world.ask("POST", "/v1/imports", &[], &begin).await;
        let id = job["id"].as_str().unwrap_or_else(|| panic!("no import: {job}")).to_owned();
        let row = json!({
            "email": self.email(who), "external_id": self.external_id(who), "opt_in": "true",
            "consent_at": Millis(agreed_at).rfc3339(), "source": "fair",
        });
        let rows = json!({ "after": 0, "rows": [row] });
        let (status, answer) = self.world.ask("POST", &format!("/v1/imports/{id}/rows"), &[], &rows).await;
        assert_eq!(status, 200, "{answer}");
        self.world.ask("POST", &format!("/v1/imports/{id}/end"), &[], &json!({})).await;
        self.rules[who].imports(agreed_at);
    }

    /// Only who gets mail finds the link to leave.
    fn leave(&mut self, who: usize) {
        let contact = self.world.account.contact(&self.email(who));
        if contact.is_some_and(|contact| contact.opt_in && contact.suppressed_at.is_none()) {
            assert!(self.world.account.unsubscribe(&self.email(who)));
            self.revoked.push((who, "contact.unsubscribed"));
        }
    }

    /// Something becomes of a mail that was sent to somebody whom the account knows.
    fn mail(&mut self, who: usize, event_type: &'static str, more: Value) {
        if self.world.account.contact(&self.email(who)).is_some() {
            self.world.account.happen(event_type, &self.email(who), &more);
            self.revoked.push((who, event_type));
        }
    }

    async fn arrive(&mut self, which: usize, again: bool) {
        if self.on_their_way.is_empty() {
            return;
        }
        let one = self.on_their_way.remove(which % self.on_their_way.len());
        self.take(&one).await;
        if again {
            self.on_their_way.push(OnItsWay { is_copy: true, ..one });
        }
    }

    async fn take(&mut self, one: &OnItsWay) {
        self.note(format!(
            "  arrives{}: person {}, {:?}",
            if one.is_copy { " again" } else { "" },
            one.who,
            one.effect
        ));
        self.world.arrive(&one.message).await;
        if !one.is_copy {
            let rules = &mut self.rules[one.who];
            match one.effect {
                Effect::Subscribed(at) => rules.opts_in(at, Said::In),
                Effect::Confirmed(at) => rules.opts_in(at, Said::Confirmed),
                Effect::Unsubscribed(at) => rules.unsubscribes(at),
                Effect::Erased(at) => rules.erase(at),
                Effect::Complained(at) => rules.complains(at),
                Effect::Bounced(at) => rules.bounces(at),
                Effect::Echo => {}
            }
        }
    }

    /// New webhooks of the account, and new links that the application was told of.
    async fn hear(&mut self) {
        self.world.settle().await;
        for message in self.world.webhooks() {
            let body: Value = serde_json::from_slice(&message.body).unwrap();
            let data = &body["data"];
            let email = data["email"].as_str().or(data["to"].as_str()).unwrap_or_default();
            let who = (0..PEOPLE).find(|who| self.email(*who) == email).expect("a webhook about a stranger");
            let time = data["occurredAt"].as_str().or(data["unsubscribedAt"].as_str());
            let at = Millis::parse_rfc3339(time.or(body["createdAt"].as_str()).unwrap()).unwrap().0;
            let effect = match (body["type"].as_str().unwrap(), data["source"].as_str()) {
                ("contact.unsubscribed", Some("api")) => Effect::Echo,
                ("contact.unsubscribed", _) => Effect::Unsubscribed(at),
                ("email.complained", _) => Effect::Complained(at),
                ("email.bounced", _) => Effect::Bounced(at),
                (other, _) => panic!("a webhook of type {other}"),
            };
            self.on_their_way.push(OnItsWay { who, message, effect, is_copy: false });
        }
        let told: Vec<Value> = self.world.told[self.told_before..].to_vec();
        for event in told.iter().filter(|event| event["type"] == "contact.confirmation_asked") {
            let url = event["data"]["confirm_url"].as_str().unwrap();
            let path = url.trim_start_matches("https://hub.example.com").to_owned();
            let who = (0..PEOPLE).find(|who| event["subject"] == self.email(*who)).unwrap();
            if self.links.iter().all(|link| link.path != path) {
                let at = Millis::parse_rfc3339(event["time"].as_str().unwrap()).unwrap().0;
                let asked = self.asked.iter().find(|(asked, when, _)| (*asked, *when) == (who, at));
                let life = asked.expect("nobody asked").2;
                self.links.push(Link { who, path, life, used: false });
            }
        }
    }

    /// Until nothing is on its way, nothing waits and nothing is pending.
    async fn rest(&mut self) -> Result<(), String> {
        for _ in 0..STEPS_MAX {
            self.hear().await;
            if !self.on_their_way.is_empty() {
                self.arrive(0, false).await;
                continue;
            }
            match self.world.step_to_rest().await {
                None => {}
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => return Err(self.failure(&why).await),
            }
        }
        Err(self.failure("the three systems do not come to rest").await)
    }

    async fn compare(&mut self) -> Result<(), String> {
        for who in 0..PEOPLE {
            let demand = self.rules[who].demand();
            let (email, external_id) = (self.email(who), self.external_id(who));
            let (contact, suppressed) = self.world.shown(&external_id, &email).await;
            let hub = Demand {
                contact: contact.is_some(),
                opt_in: contact.as_ref().is_some_and(|contact| contact["optIn"] == true),
                permission: contact.as_ref().and_then(|contact| contact["permission"].as_i64()).unwrap_or(1),
                suppressed: ["unsubscribe", "complaint", "bounce", "manual", "erasure"]
                    .into_iter()
                    .find(|reason| suppressed.as_deref() == Some(reason)),
            };
            if hub != demand {
                let text = format!("person {who}: the rules demand {demand:?}, the hub shows {hub:?}");
                return Err(self.failure(&text).await);
            }
            self.compare_account(who, &demand).await?;
            self.compare_application(who).await?;
        }
        Ok(())
    }

    /// The account must know the same people, mail nobody whom the rules forbid, and nobody less.
    async fn compare_account(&mut self, who: usize, demand: &Demand) -> Result<(), String> {
        let found = self.world.account.contact(&self.email(who));
        let is_mailed = found.as_ref().is_some_and(|one| one.opt_in && one.suppressed_at.is_none());
        if found.is_some() == demand.contact && is_mailed == demand.mailable() {
            return Ok(());
        }
        let text = format!("person {who}: the rules demand {demand:?}, the mailing platform has {found:?}");
        Err(self.failure(&text).await)
    }

    /// Each revocation at the platform reached the application, once; of who was erased meanwhile it may be void.
    async fn compare_application(&mut self, who: usize) -> Result<(), String> {
        for event_type in ["contact.unsubscribed", "email.complained", "email.bounced"] {
            let made = self.revoked.iter().filter(|one| **one == (who, event_type)).count();
            let is_it = |event: &&Value| {
                let echo = event["data"]["reason"] == "api";
                event["type"] == event_type
                    && event["source"] == "/core"
                    && event["subject"] == self.email(who)
                    && !echo
            };
            let ids =
                self.world.told[self.told_before..].iter().filter(is_it).map(|event| event["id"].to_string());
            let told: std::collections::BTreeSet<String> = ids.collect();
            let is_void = self.rules[who].life > 0 && told.len() < made;
            if told.len() != made && !is_void {
                let text = format!(
                    "person {who}: {made} × {event_type} happened at the platform, the application was told {told:?}"
                );
                return Err(self.failure(&text).await);
            }
        }
        Ok(())
    }

    async fn failure(&mut self, text: &str) -> String {
        let mut story = format!("{text}\nwhat happened:\n  {}\n", self.log.join("\n  "));
        for who in 0..PEOPLE {
            let email = self.email(who);
            story.push_str(&format!("person {who} at the hub:\n{}", self.world.story(&email).await));
        }
        story
    }
}
