//! Why a chain of certificates leads to nobody who is trusted: what the other side sent is looked at once more, to say
//! which certificate is missing. Whether it is good was judged before.

mod der;

pub use der::{Names, names, shown};

/// In whose words it is told.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Who shows the certificates: `receiver`.
    pub who: &'a str,
    /// Where an authority's PEM file is named: ``in `ca` ``.
    pub ca: &'a str,
}

/// What is missing in a chain of certificates (DER) that leads to nobody who is trusted, with names, and what to do.
/// `leaf`: the server's own; `sent`: the others that it showed; `knows`: an authority of this subject is trusted.
/// Nothing where a certificate cannot be read.
pub fn explain(leaf: &[u8], sent: &[&[u8]], knows: impl Fn(&[u8]) -> bool, told: Told<'_>) -> Option<String> {
    let Told { who, ca } = told;
    let others: Vec<Names> = sent.iter().filter_map(|der| names(der)).collect();
    let leaf = names(leaf)?;
    let last = end_of(leaf, &others);
    let issuer = shown(last.issuer);
    if last.issuer == last.subject && last.subject == leaf.subject {
        return Some(format!(
            "the certificate signed itself ({issuer}), or a private authority signed it; name that one's PEM file {ca}"
        ));
    }
    if knows(last.issuer) {
        return Some(format!(
            "the authority {issuer} is known here and did not sign what names it as its issuer; where a private one has the same name, name that one's PEM file {ca}"
        ));
    }
    if last.issuer == last.subject {
        return Some(format!(
            "the chain ends at the authority {issuer}, which is not trusted here; where it is a private one, name that one's PEM file {ca}, else the {who} must take a certificate of a public authority"
        ));
    }
    let what = match last.subject == leaf.subject {
        true => format!(
            "the server leaves out an intermediate certificate: it shows its own, and not that of its issuer {issuer}"
        ),
        false => format!(
            "the server leaves out an intermediate certificate: its chain ends at {}, and the issuer of that, {issuer}, is neither shown nor known here",
            shown(last.subject)
        ),
    };
    Some(format!(
        "{what}; the {who} must send its whole chain (fullchain.pem), or, where {issuer} is a private authority, name that one's PEM file {ca}"
    ))
}

/// From issuer to issuer through what was sent; each is passed once.
fn end_of<'a>(leaf: Names<'a>, others: &[Names<'a>]) -> Names<'a> {
    let mut last = leaf;
    for _ in 0..others.len() {
        if last.issuer == last.subject {
            break;
        }
        match others.iter().find(|one| one.subject == last.issuer) {
            Some(next) => last = *next,
            None => break,
        }
    }
    last
}
