//! A store with its threads, and short ways to fill it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use mailspan_core::{
    DeliveryId, DestinationId, Digest, Event, EventId, EventType, Millis, Name, Outcome, Progress, RawValue,
    RouteId, Seq, Settlement, State, Subject,
};
use mailspan_engine::Fence;
use mailspan_store::postgres::Spawn;
use mailspan_store::{
    Accepted, Arrived, Claim, DeliveryFilter, DeliveryRow, NameKind, OpenError, OpenOptions, PostgresOptions,
    Receipt, Routed, Store, StoreKey, StoreKeys, Towards, Trouble, Write, Wrote, open, open_postgres,
};

pub const SEGMENT_KEYS: i64 = 50;
pub const NOW: Millis = Millis(1_700_000_000_000);

pub struct Harness {
    pub store: Store,
    /// Where a store on SQLite has its files; empty for PostgreSQL.
    pub folder: tempfile::TempDir,
    behind: Behind,
}

/// What runs for a store.
enum Behind {
    Threads(Vec<JoinHandle<()>>),
    Task { url: String, writer: tokio::task::JoinHandle<()> },
}

pub fn sqlite() -> Harness {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = start(folder.path().join("hub.db"));
    Harness { store, folder, behind: Behind::Threads(threads) }
}

/// On a file that is there, or is made; its folder is the caller's.
pub fn sqlite_at(path: &Path) -> Harness {
    let (store, threads) = start(path.to_owned());
    Harness { store, folder: tempfile::tempdir().unwrap(), behind: Behind::Threads(threads) }
}

fn start(path: PathBuf) -> (Store, Vec<JoinHandle<()>>) {
    run(options(path))
}

fn options(path: PathBuf) -> OpenOptions {
    OpenOptions { segment_keys_max: SEGMENT_KEYS, ..OpenOptions::new(path, 42, NOW) }
}

fn run(options: OpenOptions) -> (Store, Vec<JoinHandle<()>>) {
    let (store, writer, readers) = open(options).unwrap();
    let mut threads = vec![std::thread::spawn(move || writer.run())];
    threads.extend(readers.into_iter().map(|reader| std::thread::spawn(move || reader.run())));
    (store, threads)
}

/// A node on a database; several may share one.
pub async fn postgres(url: String) -> Harness {
    let folder = tempfile::tempdir().unwrap();
    let (store, writer) = open_postgres(postgres_options(url.clone())).await.unwrap();
    let writer = tokio::spawn(writer.run());
    Harness { store, folder, behind: Behind::Task { url, writer } }
}

pub fn postgres_options(url: String) -> PostgresOptions {
    let spawn: Spawn = Arc::new(|task| drop(tokio::spawn(task)));
    let mut options = PostgresOptions::new(url, 42, NOW, spawn);
    options.segment_keys_max = SEGMENT_KEYS;
    options
}

impl Harness {
    /// Ends it by dropping every handle, without a word, and opens the same store again.
    pub async fn reopened(self) -> Harness {
        let Harness { store, folder, behind } = self;
        match behind {
            Behind::Threads(threads) => {
                let path = store.path().to_owned();
                drop(store);
                threads.into_iter().for_each(|thread| thread.join().unwrap());
                let (store, threads) = start(path);
                Harness { store, folder, behind: Behind::Threads(threads) }
            }
            Behind::Task { url, writer } => {
                drop(store);
                writer.await.unwrap();
                postgres(url).await
            }
        }
    }

    /// Ends it, is refused under each of these lists of store keys, and opens it under the last one.
    pub async fn reopened_under(self, refused: &[&[StoreKey]], keys: &[StoreKey]) -> Harness {
        let Harness { store, folder, behind } = self;
        match behind {
            Behind::Threads(threads) => {
                let path = store.path().to_owned();
                drop(store);
                threads.into_iter().for_each(|thread| thread.join().unwrap());
                for keys in refused {
                    let options = OpenOptions { keys: StoreKeys::of(keys.to_vec()), ..options(path.clone()) };
                    assert!(matches!(open(options), Err(OpenError::StoreKey { .. })), "{keys:?}");
                }
                let keys = StoreKeys::of(keys.to_vec());
                let (store, threads) = run(OpenOptions { keys, ..options(path) });
                Harness { store, folder, behind: Behind::Threads(threads) }
            }
            Behind::Task { url, writer } => {
                drop(store);
                writer.await.unwrap();
                let under = |keys: &[StoreKey]| PostgresOptions {
                    keys: StoreKeys::of(keys.to_vec()),
                    ..postgres_options(url.clone())
                };
                for keys in refused {
                    let opened = open_postgres(under(keys)).await;
                    assert!(matches!(opened, Err(OpenError::StoreKey { .. })), "{keys:?}");
                }
                let (store, writer) = open_postgres(under(keys)).await.unwrap();
                let writer = tokio::spawn(writer.run());
                Harness { store, folder, behind: Behind::Task { url, writer } }
            }
        }
    }

    /// Ends a store on SQLite; its folder with the file in it.
    pub fn closed(self) -> tempfile::TempDir {
        let Harness { store, folder, behind } = self;
        drop(store);
        if let Behind::Threads(threads) = behind {
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
        folder
    }

    pub async fn accept(&self, arrivals: Vec<Arrived>) -> Accepted {
        accepted(self.store.write(Write::Accept(Box::new(receipt(arrivals)))).await)
    }

    pub async fn destination(&self, name: &str) -> DestinationId {
        let id =
            self.store.name(&Name::default_tenant(), NameKind::Destination, &Name::new(name)).await.unwrap();
        DestinationId(id)
    }

    pub async fn route_id(&self, name: &str) -> RouteId {
        let id = self.store.name(&Name::default_tenant(), NameKind::Route, &Name::new(name)).await.unwrap();
        RouteId(id)
    }

    pub async fn lease(&self, name: &str) -> Fence {
        let write = Write::Lease { name: name.to_owned(), owner: 1, now: NOW, until: Millis(i64::MAX) };
        match self.store.write(write).await.unwrap() {
            Wrote::Lease { fence: Some(fence) } => fence,
            other => panic!("{other:?}"),
        }
    }

    /// Routes all that waits by one route to one destination.
    pub async fn route_all(&self, to: DestinationId) -> Vec<DestinationId> {
        let route = self.route_id("r").await;
        let fence = self.lease("router").await;
        let events = self.store.unrouted(10_000).await.unwrap();
        let routed = events.into_iter().map(|event| routed(event, route, Some(to))).collect();
        match self.store.write(Write::Route { fence, routed }).await.unwrap() {
            Wrote::Offered { destinations } => destinations,
            other => panic!("{other:?}"),
        }
    }

    pub async fn claim(&self, destination: DestinationId) -> Vec<Claim> {
        self.store.claim(destination, [100; 6], Millis(NOW.0 + 1_000_000)).await.unwrap().0
    }

    pub async fn settle(
        &self,
        destination: DestinationId,
        settlements: Vec<Settlement>,
    ) -> Result<Wrote, Trouble> {
        let fence = self.lease(&format!("destination/{}", destination.0)).await;
        let write = Write::Settle {
            say: vec![],
            destination,
            fence,
            settlements,
            attempts: vec![],
            at: Millis(NOW.0 + 5),
        };
        self.store.write(write).await
    }

    /// Past the store: a statement that both databases understand; how many rows it wrote.
    pub async fn past(&self, sql: &str) -> usize {
        match &self.behind {
            Behind::Threads(_) => {
                rusqlite::Connection::open(self.store.path()).unwrap().execute(sql, []).unwrap()
            }
            Behind::Task { url, .. } => {
                crate::nodes::plain(url).await.execute(sql, &[]).await.unwrap() as usize
            }
        }
    }

    /// Puts other bytes in the place of an event's envelope, past the store.
    pub async fn put_envelope(&self, seq: Seq, packed: &[u8]) {
        match &self.behind {
            Behind::Threads(_) => {
                let past = rusqlite::Connection::open(self.store.path()).unwrap();
                let sql = "UPDATE events SET packed = ?2 WHERE seq = ?1";
                assert_eq!(past.execute(sql, rusqlite::params![seq.0, packed]).unwrap(), 1);
            }
            Behind::Task { url, .. } => {
                let past = crate::nodes::plain(url).await;
                let sql = "UPDATE events SET packed = $2 WHERE seq = $1";
                assert_eq!(past.execute(sql, &[&seq.0, &packed]).await.unwrap(), 1);
            }
        }
    }

    /// An event's envelope as it stands in the tables.
    pub async fn envelope(&self, seq: Seq) -> Vec<u8> {
        match &self.behind {
            Behind::Threads(_) => {
                let past = rusqlite::Connection::open(self.store.path()).unwrap();
                let sql = "SELECT packed FROM events WHERE seq = ?1";
                past.query_row(sql, [seq.0], |row| row.get(0)).unwrap()
            }
            Behind::Task { url, .. } => {
                let past = crate::nodes::plain(url).await;
                past.query_one("SELECT packed FROM events WHERE seq = $1", &[&seq.0]).await.unwrap().get(0)
            }
        }
    }

    pub async fn all(&self) -> Vec<DeliveryRow> {
        let mut rows =
            self.store.deliveries(DeliveryFilter { limit: 1_000, ..Default::default() }).await.unwrap();
        rows.reverse();
        rows
    }

    /// Tables with a row that holds this text, in any case.
    pub async fn all_tables_with(&self, text: &str) -> std::collections::BTreeSet<String> {
        let texts = match &self.behind {
            Behind::Threads(_) => texts_of_file(self.store.path()),
            Behind::Task { url, .. } => texts_of_database(url).await,
        };
        let found = texts.into_iter().filter(|(_, row)| row.to_lowercase().contains(text));
        found.map(|(table, _)| table).collect()
    }

    /// Tables with a row that holds this text, but for those that keep what was received and sent.
    pub async fn tables_with(&self, text: &str) -> std::collections::BTreeSet<String> {
        let texts = match &self.behind {
            Behind::Threads(_) => texts_of_file(self.store.path()),
            Behind::Task { url, .. } => texts_of_database(url).await,
        };
        let kept = ["events", "requests", "attempts"];
        let found =
            texts.into_iter().filter(|(table, row)| !kept.contains(&table.as_str()) && row.contains(text));
        found.map(|(table, _)| table).collect()
    }

    pub async fn audit_adds_up(&self) -> mailspan_store::Audit {
        let audit = self.store.audit().await.unwrap();
        assert!(audit.adds_up, "{audit:#?}");
        audit
    }
}

pub fn routed(event: Event, route: RouteId, to: Option<DestinationId>) -> Routed {
    let class = event.event_type.class();
    let to =
        to.map(|destination| Towards { say: None, route, destination, class, failed: None, ordered: true });
    let (opens, clicks) = (u32::from(event.event_type.as_str() == "email.opened"), 0);
    let times = mailspan_core::LastTimes::of(&event);
    Routed { event, to: to.into_iter().collect(), opens, clicks, times }
}

pub fn accepted(wrote: Result<Wrote, Trouble>) -> Accepted {
    match wrote {
        Ok(Wrote::Accepted { accepted, .. }) => accepted,
        other => panic!("{other:?}"),
    }
}

/// Received when all that it tells of contacts has happened, not before [`NOW`].
pub fn receipt(mut arrivals: Vec<Arrived>) -> Receipt {
    let mut received_at = NOW;
    for arrived in &arrivals {
        let says = mailspan_core::contact::concerns_contacts(&arrived.event.event_type);
        let told = arrived.contact.as_ref().map(|write| write.at).or(says.then_some(arrived.event.time));
        received_at = told.map_or(received_at, |at| at.max(received_at));
    }
    for arrived in arrivals.iter_mut().filter(|arrived| arrived.event.received_at == NOW) {
        arrived.event.received_at = received_at;
    }
    Receipt {
        tenant: Name::default_tenant(),
        source: Name::new("mailtarget"),
        credential: "secret one".to_owned(),
        received_at,
        digest: Digest([7; 16]),
        packed: None,
        arrivals,
        unreadable: vec![],
        idempotency: None,
        round: None,
        say: Vec::new(),
    }
}

/// An event with a dedupe key; `n` is its id and its key.
pub fn event(n: u64, event_type: &'static str, subject: &str) -> Arrived {
    let event = Event {
        seq: None,
        id: EventId(u128::from(n)),
        tenant: Name::default_tenant(),
        source: Name::new("mailtarget"),
        event_type: EventType::known(event_type),
        subject: Subject::read(subject),
        time: Millis(NOW.0 - 1_000 + n as i64),
        received_at: NOW,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: RawValue::from_string(format!("{{\"n\":{n}}}")).unwrap().into(),
    };
    let mut key = [0; 16];
    // Keys are digests: spread over all their bytes.
    let mut random = mailspan_core::SplitMix64(n);
    key[..8].copy_from_slice(&random.next_u64().to_le_bytes());
    key[8..].copy_from_slice(&random.next_u64().to_le_bytes());
    Arrived { event, part: 0, dedupe: Some(Digest(key)), contact: None }
}

pub fn settlement(delivery: DeliveryId, outcome: Outcome, progress: Vec<Progress>) -> Settlement {
    Settlement { delivery, outcome, attempts: 1, crashes: 0, progress, attempt: None, hand_on: None }
}

pub fn ended(delivery: DeliveryId, state: State) -> Settlement {
    settlement(delivery, Outcome::Ended { state, reason: None }, vec![])
}

/// Table and row, each row as one text.
fn texts_of_file(path: &std::path::Path) -> Vec<(String, String)> {
    let conn = rusqlite::Connection::open(path).unwrap();
    let mut tables = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut texts = vec![];
    for table in tables {
        let mut statement = conn.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values = (0..columns).map(|column| match row.get_ref(column).unwrap() {
                rusqlite::types::ValueRef::Text(bytes) | rusqlite::types::ValueRef::Blob(bytes) => {
                    String::from_utf8_lossy(bytes).into_owned()
                }
                _ => String::new(),
            });
            texts.push((table.clone(), values.collect::<Vec<_>>().join("\n")));
        }
    }
    texts
}

async fn texts_of_database(url: &str) -> Vec<(String, String)> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()";
    let mut texts = vec![];
    for table in client.query(sql, &[]).await.unwrap() {
        let table: String = table.get(0);
        for row in client.query(&format!("SELECT t::text FROM {table} AS t"), &[]).await.unwrap() {
            texts.push((table.clone(), row.get(0)));
        }
    }
    texts
}

/// The id of a contact, as it is known outside.
pub fn uid(n: u64) -> String {
    format!("c{n:024}")
}
