//! The hub's own certificate: what senders are received with where no proxy with TLS stands before the hub.
//!
//! TLS 1.2 and 1.3 by rustls, which has no older ones. The only protocol that is offered (ALPN, RFC 7301) is
//! HTTP/1.1, as that is what the hub speaks; a client that insists on another one ends the handshake.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mailspan_core::Secret;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::http::server::Stream;

/// PEM, and the file that it was read from (nothing: a variable of the environment).
#[derive(Clone)]
pub struct Pem {
    pub text: Secret,
    pub file: Option<PathBuf>,
}

/// A chain with its key, fit to be shown.
pub struct OwnCertificate {
    chain: Pem,
    key: Pem,
    config: Arc<ServerConfig>,
}

/// Why a chain and a key are of no use, with what to do after the colon.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("{0}")]
    Chain(String),
    #[error("{0}")]
    Key(String),
}

impl OwnCertificate {
    /// The certificate of the hub first, then its intermediates; the key without a passphrase.
    pub fn new(chain: Pem, key: Pem) -> Result<OwnCertificate, Unfit> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(chain.text.expose().as_bytes()).collect();
        let certificates = certificates.ok().filter(|list| !list.is_empty()).ok_or_else(|| {
            Unfit::Chain("no certificate can be read: write PEM, -----BEGIN CERTIFICATE-----".to_owned())
        })?;
        let secret = PrivateKeyDer::from_pem_slice(key.text.expose().as_bytes()).map_err(|_| {
            let mend = "write PEM without a passphrase, -----BEGIN PRIVATE KEY-----";
            Unfit::Key(format!("no private key can be read: {mend}"))
        })?;
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Unfit::Chain(format!("TLS cannot be set up ({error})")))?;
        let mut config =
            builder.with_no_client_auth().with_single_cert(certificates, secret).map_err(unfit)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(OwnCertificate { chain, key, config: Arc::new(config) })
    }

    /// Receives one connection; who calls sets the deadline.
    pub async fn accept(&self, stream: Box<dyn Stream>) -> io::Result<TlsStream<Box<dyn Stream>>> {
        TlsAcceptor::from(self.config.clone()).accept(stream).await
    }

    /// PEM of the certificate and its intermediates, as it was read.
    pub fn chain_pem(&self) -> &str {
        self.chain.text.expose()
    }

    /// True where a file can change under it.
    pub fn is_of_files(&self) -> bool {
        self.chain.file.is_some() || self.key.file.is_some()
    }

    /// The certificate as its files are now; nothing where they say what they said. Reads files.
    pub fn renewed(&self) -> Result<Option<OwnCertificate>, String> {
        let (chain, key) = (again(&self.chain)?, again(&self.key)?);
        if chain.text.expose() == self.chain.text.expose() && key.text.expose() == self.key.text.expose() {
            return Ok(None);
        }
        OwnCertificate::new(chain, key).map(Some).map_err(|unfit| unfit.to_string())
    }
}

/// Neither the key nor anything of it.
impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnCertificate").field("chain", &self.chain.file).finish_non_exhaustive()
    }
}

fn again(pem: &Pem) -> Result<Pem, String> {
    let Some(file) = &pem.file else { return Ok(pem.clone()) };
    let text = crate::config::secret_file(file).map_err(|why| format!("{}: {why}", shown(file)))?;
    Ok(Pem { text: Secret::new(text), file: pem.file.clone() })
}

fn shown(file: &Path) -> String {
    format!("the file `{}` cannot be read", mailspan_core::clip(&file.display().to_string(), 200))
}

fn unfit(error: rustls::Error) -> Unfit {
    match error {
        rustls::Error::InconsistentKeys(_) => Unfit::Key(
            "it is not the key of the first certificate: name the key that this was made with, and put the hub's own certificate before its intermediates".to_owned(),
        ),
        rustls::Error::InvalidCertificate(_) => Unfit::Chain(format!(
            "the first certificate cannot be used ({error}): write the hub's own certificate, X.509 version 3"
        )),
        error => Unfit::Key(format!(
            "the key cannot be used ({error}): make an ECDSA key of P-256 or P-384, an Ed25519 key, or an RSA key of 2048 bits or more"
        )),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Certificate and key for `hub.test`.
    fn made() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["hub.test".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn of(chain: &str, key: &str) -> Result<OwnCertificate, Unfit> {
        let pem = |text: &str| Pem { text: Secret::new(text.to_owned()), file: None };
        OwnCertificate::new(pem(chain), pem(key))
    }

    #[test]
    fn a_pair_that_does_not_fit_says_which_half_is_wrong() {
        let ((chain, key), (_, other)) = (made(), made());
        assert!(of(&chain, &key).is_ok());
        let broken = chain.replace("MI", "!!");
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for chain in ["", "x", &key, &broken, nonsense] {
            let unfit = of(chain, &key).unwrap_err();
            assert!(matches!(&unfit, Unfit::Chain(text) if text.contains(": write ")), "{chain}: {unfit}");
        }
        for (key, word) in [("", "no private key"), ("x", "no private key"), (&other, "not the key")] {
            let unfit = of(&chain, key).unwrap_err();
            assert!(matches!(&unfit, Unfit::Key(text) if text.contains(word)), "{unfit}");
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        let (chain, key) = made();
        let shown = format!("{:?}", of(&chain, &key).unwrap());
        assert!(key.lines().all(|line| !shown.contains(line)), "{shown}");
    }

    #[test]
    fn a_renewed_pair_is_taken_and_half_of_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (at_chain, at_key) = (folder.path().join("hub.pem"), folder.path().join("hub.key"));
        let write = |chain: &str, key: &str| {
            std::fs::write(&at_chain, chain).unwrap();
            std::fs::write(&at_key, key).unwrap();
        };
        let ((chain, key), (new_chain, new_key)) = (made(), made());
        let pem =
            |text: &str, file: &Path| Pem { text: Secret::new(text.to_owned()), file: Some(file.into()) };
        let own = OwnCertificate::new(pem(&chain, &at_chain), pem(&key, &at_key)).unwrap();
        assert!(own.is_of_files());
        write(chain.trim_end(), key.trim_end());
        let own = own.renewed().unwrap().unwrap_or(own);
        assert!(own.renewed().unwrap().is_none(), "nothing changed");
        write(&new_chain, &key);
        assert!(own.renewed().unwrap_err().contains("not the key"));
        write(&new_chain, &new_key);
        assert!(own.renewed().unwrap().is_some());
        std::fs::remove_file(&at_key).unwrap();
        assert!(own.renewed().unwrap_err().contains("hub.key"));
    }
}
