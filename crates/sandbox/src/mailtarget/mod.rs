//! A fake Mailtarget: accepts sends, and posts signed webhooks about what becomes of them, in either
//! payload generation, repeated until acknowledged, disturbed by faults.

mod api;
mod maker;
mod payload;
mod queue;
mod transmission;

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use mailspan_core::limits::{SANDBOX_OBJECTS_MAX, SANDBOX_REQUESTS_KEPT};
use mailspan_core::{Millis, Span};

use crate::gate::Gate;
use crate::wire::lock;
use crate::{Clock, Faults, Spawn};

pub use maker::{Happening, Maker, Reader, Sent, What, crm_metadata};
pub use payload::{SIGNATURE, generation_a, generation_b, signature};
pub use queue::{Progress, Queue, Webhook};

/// The shape of webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// One event a request, RFC 3339 instants, metadata as an object.
    A,
    /// Batches, instants in milliseconds, metadata as JSON inside a string.
    B,
}

/// Posts a webhook to its receiver: the status, or nothing where none came.
pub type Post = Arc<dyn Fn(Webhook) -> Pin<Box<dyn Future<Output = Option<u16>> + Send>> + Send + Sync>;

/// How a fake Mailtarget is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The key that sends must bring.
    pub api_key: String,
    /// Signs webhooks; an empty one signs nothing.
    pub secret: String,
    pub generation: Generation,
    /// How much faster than life people read.
    pub speed: u64,
    /// Waits before the repeats of a webhook that was not acknowledged.
    pub calendar: Vec<Span>,
    pub faults: Faults,
    pub seed: u64,
}

impl Default for Settings {
    /// Generation A, the speed of life, repeats after 10 s, 1 min, 5 min, 30 min, 2 h and 6 h (the
    /// vendor publishes no schedule), no key and no secret: nothing is accepted or signed.
    fn default() -> Settings {
        let waits = [10_000, 60_000, 300_000, 1_800_000, 7_200_000, 21_600_000];
        Settings {
            api_key: String::new(),
            secret: String::new(),
            generation: Generation::A,
            speed: 1,
            calendar: waits.map(|ms| Span { ms }).to_vec(),
            faults: Faults::default(),
            seed: 1,
        }
    }
}

/// A fake Mailtarget; clones share their state.
#[derive(Clone)]
pub struct Mailtarget {
    platform: Arc<Mutex<Platform>>,
    clock: Clock,
}

struct Platform {
    api_key: String,
    maker: Maker,
    queue: Queue,
    gate: Gate,
    /// Addresses that bounced, complained or unsubscribed, in lower case.
    suppressed: BTreeSet<String>,
    sends: u64,
    sent: VecDeque<Sent>,
    told: VecDeque<Happening>,
}

/// Webhooks on their way at once.
const POSTS_MAX: usize = 64;
/// How long an acknowledgement is waited for.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(20);

impl Mailtarget {
    pub fn new(settings: Settings, clock: Clock) -> Mailtarget {
        let Settings { api_key, secret, generation, speed, calendar, faults, seed } = settings;
        let mut maker = Maker::new(seed);
        (maker.speed, maker.generation) = (speed, generation);
        let platform = Platform {
            api_key,
            maker,
            queue: Queue::new(generation, &secret, calendar, faults.clone(), seed),
            gate: Gate::new(faults, seed),
            suppressed: BTreeSet::new(),
            sends: 0,
            sent: VecDeque::new(),
            told: VecDeque::new(),
        };
        Mailtarget { platform: Arc::new(Mutex::new(platform)), clock }
    }

    /// The Transmission API (`POST /v1/layang/transmissions`), `GET /_sandbox/state` and
    /// `POST /_sandbox/faults`.
    pub fn router(&self) -> Router {
        api::router(self)
    }

    /// Those to whom [`Mailtarget::send_one`] sends.
    pub fn set_people(&self, people: Vec<Reader>) {
        lock(&self.platform).maker.people = people;
    }

    pub fn set_faults(&self, faults: Faults) {
        let mut platform = lock(&self.platform);
        platform.queue.faults = faults.clone();
        platform.gate.set(faults);
    }

    /// Sends to one of the people, and lets things happen; nothing where there are no people.
    pub fn send_one(&self) -> Option<Sent> {
        let now = (self.clock)();
        let mut platform = lock(&self.platform);
        let sent = platform.maker.send(now)?;
        platform.accept(sent.clone());
        Some(sent)
    }

    /// Lets one thing happen to a send, now or at a time to come.
    pub fn happen(&self, sent: &Sent, what: What, at: Millis) {
        let mut platform = lock(&self.platform);
        for (recipient, role) in &sent.recipients {
            let happening = platform.maker.happening(sent, recipient, role, what, at);
            platform.queue.push([happening]);
        }
    }

    /// The webhooks to post now; each is to be settled.
    pub fn due(&self, max: usize) -> Vec<Webhook> {
        let now = (self.clock)();
        let mut platform = lock(&self.platform);
        let (webhooks, fresh) = platform.queue.due(now, max);
        for happening in fresh {
            platform.told(happening);
        }
        webhooks
    }

    /// What came of a webhook.
    pub fn settle(&self, ticket: u64, status: Option<u16>) {
        let now = (self.clock)();
        lock(&self.platform).queue.settle(ticket, status, now);
    }

    /// Posts what is due for as long as it is polled, and makes a send as often as `every` says.
    /// The posts run beside it, at most 64 at once, each at most 10 s.
    pub async fn run(self, post: Post, spawn: Spawn, every: Option<Span>) {
        let mut next = (self.clock)();
        loop {
            let now = (self.clock)();
            if let Some(every) = every
                && now >= next
            {
                self.send_one();
                next = now.plus(every.ms.max(1));
            }
            let free = POSTS_MAX.saturating_sub(lock(&self.platform).queue.in_flight());
            for webhook in self.due(free) {
                let (platform, post) = (self.clone(), post.clone());
                spawn(Box::pin(async move {
                    let ticket = webhook.ticket;
                    let answered = tokio::time::timeout(POST_TIMEOUT, post(webhook)).await;
                    platform.settle(ticket, answered.ok().flatten());
                }));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    pub fn progress(&self) -> Progress {
        lock(&self.platform).queue.progress()
    }

    /// Sends accepted, in all.
    pub fn sends(&self) -> u64 {
        lock(&self.platform).sends
    }

    /// The latest sends, oldest first.
    pub fn sent(&self) -> Vec<Sent> {
        lock(&self.platform).sent.iter().cloned().collect()
    }

    /// The latest events that were told, oldest first.
    pub fn told(&self) -> Vec<Happening> {
        lock(&self.platform).told.iter().cloned().collect()
    }
}

impl Platform {
    fn accept(&mut self, sent: Sent) {
        let story = self.maker.story(&sent);
        self.queue.push(story);
        self.sends += 1;
        if self.sent.len() == SANDBOX_REQUESTS_KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back(sent);
    }

    fn told(&mut self, happening: Happening) {
        let suppresses = matches!(happening.what, What::Bounce | What::Complaint | What::Unsubscribe);
        if suppresses && self.suppressed.len() < SANDBOX_OBJECTS_MAX {
            self.suppressed.insert(happening.recipient.to_lowercase());
        }
        if self.told.len() == SANDBOX_REQUESTS_KEPT {
            self.told.pop_front();
        }
        self.told.push_back(happening);
    }
}
