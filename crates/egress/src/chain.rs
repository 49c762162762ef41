//! Why a chain of certificates leads to nobody who is trusted, with names.
//!
//! Whether a certificate is good is rustls's verdict alone; where that is «unknown issuer», what the server sent is
//! looked at once more, to say which certificate is missing.

use std::sync::Arc;

use mailspan_core::chain::{Told, explain};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

const TOLD: Told = Told { who: "receiver", ca: "in `ca`" };

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
                let why = explain(end_entity, &sent, |subject| self.knows(subject), TOLD);
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

#[cfg(test)]
mod tests;
