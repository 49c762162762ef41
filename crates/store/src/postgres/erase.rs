//! Erasures: one page of the walk with its progress, in one transaction. One node at a time; a row that changes is
//! locked and judged again, as another node may have written it meanwhile.

use std::collections::{BTreeMap, HashSet};

use mailspan_core::contact::Suppressed;
use mailspan_core::{Address, Millis, Name, Seq, Subject};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::base::{Base, Fault, clean, digest, get};
use super::journal::Journal;
use super::persons::{self, number_of};
use crate::erase::{
    Also, Cell, Certified, Change, Column, ERASURES_TOGETHER_MAX, ErasureStage, Identity, Progress, TABLES,
    Table, Target, Whose, judge, packed_request, together,
};
use crate::sqlite::counts::Counts;
use crate::sqlite::persons::{BUCKET_BITS, Found};
use crate::write::Wrote;

const LOCK: &str =
    "SELECT pg_try_advisory_xact_lock(hashtext('mailspan erasures'), hashtext(current_schema()))";

/// One page for the oldest erasures that stand at the same place. Between two walks, and where there is none to do,
/// it is asked which of those that wait for destinations may go on: however many those are, they take nobody's place.
pub(crate) async fn step(journal: &mut Journal) -> Result<Wrote, Fault> {
    let alone = journal.base.row(LOCK, &[]).await?.map_or(Ok(false), |row| get(&row, 0))?;
    if !alone {
        return Ok(Wrote::Erasing { moved: false });
    }
    let mut targets = together(walked(&journal.base).await?);
    let is_between = targets.first().is_none_or(|first| first.progress.is_at_start());
    let moved = is_between && take_answers(&journal.base).await?;
    walk(journal, &mut targets).await?;
    for target in &targets {
        save(&journal.base, target).await?;
    }
    Ok(Wrote::Erasing { moved: moved || !targets.is_empty() })
}

/// Of those that are walked, the oldest.
async fn walked(base: &Base) -> Result<Vec<Target>, Fault> {
    let sql = "SELECT id, tenant, event, sealed, progress FROM erasures
         WHERE done_at IS NULL AND strpos(coalesce(progress, ''), $1) = 0
           AND strpos(coalesce(progress, ''), $2) = 0
         ORDER BY id LIMIT $3";
    let (asking, certifying) = (ErasureStage::Asking.mark(), ErasureStage::Certifying.mark());
    let mut targets = vec![];
    for row in &base.rows(sql, &[&asking, &certifying, &ERASURES_TOGETHER_MAX]).await? {
        let id = get(row, 0)?;
        let sealed: Option<Vec<u8>> = get(row, 3)?;
        let identity: Option<Identity> = sealed.and_then(|sealed| Identity::unsealed(&base.key, &sealed));
        let identity = identity.ok_or_else(|| Fault::unreadable("erasure", id))?;
        let progress: Option<String> = get(row, 4)?;
        targets.push(Target::new(
            id,
            get(row, 1)?,
            get(row, 2)?,
            identity,
            Progress::read(progress.as_deref()),
        ));
    }
    Ok(targets)
}

async fn save(base: &Base, target: &Target) -> Result<(), Fault> {
    base.execute("UPDATE erasures SET progress = $2 WHERE id = $1", &[&target.id, &target.progress.json()])
        .await?;
    if target.has_learned {
        let sealed = target.identity.sealed(&base.key);
        base.execute("UPDATE erasures SET sealed = $2 WHERE id = $1", &[&target.id, &sealed]).await?;
    }
    Ok(())
}

/// Those whose event is routed, with no delivery of it pending, are walked once more; true where there were any.
async fn take_answers(base: &Base) -> Result<bool, Fault> {
    let sql = "SELECT x.id, x.progress FROM erasures x WHERE x.done_at IS NULL AND strpos(x.progress, $1) > 0
           AND NOT EXISTS (SELECT 1 FROM unrouted u WHERE u.seq = x.event)
           AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event = x.event AND d.state = 0)
         ORDER BY x.id LIMIT $2";
    let rows = base.rows(sql, &[&ErasureStage::Asking.mark(), &ERASURES_TOGETHER_MAX]).await?;
    for row in &rows {
        let (id, progress): (i64, String) = (get(row, 0)?, get(row, 1)?);
        let progress = Progress::read(Some(&progress)).answered();
        base.execute("UPDATE erasures SET progress = $2 WHERE id = $1", &[&id, &progress.json()]).await?;
    }
    Ok(!rows.is_empty())
}

/// Events that wait for the router, or have a delivery that is pending.
async fn busy(base: &Base, seqs: &[i64]) -> Result<HashSet<i64>, Fault> {
    let rows = base
        .rows(
            "SELECT s.seq FROM unnest($1::bigint[]) AS s (seq)
             WHERE EXISTS (SELECT 1 FROM unrouted u WHERE u.seq = s.seq)
                OR EXISTS (SELECT 1 FROM deliveries d WHERE d.event = s.seq AND d.state = 0)",
            &[&seqs],
        )
        .await?;
    rows.iter().map(|row| get(row, 0)).collect()
}

async fn walk(journal: &mut Journal, targets: &mut [Target]) -> Result<(), Fault> {
    let Some(first) = targets.first() else { return Ok(()) };
    let (_, at, after) = first.progress.place();
    let table = TABLES[at.min(TABLES.len() - 1)];
    if first.progress.is_at_start() {
        drop_confirmations(&journal.base, targets).await?;
    }
    let rows = page(&journal.base, table, after).await?;
    let (mut own, mut waiting) = (HashSet::new(), HashSet::new());
    if table == Table::Events {
        own = own_events(&journal.base, &rows, targets).await?;
        let seqs: Vec<i64> = rows.iter().map(|(seq, _)| *seq).collect();
        waiting = busy(&journal.base, &seqs).await?;
    }
    let last = rows.last().map(|(key, _)| *key);
    let is_end = (rows.len() as i64) < table.page();
    let operators = journal.base.tenant(Name::default_tenant().as_str()).await?;
    for (key, row) in rows {
        let is_operators = table.is_operators(&row[0], operators);
        for (place, target) in
            targets.iter_mut().enumerate().filter(|(_, one)| is_operators || Cell::Int(one.tenant) == row[0])
        {
            let (is_own, is_busy) = (own.contains(&(place, key)), waiting.contains(&key));
            if judge(table, key, &row, target, is_own, is_busy).is_none() {
                continue;
            }
            if table == Table::Contacts {
                // Whoever writes contacts has read them under this lock, and would write back what goes here.
                journal.base.batch(persons::LOCK).await?;
            }
            let Some(now) = locked(&journal.base, table, key).await? else { continue };
            if let Some(change) = judge(table, key, &now, target, is_own, is_busy) {
                apply(&journal.base, &mut journal.counts, table, key, change, target).await?;
            }
        }
    }
    targets.iter_mut().for_each(|target| target.advance(last, is_end));
    Ok(())
}

async fn drop_confirmations(base: &Base, targets: &mut [Target]) -> Result<(), Fault> {
    for target in targets {
        let persons: Vec<i64> = target.identity.persons.iter().copied().collect();
        let gone = base.execute("DELETE FROM confirmations WHERE person = ANY($1)", &[&persons]).await?;
        (0..gone).for_each(|_| target.progress.count("confirmations"));
    }
    Ok(())
}

type Rows = Vec<(i64, Vec<Cell>)>;

async fn page(base: &Base, table: Table, after: i64) -> Result<Rows, Fault> {
    let key = table.key();
    let sql = format!("{} WHERE a.{key} > $1 ORDER BY a.{key} LIMIT $2", table.select());
    let rows = base.rows(&sql, &[&after, &table.page()]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, cells(table, row)?))).collect()
}

pub(super) async fn locked(base: &Base, table: Table, key: i64) -> Result<Option<Vec<Cell>>, Fault> {
    let sql = format!("{} WHERE a.{} = $1 FOR UPDATE", table.select(), table.key());
    base.row(&sql, &[&key]).await?.map(|row| cells(table, &row)).transpose()
}

fn cells(table: Table, row: &Row) -> Result<Vec<Cell>, Fault> {
    let cell = |(at, column): (usize, &Column)| -> Result<Cell, Fault> {
        let at = at + 1;
        Ok(match column {
            Column::Int(_) => get::<Option<i64>, _>(row, at)?.map_or(Cell::Null, Cell::Int),
            Column::Text(_) => get::<Option<String>, _>(row, at)?.map_or(Cell::Null, Cell::Text),
            Column::Blob(_) => get::<Option<Vec<u8>>, _>(row, at)?.map_or(Cell::Null, Cell::Blob),
        })
    };
    table.columns().iter().enumerate().map(cell).collect()
}

/// Events of the page that lead to a person who is erased: by the place of the target.
async fn own_events(base: &Base, rows: &Rows, targets: &[Target]) -> Result<HashSet<(usize, i64)>, Fault> {
    let mut own = HashSet::new();
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(own) };
    let sql = "SELECT seq FROM person_events
        WHERE bucket = ANY($1) AND person = ANY($2) AND seq BETWEEN $3 AND $4";
    let buckets: Vec<i64> = (first.0 >> BUCKET_BITS..=last.0 >> BUCKET_BITS).collect();
    for (place, target) in targets.iter().enumerate() {
        let persons: Vec<i64> = target.identity.persons.iter().copied().collect();
        for row in &base.rows(sql, &[&buckets, &persons, &first.0, &last.0]).await? {
            own.insert((place, get(row, 0)?));
        }
    }
    Ok(own)
}

async fn apply(
    base: &Base,
    counts: &mut Counts,
    table: Table,
    key: i64,
    change: Change,
    target: &mut Target,
) -> Result<(), Fault> {
    if !change.set.is_empty() {
        write(base, table, key, &change).await?;
        target.progress.count(table.name());
        if table == Table::Contacts {
            move_contact(base, target.tenant, key, target.identity.learned_at).await?;
        }
    }
    if change.unread {
        target.progress.unread += 1;
    }
    for also in &change.also {
        apply_also(base, counts, also, target).await?;
    }
    if let Some(subject) = &change.learned {
        learn(base, subject, target).await?;
    }
    Ok(())
}

pub(super) async fn write(base: &Base, table: Table, key: i64, change: &Change) -> Result<(), Fault> {
    for (column, cell) in &change.set {
        let column: Column = table.columns()[*column];
        let sql = format!("UPDATE {} SET {} = $2 WHERE {} = $1", table.name(), column.name(), table.key());
        let value: Box<dyn ToSql + Sync + Send> = match (column, cell) {
            (_, Cell::Int(n)) => Box::new(*n),
            (_, Cell::Text(text)) => Box::new(clean(text).into_owned()),
            (_, Cell::Blob(bytes)) => Box::new(bytes.clone()),
            (Column::Int(_), Cell::Null) => Box::new(None::<i64>),
            (Column::Text(_), Cell::Null) => Box::new(None::<String>),
            (Column::Blob(_), Cell::Null) => Box::new(None::<Vec<u8>>),
        };
        base.execute(&sql, &[&key, &*value]).await?;
    }
    Ok(())
}

/// A contact that loses words of somebody else has changed: the next push takes it to those who still have them, and
/// a list of theirs that is older than the erasure does not bring them back.
async fn move_contact(base: &Base, tenant: i64, person: i64, at: i64) -> Result<(), Fault> {
    let sql = "UPDATE tenants SET contact_rev = contact_rev + 1 WHERE id = $1 RETURNING contact_rev";
    let rows = base.written(sql, &[&tenant]).await?;
    let rev: i64 = get(rows.first().ok_or_else(|| Fault::unreadable("tenant", tenant))?, 0)?;
    base.execute(
        "UPDATE contacts SET rev = $2, updated_at = greatest($3, updated_at, (SELECT c.updated_at FROM contacts c
            WHERE c.tenant = $4 ORDER BY c.rev DESC LIMIT 1)) WHERE person = $1",
        &[&person, &rev, &at, &tenant],
    )
    .await?;
    Ok(())
}

async fn apply_also(base: &Base, counts: &mut Counts, also: &Also, target: &mut Target) -> Result<(), Fault> {
    match also {
        Also::Discarded { destination, from } => {
            counts.moved(*destination, *from, mailspan_core::State::Discarded);
        }
        Also::Untied { seq } => {
            let persons: Vec<i64> = target.identity.persons.iter().copied().collect();
            let sql = "DELETE FROM person_events WHERE bucket = $1 AND person = ANY($2) AND seq = $3";
            base.execute(sql, &[&(seq >> BUCKET_BITS), &persons, seq]).await?;
        }
        Also::Request { request, part } => {
            if let Some(row) = locked(base, Table::Requests, *request).await? {
                let change = packed_request(&row, target, Whose::Theirs { part: *part });
                if !change.set.is_empty() {
                    write(base, Table::Requests, *request, &change).await?;
                    target.progress.count(Table::Requests.name());
                }
            }
        }
        // An exchange about this person alone goes whole; of one for several, what names the person goes on the walk.
        Also::Attempts { delivery, last } => {
            let sql = "UPDATE attempts SET request = NULL, answer = NULL
                 WHERE (id = $2 OR id IN (SELECT attempt FROM tries WHERE delivery = $1))
                    AND items <= 1 AND (request IS NOT NULL OR answer IS NOT NULL)";
            let gone = base.execute(sql, &[delivery, last]).await?;
            (0..gone).for_each(|_| target.progress.count(Table::Attempts.name()));
        }
        Also::Answers { fact, own } => blank_answers(base, *fact, *own, target).await?,
    }
    Ok(())
}

async fn blank_answers(base: &Base, fact: i64, own: bool, target: &mut Target) -> Result<(), Fault> {
    let rows = base.rows("SELECT destination, verdict FROM ledger_answers WHERE fact = $1", &[&fact]).await?;
    for row in &rows {
        let (destination, verdict): (i64, String) = (get(row, 0)?, get(row, 1)?);
        if let Some(kept) = target.words.cut(&verdict, own) {
            let sql = "UPDATE ledger_answers SET verdict = $3 WHERE fact = $1 AND destination = $2";
            base.execute(sql, &[&fact, &destination, &kept]).await?;
        }
    }
    Ok(())
}

/// Only what leads to nobody else now.
async fn learn(base: &Base, subject: &Subject, target: &mut Target) -> Result<(), Fault> {
    let mut theirs = Subject::nobody();
    let address = Subject { address: subject.address.clone(), external_id: None };
    if address.address.is_some() && number_of(base, target.tenant, &address).await?.is_none() {
        theirs.address = address.address;
    }
    let id = Subject { address: None, external_id: subject.external_id.clone() };
    if id.external_id.is_some() && number_of(base, target.tenant, &id).await?.is_none() {
        theirs.external_id = id.external_id;
    }
    let is_new = |address: &Address| !target.identity.addresses.contains(address.as_str());
    if let Some(address) = theirs.address.as_ref().filter(|address| is_new(address)) {
        let hash = base.key.hash(b"address", address.key().as_bytes());
        keep_former(base, target, hash).await?;
    }
    target.learn(&theirs);
    Ok(())
}

/// An address that the person had: not to be mailed either, and erased in a store that comes back from a back-up.
async fn keep_former(base: &Base, target: &Target, hash: [u8; 16]) -> Result<(), Fault> {
    let (tenant, at) = (target.tenant, target.identity.learned_at);
    base.execute(
        "INSERT INTO erased (tenant, hash, person, at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant, hash) DO NOTHING",
        &[&tenant, &&hash[..], &target.identity.person, &at],
    )
    .await?;
    base.execute(
        "INSERT INTO suppressions (tenant, hash, address, reason, source, at)
         VALUES ($1, $2, NULL, $3, 'erasure', $4)
         ON CONFLICT (tenant, hash) DO UPDATE SET address = NULL, reason = excluded.reason,
            source = excluded.source, at = excluded.at",
        &[&tenant, &&hash[..], &(Suppressed::Erasure as i64), &at],
    )
    .await?;
    Ok(())
}

/// What the person was known by goes with this write.
pub(crate) async fn certify(base: &Base, certified: &Certified) -> Result<Wrote, Fault> {
    let sql = "SELECT progress FROM erasures WHERE id = $1 AND done_at IS NULL FOR UPDATE";
    let Some(row) = base.row(sql, &[&certified.id]).await? else { return Ok(Wrote::Done) };
    let progress: Option<String> = get(&row, 0)?;
    let progress = Progress { stage: ErasureStage::Done, ..Progress::read(progress.as_deref()) };
    base.execute(
        "UPDATE erasures SET certificate = $2, done_at = $3, sealed = NULL, progress = $4 WHERE id = $1",
        &[&certified.id, &clean(&certified.certificate), &certified.at.0, &progress.json()],
    )
    .await?;
    Ok(Wrote::Done)
}

/// A person who is erased: what it was known by, until the certificate is written, and by hash for good.
pub(crate) async fn keep(
    base: &Base,
    tenant: i64,
    event: i64,
    at: Millis,
    identity: &Identity,
    hashes: &BTreeMap<[u8; 16], i64>,
) -> Result<(), Fault> {
    let progress = Progress::begun(identity, hashes.keys());
    base.execute(
        "INSERT INTO erasures (tenant, person, event, asked_at, sealed, progress) VALUES ($1, $2, $3, $4, $5, $6)",
        &[&tenant, &identity.person, &event, &at.0, &identity.sealed(&base.key), &progress.json()],
    )
    .await?;
    let all: Vec<&[u8]> = hashes.keys().map(|hash| &hash[..]).collect();
    base.execute(
        "INSERT INTO erased (tenant, hash, person, at)
         SELECT $1::bigint, h.hash, $3::bigint, $4::bigint FROM unnest($2::bytea[]) AS h (hash)
         ON CONFLICT (tenant, hash) DO UPDATE SET person = excluded.person, at = excluded.at",
        &[&tenant, &all, &identity.person, &at.0],
    )
    .await?;
    Ok(())
}

/// Who was erased, when that happened, and the first and last event that told of it.
pub(crate) struct Gone {
    person: i64,
    first: i64,
    last: i64,
    at: Millis,
}

impl Gone {
    /// What this is to an event with its place in the journal and its time.
    pub(crate) fn found(&self, (seq, at): (Seq, Millis)) -> Option<Found> {
        let happened = at <= self.at;
        match happened && seq.0 > self.first {
            true => Some(Found::Outlived),
            false => (happened || seq.0 < self.last).then_some(Found::Erased(self.person)),
        }
    }
}

/// Whose identities these were, for events that are routed after the erasure: by tenant and hash.
pub(crate) async fn erased(
    base: &Base,
    asked: &[(i64, [u8; 16])],
) -> Result<BTreeMap<(i64, [u8; 16]), Gone>, Fault> {
    let tenants: Vec<i64> = asked.iter().map(|one| one.0).collect();
    let hashes: Vec<&[u8]> = asked.iter().map(|one| &one.1[..]).collect();
    let rows = base
        .rows(
            "SELECT d.tenant, d.hash, d.person, e.event, d.at FROM unnest($1::bigint[], $2::bytea[]) AS a (tenant, hash)
             JOIN erased d ON d.tenant = a.tenant AND d.hash = a.hash JOIN erasures e ON e.person = d.person",
            &[&tenants, &hashes],
        )
        .await?;
    let mut found = BTreeMap::new();
    for row in &rows {
        let key = (get(row, 0)?, digest(row, "hash")?);
        let (person, event): (i64, i64) = (get(row, 2)?, get(row, 3)?);
        let at = Millis(get(row, 4)?);
        let known = found.entry(key).or_insert(Gone { person, first: event, last: event, at });
        (known.first, known.last) = (known.first.min(event), known.last.max(event));
    }
    Ok(found)
}

/// Identities of persons, by hash: before they go.
pub(crate) async fn hashes_of(base: &Base, persons: &[i64]) -> Result<Vec<[u8; 16]>, Fault> {
    let rows = base.rows("SELECT hash FROM identities WHERE person = ANY($1)", &[&persons]).await?;
    rows.iter().map(|row| digest(row, "hash")).collect()
}
