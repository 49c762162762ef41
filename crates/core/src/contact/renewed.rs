//! A consent that is given anew: by somebody who is opted in already, to other words or on another page.

use super::{ContactWrite, Evidence};

/// True where the write names proof that the newest fact that agrees does not have. What is not named is not
/// compared, so that a table that is mirrored every night leaves no facts; nor is the address of a caller who does
/// not say that it is the person's.
pub fn is_renewed(newest: &Evidence, write: &ContactWrite) -> bool {
    let given = &write.evidence;
    let ip = given.ip.as_ref().filter(|_| write.ip_given);
    let pairs = [
        (given.consent_version.as_ref(), newest.consent_version.as_ref()),
        (given.text_hash.as_ref(), newest.text_hash.as_ref()),
        (given.page.as_ref(), newest.page.as_ref()),
        (given.source.as_ref(), newest.source.as_ref()),
        (ip, newest.ip.as_ref()),
    ];
    pairs.into_iter().any(|(given, newest)| given.is_some() && given != newest)
}

#[cfg(test)]
mod tests {
    use super::super::{ContactKey, WriteMode};
    use super::*;
    use crate::Millis;

    fn check(newest: Evidence, given: Evidence, ip_given: bool, expected: bool) {
        let key = ContactKey::Id("c1".to_owned());
        let mut write = ContactWrite::new(key, WriteMode::Upsert, "c1".to_owned(), Millis(1), "api");
        write.evidence = given;
        write.ip_given = ip_given;
        assert_eq!(is_renewed(&newest, &write), expected, "{write:?} after {newest:?}");
    }

    #[test]
    fn other_proof_is_news_and_the_same_or_none_is_not() {
        let some = |text: &str| Some(text.to_owned());
        let old = Evidence {
            consent_version: some("v1"),
            page: some("/a"),
            ip: some("10.0.0.1"),
            ..Evidence::default()
        };
        let caller = Evidence { ip: some("10.0.0.2"), user_agent: some("curl"), ..Evidence::default() };
        check(old.clone(), Evidence::default(), false, false);
        check(old.clone(), caller.clone(), false, false);
        check(old.clone(), caller, true, true);
        check(old.clone(), old.clone(), true, false);
        for other in [
            Evidence { consent_version: some("v2"), ..old.clone() },
            Evidence { text_hash: some("00"), ..old.clone() },
            Evidence { page: some("/b"), ..old.clone() },
            Evidence { source: some("shop"), ..Evidence::default() },
        ] {
            check(old.clone(), other, false, true);
        }
    }
}
