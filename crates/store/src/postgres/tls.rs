//! TLS to PostgreSQL by rustls, for the driver; whom it trusts, and who it says it is.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use mailspan_core::chain::{Told, explain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::url::refuse;
use crate::OpenError;

/// Protocol name that a server of version 17 wants to hear where TLS begins at once (`sslnegotiation=direct`).
const ALPN: &[u8] = b"postgresql";

/// Whose certificate is good enough. `root`: PEM of authorities; nothing: those of this machine.
pub(crate) enum Trust {
    /// Where no TLS is spoken.
    Nobody,
    /// Against listeners only, not against who stands in between.
    Anyone,
    Chain {
        root: Option<Vec<u8>>,
    },
    ChainAndName {
        root: Option<Vec<u8>>,
    },
}

/// What this client shows where the server asks for it. PEM: the certificate and those between it and the server's
/// authority; its key.
pub(crate) struct Own {
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
}

/// The settings of each connection's TLS.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Reads the authorities and what is our own; TLS 1.2 and 1.3.
    pub(crate) fn new(trust: Trust, own: Option<Own>) -> Result<Tls, OpenError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (roots, named, checks) = match trust {
            Trust::Nobody => (RootCertStore::empty(), Vec::new(), Checks::ChainAndName),
            Trust::Anyone => (RootCertStore::empty(), Vec::new(), Checks::Nothing),
            Trust::Chain { root } => known(root, Checks::Chain)?,
            Trust::ChainAndName { root } => known(root, Checks::ChainAndName)?,
        };
        let judge = Judge { provider: provider.clone(), roots, named, checks };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder
            .map_err(|error| refuse(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge));
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = certificates("sslcert", &own.chain)?;
                // What is wrong with a key is not shown: it might be the key.
                let key = PrivateKeyDer::from_pem_slice(&own.key)
                    .map_err(|_| refuse("sslkey is not a PEM file of a private key without a password"))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    refuse(format!("sslkey is not the key of the certificate in sslcert: {error}"))
                })?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Tls(Arc::new(config)))
    }
}

type Known = (RootCertStore, Vec<CertificateDer<'static>>, Checks);

fn known(root: Option<Vec<u8>>, checks: Checks) -> Result<Known, OpenError> {
    let mut roots = RootCertStore::empty();
    let Some(pem) = root else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            // A container without ca-certificates: no error, just nothing found.
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        return Ok((roots, Vec::new(), checks));
    };
    let named = certificates("sslrootcert", &pem)?;
    for certificate in &named {
        roots.add(certificate.clone()).map_err(|error| unusable("sslrootcert", &error.to_string()))?;
    }
    Ok((roots, named, checks))
}

fn certificates(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found: Vec<CertificateDer<'static>> = read.map_err(|error| unusable(name, &error.to_string()))?;
    if found.is_empty() {
        return Err(unusable(name, "it holds no `BEGIN CERTIFICATE`"));
    }
    Ok(found)
}

fn unusable(name: &str, why: &str) -> OpenError {
    refuse(format!("{name} is not a usable PEM file: {why}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    Nothing,
    Chain,
    ChainAndName,
}

/// Judges the server's certificate.
#[derive(Debug)]
struct Judge {
    provider: Arc<CryptoProvider>,
    roots: RootCertStore,
    /// A certificate of the server itself may be named, as PostgreSQL's documentation has it made.
    named: Vec<CertificateDer<'static>>,
    checks: Checks,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.checks == Checks::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !self.named.iter().any(|named| named == end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                algorithms,
            )
            .map_err(|error| self.explained(error, end_entity, intermediates))?;
        }
        if self.checks == Checks::ChainAndName {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Judge {
    /// Which certificate is missing, where that is what is wrong.
    fn explained(&self, error: Error, leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> Error {
        use CertificateError::{BadSignature, UnknownIssuer};
        if !matches!(error, Error::InvalidCertificate(UnknownIssuer | BadSignature)) {
            return error;
        }
        let sent: Vec<&[u8]> = sent.iter().map(|one| one.as_ref()).collect();
        let knows = |subject: &[u8]| self.roots.roots.iter().any(|root| root.subject.as_ref() == subject);
        match explain(leaf, &sent, knows, TOLD) {
            Some(why) => {
                Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Unchained(why)))))
            }
            None => error,
        }
    }
}

const TOLD: Told = Told { who: "server", ca: "by sslrootcert=/path/to/ca.pem" };

/// What is wrong with a chain and what to do, as one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unchained(String);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, io::Error> {
        Ok(Handshake { config: self.0.clone(), host: domain.to_owned() })
    }
}

/// One handshake that may come: the driver asks for it before it knows, also for sockets, which have no name.
pub(crate) struct Handshake {
    config: Arc<ClientConfig>,
    host: String,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let name = ServerName::try_from(self.host)
                .map_err(|_| io::Error::other("the host is no name that a certificate can have"))?;
            let shaken = TlsConnector::from(self.config).connect(name.clone(), stream).await;
            shaken.map(|stream| Encrypted(Box::new(stream))).map_err(|error| hinted(error, &name))
        })
    }
}

/// What a person should do about a certificate that is not taken.
fn hinted(error: io::Error, name: &ServerName<'_>) -> io::Error {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let Some(Error::InvalidCertificate(why)) = rustls else { return error };
    if let CertificateError::Other(why) = why {
        return io::Error::other(format!("invalid peer certificate: {}", why.0));
    }
    match mend(why, &name.to_str()) {
        Some(mend) => io::Error::other(format!("{error}; {mend}")),
        None => error,
    }
}

/// Nothing where the error says all that is known.
fn mend(why: &CertificateError, name: &str) -> Option<String> {
    use CertificateError as Bad;
    let mend = match why {
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            return Some(format!(
                "name the host as its certificate does instead of `{name}`, or write sslmode=verify-ca"
            ));
        }
        Bad::Expired | Bad::ExpiredContext { .. } => {
            "renew the server's certificate, or this machine's clock is wrong"
        }
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "it is not valid yet, or this machine's clock is wrong"
        }
        Bad::Revoked => "its authority has revoked it: give the server another one",
        Bad::UnknownIssuer | Bad::BadSignature => {
            "name the PEM file of its authority by sslrootcert=/path/to/ca.pem"
        }
        _ => return None,
    };
    Some(mend.to_owned())
}

/// A connection inside TLS. Without channel binding: the certificate is what proves the server.
pub(crate) struct Encrypted(Box<tokio_rustls::client::TlsStream<Socket>>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_a_certificate_has_its_own_remedy() {
        for (why, expected) in [
            (CertificateError::NotValidForName, Some("instead of `db`")),
            (CertificateError::Expired, Some("renew")),
            (CertificateError::NotValidYet, Some("clock")),
            (CertificateError::Revoked, Some("revoked")),
            (CertificateError::UnknownIssuer, Some("sslrootcert")),
            (CertificateError::BadEncoding, None),
        ] {
            let told = mend(&why, "db");
            let is_told = expected.map(|part| told.as_deref().is_some_and(|told| told.contains(part)));
            assert!(is_told.unwrap_or(told.is_none()), "{why:?}: {told:?}");
        }
    }
}
