//! The report of a synchronisation: who was not valid, and how many of each. N contacts in, N named.

use mailspan_core::xml::{self, Element};
use mailspan_core::{Answer, Signal, Verdict, clip};

use super::call::{email_of, external_id_of};
use super::words;
use crate::contract::{Item, Judgement};

/// Verdicts about the items of a synchronisation that was answered 2xx.
pub fn judge(items: &[Item], answer: &Answer) -> Judgement {
    let root = xml::parse(&answer.body).filter(|root| root.name != "html");
    let Some(root) = root else {
        let body = String::from_utf8_lossy(&answer.body);
        let text = format!("the answer is no report of Maileon: {}", clip(&body, 200));
        return all(items, Verdict::retry("bad_answer", text), None);
    };
    let invalid = root.child("invalid_contacts").map(|list| list.children.as_slice()).unwrap_or_default();
    let mut verdicts: Vec<Option<Verdict>> = vec![None; items.len()];
    for contact in invalid {
        if let Some(at) = position(items, contact) {
            verdicts[at] = Some(refused(contact));
        }
    }
    let counts = Counts::read(&root);
    let named = verdicts.iter().flatten().count() as u64;
    let total = items.len() as u64;
    if counts.invalid.unwrap_or(named) == named && counts.sum(named) == Some(total) {
        let unsubscribed = Verdict::skipped("unsubscribed_there", "the contact has unsubscribed at Maileon");
        let rest = match counts.unsubscribed {
            0 => Some(Verdict::Done),
            all if all == total - named => Some(unsubscribed),
            _ => None,
        };
        if let Some(rest) = rest {
            let verdicts = verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(|| rest.clone()));
            return Judgement { verdicts: verdicts.collect(), ..Judgement::default() };
        }
    }
    let open = Verdict::retry("no_result", "the report does not account for every contact");
    let verdicts = verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(|| open.clone())).collect();
    // Smaller calls tell who is meant.
    let signal = (items.len() > 1).then_some(Signal::Split);
    Judgement { verdicts, signal, ..Judgement::default() }
}

pub fn all(items: &[Item], verdict: Verdict, signal: Option<Signal>) -> Judgement {
    Judgement { verdicts: vec![verdict; items.len()], signal, ..Judgement::default() }
}

struct Counts {
    contacts: Option<u64>,
    new: Option<u64>,
    existing: Option<u64>,
    unsubscribed: u64,
    invalid: Option<u64>,
}

impl Counts {
    fn read(root: &Element) -> Counts {
        let count = |name: &str| root.text_of(name)?.parse().ok();
        Counts {
            contacts: count("count_contacts"),
            new: count("count_new_contacts"),
            existing: count("count_existing_contacts"),
            unsubscribed: count("count_unsubscribed_contacts").unwrap_or(0),
            invalid: count("count_invalid_contacts"),
        }
    }

    /// All that the report accounts for; nothing where it contradicts itself or counts nothing.
    fn sum(&self, named: u64) -> Option<u64> {
        let told = self.new.is_some() || self.existing.is_some();
        let parts = [self.new, self.existing, Some(self.unsubscribed), Some(self.invalid.unwrap_or(named))];
        let sum = parts.into_iter().flatten().fold(0, u64::saturating_add);
        match (told, self.contacts) {
            (true, Some(contacts)) if contacts != sum => None,
            (true, _) => Some(sum),
            // Only how many came: nobody but the invalid ones was refused.
            (false, contacts) => contacts,
        }
    }
}

fn position(items: &[Item], contact: &Element) -> Option<usize> {
    let by_email = contact.text_of("email").and_then(|email| {
        let email = email.to_lowercase();
        items.iter().position(|item| email_of(item).is_some_and(|mine| mine.to_lowercase() == email))
    });
    by_email.or_else(|| {
        let id = contact.text_of("external_id")?;
        items.iter().position(|item| external_id_of(item).as_deref() == Some(id))
    })
}

/// The code stands in an attribute of `error`, or is its text.
fn refused(contact: &Element) -> Verdict {
    let error = contact.child("error");
    let code = error.and_then(|error| {
        let code = error.attribute("code").or_else(|| error.text_of("code")).unwrap_or(error.text.trim());
        code.trim().parse::<u64>().ok()
    });
    let field = error.and_then(|error| error.text_of("error_field").or_else(|| error.text_of("field")));
    let text = match (code, code.and_then(words::error)) {
        (Some(code), Some(text)) => format!("error {code}: {text}"),
        (Some(code), None) => format!("error {code}"),
        (None, _) => "Maileon gives no reason".to_owned(),
    };
    let text = field.map_or_else(|| text.clone(), |field| format!("{text} ({})", clip(field, 80)));
    match code {
        Some(4 | 5) => Verdict::reject("conflict", format!("{text}: mend it at Maileon, then replay")),
        Some(21) => Verdict::reject("missing_field", format!("{text}, then replay")),
        _ => Verdict::reject("refused", text),
    }
}
