//! What is read of contacts, on either back end.

use std::collections::{HashMap, HashSet};

use mailspan_core::contact::{Contact, ContactKey};
use mailspan_core::{Address, Name, PersonId};

use crate::{
    ConfirmationRow, ContactFilter, ContactList, ContactPage, ContactRow, EndpointRow, FactRow, FieldRow,
    ProofRow, SealedRow, Store, SubscriptionCount, SuppressionFilter, SuppressionRow, TenantRow, Trouble,
    sqlite,
};

impl Store {
    /// A contact as an update would find it; a token finds none.
    pub async fn contact(&self, tenant: &Name, key: &ContactKey) -> Result<Option<ContactRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                let (tenant, key) = (tenant.clone(), key.clone());
                sqlite.read(move |base| sqlite::contact_rows::one(base, &tenant, &key)).await
            }
            Store::Postgres(postgres) => postgres.contact(tenant, key).await,
        }
    }

    /// The contacts of these persons, or of whom they were merged into; at most 1,000 persons are asked for at once.
    pub async fn contacts_of(&self, persons: Vec<PersonId>) -> Result<HashMap<PersonId, Contact>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::contact_rows::of_persons(base, &persons)).await
            }
            Store::Postgres(postgres) => postgres.contacts_of(&persons).await,
        }
    }

    /// Those of them whose address must not be mailed because somebody who had it was erased, and who are no contact
    /// since; at most 1,000 are asked for at once.
    pub async fn gone_of(&self, persons: Vec<PersonId>) -> Result<HashSet<PersonId>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::contact_rows::gone_of(base, &persons)).await
            }
            Store::Postgres(postgres) => postgres.gone_of(&persons).await,
        }
    }

    /// Of one tenant: the default one where none is named. A limit of 0 is the default page.
    pub async fn contacts(&self, filter: ContactFilter, page: ContactPage) -> Result<ContactList, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::contact_list::list(base, &filter, page)).await
            }
            Store::Postgres(postgres) => postgres.contacts(&filter, page).await,
        }
    }

    /// Oldest first, after the cursor; a limit of 0 is the default page.
    pub async fn suppressions(&self, filter: SuppressionFilter) -> Result<Vec<SuppressionRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::contact_rows::suppressions(base, &filter)).await
            }
            Store::Postgres(postgres) => postgres.suppressions(&filter).await,
        }
    }

    /// Of each of these contacts of a tenant, in their order.
    pub async fn proofs(&self, tenant: &Name, rows: &[ContactRow]) -> Result<Vec<ProofRow>, Trouble> {
        let asked: Vec<_> = rows.iter().map(|row| (row.person, row.contact.address.clone())).collect();
        match self {
            Store::Sqlite(sqlite) => {
                let tenant = tenant.clone();
                sqlite.read(move |base| sqlite::contact_list::proofs(base, &tenant, &asked)).await
            }
            Store::Postgres(postgres) => postgres.proofs(tenant, &asked).await,
        }
    }

    pub async fn suppression_of(
        &self,
        tenant: &Name,
        address: &Address,
    ) -> Result<Option<SuppressionRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                let (tenant, address) = (tenant.clone(), address.clone());
                sqlite.read(move |base| sqlite::contact_rows::suppression_of(base, &tenant, &address)).await
            }
            Store::Postgres(postgres) => postgres.suppression_of(tenant, address).await,
        }
    }

    /// Custom fields that a tenant declared, by name.
    pub async fn field_kinds(&self, tenant: &Name) -> Result<Vec<FieldRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                let tenant = tenant.clone();
                sqlite.read(move |base| sqlite::contact_rows::field_kinds(base, &tenant)).await
            }
            Store::Postgres(postgres) => postgres.field_kinds(tenant).await,
        }
    }

    /// Every tenant that was ever named, in the order of making.
    pub async fn tenants(&self) -> Result<Vec<TenantRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(|base| sqlite::contact_rows::tenants(base, None)).await,
            Store::Postgres(postgres) => postgres.tenants(None).await,
        }
    }

    pub async fn tenant(&self, name: &Name) -> Result<Option<TenantRow>, Trouble> {
        let mut found = match self {
            Store::Sqlite(sqlite) => {
                let name = name.clone();
                sqlite.read(move |base| sqlite::contact_rows::tenants(base, Some(&name))).await?
            }
            Store::Postgres(postgres) => postgres.tenants(Some(name)).await?,
        };
        Ok(found.pop())
    }

    /// By SHA-256 of the token in the link, used and expired ones too: the caller judges.
    pub async fn confirmation(&self, token: &[u8; 32]) -> Result<Option<ConfirmationRow>, Trouble> {
        let token = *token;
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::contact_rows::confirmation(base, &token)).await
            }
            Store::Postgres(postgres) => postgres.confirmation(&token).await,
        }
    }

    /// Of a person and those merged into it, oldest first, with a larger id than `after`.
    pub async fn facts_of(
        &self,
        tenant: &Name,
        person: PersonId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<FactRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                let tenant = tenant.clone();
                sqlite
                    .read(move |base| sqlite::contact_rows::facts_of(base, &tenant, person, after, limit))
                    .await
            }
            Store::Postgres(postgres) => postgres.facts_of(tenant, person, after, limit).await,
        }
    }

    /// The secret that is sealed about this.
    pub async fn sealed(&self, tenant: &Name, about: &str) -> Result<Option<SealedRow>, Trouble> {
        let mut found = match self {
            Store::Sqlite(sqlite) => {
                let (tenant, about) = (tenant.clone(), about.to_owned());
                sqlite.read(move |base| sqlite::contact_rows::sealed(base, Some((&tenant, &about)))).await?
            }
            Store::Postgres(postgres) => postgres.sealed(Some((tenant, about))).await?,
        };
        Ok(found.pop())
    }

    /// Every sealed secret, oldest first: to be sealed anew under another store key.
    pub async fn sealed_all(&self) -> Result<Vec<SealedRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(|base| sqlite::contact_rows::sealed(base, None)).await,
            Store::Postgres(postgres) => postgres.sealed(None).await,
        }
    }

    /// Webhook endpoints of all tenants.
    pub async fn endpoints(&self) -> Result<Vec<EndpointRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::endpoints::list).await,
            Store::Postgres(postgres) => postgres.endpoints().await,
        }
    }

    /// Two numbers that are others once an endpoint was made, changed or removed: their count, those removed
    /// included, and the sum of the times at which they changed. Always the same on SQLite, which one process
    /// serves.
    pub async fn endpoints_mark(&self) -> Result<(i64, i64), Trouble> {
        match self {
            Store::Sqlite(_) => Ok((0, 0)),
            Store::Postgres(postgres) => postgres.endpoints_mark().await,
        }
    }

    /// A key that is this store's alone, for one purpose; it goes with the data where that is moved.
    pub fn derived_key(&self, purpose: &str) -> [u8; 32] {
        match self {
            Store::Sqlite(sqlite) => sqlite.key().derive(purpose),
            Store::Postgres(postgres) => postgres.key().derive(purpose),
        }
    }

    /// By source and page, 1,000 of them at most.
    pub async fn subscription_counts(&self, tenant: &Name) -> Result<Vec<SubscriptionCount>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                let tenant = tenant.clone();
                sqlite.read(move |base| sqlite::contact_rows::subscription_counts(base, &tenant)).await
            }
            Store::Postgres(postgres) => postgres.subscription_counts(tenant).await,
        }
    }
}
