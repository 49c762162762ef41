//! Who was erased is not made again by an old mail that is opened: only who signs up anew is.

use std::collections::HashSet;

use mailspan_core::consent_of;
use mailspan_store::{Claim, Trouble};

use super::shell::PERSONS_READ_MAX;
use crate::app::{App, Live};

/// Marks claims of persons who are gone, where their route would make a contact of what happened to them.
pub async fn mark(app: &App, live: &Live, claims: &mut [&mut Claim]) -> Result<(), Trouble> {
    let makers: Vec<&mut &mut Claim> = claims.iter_mut().filter(|claim| makes(live, claim)).collect();
    let persons: HashSet<_> = makers.iter().filter_map(|claim| Some(claim.person.as_ref()?.id)).collect();
    let persons: Vec<_> = persons.into_iter().collect();
    let mut gone = HashSet::new();
    for part in persons.chunks(PERSONS_READ_MAX) {
        gone.extend(app.store.gone_of(part.to_vec()).await?);
    }
    for claim in makers {
        claim.gone = claim.person.as_ref().is_some_and(|person| gone.contains(&person.id));
    }
    Ok(())
}

fn makes(live: &Live, claim: &Claim) -> bool {
    let says_so = live.routes.get(&claim.route).is_some_and(|route| route.create_contacts);
    let event_type = &claim.event.event_type;
    says_so && !event_type.as_str().starts_with("contact.") && consent_of(event_type).is_none()
}
