//! What is on the wire, and what is refused before anything is.

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Limit: 9\r\n\r\n{}";

#[tokio::test]
async fn golden_bytes() {
    let receiver = receiver(always(OK)).await;
    let answer = egress().send(&receiver.target(), post("{\"a\":1}")).await.unwrap();
    assert_eq!(
        (answer.status, answer.body.as_slice(), answer.cut, answer.at),
        (200, "{}".as_bytes(), false, NOW)
    );
    assert_eq!(answer.header("x-limit"), Some("9"));
    let expected = format!(
        "POST /hook HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nuser-agent: mailspan/{}\r\n\
         content-length: 7\r\n\r\n{{\"a\":1}}",
        receiver.address,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(receiver.requests(), [expected]);
}

#[tokio::test]
async fn golden_bytes_in_title_case() {
    let receiver = receiver(always(OK)).await;
    let target = Target { title_case_headers: true, ..receiver.target() };
    egress().send(&target, post("")).await.unwrap();
    let expected = format!(
        "POST /hook HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nUser-Agent: mailspan/{}\r\n\
         Content-Length: 0\r\n\r\n",
        receiver.address,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(receiver.requests(), [expected]);
}

#[tokio::test]
async fn a_get_has_no_length_and_asks_for_no_compression() {
    let receiver = receiver(always(OK)).await;
    egress().send(&receiver.target(), get()).await.unwrap();
    let request = receiver.requests()[0].to_lowercase();
    assert!(!request.contains("content-length") && !request.contains("accept-encoding"), "{request}");
}

#[tokio::test]
async fn redirects_are_answers() {
    for answer in [
        "HTTP/1.1 301 Moved\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 307 Temporary\r\nLocation: /hook\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 308 Permanent\r\nLocation: /hook\r\nContent-Length: 0\r\n\r\n",
    ] {
        let receiver = receiver(always(answer)).await;
        let got = egress().send(&receiver.target(), post("{}")).await.unwrap();
        assert!((300..400).contains(&got.status) && got.header("location").is_some());
        assert_eq!(receiver.requests().len(), 1, "a redirect was followed");
    }
}

#[tokio::test]
async fn a_private_address_needs_an_allowance() {
    let receiver = receiver(always(OK)).await;
    let egress = egress_with(&[], &[("crm.test", "93.184.215.14"), ("crm.test", "127.0.0.1")]);
    let lost = egress.send(&receiver.target(), post("{}")).await.unwrap_err();
    let allow = format!("allow it: [egress] allow = [\"{}\"]", receiver.address);
    assert_lost(&lost, "refused_address", false, &allow);
    assert!(lost.refused);
    let lost = egress.send(&target("http://crm.test/"), post("{}")).await.unwrap_err();
    assert_lost(
        &lost,
        "refused_address",
        false,
        "`crm.test` resolves to 127.0.0.1, which is a loopback address",
    );
    for url in [
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest",
    ] {
        assert_lost(
            &egress.send(&target(url), get()).await.unwrap_err(),
            "refused_address",
            false,
            "allow it",
        );
        assert!(egress.check(&target(url)).unwrap_err().refused);
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let lost = egress().send(&target(&format!("http://{free}/")), post("{}")).await.unwrap_err();
    assert_lost(&lost, "connect", false, &format!("{free}: connection refused"));
    assert!(!lost.refused);
}

#[tokio::test]
async fn the_second_address_is_tried() {
    let receiver = receiver(always(OK)).await;
    // Nothing listens on 127.0.0.9 at that port: the receiver is bound to 127.0.0.1 only.
    let egress = egress_with(&["127.0.0.0/8:*"], &[("two.test", "127.0.0.9"), ("two.test", "127.0.0.1")]);
    let url = format!("http://two.test:{}/", receiver.address.port());
    assert_eq!(egress.send(&target(&url), post("{}")).await.unwrap().status, 200);
    assert!(receiver.requests()[0].contains(&format!("host: two.test:{}", receiver.address.port())));
}

#[tokio::test]
async fn an_unknown_name() {
    let lost = egress().send(&target("http://nowhere.test/"), post("{}")).await.unwrap_err();
    assert_lost(&lost, "dns", false, "`nowhere.test` has no address");
}

#[tokio::test]
async fn names_that_hang_are_bounded_and_end_in_time() {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let lookup: crate::resolve::Lookup = Arc::new(move |_, _| {
        let count = count.clone();
        Box::pin(async move {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        })
    });
    let egress = Egress::with_lookup(Vec::new(), Arc::new(|| NOW), lookup);
    let target = Target { timeout_ms: 20, ..target("http://crm.test/") };
    for _ in 0..mailspan_core::limits::LOOKUPS_MAX + 3 {
        assert_lost(
            &egress.send(&target, get()).await.unwrap_err(),
            "timeout",
            false,
            "not resolved after 20 ms",
        );
    }
    assert_eq!(begun.load(Ordering::SeqCst), mailspan_core::limits::LOOKUPS_MAX);
}

#[tokio::test]
async fn headers_that_would_split_or_compress_are_refused() {
    let receiver = receiver(always(OK)).await;
    for (name, value, part) in [
        ("x-a", "1\r\nhost: evil", "line break"),
        ("x a", "1", "not a header's name"),
        ("Accept-Encoding", "gzip", "leave it out"),
        ("host", "evil.example", "leave it out"),
        ("transfer-encoding", "chunked", "leave it out"),
    ] {
        let mut request = post("{}");
        request.headers.push((name.to_owned(), value.to_owned()));
        let lost = egress().send(&receiver.target(), request).await.unwrap_err();
        assert_lost(&lost, "bad_request", false, part);
    }
    assert_eq!(receiver.connections(), 0);
}

#[test]
fn the_proxy_of_the_environment_is_not_read() {
    for file in ["lib.rs", "dial.rs", "exchange.rs", "pool.rs", "resolve.rs", "tls.rs", "address.rs"] {
        let source = std::fs::read_to_string(format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(!source.contains("std::env"), "{file} reads the environment: settings come with the target");
    }
}
