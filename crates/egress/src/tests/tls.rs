//! TLS with a private authority made for the test.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Authority { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
}

impl Authority {
    /// Certificate and key for a name or an address.
    fn leaf(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// A TLS receiver; with `clients` it wants a certificate of that authority.
async fn tls_receiver(authority: &Authority, name: &str, clients: bool) -> Receiver {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = if clients {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let (certificate, key) = authority.leaf(name);
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    accepting(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()).await
}

/// A TLS receiver that shows this chain.
async fn showing(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Receiver {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    accepting(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()).await
}

async fn accepting(config: ServerConfig) -> Receiver {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    receiver(Arc::new(move |stream, seen| {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            while let Some(request) = read_request(&mut stream).await {
                seen.requests.lock().unwrap().push(format!("{name:?} {request}"));
                let _ = stream.write_all(OK.as_bytes()).await;
                let _ = stream.flush().await;
            }
        })
    }))
    .await
}

fn https(receiver: &Receiver, host: &str, ca: Option<&Authority>) -> Target {
    let url = format!("https://{host}:{}/hook", receiver.address.port());
    Target { ca: ca.map(|authority| authority.pem.clone().into_bytes()), ..target(&url) }
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let authority = authority();
    let receiver = tls_receiver(&authority, "crm.test", false).await;
    let egress = egress();
    for _ in 0..3 {
        let answer = egress.send(&https(&receiver, "crm.test", Some(&authority)), post("{}")).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    assert_eq!(receiver.connections(), 1);
    assert!(receiver.requests()[0].starts_with("Some(\"crm.test\") POST /hook"), "{:?}", receiver.requests());
}

#[tokio::test]
async fn an_unknown_authority_is_not_trusted() {
    let (one, other) = (authority(), authority());
    let receiver = tls_receiver(&one, "crm.test", false).await;
    for ca in [None, Some(&other)] {
        let mut target = https(&receiver, "crm.test", ca);
        target.key = format!("{}", ca.is_some());
        let lost = egress().send(&target, post("{}")).await.unwrap_err();
        assert_lost(&lost, "tls", false, "name that one's PEM file in `ca`");
        assert!(!lost.refused);
    }
    assert!(receiver.requests().is_empty());
}

async fn refused(chain: Vec<CertificateDer<'static>>, key: &KeyPair, ca: &Authority, part: &str) {
    let receiver = showing(chain, key).await;
    let lost = egress().send(&https(&receiver, "crm.test", Some(ca)), post("{}")).await.unwrap_err();
    assert_lost(&lost, "tls", false, part);
    assert!(receiver.requests().is_empty(), "something was sent: {:?}", receiver.requests());
}

#[tokio::test]
async fn a_certificate_that_ran_out_or_is_not_yet_good_is_refused() {
    let authority = authority();
    let from_to = |from: i32, to: i32| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["crm.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        (params.signed_by(&key, &authority.issuer).unwrap().der().clone(), key)
    };
    let (old, key) = from_to(2019, 2020);
    refused(vec![old], &key, &authority, "the receiver must renew it").await;
    let (early, key) = from_to(2090, 2095);
    refused(vec![early], &key, &authority, "not valid yet").await;
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_refused() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["crm.test".to_owned()]).unwrap();
    let own = params.self_signed(&key).unwrap().der().clone();
    refused(vec![own], &key, &authority(), "a private authority signed it").await;
}

#[tokio::test]
async fn a_chain_without_its_intermediate_says_what_is_missing() {
    let root = authority();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(rcgen::DnType::CommonName, "between");
    let certificate = params.signed_by(&key, &root.issuer).unwrap();
    let (pem, der) = (certificate.pem(), certificate.der().clone());
    let between = Authority { pem, der, issuer: Issuer::new(params, key) };
    let (leaf, key) = between.leaf("crm.test");
    for part in ["the server leaves out an intermediate certificate", "`between`", "send its whole chain"] {
        refused(vec![leaf.der().clone()], &key, &root, part).await;
    }
    let receiver = showing(vec![leaf.der().clone(), between.der.clone()], &key).await;
    let answer = egress().send(&https(&receiver, "crm.test", Some(&root)), post("{}")).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_whole_chain_of_an_unknown_authority_is_another_cause() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "House root");
    let certificate = params.self_signed(&key).unwrap();
    let (pem, der) = (certificate.pem(), certificate.der().clone());
    let house = Authority { pem, der, issuer: Issuer::new(params, key) };
    let (leaf, key) = house.leaf("crm.test");
    let chain = vec![leaf.der().clone(), house.der.clone()];
    let part = "ends at the authority `House root`, which is not trusted here";
    refused(chain, &key, &authority(), part).await;
}

#[tokio::test]
async fn the_name_must_fit() {
    let authority = authority();
    let receiver = tls_receiver(&authority, "crm.test", false).await;
    let lost =
        egress().send(&https(&receiver, "other.test", Some(&authority)), post("{}")).await.unwrap_err();
    assert_lost(&lost, "tls", false, "use the name that the certificate carries");
}

#[tokio::test]
async fn an_address_is_compared_with_the_certificate_and_sends_no_name() {
    let authority = authority();
    let receiver = tls_receiver(&authority, "127.0.0.1", false).await;
    egress().send(&https(&receiver, "127.0.0.1", Some(&authority)), post("{}")).await.unwrap();
    assert!(receiver.requests()[0].starts_with("None POST"), "{:?}", receiver.requests());
    let lost = egress().send(&https(&receiver, "127.0.0.2", Some(&authority)), post("{}")).await.unwrap_err();
    assert!(!lost.sent);
}

#[tokio::test]
async fn a_client_certificate() {
    let authority = authority();
    let receiver = tls_receiver(&authority, "crm.test", true).await;
    let mut target = https(&receiver, "crm.test", Some(&authority));
    let lost = egress().send(&target, post("{}")).await.unwrap_err();
    assert!(lost.why.text.contains("client_certificate") || lost.why.code == "closed", "{lost:?}");
    let (certificate, key) = authority.leaf("hub.test");
    let key = mailspan_core::Secret::new(key.serialize_pem());
    target.client_certificate = Some((certificate.pem().into_bytes(), key));
    assert_eq!(egress().send(&target, post("{}")).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_port_without_tls() {
    let receiver = receiver(always("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")).await;
    let target = Target { timeout_ms: 300, ..https(&receiver, "127.0.0.1", None) };
    let lost = egress().send(&target, post("{}")).await.unwrap_err();
    assert!(!lost.sent && matches!(lost.why.code.as_str(), "tls" | "timeout"), "{lost:?}");
}

#[test]
fn bad_pem_is_refused_before_anything_is_sent() {
    let base = target("https://crm.example/");
    let secret = |text: &str| mailspan_core::Secret::new(text.to_owned());
    let authority = authority();
    let chain = authority.pem.clone().into_bytes();
    for (target, part) in [
        (Target { ca: Some(b"nothing".to_vec()), ..base.clone() }, "BEGIN CERTIFICATE"),
        (Target { ca: Some(b"-----BEGIN CERTIFICATE-----\n!!\n".to_vec()), ..base.clone() }, "`ca`"),
        (
            Target { client_certificate: Some((chain.clone(), secret("x"))), ..base.clone() },
            "its key cannot be read",
        ),
        (
            Target {
                client_certificate: Some((chain, secret(&KeyPair::generate().unwrap().serialize_pem()))),
                ..base
            },
            "client_certificate",
        ),
    ] {
        let lost = egress().check(&target).unwrap_err();
        assert!(lost.refused, "{lost:?}");
        assert_lost(&lost, "bad_certificate", false, part);
    }
}
