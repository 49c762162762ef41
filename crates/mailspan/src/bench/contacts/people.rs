//! The contacts of the load: number `n` in its state `version`, the same in every run.

use mailspan_store::floor::BareContact;
use serde_json::{Value, json};

use crate::http::mailingcore::input::LOCALES;

const DOMAIN: &str = "@bench.example.com";
/// Not a divisor of any number of contacts that the bench takes: its multiples meet each contact once, in an
/// order that no index has.
const STRIDE: u64 = 2_654_435_761;

/// As the API takes it; what it shows must hold the same.
pub fn contact(n: u64, version: u32) -> Value {
    json!({
        "email": email(n), "externalId": format!("u-{n}"), "locale": locale(n, version), "optIn": true,
        "consentVersion": "2026-01", "source": "bench",
        "attributes": { "plan": "pro", "seats": n % 50, "version": version, "city": "Wien" },
        "standardFields": { "FIRSTNAME": "Ana", "LASTNAME": format!("Berger {n}") },
    })
}

/// The same for the bare table; `updated` is its place among all writes.
pub fn bare(n: u64, version: u32, updated: i64) -> BareContact {
    let fields = json!({
        "consentVersion": "2026-01", "source": "bench",
        "attributes": { "plan": "pro", "seats": n % 50, "version": version, "city": "Wien" },
        "standardFields": { "FIRSTNAME": "Ana", "LASTNAME": format!("Berger {n}") },
    });
    BareContact {
        email: email(n),
        external_id: format!("u-{n}"),
        locale: locale(n, version).to_owned(),
        updated,
        fields: fields.to_string(),
    }
}

pub fn email(n: u64) -> String {
    format!("c{n}{DOMAIN}")
}

fn locale(n: u64, version: u32) -> &'static str {
    let place = (n + u64::from(version)) % LOCALES.len() as u64;
    LOCALES[place as usize]
}

/// The number of a contact of the bench.
pub fn number(email: &str) -> Option<u64> {
    email.strip_prefix('c')?.strip_suffix(DOMAIN)?.parse().ok()
}

/// Each of `of` contacts once, in an order without order; `k` counts from 0.
pub fn scattered(k: u64, of: u64) -> u64 {
    (u128::from(k) * u128::from(STRIDE) % u128::from(of.max(1))) as u64
}

/// The version of a contact that is shown, if all else is as it was written.
pub fn version(shown: &Value) -> Option<u32> {
    let n = number(shown["email"].as_str()?)?;
    let version = u32::try_from(shown["attributes"]["version"].as_u64()?).ok()?;
    let written = contact(n, version);
    let same = written.as_object()?.iter().all(|(name, value)| shown[name] == *value);
    same.then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_met_once() {
        for of in [1, 2, 10, 999, 20_000] {
            let mut met: Vec<u64> = (0..of).map(|k| scattered(k, of)).collect();
            met.sort_unstable();
            assert!(met.iter().copied().eq(0..of), "{of}");
        }
    }

    #[test]
    fn a_contact_is_recognised_and_a_change_is_seen() {
        let mut shown = contact(41, 3);
        shown["permission"] = 2.into();
        assert_eq!((number(&email(41)), version(&shown)), (Some(41), Some(3)));
        shown["locale"] = "xx".into();
        assert_eq!(version(&shown), None, "another locale");
        assert_eq!(number("somebody@example.com"), None);
    }
}
