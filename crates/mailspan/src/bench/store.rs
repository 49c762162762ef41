//! `mailspan bench store`: journal, router, queue and contacts on the store alone, without HTTP and in this process,
//! beside bare tables of the same engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use mailspan_connectors::contract::Refusal;
use mailspan_core::limits::{BODY_BYTES_MAX, QUEUE_ROOM};
use mailspan_core::{Attempt, DestinationId, EventId, Millis, Outcome, RawRequest, Settlement, State};
use mailspan_engine::Fence;
use mailspan_store::{Claim, Store, Write};
use serde_json::{Map, Value, json};
use tokio::sync::{oneshot, watch};

use super::event::{Maker, hex};
use super::figures::{Figure, Unit, medians, value};
use super::place::{Made, On};
use super::report::{key, rounded};
use super::table::shown;
use super::{Folder, Goal, Plan, bare, cpu, hub, in_memory, store_contacts};
use crate::app::{App, Live};
use crate::cli::progress::Progress;
use crate::deliver::start::lease;
use crate::hub::Source;
use crate::intake::receive::{NotReceived, Received, receive};
use crate::{config, open, route, runtime};

/// What is written, and by how many at once.
#[derive(Debug, Clone)]
pub struct StorePlan {
    pub events: u64,
    /// Requests at once; each waits for its commit.
    pub writers: u64,
    /// Deliveries of each event.
    pub routes: u16,
    pub rounds: u32,
    pub on: On,
    pub folder: Option<PathBuf>,
}

/// Rows of a floor, at most: it does not become slower with many.
const FLOOR_ROWS_MAX: u64 = 100_000;

/// What was measured.
pub struct StoreReport {
    plan: StorePlan,
    /// Medians of the rounds; those of the floors under the name of the part.
    figures: Vec<Figure>,
    floors: Vec<Figure>,
    notes: Vec<String>,
    /// Every event is in the journal and every delivery is done.
    pub whole: bool,
}

/// Each round a floor, then a store of its own: accepts, routes, claims and settles; the store's audit must agree.
pub async fn run(plan: StorePlan, json: bool) -> anyhow::Result<StoreReport> {
    let progress = Progress::new(json);
    let folder = Folder::make(plan.folder.as_deref())?;
    let in_memory = in_memory(&folder.path) && matches!(plan.on, On::Sqlite);
    let (mut figures, mut floors, mut notes) = (vec![], vec![], super::warnings(in_memory));
    let rounds = async {
        for number in 1..=plan.rounds {
            eprintln!("round {number} of {}", plan.rounds);
            let bare = Made::new(&plan.on, &folder.path, &format!("bare{number}")).await?;
            let floor = bare::measure(&bare, plan.events.min(FLOOR_ROWS_MAX), plan.writers).await;
            bare.remove().await;
            floors.push(floor?);
            let made = Made::new(&plan.on, &folder.path, &format!("hub{number}")).await?;
            let done = round(&plan, &folder, &made, &progress).await;
            made.remove().await;
            let (round, trouble) = done?;
            figures.push(round);
            notes.extend(trouble);
        }
        anyhow::Ok(())
    };
    let warned = notes_before(in_memory);
    tokio::select! {
        done = rounds => done?,
        () = runtime::told_to_stop() => bail!("stopped before the end: there is no result"),
    }
    let whole = notes.len() == warned;
    Ok(StoreReport { plan, figures: medians(&figures), floors: medians(&floors), notes, whole })
}

/// How many notes are no trouble.
fn notes_before(in_memory: bool) -> usize {
    super::warnings(in_memory).len()
}

async fn round(
    plan: &StorePlan,
    folder: &Folder,
    made: &Made,
    progress: &Progress,
) -> anyhow::Result<(Vec<Figure>, Option<String>)> {
    let secret = hex(&runtime::random_u128().to_be_bytes());
    let file = folder.path.join("hub.toml");
    for (path, text) in
        [(folder.path.join(super::SECRET_FILE), secret.clone()), (file.clone(), configuration(plan.routes)?)]
    {
        // Of the round before.
        let _ = std::fs::remove_file(&path);
        super::write_private(&path, &text)?;
    }
    let options = config::Options { env: &|_| None, names: &[], dev: false };
    let mut hub = config::load(&file, &options).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    hub.storage = made.storage.clone();
    let opened =
        open::store(&hub.storage, &hub.store_keys, hub.intake_queue).await.context("open the store")?;
    let (_stop, stopped) = watch::channel(false);
    let live = Live::new(hub, &opened.store).await.context("register names in the store")?;
    let app = App::new(live, opened.store.clone(), None, stopped);
    let done = measure(plan, &app, &secret, progress).await;
    drop(app);
    opened.close(crate::open::CLOSE_MS_MAX).await;
    done
}

fn configuration(routes: u16) -> anyhow::Result<String> {
    let nowhere = "127.0.0.1:9".parse()?;
    let goal = Goal::Ingest { routes, matching: true };
    Ok(hub::configuration(&Plan { goal, ..Plan::default() }, nowhere, nowhere))
}

async fn measure(
    plan: &StorePlan,
    app: &App,
    secret: &str,
    progress: &Progress,
) -> anyhow::Result<(Vec<Figure>, Option<String>)> {
    let mut figures = Vec::new();
    let began = Clock::start();
    let last_tenth = progress.during("journal", accept(plan, app, secret)).await?;
    figures.extend(began.figures("journal", "events", plan.events));
    figures.push(Figure::new("journal, last tenth of events", Unit::PerSecond, last_tenth));

    let deliveries = plan.events * u64::from(plan.routes);
    let fence = lease(&app.store, "router", runtime::random_u128()).await?;
    let began = Clock::start();
    let mut routed = 0;
    loop {
        match route::follow::step(app, fence).await? as u64 {
            0 => break,
            some => routed += some,
        }
        progress.count(routed, "events routed");
    }
    figures.extend(began.figures("router", "deliveries", deliveries));

    let began = Clock::start();
    progress.during("queue", settle_all(app)).await?;
    figures.extend(began.figures("queue", "deliveries", deliveries));

    let audit = app.store.audit().await?;
    let right = audit.adds_up && audit.accepted == plan.events && audit.delivered == deliveries;
    let contacts =
        progress.during("contacts", store_contacts::measure(app, plan.events, plan.writers)).await?;
    figures.extend(contacts.0);
    if !contacts.1 {
        return Ok((
            figures,
            Some(format!("{} contacts were written, others are in the store", plan.events)),
        ));
    }
    let trouble = (!right).then(|| {
        format!(
            "{} events of {} and {} deliveries of {deliveries} are in the store",
            audit.accepted, plan.events, audit.delivered
        )
    });
    Ok((figures, trouble))
}

/// Time and processor time of one part.
struct Clock {
    began: Instant,
    cpu_ms: u64,
}

impl Clock {
    fn start() -> Clock {
        Clock { began: runtime::instant(), cpu_ms: cpu::used_ms(std::process::id()) }
    }

    fn figures(&self, part: &str, what: &str, count: u64) -> [Figure; 2] {
        let cpu_ms = cpu::used_ms(std::process::id()).saturating_sub(self.cpu_ms);
        let count = count.max(1) as f64;
        let speed = count / self.began.elapsed().as_secs_f64();
        [
            Figure::new(&format!("{part}, {what}/s"), Unit::PerSecond, speed),
            Figure::new(&format!("{part}, CPU of each"), Unit::Micros, cpu_ms as f64 * 1_000.0 / count),
        ]
    }
}

/// Verifies, parses and keeps every event, as the front door does; the speed of the last tenth, to be
/// compared with the whole: it falls where keys of earlier events make later ones dearer.
async fn accept(plan: &StorePlan, app: &App, secret: &str) -> anyhow::Result<f64> {
    let maker = Arc::new(Maker::new(secret, runtime::random_u64(), plan.writers, runtime::now().0));
    let live = app.live();
    let source = live.hub.source("mailtarget").context("the bench's own source is not there")?;
    let last = plan.events / 10;
    write_range(plan.writers, &app.store, source, &maker, 0..plan.events - last, None).await?;
    let began = runtime::instant();
    write_range(plan.writers, &app.store, source, &maker, plan.events - last..plan.events, None).await?;
    Ok(last as f64 / began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE))
}

/// Keeps a range of the load's events, by so many requests at once, as received at that time or now.
pub async fn write_range(
    writers: u64,
    store: &Store,
    source: &Arc<Source>,
    maker: &Arc<Maker>,
    range: std::ops::Range<u64>,
    at: Option<Millis>,
) -> anyhow::Result<()> {
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let (store, source, maker, range) = (store.clone(), source.clone(), maker.clone(), range.clone());
        let step = usize::try_from(writers)?;
        tasks.push(async move {
            for index in (range.start + writer..range.end).step_by(step) {
                store.write(receipt(&source, &maker, index, at)?).await?;
            }
            anyhow::Ok(())
        });
    }
    together(tasks).await
}

fn receipt(source: &Source, maker: &Maker, index: u64, at: Option<Millis>) -> anyhow::Result<Write> {
    let (body, signature) = maker.request(&[index]);
    let now = at.unwrap_or_else(runtime::now);
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let request = RawRequest {
        method: "POST".to_owned(),
        url: format!("http://127.0.0.1{}", source.path),
        path: source.path.clone(),
        query: String::new(),
        headers: vec![
            header("host", "127.0.0.1"),
            header("content-type", "application/json"),
            header("x-mailtarget-signature", &signature),
        ],
        body,
        received_at: now,
    };
    let mut ids = || EventId::v7(now, runtime::random_u128());
    match receive(source, &request, None, BODY_BYTES_MAX, now, &mut ids) {
        Ok(Received::Receipt(receipt)) => Ok(Write::Accept(receipt)),
        Err(NotReceived::Refused(Refusal { text, .. })) => bail!("the hub refuses the bench's event: {text}"),
        _ => bail!("the hub does not read the bench's event"),
    }
}

/// Claims and settles as delivered, one settlement a write as with one event a request, until nothing is due.
async fn settle_all(app: &App) -> anyhow::Result<()> {
    let live = app.live();
    for destination in live.destinations.keys().copied() {
        let fence =
            lease(&app.store, &format!("destination/{}", destination.0), runtime::random_u128()).await?;
        loop {
            let (claims, _) = app.store.claim(destination, QUEUE_ROOM, runtime::now()).await?;
            if claims.is_empty() {
                break;
            }
            let settle = |claim: Claim| {
                let (store, write) = (app.store.clone(), settlement(destination, fence, &claim));
                async move {
                    store.write(write).await?;
                    anyhow::Ok(())
                }
            };
            together(claims.into_iter().map(settle).collect()).await?;
        }
    }
    Ok(())
}

fn settlement(destination: DestinationId, fence: Fence, claim: &Claim) -> Write {
    let at = runtime::now();
    let settlement = Settlement {
        delivery: claim.delivery,
        outcome: Outcome::Ended { state: State::Delivered, reason: None },
        attempts: claim.attempts + 1,
        crashes: claim.crashes,
        progress: Vec::new(),
        attempt: Some(0),
        hand_on: None,
    };
    let attempt = Attempt { at, took_ms: 1, items: 1, status: 200, request: None, answer: None };
    Write::Settle {
        say: vec![],
        destination,
        fence,
        settlements: vec![settlement],
        attempts: vec![attempt],
        at,
    }
}

/// Runs all at once; the first error.
pub async fn together<F>(tasks: Vec<F>) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut ends = Vec::new();
    for task in tasks {
        let (done, end) = oneshot::channel();
        ends.push(end);
        runtime::spawn(async move {
            // Nobody listens any more where another has failed.
            let _ = done.send(task.await);
        });
    }
    for end in ends {
        end.await.context("a writer of the bench panicked")??;
    }
    Ok(())
}

impl StoreReport {
    fn headline(&self) -> String {
        let StorePlan { events, writers, routes, rounds, .. } = &self.plan;
        format!(
            "bench store: {events} events, {writers} writers at once, {routes} deliveries of each event, medians of {rounds} rounds"
        )
    }

    /// The floor that a figure is compared with: speeds, by the part in front of their name.
    fn floor(&self, figure: &Figure) -> Option<f64> {
        let part = figure.name.split(',').next().unwrap_or_default();
        value(&self.floors, part).filter(|floor| figure.unit == Unit::PerSecond && *floor > 0.0)
    }

    /// For people.
    pub fn table(&self) -> String {
        let line = |figure: &Figure| {
            let own = shown(figure.unit, figure.value);
            let beside = match self.floor(figure) {
                Some(floor) => {
                    format!("{:>12}{:>9.2}", shown(figure.unit, floor), figure.value / floor)
                }
                None => format!("{:>12}{:>9}", "–", "–"),
            };
            format!("  {:32}{own:>12}{beside}\n", figure.name)
        };
        let lines: String = self.figures.iter().map(line).collect();
        let notes: String = self.notes.iter().map(|note| format!("note: {note}\n")).collect();
        let whole = if self.whole { "ok    everything is there" } else { "FAIL  something is missing" };
        let head = format!("  {:32}{:>12}{:>12}{:>9}", "", "store", "floor", "÷ floor");
        format!("{}\nstore: {}\n\n{head}\n{lines}\n{whole}\n{notes}", self.headline(), self.plan.on.name())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let of = |figures: &[Figure]| -> Map<String, Value> {
            figures.iter().map(|figure| (key(figure), json!(rounded(figure.value)))).collect()
        };
        let ratio = |figure: &Figure| Some((key(figure), json!(rounded(figure.value / self.floor(figure)?))));
        let ratios: Map<String, Value> = self.figures.iter().filter_map(ratio).collect();
        json!({
            "bench": "store", "settings": self.headline(), "store": self.plan.on.name(),
            "figures": of(&self.figures), "floors": of(&self.floors), "ratios": ratios,
            "whole": self.whole, "notes": self.notes,
        })
    }
}
