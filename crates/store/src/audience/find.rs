//! Whom a write is about: the matching table of identities and contacts.

use std::borrow::Cow;

use mailspan_core::contact::{Change, Contact, ContactKey, ContactWrite, Stated, WriteMode};

use super::{Audience, Hash};
use crate::contacts::conflict;
use mailspan_core::{Address, Millis, Reason};

/// Address and external id of a key; a text that may be either id counts as an external id too.
pub(super) fn parts(key: &ContactKey) -> (Option<&Address>, Option<&str>) {
    match key {
        ContactKey::Id(id) | ContactKey::ExternalId(id) => (None, Some(id)),
        ContactKey::Address(address) => (Some(address), None),
        ContactKey::Subject { address, external_id } => (address.as_ref(), external_id.as_deref()),
        ContactKey::Token(_) => (None, None),
    }
}

/// What happened, whoever it happened to: no contact has to be named exactly.
pub(super) fn follows(write: &ContactWrite) -> bool {
    write.mode == WriteMode::Follow || write.erase && write.mode == WriteMode::Upsert
}

pub(super) fn set_id(write: &ContactWrite) -> Option<&str> {
    match &write.external_id {
        Change::Set(id) => Some(id),
        _ => None,
    }
}

/// Fills in what the key says, where the write may make a contact or brings its key along. What the store knows does
/// not count, so it is done before the writer has it.
pub(crate) fn fill(write: &mut ContactWrite) {
    let (address, external_id) = missing(write);
    let (address, external_id) = (address.cloned(), external_id.map(str::to_owned));
    write.address = write.address.take().or(address);
    if let Some(id) = external_id {
        write.external_id = Change::Set(id);
    }
}

/// What [`fill`] fills in.
fn missing(write: &ContactWrite) -> (Option<&Address>, Option<&str>) {
    let stays = matches!(write.mode, WriteMode::Update | WriteMode::Follow) || write.erase;
    if stays || matches!(write.key, ContactKey::Id(_)) {
        return (None, None);
    }
    let (address, external_id) = parts(&write.key);
    (address.filter(|_| write.address.is_none()), external_id.filter(|_| write.external_id == Change::Keep))
}

impl Audience {
    /// The write with what its key says ([`fill`]), and what a token gives.
    pub(super) fn filled<'w>(&self, write: &'w ContactWrite, learned: Millis) -> Cow<'w, ContactWrite> {
        let given = match &write.key {
            ContactKey::Token(token) if write.stated.is_empty() && write.opt_in.is_none() => {
                self.confirmations.get(token).map(|row| Stated::OptIn(Some(row.gives)))
            }
            _ => None,
        };
        if given.is_none() && write.at <= learned && missing(write) == (None, None) {
            return Cow::Borrowed(write);
        }
        let mut write = write.clone();
        // Nothing has happened later than it was learned of, whatever a sender's clock says.
        write.at = write.at.min(learned);
        write.stated.extend(given);
        fill(&mut write);
        Cow::Owned(write)
    }

    /// The person of the contact, where the write is about one.
    pub(super) fn contact_for(&self, write: &ContactWrite) -> Result<Option<i64>, Reason> {
        if follows(write) {
            return self.followed(write).map(|found| found.filter(|person| self.has_contact(*person)));
        }
        match &write.key {
            ContactKey::Id(id) => Ok(self.by_uid(id).or_else(|| self.by_external_id(id))),
            ContactKey::ExternalId(id) => Ok(self.by_external_id(id)),
            ContactKey::Address(address) => Ok(self.by_address(address)),
            ContactKey::Token(token) => self.by_token(token, write).map(Some),
            ContactKey::Subject { address, external_id: None } => {
                Ok(address.as_ref().and_then(|address| self.by_address(address)))
            }
            ContactKey::Subject { address, external_id: Some(id) } => {
                if let Some(known) = self.by_external_id(id) {
                    return Ok(Some(known));
                }
                let known = address.as_ref().and_then(|address| self.by_address(address));
                match known.and_then(|person| self.contacts.get(&person)).map(|contact| &**contact) {
                    Some(Contact { external_id: Some(other), .. }) => Err(conflict(
                        "external_id_conflict",
                        format!("the contact with this address has the external id `{other}`, not `{id}`"),
                    )),
                    _ => Ok(known),
                }
            }
        }
    }

    /// Whom something happened to: what was said of an address counts for whoever has it.
    pub(super) fn followed(&self, write: &ContactWrite) -> Result<Option<i64>, Reason> {
        Ok(match &write.key {
            ContactKey::Id(id) => self
                .by_uid(id)
                .or_else(|| self.by_external_id(id))
                .or_else(|| self.person(self.hash_of_id(id))),
            ContactKey::Token(token) => Some(self.by_token(token, write)?),
            key => {
                let (address, external_id) = parts(key);
                let by_address = address.and_then(|address| self.person(self.hash_of(address)));
                by_address.or_else(|| external_id.and_then(|id| self.person(self.hash_of_id(id))))
            }
        })
    }

    /// What the write sets must not belong to another contact.
    pub(super) fn check_free(&self, write: &ContactWrite, contact: Option<i64>) -> Result<(), Reason> {
        let is_other = |found: Option<i64>| found.is_some() && found != contact;
        if let Some(address) = &write.address
            && is_other(self.by_address(address))
        {
            return Err(conflict("address_conflict", "another contact has this address"));
        }
        if let Some(id) = set_id(write)
            && is_other(self.by_external_id(id))
        {
            let text = format!("another contact has the external id `{id}`");
            return Err(conflict("external_id_conflict", text));
        }
        Ok(())
    }

    /// A person without a contact who is known by what the new contact has: the address decides.
    pub(super) fn person_for_new(&self, write: &ContactWrite) -> Option<i64> {
        let free = |hash: Hash| self.person(hash).filter(|person| !self.has_contact(*person));
        let by_address = write.address.as_ref().and_then(|address| free(self.hash_of(address)));
        by_address.or_else(|| set_id(write).and_then(|id| free(self.hash_of_id(id))))
    }

    pub(super) fn has_contact(&self, person: i64) -> bool {
        self.contacts.get(&person).is_some()
    }

    /// Who is known by this hash, after merges.
    pub(super) fn person(&self, hash: Hash) -> Option<i64> {
        let person = *self.identities.get(&hash)?;
        Some(self.persons.get(&person).and_then(|row| row.same_as).unwrap_or(person))
    }

    fn by_uid(&self, uid: &str) -> Option<i64> {
        self.uids.get(uid).copied().filter(|person| self.has_contact(*person))
    }

    /// A person may be known by more than its contact says: only what the contact says finds it.
    fn by_external_id(&self, id: &str) -> Option<i64> {
        let person = self.person(self.hash_of_id(id))?;
        let contact = self.contacts.get(&person)?;
        (contact.external_id.as_deref() == Some(id)).then_some(person)
    }

    fn by_address(&self, address: &Address) -> Option<i64> {
        let person = self.person(self.hash_of(address))?;
        let contact = self.contacts.get(&person)?;
        contact.address.as_ref().is_some_and(|own| own.key() == address.key()).then_some(person)
    }

    fn by_token(&self, token: &super::Token, write: &ContactWrite) -> Result<i64, Reason> {
        let row = self.confirmations.get(token).filter(|row| self.has_contact(row.person));
        let Some(row) = row else {
            return Err(conflict("token_unknown", "this link is not known: ask for a new one"));
        };
        if row.used_at.is_some() {
            return Err(conflict("token_used", "this link was used already"));
        }
        if row.expires_at <= write.at || self.moved.contains(&row.person) {
            return Err(conflict("token_expired", "this link has expired: ask for a new one"));
        }
        Ok(row.person)
    }
}
