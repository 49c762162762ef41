//! `mailspan bench dedupe`: what a dedupe key costs where few are known and where many are, in turns, in one run.

use std::path::PathBuf;

use anyhow::{Context, bail};
use mailspan_core::limits::INTAKE_QUEUE_MAX;
use mailspan_core::{Digest, Event, EventId, EventType, Name, RawValue, SplitMix64, Subject};
use mailspan_store::{Accepted, Arrived, Receipt, Write, Wrote};
use serde_json::{Map, Value, json};

use super::figures::{Figure, Unit, medians, value};
use super::place::{Made, On};
use super::report::rounded;
use super::{Folder, in_memory};
use crate::open::{self, CLOSE_MS_MAX, Opened};
use crate::runtime;

/// Keys of the store that the large one is compared with.
const FEW: u64 = 100_000;
/// Events of a request: many, so that the sync is a small part of what is measured.
const REQUEST: u64 = 1_000;
/// Requests of each kind in a round.
const REQUESTS: u64 = 5;
/// A repeat mostly comes soon: among so many keys.
const NEWEST: u64 = 100_000;
/// The aim: many keys cost at most so much more than few.
const RATIO_MAX: f64 = 1.3;

const NEW: &str = "new key";
const REPEAT: &str = "repeat of any age";
const RECENT: &str = "repeat of the newest 100,000";
const START: &str = "open the store";

#[derive(Debug, Clone)]
pub struct DedupePlan {
    pub keys: u64,
    pub rounds: u32,
    pub on: On,
    pub folder: Option<PathBuf>,
}

pub struct DedupeReport {
    plan: DedupePlan,
    few: Vec<Figure>,
    many: Vec<Figure>,
    notes: Vec<String>,
    /// Every repeat was found and no new key was taken for one.
    pub whole: bool,
}

/// Fills two stores, then measures both in turns.
pub async fn run(plan: DedupePlan) -> anyhow::Result<DedupeReport> {
    let folder = Folder::make(plan.folder.as_deref())?;
    let mut made = vec![];
    for name in ["few", "many"] {
        made.push(Made::new(&plan.on, &folder.path, name).await?);
    }
    let done = tokio::select! {
        done = measure(&plan, &made) => done,
        () = runtime::told_to_stop() => Err(anyhow::anyhow!("stopped before the end: there is no result")),
    };
    for one in made {
        one.remove().await;
    }
    let notes = super::warnings(in_memory(&folder.path) && matches!(plan.on, On::Sqlite));
    let (few, many, whole) = done?;
    Ok(DedupeReport { plan, few, many, notes, whole })
}

async fn measure(plan: &DedupePlan, made: &[Made]) -> anyhow::Result<(Vec<Figure>, Vec<Figure>, bool)> {
    let mut stores = vec![];
    for (made, keys) in made.iter().zip([FEW.min(plan.keys), plan.keys]) {
        let mut store =
            Store { opened: open::store(&made.storage, &[], INTAKE_QUEUE_MAX).await?, keys: 0, wrong: 0 };
        store.fill(keys).await?;
        stores.push(store);
    }
    let mut rounds = [vec![], vec![]];
    for number in 1..=plan.rounds {
        eprintln!("round {number} of {}", plan.rounds);
        for (store, rounds) in stores.iter_mut().zip(&mut rounds) {
            rounds.push(store.round(u64::from(number)).await?);
        }
    }
    let [mut few, mut many] = rounds.map(|rounds| medians(&rounds));
    let mut wrong = 0;
    for ((store, made), figures) in stores.into_iter().zip(made).zip([&mut few, &mut many]) {
        wrong += store.wrong;
        store.opened.close(CLOSE_MS_MAX).await;
        let began = runtime::instant();
        let opened =
            open::store(&made.storage, &[], INTAKE_QUEUE_MAX).await.context("open the store again")?;
        figures.push(Figure::new(START, Unit::Ms, began.elapsed().as_secs_f64() * 1_000.0));
        opened.close(CLOSE_MS_MAX).await;
    }
    Ok((few, many, wrong == 0))
}

struct Store {
    opened: Opened,
    keys: u64,
    /// Events that were taken for what they are not.
    wrong: u64,
}

impl Store {
    async fn fill(&mut self, keys: u64) -> anyhow::Result<()> {
        while self.keys < keys {
            let count = REQUEST.min(keys - self.keys);
            self.new_keys(count).await?;
            if self.keys.is_multiple_of(1_000_000) {
                eprintln!("{} keys of {keys}", self.keys);
            }
        }
        Ok(())
    }

    async fn round(&mut self, seed: u64) -> anyhow::Result<Vec<Figure>> {
        let mut random = SplitMix64(seed);
        let mut figures = vec![];
        for kind in [NEW, REPEAT, RECENT] {
            let began = runtime::instant();
            for _ in 0..REQUESTS {
                match kind {
                    NEW => self.new_keys(REQUEST).await?,
                    REPEAT => self.repeats(self.keys, &mut random).await?,
                    _ => self.repeats(NEWEST.min(self.keys), &mut random).await?,
                }
            }
            let micros = began.elapsed().as_secs_f64() * 1e6 / (REQUESTS * REQUEST) as f64;
            figures.push(Figure::new(kind, Unit::Micros, micros));
        }
        Ok(figures)
    }

    async fn new_keys(&mut self, count: u64) -> anyhow::Result<()> {
        let accepted = self.accept((self.keys..self.keys + count).collect()).await?;
        self.wrong += accepted.duplicates;
        self.keys += count;
        Ok(())
    }

    async fn repeats(&mut self, newest: u64, random: &mut SplitMix64) -> anyhow::Result<()> {
        let first = self.keys - newest;
        let accepted = self.accept((0..REQUEST).map(|_| first + random.below(newest)).collect()).await?;
        self.wrong += accepted.ids.len() as u64;
        Ok(())
    }

    async fn accept(&self, numbers: Vec<u64>) -> anyhow::Result<Accepted> {
        let arrivals = numbers.into_iter().map(arrived).collect::<anyhow::Result<_>>()?;
        let receipt = Receipt {
            tenant: Name::default_tenant(),
            source: Name::new("bench"),
            credential: "bench".to_owned(),
            received_at: runtime::now(),
            digest: Digest([0; 16]),
            packed: None,
            arrivals,
            unreadable: vec![],
            idempotency: None,
            round: None,
            say: Vec::new(),
        };
        match self.opened.store.write(Write::Accept(Box::new(receipt))).await? {
            Wrote::Accepted { accepted, .. } => Ok(accepted),
            other => bail!("a receipt was answered by {other:?}"),
        }
    }
}

/// Number `n` has always the same key, which is spread as a digest is.
fn arrived(n: u64) -> anyhow::Result<Arrived> {
    let now = runtime::now();
    let mut random = SplitMix64(n);
    let key = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
    let event = Event {
        seq: None,
        id: EventId::v7(now, runtime::random_u128()),
        tenant: Name::default_tenant(),
        source: Name::new("bench"),
        event_type: EventType::known("email.opened"),
        subject: Subject::read("bench@example.com"),
        time: now,
        received_at: now,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: RawValue::from_string("{}".to_owned())?.into(),
    };
    Ok(Arrived { event, part: 0, dedupe: Some(Digest(key.to_be_bytes())), contact: None })
}

impl DedupeReport {
    fn headline(&self) -> String {
        format!(
            "bench dedupe: {} keys against {FEW}, medians of {} rounds in turns",
            self.plan.keys, self.plan.rounds
        )
    }

    /// Name, few, many, ratio.
    fn lines(&self) -> impl Iterator<Item = (&Figure, f64, f64)> {
        self.few.iter().filter_map(|few| {
            let many = value(&self.many, &few.name)?;
            Some((few, many, if few.value > 0.0 { many / few.value } else { 0.0 }))
        })
    }

    fn ok(few: &Figure, ratio: f64) -> &'static str {
        match few.name.as_str() {
            START => "",
            _ if ratio <= RATIO_MAX => "ok",
            _ => "over the aim of 1.3",
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}\nstore: {}\n\n{:32}{:>12}{:>12}{:>8}\n",
            self.headline(),
            self.plan.on.name(),
            "each, in requests of 1,000",
            "few",
            "many",
            "ratio"
        );
        for (few, many, ratio) in self.lines() {
            let shown = |value: f64| match few.unit {
                Unit::Ms => format!("{value:.1} ms"),
                _ => format!("{value:.2} µs"),
            };
            let ok = DedupeReport::ok(few, ratio);
            let line =
                format!("{:32}{:>12}{:>12}{ratio:>8.2}  {ok}", few.name, shown(few.value), shown(many));
            text += line.trim_end();
            text.push('\n');
        }
        text += if self.whole {
            "\nok    every repeat was found\n"
        } else {
            "\nFAIL  a key was taken for what it is not\n"
        };
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let line = |(few, many, ratio): (&Figure, f64, f64)| {
            let unit = if few.unit == Unit::Ms { "ms" } else { "us" };
            let shown = json!({ "few": rounded(few.value), "many": rounded(many), "unit": unit, "ratio": rounded(ratio) });
            (few.name.replace(' ', "_").replace(',', ""), shown)
        };
        let figures: Map<String, Value> = self.lines().map(line).collect();
        json!({
            "bench": "dedupe", "settings": self.headline(), "store": self.plan.on.name(), "figures": figures,
            "whole": self.whole, "notes": self.notes,
        })
    }
}
