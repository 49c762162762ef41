//! Answers that are slow, endless, huge or broken.

use mailspan_core::limits;

use super::*;

/// Reads one request, then does as it likes with the connection.
fn after<F: Future<Output = ()> + Send + 'static>(
    then: impl Fn(TcpStream, Arc<Seen>) -> F + Clone + Send + Sync + 'static,
) -> Script {
    Arc::new(move |mut stream, seen| {
        let then = then.clone();
        tokio::spawn(async move {
            if let Some(request) = read_request(&mut stream).await {
                seen.requests.lock().unwrap().push(request);
                then(stream, seen).await;
            }
        })
    })
}

fn short(receiver: &Receiver) -> Target {
    Target { timeout_ms: 150, ..receiver.target() }
}

#[tokio::test]
async fn no_answer_in_time() {
    let receiver = receiver(after(move |stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    }))
    .await;
    let lost = egress().send(&short(&receiver), post("{}")).await.unwrap_err();
    assert_lost(&lost, "timeout", true, "no answer after 150 ms");
}

#[tokio::test]
async fn a_dripping_head_and_a_dripping_body_meet_the_deadline() {
    for (head, code, part) in [
        ("HTTP/1.1 200 OK\r\nX-A: ", "timeout", "no answer"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
            "too_slow",
            "HTTP 200, but its body was not complete",
        ),
    ] {
        let receiver = receiver(after(move |mut stream, _| async move {
            let _ = stream.write_all(head.as_bytes()).await;
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }))
        .await;
        let lost = egress().send(&short(&receiver), post("{}")).await.unwrap_err();
        assert_lost(&lost, code, true, part);
    }
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    for head in ["Content-Length: 10737418240", "Transfer-Encoding: chunked", "Connection: close"] {
        let receiver = receiver(after(move |mut stream, seen| async move {
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes()).await;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
            seen.closed.add_permits(1);
        }))
        .await;
        let egress = egress();
        let answer = egress.send(&receiver.target(), post("{}")).await.unwrap();
        assert!(answer.cut, "{head}");
        assert_eq!(answer.body.len(), limits::ANSWER_BYTES_MAX);
        // The rest is not read: the receiver learns that the connection was closed.
        receiver.seen.closed.acquire().await.unwrap().forget();
        assert_eq!(egress.pool.sizes().1, 0, "a connection with an unread answer must not be kept");
    }
}

/// None is asked for, and none is unpacked: what comes all the same is bytes like others, cut where they are.
#[tokio::test]
async fn a_packed_answer_is_not_unpacked() {
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        let packed = [b"\x1f\x8b\x08".as_slice(), &vec![0; 12 << 20]].concat();
        let receiver = receiver(after(move |mut stream, seen| {
            let packed = packed.clone();
            async move {
                let length = packed.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&packed).await;
                seen.closed.add_permits(1);
            }
        }))
        .await;
        let answer = egress().send(&receiver.target(), post("{}")).await.unwrap();
        assert!(answer.cut, "{coding}");
        assert_eq!(answer.body.len(), limits::ANSWER_BYTES_MAX);
        assert!(answer.body.starts_with(b"\x1f\x8b\x08\0"), "{coding}: it was unpacked");
        receiver.seen.closed.acquire().await.unwrap().forget();
    }
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_whole() {
    let receiver = receiver(after(move |mut stream, _| async move {
        let _ = stream
            .write_all(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", limits::ANSWER_BYTES_MAX).as_bytes(),
            )
            .await;
        let _ = stream.write_all(&vec![b'x'; limits::ANSWER_BYTES_MAX]).await;
        let _ = read_request(&mut stream).await;
    }))
    .await;
    let answer = egress().send(&receiver.target(), post("{}")).await.unwrap();
    assert_eq!((answer.body.len(), answer.cut), (limits::ANSWER_BYTES_MAX, false));
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let receiver = receiver(after(move |mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-A: ").await;
        let chunk = [b'x'; 65_536];
        while stream.write_all(&chunk).await.is_ok() {}
    }))
    .await;
    let lost = egress().send(&receiver.target(), post("{}")).await.unwrap_err();
    assert_lost(&lost, "bad_answer", true, "over 64 KiB");
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let receiver = receiver(after(move |mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        let _ = stream.write_all("X-A: 1\r\n".repeat(500).as_bytes()).await;
        let _ = stream.write_all(b"Content-Length: 0\r\n\r\n").await;
    }))
    .await;
    let lost = egress().send(&receiver.target(), post("{}")).await.unwrap_err();
    assert_lost(&lost, "bad_answer", true, "100 headers");
}

#[tokio::test]
async fn what_is_not_http() {
    let receiver = receiver(after(move |mut stream, _| async move {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        let _ = read_request(&mut stream).await;
    }))
    .await;
    let lost = egress().send(&receiver.target(), post("{}")).await.unwrap_err();
    assert_lost(&lost, "bad_answer", true, "not HTTP/1.1");
}

#[tokio::test]
async fn closed_after_the_request_is_ambiguous_and_not_repeated() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"] {
        let receiver = receiver(after(move |mut stream, _| async move {
            let _ = stream.write_all(answer.as_bytes()).await;
        }))
        .await;
        let lost = egress().send(&receiver.target(), post("{}")).await.unwrap_err();
        assert_lost(&lost, "closed", true, "closed");
        assert_eq!(receiver.connections(), 1, "a request that may have been acted on was sent again");
    }
}

#[tokio::test]
async fn an_early_answer_is_read_before_the_request_is_complete() {
    let receiver = receiver(Arc::new(|mut stream, _| {
        tokio::spawn(async move {
            let _ = stream.read_u8().await;
            let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await;
            // Keeps reading, as a polite server does, so that no reset eats the answer.
            let mut sink = vec![0; 65_536];
            while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
        })
    }))
    .await;
    let mut request = post("");
    request.body = vec![b'x'; 4 << 20].into();
    assert_eq!(egress().send(&receiver.target(), request).await.unwrap().status, 413);
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_is_left() {
    let receiver = receiver(Arc::new(|mut stream, seen| {
        tokio::spawn(async move {
            seen.late.acquire().await.unwrap().forget();
            let mut sink = vec![0; 65_536];
            while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
            seen.closed.add_permits(1);
        })
    }))
    .await;
    let mut request = post("");
    request.body = vec![b'x'; 16 << 20].into();
    let lost = egress().send(&short(&receiver), request).await.unwrap_err();
    assert_lost(&lost, "timeout", true, "no answer");
    receiver.seen.late.add_permits(1);
    // The receiver sees the end: no task of ours goes on writing.
    receiver.seen.closed.acquire().await.unwrap().forget();
}

#[test]
fn an_exchange_can_move_between_threads() {
    fn check<T: Send>(_: &T) {}
    let egress = egress();
    let target = target("http://crm.test/");
    check(&egress.send(&target, get()));
}
