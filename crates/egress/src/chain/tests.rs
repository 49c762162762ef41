use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use mailspan_core::chain::{explain, names, shown};

use super::*;

/// A certificate of that name, signed by `by` or by itself.
fn made(name: &str, by: Option<&Issuer<'static, KeyPair>>) -> (Vec<u8>, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["crm.test".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    let (organization, common) = name.split_once('/').unwrap_or(("", name));
    if !organization.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    if !common.is_empty() {
        params.distinguished_name.push(DnType::CommonName, common);
    }
    let certificate = match by {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    (certificate.unwrap().der().to_vec(), Issuer::new(params, key))
}

fn check(leaf: &[u8], sent: &[&[u8]], known: &str, expected: &[&str]) {
    let why = explain(leaf, sent, |subject| shown(subject).contains(known), TOLD).unwrap();
    expected.iter().for_each(|part| assert!(why.contains(part), "`{part}` is missing in: {why}"));
}

#[test]
fn the_missing_certificate_has_a_name() {
    const MISSING: &str = "leaves out an intermediate certificate";
    let (root, by_root) = made("Trusty/Root", None);
    let (upper, by_upper) = made("Trusty/Upper", Some(&by_root));
    let (lower, by_lower) = made("Trusty/Lower", Some(&by_upper));
    let (leaf, _) = made("crm.test", Some(&by_lower));
    let nobody = "nobody at all";
    check(&leaf, &[], nobody, &[MISSING, "of its issuer `Lower` of Trusty", "fullchain.pem"]);
    check(&leaf, &[&lower], nobody, &[MISSING, "ends at `Lower` of Trusty", "of that, `Upper` of Trusty"]);
    // In any order, and with others between.
    let (other, _) = made("Other/Lower", None);
    check(&leaf, &[&other, &upper, &lower], nobody, &["ends at `Upper`", "of that, `Root`"]);
    check(
        &leaf,
        &[&upper, &lower, &root],
        nobody,
        &["ends at the authority `Root` of Trusty", "not trusted here"],
    );
    check(&leaf, &[&lower], "Upper", &["`Upper` of Trusty is known here and did not sign"]);
    let (own, _) = made("crm.test", None);
    check(&own, &[], nobody, &["the certificate signed itself (`crm.test`)"]);
    let (nameless, by_nameless) = made("", None);
    let (leaf, _) = made("crm.test", Some(&by_nameless));
    check(&leaf, &[&nameless], nobody, &["the authority without a name"]);
    assert_eq!(explain(b"no certificate", &[], |_| false, TOLD), None);
}

#[test]
fn names_do_not_act_on_a_terminal_and_are_short() {
    let (certificate, _) = made(&format!("a\u{1b}[2J`b/{}", "x".repeat(300)), None);
    let shown = shown(names(&certificate).unwrap().subject);
    assert!(!shown.contains('\u{1b}') && shown.chars().count() < 130, "{shown}");
}

/// Two certificates that name each other end somewhere.
#[test]
fn a_ring_of_issuers_ends() {
    let (_, by_one) = made("one", None);
    let (two, by_two) = made("two", Some(&by_one));
    let (one, _) = made("one", Some(&by_two));
    let (leaf, _) = made("crm.test", Some(&by_two));
    assert!(explain(&leaf, &[&one, &two], |_| false, TOLD).is_some());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = names(&bytes);
        let _ = shown(&bytes);
    }

    #[test]
    fn a_mutated_certificate_is_read_or_not(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut certificate = made("Trusty/Root", None).0;
        let at = at.index(certificate.len());
        certificate[at] = byte;
        let _ = explain(&certificate, &[&certificate], |_| false, TOLD);
    }
}
