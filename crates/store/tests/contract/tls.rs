//! TLS to a real server, with certificates made here.

use mailspan_store::open_postgres;
use mailspan_testkit::PostgresServer;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::harness::{event, postgres, postgres_options};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

/// What is said about a URL: nothing where it was opened.
async fn refusal(url: &str) -> Option<String> {
    open_postgres(postgres_options(url.to_owned())).await.map(drop).err().map(|error| error.to_string())
}

#[tokio::test]
async fn a_server_is_reached_by_tls_as_far_as_it_is_trusted() {
    let (ours, other) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ours.issuer).unwrap();
    let server = PostgresServer::start_tls(&certificate.pem(), &key.serialize_pem());
    server.database("tls");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (good, bad, leaf) =
        (file("ca.pem", &ours.pem), file("other.pem", &other.pem), file("leaf.pem", &certificate.pem()));
    let url = |host: &str, query: &str| server.tls_url(host, "tls", query);
    let cases = [
        ("localhost", "sslmode=disable".to_owned(), None),
        ("localhost", "sslmode=prefer".to_owned(), None),
        ("127.0.0.1", "sslmode=require".to_owned(), None),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={good}"), None),
        ("localhost", format!("sslmode=verify-full&sslrootcert={good}"), None),
        ("localhost", format!("sslmode=verify-full&sslrootcert={leaf}"), None),
        ("localhost", format!("sslmode=require&sslrootcert={bad}"), Some("sslrootcert=/path/to/ca.pem")),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={good}"), Some("sslmode=verify-ca")),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={leaf}"), Some("sslmode=verify-ca")),
        ("localhost", "sslmode=verify-full".to_owned(), Some("sslrootcert=/path/to/ca.pem")),
    ];
    for (host, query, expected) in cases {
        match (refusal(&url(host, &query)).await, expected) {
            (None, None) => {}
            (Some(said), Some(part)) => assert!(said.contains(part), "{query}: {said}"),
            (said, _) => panic!("{host} {query}: {said:?}"),
        }
    }
    // Writer and readers go inside TLS, and come back into it after a cut.
    let hub = postgres(url("localhost", &format!("sslmode=verify-full&sslrootcert={good}"))).await;
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    assert_eq!(hub.store.unrouted(10).await.unwrap().len(), 1);
    let past = crate::nodes::plain(&url("localhost", "sslmode=disable")).await;
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name = 'mailspan' AND NOT ssl";
    assert_eq!(past.query_one(plain, &[]).await.unwrap().get::<_, i64>(0), 0, "something goes in plain text");
    let inside = plain.replace("NOT ssl", "ssl");
    assert!(past.query_one(&inside, &[]).await.unwrap().get::<_, i64>(0) >= 2);
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let (servers, clients, other) = (authority(), authority(), authority());
    let server_key = KeyPair::generate().unwrap();
    let server_params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = server_params.signed_by(&server_key, &servers.issuer).unwrap();
    let asking = Some(clients.pem.as_str());
    let server = PostgresServer::start_tls_asking(&certificate.pem(), &server_key.serialize_pem(), asking);
    server.database("asked");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let root = file("ca.pem", &servers.pem);
    let client = |name: &str, user: &str, authority: &Authority| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        (file(&format!("{name}.crt"), &certificate.pem()), file(&format!("{name}.key"), &key.serialize_pem()))
    };
    let ours = client("ours", "hub", &clients);
    let theirs = client("theirs", "eve", &clients);
    let stranger = client("stranger", "hub", &other);
    let url = |rest: &str| {
        server.tls_url("localhost", "asked", &format!("sslmode=verify-full&sslrootcert={root}{rest}"))
    };
    let own = |(certificate, key): &(String, String)| format!("&sslcert={certificate}&sslkey={key}");
    let cases = [
        (String::new(), Some("certificate")),
        (own(&theirs), Some("certificate authentication failed")),
        (own(&stranger), Some("fatal alert")),
        (own(&(ours.0.clone(), theirs.1.clone())), Some("not the key of the certificate")),
        (own(&(ours.0.clone(), root.clone())), Some("a private key")),
        (own(&ours), None),
    ];
    for (rest, expected) in cases {
        match (refusal(&url(&rest)).await, expected) {
            (None, None) => {}
            (Some(said), Some(part)) => {
                assert!(said.to_lowercase().contains(part), "{rest}: {said}");
                assert!(!said.contains("BEGIN"), "no key is shown: {said}");
            }
            (said, _) => panic!("{rest}: {said:?}"),
        }
    }
    // Writer and readers alike.
    let hub = postgres(url(&own(&ours))).await;
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    assert_eq!(hub.store.unrouted(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear() {
    let server = PostgresServer::start();
    server.database("plain");
    let proxy = mailspan_testkit::Proxy::start(server.socket());
    let url = server.behind(&proxy, "plain");
    let said = refusal(&format!("{url}?sslmode=require")).await.expect("it was let in");
    assert!(said.contains("speaks no TLS") && said.contains("sslmode=disable"), "{said}");
    assert_eq!(refusal(&format!("{url}?sslmode=prefer")).await, None);
}
