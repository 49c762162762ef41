//! What a contact was known by before: other systems may know it by that still.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Contact;
use crate::limits::{EXTERNAL_ID_BYTES_MAX, FORMER_NAMES_MAX};
use crate::{Address, Formerly, Millis};

/// An address or an external id that a contact has left, and when; stored as JSON with its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    pub at: Millis,
    /// Another contact is called so by now; of a contact that is read for a delivery.
    #[serde(skip)]
    pub taken: bool,
}

/// Keeps what the contact is not called any more; what it is called again is nothing that it has left.
pub(super) fn leave(before: Option<&Contact>, after: &mut Contact, at: Millis) {
    let Some(before) = before else { return };
    let email = before.address.as_ref().filter(|_| before.address != after.address);
    let external_id = before.external_id.as_ref().filter(|_| before.external_id != after.external_id);
    if email.is_none() && external_id.is_none() {
        return;
    }
    let mut left = std::mem::take(&mut after.fields.formerly);
    let emails =
        email.map(|one| Left { email: Some(one.as_str().to_owned()), external_id: None, at, taken: false });
    let ids = external_id.map(|one| Left { email: None, external_id: Some(one.clone()), at, taken: false });
    for one in emails.into_iter().chain(ids) {
        left.retain(|other| (&other.email, &other.external_id) != (&one.email, &one.external_id));
        left.insert(0, one);
    }
    left.retain(|one| !is_now(after, one));
    left.truncate(FORMER_NAMES_MAX);
    after.fields.formerly = left;
}

fn is_now(contact: &Contact, left: &Left) -> bool {
    let key = |text: &String| Address::parse(text).ok().map(|address| address.key());
    let address = left.email.as_ref().and_then(key);
    address.is_some() && address == contact.address.as_ref().map(Address::key)
        || left.external_id.is_some() && left.external_id == contact.external_id
}

/// Newest first. What cannot be read (an erasure of somebody else has cut it out) is passed over.
pub fn formerly(contact: &Contact) -> Formerly {
    let mut all = Formerly::default();
    for left in &contact.fields.formerly {
        let address = left.email.as_deref().and_then(|text| Address::parse(text).ok());
        if left.taken {
            all.taken.extend(address);
            continue;
        }
        all.addresses.extend(address.map(|address| (address, left.at)));
        all.external_ids.extend(left.external_id.clone().map(|id| (id, left.at)));
    }
    all
}

/// The member `formerly` of `contact.erased`: `{"emails": […], "external_ids": […]}`; nothing where there are none.
pub fn formerly_json(formerly: &Formerly) -> Option<Value> {
    let emails: Vec<&str> = formerly.addresses.iter().map(|(address, _)| address.as_str()).collect();
    let ids: Vec<&str> = formerly.external_ids.iter().map(|(id, _)| id.as_str()).collect();
    (!emails.is_empty() || !ids.is_empty()).then(|| json!({ "emails": emails, "external_ids": ids }))
}

/// What `contact.erased` says beside the subject; at most as many names as the hub itself writes.
pub fn formerly_erased(data: &str, at: Millis) -> Formerly {
    let data: Value = serde_json::from_str(data).unwrap_or_default();
    let texts = |name: &str| {
        let list = data["formerly"][name].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().take(2 * FORMER_NAMES_MAX).filter_map(Value::as_str).collect::<Vec<_>>()
    };
    let addresses = texts("emails").into_iter().filter_map(|text| Address::parse(text).ok());
    let ids = texts("external_ids").into_iter().filter(|id| (1..=EXTERNAL_ID_BYTES_MAX).contains(&id.len()));
    Formerly {
        addresses: addresses.map(|address| (address, at)).collect(),
        external_ids: ids.map(|id| (id.to_owned(), at)).collect(),
        taken: Vec::new(),
    }
}
