//! Events of Maileon's webhooks, and the error codes of its synchronisation.

/// The type that an event of Maileon becomes, whatever its case and whether it has `_`, `-` or blanks; nothing
/// for one that the vendor's pages do not name.
pub fn meaning(word: &str) -> Option<&'static str> {
    let word = word.trim().to_ascii_lowercase().replace(['-', ' '], "_");
    Some(match word.as_str() {
        "doi" | "doi_confirmation" | "confirm" => "contact.confirmed",
        "unsubscription" | "unsubscribe" | "unsubscribed" => "contact.unsubscribed",
        "bounce" | "bounced" => "email.bounced",
        "filtered" => "email.failed",
        "contact_field_change" | "field_change" => "contact.updated",
        "open" | "opened" => "email.opened",
        "click" | "clicked" => "email.clicked",
        "complaint" => "email.complained",
        _ => return None,
    })
}

/// Names of the codes 1 to 27 of a report's `error` (vendor page «synchronize contacts, error codes»).
const ERRORS: [&str; 27] = [
    "the external id is missing",
    "the address is missing",
    "the address is not valid",
    "another contact has the external id",
    "another contact has the address",
    "ADDRESS is too long",
    "CITY is too long",
    "FIRSTNAME is too long",
    "FULLNAME is too long",
    "HNR is too long",
    "LASTNAME is too long",
    "ORGANIZATION is too long",
    "REGION is too long",
    "STATE is too long",
    "TITLE is too long",
    "ZIP is too long",
    "BIRTHDAY is no date",
    "NAMEDAY is no date",
    "GENDER is none of m, f, d",
    "LOCALE is no xx_XX",
    "there is no such custom field: create it at Maileon",
    "a custom field takes 0, 1, true or false",
    "a custom field takes a float",
    "a custom field takes a double",
    "a custom field takes an integer",
    "a custom field takes at most 255 characters",
    "a custom field takes a time: yyyy-mm-dd, or with hh:mm:ss",
];

pub fn error(code: u64) -> Option<&'static str> {
    ERRORS.get(usize::try_from(code).ok()?.checked_sub(1)?).copied()
}
