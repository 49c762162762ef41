//! Why a chain of certificates leads to nobody who is trusted, with names.
//!
//! Whether a certificate is good is rustls's verdict alone; where that is «unknown issuer», what the server sent is
//! looked at once more, to say which certificate is missing.

mod der;

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use der::{Names, names, shown};

/// rustls's verifier, with reasons.
#[derive(Debug)]
pub(crate) struct Explaining {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
}

/// What is wrong and what to do, as one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unchained(pub String);

impl Explaining {
    /// Refuses roots that are none.
    pub fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Explaining, String> {
        let roots = Arc::new(roots);
        let inner = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider).build();
        Ok(Explaining { inner: inner.map_err(|error| error.to_string())?, roots })
    }

    fn knows(&self, subject: &[u8]) -> bool {
        self.roots.roots.iter().any(|root| root.subject.as_ref() == subject)
    }
}

impl ServerCertVerifier for Explaining {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verdict {
            Err(
                error @ Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                ),
            ) => {
                let sent: Vec<&[u8]> = intermediates.iter().map(|one| one.as_ref()).collect();
                let why = explain(end_entity, &sent, |subject| self.knows(subject));
                Err(why.map_or(error, |why| {
                    let why = OtherError(Arc::new(Unchained(why)));
                    Error::InvalidCertificate(CertificateError::Other(why))
                }))
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

/// Nothing where a certificate cannot be read.
fn explain(leaf: &[u8], sent: &[&[u8]], knows: impl Fn(&[u8]) -> bool) -> Option<String> {
    let others: Vec<Names> = sent.iter().filter_map(|der| names(der)).collect();
    let leaf = names(leaf)?;
    let last = end_of(leaf, &others);
    let issuer = shown(last.issuer);
    if last.issuer == last.subject && last.subject == leaf.subject {
        return Some(format!(
            "the certificate signed itself ({issuer}), or a private authority signed it; name that one's PEM file in `ca`"
        ));
    }
    if knows(last.issuer) {
        return Some(format!(
            "the authority {issuer} is known here and did not sign what names it as its issuer; where a private one has the same name, name that one's PEM file in `ca`"
        ));
    }
    if last.issuer == last.subject {
        return Some(format!(
            "the chain ends at the authority {issuer}, which is not trusted here; where it is a private one, name that one's PEM file in `ca`, else the receiver must take a certificate of a public authority"
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
        "{what}; the receiver must send its whole chain (fullchain.pem), or, where {issuer} is a private authority, name that one's PEM file in `ca`"
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

#[cfg(test)]
mod tests;
