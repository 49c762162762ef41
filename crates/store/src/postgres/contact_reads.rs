//! The reads of the handle that are about contacts.

use std::collections::{HashMap, HashSet};

use mailspan_core::contact::{Contact, ContactKey};
use mailspan_core::{Address, Name, PersonId};

use super::handle::Postgres;
use super::{contact_list, contact_rows, endpoints};
use crate::{
    ConfirmationRow, ContactFilter, ContactList, ContactPage, ContactRow, EndpointRow, FactRow, FieldRow,
    ProofRow, SealedRow, SubscriptionCount, SuppressionFilter, SuppressionRow, TenantRow, Trouble,
};

impl Postgres {
    pub(crate) async fn contact(
        &self,
        tenant: &Name,
        key: &ContactKey,
    ) -> Result<Option<ContactRow>, Trouble> {
        let link = self.state().await?;
        let found = contact_rows::one(link.base()?, tenant, key).await;
        link.end(found).await
    }

    pub(crate) async fn contacts_of(
        &self,
        persons: &[PersonId],
    ) -> Result<HashMap<PersonId, Contact>, Trouble> {
        let link = self.link().await?;
        let found = contact_rows::of_persons(link.base()?, persons).await;
        link.end(found).await
    }

    pub(crate) async fn gone_of(&self, persons: &[PersonId]) -> Result<HashSet<PersonId>, Trouble> {
        let link = self.link().await?;
        let found = contact_rows::gone_of(link.base()?, persons).await;
        link.end(found).await
    }

    /// On one state: the last `rev` that is seen is of the rows that are.
    pub(crate) async fn contacts(
        &self,
        filter: &ContactFilter,
        page: ContactPage,
    ) -> Result<ContactList, Trouble> {
        let link = self.state().await?;
        let found = contact_list::list(link.base()?, filter, page).await;
        link.end(found).await
    }

    /// On one state: a fact and the suppression that came with it are seen together.
    pub(crate) async fn proofs(
        &self,
        tenant: &Name,
        asked: &[(PersonId, Option<Address>)],
    ) -> Result<Vec<ProofRow>, Trouble> {
        let link = self.state().await?;
        let found = contact_list::proofs(link.base()?, tenant, asked).await;
        link.end(found).await
    }

    pub(crate) async fn suppressions(
        &self,
        filter: &SuppressionFilter,
    ) -> Result<Vec<SuppressionRow>, Trouble> {
        let link = self.link().await?;
        let found = contact_rows::suppressions(link.base()?, filter).await;
        link.end(found).await
    }

    pub(crate) async fn suppression_of(
        &self,
        tenant: &Name,
        address: &Address,
    ) -> Result<Option<SuppressionRow>, Trouble> {
        let link = self.link().await?;
        let found = contact_rows::suppression_of(link.base()?, tenant, address).await;
        link.end(found).await
    }

    pub(crate) async fn field_kinds(&self, tenant: &Name) -> Result<Vec<FieldRow>, Trouble> {
        let link = self.link().await?;
        let found = contact_rows::field_kinds(link.base()?, tenant).await;
        link.end(found).await
    }

    pub(crate) async fn tenants(&self, name: Option<&Name>) -> Result<Vec<TenantRow>, Trouble> {
        let link = self.link().await?;
        let found = contact_rows::tenants(link.base()?, name).await;
        link.end(found).await
    }

    pub(crate) async fn confirmation(&self, token: &[u8; 32]) -> Result<Option<ConfirmationRow>, Trouble> {
        let link = self.state().await?;
        let found = contact_rows::confirmation(link.base()?, token).await;
        link.end(found).await
    }

    pub(crate) async fn facts_of(
        &self,
        tenant: &Name,
        person: PersonId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<FactRow>, Trouble> {
        let link = self.link().await?;
        let found = contact_rows::facts_of(link.base()?, tenant, person, after, limit).await;
        link.end(found).await
    }

    pub(crate) async fn sealed(&self, about: Option<(&Name, &str)>) -> Result<Vec<SealedRow>, Trouble> {
        let link = self.link().await?;
        let found = contact_rows::sealed(link.base()?, about).await;
        link.end(found).await
    }

    pub(crate) async fn endpoints(&self) -> Result<Vec<EndpointRow>, Trouble> {
        let link = self.link().await?;
        let found = endpoints::list(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn endpoints_mark(&self) -> Result<(i64, i64), Trouble> {
        let link = self.link().await?;
        let found = endpoints::mark(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn subscription_counts(&self, tenant: &Name) -> Result<Vec<SubscriptionCount>, Trouble> {
        let link = self.link().await?;
        let found = contact_rows::subscription_counts(link.base()?, tenant).await;
        link.end(found).await
    }
}
