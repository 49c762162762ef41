//! The hub's own certificate, as senders and operators meet it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use mailspan_testkit::{Hub, Receiver, until};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{BINARY, SECRET, config};

const MAILEON: &str = "/webhooks/contacts/email?key=KEY&email=anna@example.com";

/// A pair in the hub's files; the certificate is its own root.
fn make(folder: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let names = vec!["hub.test".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.join("hub.key"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("hub.pem"), certificate.pem()).unwrap();
    certificate.der().clone()
}

/// What the hub at this port answers to one who trusts that root alone.
fn ask(port: u16, root: &CertificateDer<'static>, method: &str, path: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), "hub.test".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, TcpStream::connect(("127.0.0.1", port))?);
    let head = "host: hub.test\r\nconnection: close\r\ncontent-length: 0";
    stream.write_all(format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn hub_with_certificate() -> (Hub, CertificateDer<'static>) {
    let crm = Receiver::start();
    let tls = "tls = { cert = { file = \"hub.pem\" }, key = { file = \"hub.key\" } }\n\n[storage]";
    let config = config(&crm, "", "").replace("[storage]", tls);
    let config = config.replace("http://127.0.0.1:{HUB}", "https://localhost:{HUB}");
    let mut hub = Hub::new(BINARY, &config, &[("MAILTARGET_SECRET", SECRET)]);
    let root = make(hub.folder());
    hub.spawn();
    serves(&hub, &root);
    (hub, root)
}

fn serves(hub: &Hub, root: &CertificateDer<'static>) {
    let ready = || ask(hub.port, root, "GET", "/readyz").is_ok_and(|answer| answer.contains(" 200 "));
    until(30, "the hub does not serve with that certificate", || ready().then_some(()));
}

#[test]
fn senders_come_by_tls_and_what_comes_in_clear_is_cut() {
    let (hub, root) = hub_with_certificate();
    // Secure, so the key is read: it is another one. In clear this would be 403.
    let answer = ask(hub.port, &root, "POST", MAILEON).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let clear = mailspan_testkit::request(hub.port, "POST", MAILEON, &[], b"");
    assert!(clear.is_err(), "answered in clear: {clear:?}");
    serves(&hub, &root);
    let sent = hub.run(&["events", "send", "mailtarget"]);
    assert!(sent.status.success(), "a sample by TLS: {}", String::from_utf8_lossy(&sent.stderr));
    // Commands take the socket, as ever.
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
fn a_renewed_certificate_is_taken_with_a_signal_and_without_and_the_key_is_never_shown() {
    let (hub, first) = hub_with_certificate();
    let second = make(hub.folder());
    serves(&hub, &second);
    assert!(ask(hub.port, &first, "GET", "/readyz").is_err(), "the old certificate is still shown");
    // Half of a pair is not taken.
    let key = std::fs::read_to_string(hub.folder().join("hub.key")).unwrap();
    std::fs::write(hub.folder().join("hub.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    until(30, "nothing is said of the key", || hub.log().contains("the old one stays").then_some(()));
    serves(&hub, &second);
    let check = hub.run(&["check"]);
    let said = String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
    assert!(!check.status.success() && said.contains("not the key of the first certificate"), "{said}");
    let third = make(hub.folder());
    assert!(Command::new("kill").args(["-HUP", &hub.pid().to_string()]).status().unwrap().success());
    serves(&hub, &third);
    let last = std::fs::read_to_string(hub.folder().join("hub.key")).unwrap();
    let shown = hub.log() + &said;
    let lines = key.lines().chain(last.lines()).filter(|line| !line.starts_with('-'));
    lines.for_each(|line| assert!(!shown.contains(line), "a line of a key is shown"));
}
