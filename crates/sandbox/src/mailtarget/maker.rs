//! Realistic sends and what becomes of them, from a seed.

use mailspan_core::{Millis, SplitMix64};
use serde_json::{Map, Value, json};

use super::Generation;

/// What happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Generation B alone.
    Injection,
    Delivery,
    /// Generation B alone.
    Delay,
    /// A hard bounce.
    Bounce,
    /// `soft_bounce` in generation A, a `bounce` of a soft class in generation B.
    SoftBounce,
    Open,
    Click,
    Complaint,
    Unsubscribe,
    OutOfBand,
}

/// Somebody who gets mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    pub email: String,
    /// What the application attaches to their sends: `crm_contact_id`, `crm_deal_id`, `crm_owner`.
    pub metadata: Map<String, Value>,
}

/// One accepted transmission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub transmission_id: String,
    pub at: Millis,
    pub subject: String,
    pub sender: String,
    /// Address and role: `to`, `cc` or `bcc`.
    pub recipients: Vec<(String, &'static str)>,
    pub metadata: Map<String, Value>,
    /// Links that can be clicked; none: no clicks.
    pub links: Vec<String>,
    pub opens_tracked: bool,
}

/// One event of a message, in no payload's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    pub what: What,
    pub at: Millis,
    /// Decimal, above 2^53.
    pub event_id: String,
    pub message_id: String,
    pub transmission_id: String,
    pub recipient: String,
    pub role: &'static str,
    pub subject: String,
    pub sender: String,
    pub metadata: Map<String, Value>,
    pub url: Option<String>,
    pub reason: Option<String>,
    pub bounce_class: Option<u64>,
}

/// Makes sends and their events; the same seed makes the same ones.
#[derive(Debug, Clone)]
pub struct Maker {
    /// To whom [`Maker::send`] sends.
    pub people: Vec<Reader>,
    /// How much faster than life people read: 1 is life, 60 a minute in a second.
    pub speed: u64,
    pub generation: Generation,
    random: SplitMix64,
    event: u64,
}

/// The shortest time between two events of one message: generation A tells them apart by the second.
const STEP_MS_MIN: u64 = 1_000;

impl Maker {
    /// Fifty people at example domains, at the speed of life, generation A.
    pub fn new(seed: u64) -> Maker {
        let mut random = SplitMix64(seed);
        let event = 92_356_927_700_000_000 + random.below(1_000_000_000);
        Maker { people: crowd(), speed: 1, generation: Generation::A, random, event }
    }

    /// A send to one of the people, one in ten with a copy to another; nothing where there are none.
    pub fn send(&mut self, now: Millis) -> Option<Sent> {
        let reader = self.anybody()?;
        let mut recipients = vec![(reader.email, "to")];
        if self.random.chance(10)
            && let Some(other) = self.anybody()
            && other.email != recipients[0].0
        {
            recipients.push((other.email, "cc"));
        }
        let subjects =
            ["Your proposal is ready", "Spring offers", "Your order is on its way", "News of the month"];
        let subject = subjects[self.random.below(4) as usize];
        Some(Sent {
            transmission_id: self.transmission_id(),
            at: now,
            subject: subject.to_owned(),
            sender: "sales@sandbox.example.com".to_owned(),
            recipients,
            metadata: reader.metadata,
            links: vec![
                "https://shop.example.com/offer?ref=mail&id=42".to_owned(),
                "https://shop.example.com/help".to_owned(),
            ],
            opens_tracked: true,
        })
    }

    /// 24 hexadecimal digits.
    pub fn transmission_id(&mut self) -> String {
        format!("{:016x}{:08x}", self.random.next_u64(), self.random.next_u64() >> 32)
    }

    fn anybody(&mut self) -> Option<Reader> {
        let at = self.random.below(self.people.len() as u64) as usize;
        self.people.get(at).cloned()
    }

    /// What becomes of a send: for each recipient delivered, opened, clicked and the rest, or bounced;
    /// in order of time, over all recipients.
    pub fn story(&mut self, sent: &Sent) -> Vec<Happening> {
        let mut story = Vec::new();
        for (recipient, role) in &sent.recipients {
            let message_id = format!("{:020x}", self.random.next_u64());
            let mut at = sent.at;
            for (what, wait_ms) in self.life(sent) {
                at = at.plus((wait_ms / self.speed.max(1)).max(STEP_MS_MIN));
                let mut happening = self.happening(sent, recipient, role, what, at);
                happening.message_id.clone_from(&message_id);
                story.push(happening);
            }
        }
        story.sort_by_key(|happening| happening.at);
        story
    }

    /// The steps of one message with the wait before each, in milliseconds.
    fn life(&mut self, sent: &Sent) -> Vec<(What, u64)> {
        let generation_b = self.generation == Generation::B;
        let mut life = Vec::new();
        if generation_b {
            life.push((What::Injection, 0));
        }
        match self.random.below(100) {
            0..3 => return [life, vec![(What::Bounce, 2_000)]].concat(),
            3..5 => return [life, vec![(What::SoftBounce, 600_000)]].concat(),
            5..7 if generation_b => life.push((What::Delay, 60_000)),
            _ => {}
        }
        life.push((What::Delivery, 1_000 + self.random.below(4_000)));
        if self.random.chance(1) {
            life.push((What::OutOfBand, 3_600_000));
            return life;
        }
        if sent.opens_tracked && self.random.chance(45) {
            for _ in 0..=self.random.below(3) {
                life.push((What::Open, 10_000 + self.random.below(600_000)));
            }
            if !sent.links.is_empty() && self.random.chance(35) {
                for _ in 0..=self.random.below(2) {
                    life.push((What::Click, 3_000 + self.random.below(60_000)));
                }
            }
        }
        match self.random.below(100) {
            0..2 => life.push((What::Complaint, 120_000)),
            2..5 => life.push((What::Unsubscribe, 30_000)),
            _ => {}
        }
        life
    }

    /// One event of a send, with an id of its own.
    pub fn happening(
        &mut self,
        sent: &Sent,
        recipient: &str,
        role: &'static str,
        what: What,
        at: Millis,
    ) -> Happening {
        self.event += 1 + self.random.below(1_000);
        let link = self.random.below(sent.links.len() as u64) as usize;
        let (reason, bounce_class) = reason(what, recipient);
        Happening {
            what,
            at,
            event_id: self.event.to_string(),
            message_id: format!("{:020x}", self.random.next_u64()),
            transmission_id: sent.transmission_id.clone(),
            recipient: recipient.to_owned(),
            role,
            subject: sent.subject.clone(),
            sender: sent.sender.clone(),
            metadata: sent.metadata.clone(),
            url: sent.links.get(link).filter(|_| what == What::Click).cloned(),
            reason,
            bounce_class,
        }
    }
}

/// What the receiving server said, and the bounce class after SparkPost's numbering.
fn reason(what: What, recipient: &str) -> (Option<String>, Option<u64>) {
    let (text, class) = match what {
        What::Bounce => (format!("550 5.1.1 <{recipient}>: user unknown"), 10),
        What::SoftBounce => (format!("452 4.2.2 <{recipient}>: mailbox full"), 22),
        What::Delay => ("421 4.7.0 try again later".to_owned(), 21),
        What::OutOfBand => ("the mailbox answered later: vacation".to_owned(), 60),
        _ => return (None, None),
    };
    (Some(text), Some(class))
}

fn crowd() -> Vec<Reader> {
    let first = ["ana", "ben", "chloé", "dewi", "emil", "fatma", "gus", "hana", "ivo", "juno"];
    let domains = ["example.com", "example.org", "example.net", "mail.example.com", "shop.example.org"];
    let mut people = Vec::new();
    for domain in domains {
        for name in first {
            people.push(Reader { email: format!("{name}@{domain}"), metadata: Map::new() });
        }
    }
    people
}

/// Metadata as a send of the CRM's own application carries it.
pub fn crm_metadata(contact_id: &str, owner: &str) -> Map<String, Value> {
    match json!({"crm_contact_id": contact_id, "crm_owner": owner}) {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
