//! One write applied: the person found or made, the facts folded, what changed kept for the back end.

use std::fmt::Write;
use std::sync::Arc;

use mailspan_core::contact::{
    Applied, Change, Contact, ContactOutcome, ContactWrite, Evidence, Fact, Known, Lifted, Stated,
    Suppressed, Turn, WriteMode, apply,
};
use mailspan_core::{Address, Digest, EventId, Millis, RawValue, Reason, Subject};

use mailspan_core::contact::ERASED;

use super::{Audience, Confirmation, Hash, PersonRow, Suppression, find};

/// What became of a write, and what the back end has to append for it.
pub(crate) struct Done {
    pub outcome: ContactOutcome,
    pub person: Option<i64>,
    pub facts: Vec<Stated>,
    /// Type and `data` of the hub's own event.
    pub event: Option<(&'static str, Box<RawValue>)>,
    /// Of the contact; before an erasure, of what is erased.
    pub subject: Subject,
    /// A person was erased.
    pub erased: bool,
    /// What the event is kept as, where it says nothing that counts.
    pub held_back: Option<HeldBack>,
    /// Why the address was suppressed by this write.
    suppressed: Option<Suppressed>,
    /// Keyed hash of the address that the contact left.
    former: Option<Hash>,
}

/// Why an event of another source is no news. It is kept under a type of its own, and goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldBack {
    /// An account tells what the hub wrote there.
    Echo,
    /// It happened before the person was erased: whom it names is cut out.
    Erased,
}

/// A row of the ledger.
pub(crate) struct NewFact {
    pub person: Option<i64>,
    pub what: Stated,
    pub at: Millis,
    pub learned: Millis,
    /// Nothing where no event tells of it.
    pub seq: i64,
    pub event_id: EventId,
    pub digest: Digest,
    pub evidence: String,
}

/// The version of the stored form.
const EVIDENCE_VERSION: u64 = 1;

fn evidence_json(evidence: &Evidence) -> String {
    // An object of texts: it can be written.
    let mut text = serde_json::to_string(evidence).unwrap_or_else(|_| "{}".to_owned());
    text.pop();
    let comma = if text.len() > 1 { "," } else { "" };
    let _ = write!(text, "{comma}\"v\":{EVIDENCE_VERSION}}}");
    text
}

/// Type and subject are those of a change of the contact, whatever the event that lifted it was.
fn lifted(write: &ContactWrite, applied: &Applied, subject: &Subject) -> Option<Box<Lifted>> {
    let (event_type, data) = applied.event.as_ref().filter(|_| applied.stands_anew)?;
    let agreed = applied.standing.opted_in_at.filter(|_| applied.standing.opt_in());
    Some(Box::new(Lifted {
        event_type: if applied.after.is_some() { "contact.updated" } else { event_type },
        subject: subject.clone(),
        time: agreed.unwrap_or(write.at),
        data: data.get().to_owned(),
    }))
}

impl Done {
    fn refused(reason: Reason) -> Done {
        let outcome =
            ContactOutcome { turn: Turn::Refused(reason), contact: None, asked: false, lifted: None };
        let (facts, subject) = (vec![], Subject::nobody());
        let (held_back, suppressed, former) = (None, None, None);
        Done {
            outcome,
            person: None,
            facts,
            event: None,
            subject,
            erased: false,
            held_back,
            suppressed,
            former,
        }
    }

    /// Found by asking, and nothing of it is news: no event tells of it.
    pub(crate) fn is_known_already(&self, write: &ContactWrite) -> bool {
        let stays = match &self.outcome.turn {
            Turn::Unchanged | Turn::Ignored => true,
            Turn::Refused(reason) => reason.code == ERASED,
            Turn::Created | Turn::Updated | Turn::Erased => false,
        };
        write.found && stays && self.facts.is_empty() && self.suppressed.is_none()
    }

    fn held_back(why: HeldBack, contact: Option<Arc<Contact>>) -> Done {
        let turn = if why == HeldBack::Erased { Turn::Ignored } else { Turn::Unchanged };
        let outcome = ContactOutcome { turn, contact, asked: false, lifted: None };
        Done { outcome, held_back: Some(why), ..Done::refused(Reason::new("", "")) }
    }

    /// The evidence of one of the facts; a suppression names its reason, a change of address the old one by hash.
    pub(crate) fn evidence(&self, what: Stated, evidence: &Evidence) -> String {
        match (what, self.suppressed) {
            (Stated::Suppressed, Some(reason)) if evidence.note.is_none() => {
                evidence_json(&Evidence { note: Some(reason.name().to_owned()), ..evidence.clone() })
            }
            (Stated::Moved, _) => {
                let former = self.former.as_ref().map(|hash| crate::erase::hex(hash));
                evidence_json(&Evidence { former, ..evidence.clone() })
            }
            _ => evidence_json(evidence),
        }
    }
}

impl Audience {
    /// Applies one write. `decides`: a refusal is the whole answer. Else the event is a fact that happened: what it
    /// states of consent is kept for whoever has the address, though the rest is refused.
    pub(crate) fn write(&mut self, write: &ContactWrite, learned: Millis, decides: bool) -> Done {
        let filled = self.filled(write, learned);
        if !decides && let Some(why) = self.holds_back(&filled) {
            let contact = self.as_it_is(write).contact.filter(|_| why == HeldBack::Echo);
            return Done::held_back(why, contact);
        }
        let mut done = self.try_write(&filled, learned);
        if let (Ok(done), true) = (&mut done, decides) {
            // The hub's own event says it.
            done.outcome.lifted = None;
        }
        match done {
            Ok(done) => done,
            Err(reason) if decides || reason.code == ERASED => Done::refused(reason),
            Err(reason) => {
                let (key, uid) = (write.key.clone(), write.uid.clone());
                let mut follow = ContactWrite::new(key, WriteMode::Follow, uid, filled.at, "");
                follow.opt_in = write.opt_in;
                follow.stated = write.stated.clone();
                follow.suppress = write.suppress.clone();
                follow.erase = write.erase;
                follow.found = write.found;
                follow.evidence = write.evidence.clone();
                let turn = Turn::Refused(reason);
                match self.try_write(&follow, learned) {
                    Ok(done) => Done { outcome: ContactOutcome { turn, ..done.outcome }, ..done },
                    Err(_) => Done {
                        outcome: ContactOutcome { turn, contact: None, asked: false, lifted: None },
                        ..Done::refused(Reason::new("", ""))
                    },
                }
            }
        }
    }

    /// Of a duplicate: the contact as it is.
    pub(crate) fn as_it_is(&self, write: &ContactWrite) -> ContactOutcome {
        let person = self.contact_for(&self.filled(write, write.at)).ok().flatten();
        let contact = person.and_then(|person| self.contacts.get(&person)).cloned();
        ContactOutcome { turn: Turn::Unchanged, contact, asked: false, lifted: None }
    }

    fn try_write(&mut self, write: &ContactWrite, learned: Millis) -> Result<Done, Reason> {
        let contact = self.contact_for(write)?;
        let makes = contact.is_none() && matches!(write.mode, WriteMode::Upsert | WriteMode::CreateOnly);
        let changes = contact.is_some() && matches!(write.mode, WriteMode::Upsert | WriteMode::Update);
        let mut person = contact;
        if !write.erase && (makes || changes) {
            self.check_free(write, contact)?;
        }
        if makes && !write.erase {
            if write.address.is_none() && find::set_id(write).is_none() {
                return Err(Reason::new("not_found", "there is no such contact, and nothing to make one of"));
            }
            person = self.person_for_new(write).or_else(|| self.make());
        }
        if let Some(person) = person.filter(|_| !write.erase && (makes || changes)) {
            self.claim_all(person, write);
        }
        if person.is_none() && find::follows(write) {
            person = self.followed(write)?;
        }
        self.turn(write, person, learned)
    }

    fn turn(&mut self, write: &ContactWrite, person: Option<i64>, learned: Millis) -> Result<Done, Reason> {
        let learned = learned.max(self.floor);
        let before = person.and_then(|person| self.contacts.get(&person)).cloned();
        let named = find::parts(&write.key).0;
        let address = write.address.as_ref().filter(|_| write.mode != WriteMode::Follow);
        let address =
            address.or(before.as_ref().and_then(|contact| contact.address.as_ref())).or(named).cloned();
        // Who has no contact is erased by what is known of the person.
        let row = person.and_then(|person| self.persons.get(&person)).filter(|_| write.erase).cloned();
        let row = row.unwrap_or_default();
        let address =
            address.or_else(|| row.address.as_deref().and_then(|address| Address::parse(address).ok()));
        let hash = address.as_ref().map(|address| self.hash_of(address));
        // What happened to an address that the contact has left suppresses that one.
        let left =
            named.filter(|_| write.mode == WriteMode::Follow).map(|named| (self.hash_of(named), named));
        let left = left.filter(|(named, _)| hash != Some(*named));
        let facts = person.map(|person| self.facts_of(person)).unwrap_or_default();
        let agreed = person.and_then(|person| self.agreed_of(person));
        let formerly = person.filter(|_| write.erase).map(|person| self.formerly(person)).unwrap_or_default();
        let known = Known { contact: before, facts, agreed, suppressed: self.suppressed(hash), formerly };
        let applied = match left.is_some() || hash.is_none() {
            true => apply(&known, &ContactWrite { suppress: Change::Keep, ..write.clone() }, learned),
            false => apply(&known, write, learned),
        };
        if let Turn::Refused(reason) = applied.turn {
            return Err(reason);
        }
        let before = known.contact;
        let person = person.or_else(|| match write.erase {
            true => self.stranger(write),
            false => self.person_for_facts(write, &applied),
        });
        self.keep(write, person, before.as_deref(), &applied, learned);
        if let Some((now, hash)) = applied.suppression.zip(hash) {
            self.suppress(write, hash, address.as_ref(), now);
        }
        if let Some((hash, address)) = left.filter(|_| !write.erase) {
            let known = Known { suppressed: self.suppressed(Some(hash)), ..Known::default() };
            let suppress = ContactWrite { stated: vec![], opt_in: None, ..write.clone() };
            if let Some(now) = apply(&known, &suppress, learned).suppression {
                self.suppress(write, hash, Some(address), now);
            }
        }
        let shown = applied.after.as_ref().or(before.as_ref());
        let subject = Subject {
            address: shown.map_or(address, |contact| contact.address.clone()),
            external_id: shown.and_then(|contact| contact.external_id.clone()).or(row.external_id),
        };
        let lifted = lifted(write, &applied, &subject);
        Ok(Done {
            person,
            subject,
            erased: write.erase && person.is_some(),
            held_back: None,
            suppressed: applied.suppression.flatten().map(|(reason, _)| reason),
            former: before
                .as_ref()
                .and_then(|contact| contact.address.as_ref())
                .map(|address| self.hash_of(address)),
            facts: applied.facts,
            // Nobody was erased: nobody is told.
            event: applied.event.filter(|_| !write.erase || person.is_some()),
            outcome: ContactOutcome {
                turn: applied.turn,
                contact: applied.after,
                asked: applied.ask,
                lifted,
            },
        })
    }

    fn keep(
        &mut self,
        write: &ContactWrite,
        person: Option<i64>,
        before: Option<&Contact>,
        applied: &Applied,
        learned: Millis,
    ) {
        let Some(person) = person else { return };
        if applied.facts.contains(&Stated::Moved) {
            self.moved.extend(self.all_of(person));
        }
        let facts = applied.facts.iter().map(|&what| Fact { at: write.at, what });
        self.facts.entry(person).or_default().extend(facts);
        if applied.facts.iter().any(|fact| fact.agrees())
            && self.agreed.get(&person).is_none_or(|(at, _)| *at <= write.at)
        {
            self.agreed.insert(person, (write.at, write.evidence.clone()));
        }
        self.move_times(person, applied);
        if write.erase {
            let source = write.evidence.source.as_ref().unwrap_or(&write.evidence.origin);
            return self.erase(person, write.at, source);
        }
        if let super::ContactKey::Token(token) = &write.key
            && let Some(row) = self.confirmations.get(token).cloned()
        {
            self.confirmations.set(*token, Confirmation { used_at: Some(write.at), ..row });
        }
        if let (Some(ask), true) = (&write.ask, applied.ask) {
            let row = Confirmation {
                person,
                asked_at: write.at,
                expires_at: ask.expires_at,
                used_at: None,
                gives: ask.gives,
                mailing: ask.mailing.clone(),
                source: write.evidence.source.clone(),
                page: write.evidence.page.clone(),
            };
            self.confirmations.set(ask.token, row);
        }
        if let (Some(after), Turn::Created | Turn::Updated) = (&applied.after, &applied.turn) {
            self.floor = learned;
            self.keep_contact(person, before, after);
        }
    }

    fn keep_contact(&mut self, person: i64, before: Option<&Contact>, after: &Arc<Contact>) {
        let hashes = |contact: &Contact| -> [Option<Hash>; 2] {
            let id = contact.external_id.as_deref().map(|id| self.hash_of_id(id));
            [contact.address.as_ref().map(|address| self.hash_of(address)), id]
        };
        let kept = hashes(after);
        let gone = before.map(hashes).unwrap_or_default();
        for hash in gone.into_iter().flatten().filter(|hash| !kept.contains(&Some(*hash))) {
            if self.person(hash) == Some(person) {
                self.identities.remove(hash);
            }
        }
        let mut row = self.persons.get(&person).cloned().unwrap_or_default();
        let own_id = before.and_then(|contact| contact.external_id.as_deref());
        let address = after.address.as_ref().map(|address| address.as_str().to_owned());
        let has_new_id = after.external_id.is_some() || own_id == row.external_id.as_deref();
        let external_id = if has_new_id { after.external_id.clone() } else { row.external_id.clone() };
        if address.is_some() && address != row.address || external_id != row.external_id {
            row.address = address.or(row.address);
            row.external_id = external_id;
            self.persons.set(person, row);
        }
        self.uids.insert(after.uid.clone(), person);
        self.contacts.set(person, Arc::clone(after));
    }

    /// What the contact is known by now leads to its person. Who was known by it, and has no contact of its own,
    /// is the same person from now on.
    fn claim_all(&mut self, person: i64, write: &ContactWrite) {
        let id = find::set_id(write).map(|id| self.hash_of_id(id));
        let address = write.address.as_ref().map(|address| self.hash_of(address));
        for hash in [address, id].into_iter().flatten() {
            match self.person(hash) {
                Some(holder) if holder == person => continue,
                Some(holder) if !self.has_contact(holder) => self.merge(holder, person),
                _ => {}
            }
            self.identities.set(hash, person);
        }
    }

    fn merge(&mut self, from: i64, into: i64) {
        for one in self.all_of(from) {
            let row = self.persons.get(&one).cloned().unwrap_or_default();
            self.persons.set(one, PersonRow { same_as: Some(into), ..row });
            self.merged.entry(into).or_default().push(one);
        }
        self.merged.remove(&from);
    }

    /// Facts need a person, though there is no contact: found or made, and known by both identities.
    fn person_for_facts(&mut self, write: &ContactWrite, applied: &Applied) -> Option<i64> {
        let (address, external_id) = find::parts(&write.key);
        if applied.facts.is_empty() || matches!(write.key, super::ContactKey::Id(_)) {
            return None;
        }
        let hashes =
            [address.map(|address| self.hash_of(address)), external_id.map(|id| self.hash_of_id(id))];
        hashes.iter().flatten().next()?;
        let row = PersonRow {
            address: address.map(|address| address.as_str().to_owned()),
            external_id: external_id.map(str::to_owned),
            ..PersonRow::default()
        };
        let person = self.make()?;
        self.persons.set(person, row);
        for hash in hashes.into_iter().flatten() {
            if self.identities.get(&hash).is_none() {
                self.identities.set(hash, person);
            }
        }
        Some(person)
    }

    pub(super) fn make(&mut self) -> Option<i64> {
        let person = self.free.pop()?;
        self.persons.set(person, PersonRow::default());
        self.made.insert(person);
        Some(person)
    }

    /// The last opt-in and opt-out stand beside the person: what plans a delivery looks there.
    fn move_times(&mut self, person: i64, applied: &Applied) {
        let standing = applied.standing;
        for one in self.all_of(person) {
            let row = self.persons.get(&one).cloned().unwrap_or_default();
            let opted_in_at = row.opted_in_at.max(standing.opted_in_at);
            let opted_out_at = row.opted_out_at.max(standing.opted_out_at);
            if (opted_in_at, opted_out_at) != (row.opted_in_at, row.opted_out_at) {
                self.persons.set(one, PersonRow { opted_in_at, opted_out_at, ..row });
            }
        }
    }

    /// Of the person and those merged into it.
    pub(super) fn facts_of(&self, person: i64) -> Vec<Fact> {
        self.all_of(person).iter().filter_map(|one| self.facts.get(one)).flatten().copied().collect()
    }

    /// What proves the newest fact of them that agrees.
    fn agreed_of(&self, person: i64) -> Option<Evidence> {
        let all = self.all_of(person);
        let newest = all.iter().filter_map(|one| self.agreed.get(one)).max_by_key(|(at, _)| *at);
        newest.map(|(_, evidence)| evidence.clone())
    }

    pub(super) fn suppressed(&self, hash: Option<Hash>) -> Option<(Suppressed, Millis)> {
        hash.and_then(|hash| self.suppressions.get(&hash)).map(|row| (row.reason, row.at))
    }

    fn suppress(
        &mut self,
        write: &ContactWrite,
        hash: Hash,
        address: Option<&Address>,
        now: Option<(Suppressed, Millis)>,
    ) {
        let Some((reason, at)) = now else { return self.suppressions.remove(hash) };
        let source = write.evidence.source.clone().unwrap_or_else(|| write.evidence.origin.clone());
        let address =
            address.filter(|_| reason != Suppressed::Erasure).map(|address| address.as_str().to_owned());
        self.suppressions.set(hash, Suppression { address, reason, source: Some(source), at });
    }
}
