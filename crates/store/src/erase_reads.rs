//! What is read of erasures, and of all that is held about a person, on either back end.

use mailspan_core::{EventId, Millis, Name, PersonId, Subject};

use crate::audience::Confirmation;
use crate::erase::{ErasedHash, ErasureRow, ErasureVerdict, OpenErasures, from_hex};
use crate::{Store, Trouble, sqlite};
use mailspan_core::contact::Permission;

/// Who else a person was, and what it was asked to confirm.
#[derive(Debug, Clone, Default)]
pub struct Kin {
    /// Of the person, and of those merged into it: former addresses and ids.
    pub subjects: Vec<Subject>,
    pub confirmations: Vec<KinConfirmation>,
}

/// What the person was asked to confirm.
#[derive(Debug, Clone)]
pub struct KinConfirmation {
    pub asked_at: Millis,
    pub expires_at: Millis,
    pub used_at: Option<Millis>,
    pub gives: Permission,
    pub mailing: Option<String>,
    pub source: Option<String>,
    pub page: Option<String>,
}

impl KinConfirmation {
    pub(crate) fn new(row: Confirmation) -> KinConfirmation {
        KinConfirmation {
            asked_at: row.asked_at,
            expires_at: row.expires_at,
            used_at: row.used_at,
            gives: row.gives,
            mailing: row.mailing,
            source: row.source,
            page: row.page,
        }
    }
}

impl Store {
    /// Newest first. `before`: those with a smaller id.
    pub async fn erasures(
        &self,
        tenant: Option<Name>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<ErasureRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::erase_reads::list(base, tenant.as_ref(), before, limit)).await
            }
            Store::Postgres(postgres) => postgres.erasures(tenant.as_ref(), before, limit).await,
        }
    }

    /// Of those that are not done: the newest, and whose certificates can be written.
    pub async fn open_erasures(&self) -> Result<OpenErasures, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::erase_reads::open).await,
            Store::Postgres(postgres) => postgres.open_erasures().await,
        }
    }

    pub async fn erasure(&self, id: i64) -> Result<Option<ErasureRow>, Trouble> {
        let mut found = self.erasures(None, Some(id.saturating_add(1)), 1).await?;
        Ok(found.pop().filter(|row| row.id == id))
    }

    /// What each destination was asked, and what became of it.
    pub async fn erasure_verdicts(&self, id: i64) -> Result<Vec<ErasureVerdict>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::erase_reads::verdicts(base, id)).await,
            Store::Postgres(postgres) => postgres.erasure_verdicts(id).await,
        }
    }

    /// Hashes of all who were erased, in pages: `after` is the last one of the page before.
    pub async fn erased_hashes(&self, after: Option<ErasedHash>) -> Result<Vec<ErasedHash>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::erase_reads::hashes(base, after.as_ref())).await
            }
            Store::Postgres(postgres) => postgres.erased_hashes(after.as_ref()).await,
        }
    }

    /// When whoever was known by this was erased, the last time; nothing for nobody.
    pub async fn erased_at(&self, tenant: &Name, subject: &Subject) -> Result<Option<Millis>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                let (tenant, subject) = (tenant.clone(), subject.clone());
                sqlite.read(move |base| sqlite::erase_reads::erased_at(base, &tenant, &subject)).await
            }
            Store::Postgres(postgres) => postgres.erased_at(tenant, subject).await,
        }
    }

    /// Of these, who is here again though this store knows of no erasure: it is older than the erasure.
    pub async fn here_again(&self, hashes: Vec<ErasedHash>) -> Result<Vec<(Name, Subject)>, Trouble> {
        self.here(hashes, false).await
    }

    /// Of these, who is here since: somebody new under an identity of one who was erased.
    pub async fn here_anew(&self, hashes: Vec<ErasedHash>) -> Result<Vec<(Name, Subject)>, Trouble> {
        self.here(hashes, true).await
    }

    async fn here(&self, hashes: Vec<ErasedHash>, anew: bool) -> Result<Vec<(Name, Subject)>, Trouble> {
        let asked: Vec<(Name, [u8; 16])> =
            hashes.into_iter().filter_map(|one| Some((one.tenant, from_hex(&one.hash)?))).collect();
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::erase_reads::here(base, &asked, anew)).await
            }
            Store::Postgres(postgres) => postgres.here(&asked, anew).await,
        }
    }

    /// A person's former identities and confirmations; 1,000 of each at most.
    pub async fn kin(&self, person: PersonId) -> Result<Kin, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::erase_reads::kin(base, person.0)).await,
            Store::Postgres(postgres) => postgres.kin(person.0).await,
        }
    }

    /// The place of an event in the request that it came with.
    pub async fn part_of(&self, id: EventId) -> Result<Option<u32>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::erase_reads::part_of(base, id)).await,
            Store::Postgres(postgres) => postgres.part_of(id).await,
        }
    }
}

/// Rows of one page of hashes.
pub(crate) const HASHES_PAGE: i64 = 1_000;

pub(crate) fn erased_hash(tenant: Name, hash: &[u8], at: i64) -> ErasedHash {
    ErasedHash { tenant, hash: crate::erase::hex(hash), at: Millis(at) }
}
