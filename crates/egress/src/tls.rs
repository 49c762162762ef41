//! TLS settings of a target: whom it trusts, and who it says we are. There is no switch that trusts everybody.

use std::sync::{Arc, OnceLock};

use mailspan_core::{Lost, Secret};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Target;
use crate::chain::Explaining;
use crate::trouble::refused;

/// The roots of this machine, and the settings that all targets without certificates of their own share.
pub(crate) struct Trust {
    provider: Arc<CryptoProvider>,
    roots: OnceLock<RootCertStore>,
    plain: OnceLock<Arc<ClientConfig>>,
}

impl Trust {
    pub fn new() -> Trust {
        Trust {
            provider: Arc::new(aws_lc_rs::default_provider()),
            roots: OnceLock::new(),
            plain: OnceLock::new(),
        }
    }

    /// TLS 1.2 and 1.3, HTTP/1.1. The first call reads the machine's certificates, some 20 ms.
    pub fn config(&self, target: &Target) -> Result<Arc<ClientConfig>, Lost> {
        if target.ca.is_none() && target.client_certificate.is_none() {
            if let Some(config) = self.plain.get() {
                return Ok(config.clone());
            }
            let config = self.build(self.roots().clone(), None)?;
            return Ok(self.plain.get_or_init(|| config).clone());
        }
        let mut roots = self.roots().clone();
        if let Some(pem) = &target.ca {
            for authority in certificates(pem, "ca")? {
                roots.add(authority).map_err(|error| bad("ca", &error.to_string()))?;
            }
        }
        self.build(roots, target.client_certificate.as_ref())
    }

    fn build(
        &self,
        roots: RootCertStore,
        client: Option<&(Vec<u8>, Secret)>,
    ) -> Result<Arc<ClientConfig>, Lost> {
        let verifier =
            Explaining::new(roots, self.provider.clone()).map_err(|error| refused("tls", error))?;
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| refused("tls", error.to_string()))?
            // As rustls judges, with more to say: see `chain`.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain, "client_certificate")?;
                let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|error| {
                    bad("client_certificate", &format!("its key cannot be read: {error}"))
                })?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| bad("client_certificate", &error.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> &RootCertStore {
        self.roots.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                // A container without ca-certificates: no error, just nothing found.
                tracing::warn!(
                    "this machine has no certificate authorities: Mozilla's list as built in is used"
                );
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
            roots
        })
    }
}

fn certificates(pem: &[u8], setting: &str) -> Result<Vec<CertificateDer<'static>>, Lost> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(list) if list.is_empty() => Err(bad(setting, "it holds no `BEGIN CERTIFICATE`")),
        Ok(list) => Ok(list),
        Err(error) => Err(bad(setting, &format!("{error}"))),
    }
}

fn bad(setting: &str, text: &str) -> Lost {
    refused("bad_certificate", format!("`{setting}` is not a usable PEM file: {text}"))
}
