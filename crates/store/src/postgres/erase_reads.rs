//! Erasures and what is held about a person, as read.

use mailspan_core::{EventId, Millis, Name, Reason, State, Subject};
use tokio_postgres::types::ToSql;

use super::base::{Base, Fault, get};
use super::contacts::confirmation;
use super::handle::Postgres;
use crate::Trouble;
use crate::erase::{
    ERASURES_TOGETHER_MAX, ErasedHash, ErasureRow, ErasureStage, ErasureVerdict, OpenErasures, Stored,
    from_hex,
};
use crate::erase_reads::{HASHES_PAGE, Kin, KinConfirmation, erased_hash};
use crate::prepare::identities;
use crate::sqlite::base::page;
use crate::sqlite::erase_reads::subject;

impl Postgres {
    pub(crate) async fn erasures(
        &self,
        tenant: Option<&Name>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<ErasureRow>, Trouble> {
        let link = self.link().await?;
        let found = list(link.base()?, tenant, before, limit).await;
        link.end(found).await
    }

    pub(crate) async fn open_erasures(&self) -> Result<OpenErasures, Trouble> {
        let link = self.link().await?;
        let found = open(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn erasure_verdicts(&self, id: i64) -> Result<Vec<ErasureVerdict>, Trouble> {
        let link = self.link().await?;
        let found = verdicts(link.base()?, id).await;
        link.end(found).await
    }

    pub(crate) async fn erased_hashes(&self, after: Option<&ErasedHash>) -> Result<Vec<ErasedHash>, Trouble> {
        let link = self.link().await?;
        let found = hashes(link.base()?, after).await;
        link.end(found).await
    }

    pub(crate) async fn erased_at(
        &self,
        tenant: &Name,
        subject: &Subject,
    ) -> Result<Option<Millis>, Trouble> {
        let link = self.link().await?;
        let found = erased_at(link.base()?, tenant, subject).await;
        link.end(found).await
    }

    pub(crate) async fn here(
        &self,
        asked: &[(Name, [u8; 16])],
        anew: bool,
    ) -> Result<Vec<(Name, Subject)>, Trouble> {
        let link = self.link().await?;
        let found = here(link.base()?, asked, anew).await;
        link.end(found).await
    }

    pub(crate) async fn kin(&self, person: i64) -> Result<Kin, Trouble> {
        let link = self.state().await?;
        let found = kin(link.base()?, person).await;
        link.end(found).await
    }

    pub(crate) async fn part_of(&self, id: EventId) -> Result<Option<u32>, Trouble> {
        let link = self.link().await?;
        let found = part_of(link.base()?, id).await;
        link.end(found).await
    }
}

async fn list(
    base: &Base,
    tenant: Option<&Name>,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<ErasureRow>, Fault> {
    let tenant = match tenant {
        None => None,
        Some(name) => match base.tenant(name.as_str()).await? {
            None => return Ok(vec![]),
            known => known,
        },
    };
    let which = "WHERE x.id < $1 AND ($2::bigint IS NULL OR x.tenant = $2) ORDER BY x.id DESC LIMIT $3";
    rows(base, which, &[&before.unwrap_or(i64::MAX), &tenant, &page(limit)]).await
}

async fn open(base: &Base) -> Result<OpenErasures, Fault> {
    let sql = "SELECT id FROM erasures WHERE done_at IS NULL ORDER BY id DESC LIMIT 1";
    let newest = base.row(sql, &[]).await?.map(|row| get(&row, 0)).transpose()?;
    let which = "WHERE x.done_at IS NULL AND strpos(x.progress, $1) > 0 ORDER BY x.id LIMIT $2";
    let certifying = rows(base, which, &[&ErasureStage::Certifying.mark(), &ERASURES_TOGETHER_MAX]).await?;
    Ok(OpenErasures { newest, certifying })
}

/// Of `erasures`, by the condition.
async fn rows(base: &Base, which: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<ErasureRow>, Fault> {
    let sql = format!(
        "SELECT x.id, x.person, (SELECT e.id FROM events e WHERE e.seq = x.event), x.asked_at, x.done_at,
            x.progress, x.certificate, x.tenant FROM erasures x {which}"
    );
    let mut found = vec![];
    for row in &base.rows(&sql, params).await? {
        let event: Option<&[u8]> = get(row, 2)?;
        let event = event.and_then(|id| id.try_into().ok()).map(|id| EventId(u128::from_be_bytes(id)));
        let stored = Stored {
            id: get(row, 0)?,
            person: get(row, 1)?,
            event,
            asked_at: get(row, 3)?,
            done_at: get(row, 4)?,
            progress: get(row, 5)?,
            certificate: get(row, 6)?,
        };
        found.push(stored.row(base.tenant_name(get(row, 7)?).await?));
    }
    Ok(found)
}

async fn verdicts(base: &Base, id: i64) -> Result<Vec<ErasureVerdict>, Fault> {
    let sql = "SELECT d.id, d.destination, d.route, d.state, d.reason_code, d.reason, d.changed_at
         FROM erasures x JOIN deliveries d ON d.event = x.event WHERE x.id = $1 ORDER BY d.id";
    let mut found = vec![];
    for row in &base.rows(sql, &[&id]).await? {
        let (code, text): (Option<String>, Option<String>) = (get(row, 4)?, get(row, 5)?);
        found.push(ErasureVerdict {
            destination: base.name(get(row, 1)?).await?,
            route: base.name(get(row, 2)?).await?,
            state: State::from_number(get(row, 3)?)
                .ok_or_else(|| Fault::unreadable("delivery", get(row, 0).unwrap_or_default()))?,
            reason: code.map(|code| Reason { code, text: text.unwrap_or_default() }),
            at: Millis(get(row, 6)?),
        });
    }
    Ok(found)
}

async fn hashes(base: &Base, after: Option<&ErasedHash>) -> Result<Vec<ErasedHash>, Fault> {
    let (mut tenant, mut hash) = (0, vec![]);
    if let Some(after) = after {
        tenant = base.tenant(after.tenant.as_str()).await?.unwrap_or(0);
        hash = from_hex(&after.hash).map_or(vec![], |hash| hash.to_vec());
    }
    let sql =
        "SELECT tenant, hash, at FROM erased WHERE (tenant, hash) > ($1, $2) ORDER BY tenant, hash LIMIT $3";
    let mut found = vec![];
    for row in &base.rows(sql, &[&tenant, &hash, &HASHES_PAGE]).await? {
        let tenant = base.tenant_name(get(row, 0)?).await?;
        found.push(erased_hash(tenant, get(row, 1)?, get(row, 2)?));
    }
    Ok(found)
}

/// Who has these identities; `anew`: though the store knows that they were erased.
async fn here(base: &Base, asked: &[(Name, [u8; 16])], anew: bool) -> Result<Vec<(Name, Subject)>, Fault> {
    let sql = "SELECT p.address, p.external_id FROM identities i JOIN persons p ON p.id = i.person
         WHERE i.tenant = $1 AND i.hash = $2
           AND $3 = EXISTS (SELECT 1 FROM erased d WHERE d.tenant = $1 AND d.hash = $2)";
    let mut found = vec![];
    for (name, hash) in asked {
        let Some(tenant) = base.tenant(name.as_str()).await? else { continue };
        if let Some(row) = base.row(sql, &[&tenant, &&hash[..], &anew]).await? {
            found.push((name.clone(), subject(get(&row, 0)?, get(&row, 1)?)));
        }
    }
    Ok(found)
}

async fn kin(base: &Base, person: i64) -> Result<Kin, Fault> {
    let mut kin = Kin::default();
    let sql =
        "SELECT address, external_id, id FROM persons WHERE id = $1 OR same_as = $1 ORDER BY id LIMIT 1000";
    for row in &base.rows(sql, &[&person]).await? {
        kin.subjects.push(subject(get(row, 0)?, get(row, 1)?));
        kin.confirmations.extend(confirmations(base, get(row, 2)?).await?);
    }
    Ok(kin)
}

async fn confirmations(base: &Base, person: i64) -> Result<Vec<KinConfirmation>, Fault> {
    let rows = base.rows("SELECT token FROM confirmations WHERE person = $1 LIMIT 1000", &[&person]).await?;
    let mut found = vec![];
    for row in &rows {
        let token: &[u8] = get(row, 0)?;
        let Ok(token) = token.try_into() else { continue };
        found.extend(confirmation(base, &token).await?.map(|(_, row)| KinConfirmation::new(row)));
    }
    Ok(found)
}

async fn part_of(base: &Base, id: EventId) -> Result<Option<u32>, Fault> {
    let sql = "SELECT part FROM events WHERE id = $1";
    let row = base.row(sql, &[&&id.0.to_be_bytes()[..]]).await?;
    let part: Option<i64> = row.map(|row| get(&row, 0)).transpose()?;
    Ok(part.and_then(|part| u32::try_from(part).ok()))
}

/// See [`crate::Store::erased_at`].
async fn erased_at(base: &Base, tenant: &Name, subject: &Subject) -> Result<Option<Millis>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str()).await? else { return Ok(None) };
    let hashes = identities(subject, &base.key);
    let hashes: Vec<&[u8]> =
        [&hashes.address, &hashes.external_id].into_iter().flatten().map(|hash| &hash[..]).collect();
    let sql = "SELECT max(at) FROM erased WHERE tenant = $1 AND hash = ANY($2)";
    let row = base.row(sql, &[&tenant, &hashes]).await?;
    Ok(row.map_or(Ok(None), |row| get::<Option<i64>, _>(&row, 0))?.map(Millis))
}
