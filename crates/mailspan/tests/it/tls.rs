//! A destination behind TLS with a private authority that wants a client certificate.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mailspan_testkit::{Hub, until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

use crate::support::{AT, BINARY, SECRET, event, send};

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
    fn leaf(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Files that the configuration names: the authority, a certificate for the hub and its key.
    fn write(&self, folder: &Path) {
        let (certificate, key) = self.leaf("hub.test");
        std::fs::write(folder.join("ca.pem"), &self.pem).unwrap();
        std::fs::write(folder.join("hub.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("hub.key"), key.serialize_pem()).unwrap();
    }
}

/// Answers 200 to whoever shows a certificate of the authority; the bodies received.
fn receiver(authority: &Authority) -> (u16, Arc<Mutex<Vec<String>>>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let (certificate, key) = authority.leaf("127.0.0.1");
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = bodies.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let kept = kept.clone();
            std::thread::spawn(move || {
                let mut stream = BufReader::new(StreamOwned::new(connection, stream));
                while let Some(body) = read(&mut stream) {
                    kept.lock().unwrap().push(body);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    if stream.get_mut().write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, bodies)
}

fn read(stream: &mut impl BufRead) -> Option<String> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}

const CA: &str = "ca = { file = \"ca.pem\" }";
const CLIENT: &str = "client_certificate = { cert = { file = \"hub.pem\" }, key = { file = \"hub.key\" } }";

fn config(port: u16, tls: &[&str]) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:{{HUB}}"

[storage]
url = "sqlite:hub.db"

[egress]
allow = ["127.0.0.1:1024-65535"]

[sources.mailtarget]
kind = "mailtarget"
secrets = [{{ env = "MAILTARGET_SECRET" }}]

[destinations.crm]
kind = "http"
url = "https://127.0.0.1:{port}/activities"
retry = {{ calendar = ["50ms"], for = "1h" }}
breaker = {{ failures = 0 }}
{}

[[routes]]
name = "raw"
to = ["crm"]
"#,
        tls.join("\n")
    )
}

fn hub(authority: &Authority, config: &str) -> Hub {
    let mut hub = Hub::new(BINARY, config, &[("MAILTARGET_SECRET", SECRET)]);
    authority.write(hub.folder());
    hub.start();
    hub
}

#[test]
fn a_private_authority_and_a_client_certificate() {
    let authority = authority();
    let (port, bodies) = receiver(&authority);
    let hub = hub(&authority, &config(port, &[CA, CLIENT]));
    send(&hub, &event("open", "a@example.com", AT));
    until(10, "nothing arrived over TLS", || (hub.rows(&["audit"])[0]["delivered"] == 1).then_some(()));
    assert!(bodies.lock().unwrap()[0].contains("a@example.com"));
    let row = &hub.rows(&["destinations", "test", "crm"])[0];
    assert_eq!((&row["ok"], &row["status"]), (&json!(true), &json!(200)));
}

/// What is missing is said, nothing is lost; with the mended file it arrives.
fn check_mended(tls: &[&str], says: &[&str]) {
    let authority = authority();
    let (port, bodies) = receiver(&authority);
    let hub = hub(&authority, &config(port, tls));
    send(&hub, &event("open", "a@example.com", AT));
    let error = until(10, "no failed attempt", || {
        let row = hub.rows(&["deliveries", "list"]).pop()?;
        row["last_error"].as_str().map(str::to_owned)
    });
    assert!(says.iter().any(|says| error.contains(says)), "{error}");
    assert!(bodies.lock().unwrap().is_empty());
    let mended = config(port, &[CA, CLIENT]).replace("{HUB}", &hub.port.to_string());
    std::fs::write(hub.folder().join("hub.toml"), mended).unwrap();
    let pid = hub.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    until(20, "not delivered after it was mended", || {
        (hub.rows(&["audit"])[0]["delivered"] == 1).then_some(())
    });
    assert_eq!(bodies.lock().unwrap().len(), 1);
}

#[test]
fn without_the_authority_nothing_is_sent() {
    check_mended(&[CLIENT], &["`ca`"]);
}

#[test]
fn without_the_client_certificate_nothing_is_taken() {
    check_mended(&[CA], &["client_certificate", "closed", "certificate"]);
}

#[test]
fn a_key_that_cannot_be_read_is_an_error_of_configuration() {
    let authority = authority();
    let hub = Hub::new(BINARY, &config(443, &[CA, CLIENT]), &[("MAILTARGET_SECRET", SECRET)]);
    authority.write(hub.folder());
    assert!(hub.run(&["check"]).status.success());
    std::fs::write(hub.folder().join("hub.key"), "canary-that-is-no-key").unwrap();
    let output = hub.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("client_certificate") && !said.contains("canary"), "{said}");
    std::fs::remove_file(hub.folder().join("ca.pem")).unwrap();
    let output = hub.run(&["check"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("ca.pem"));
}
