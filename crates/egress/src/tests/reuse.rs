//! Connections that are kept, and those that the receiver closes.

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test]
async fn a_connection_is_used_again() {
    let receiver = receiver(always(OK)).await;
    let egress = egress();
    for _ in 0..20 {
        egress.send(&receiver.target(), post("{}")).await.unwrap();
    }
    assert_eq!((receiver.connections(), egress.pool.sizes()), (1, (1, 1)));
    // Another key is another client.
    let target = Target { key: "changed".to_owned(), ..receiver.target() };
    egress.send(&target, post("{}")).await.unwrap();
    assert_eq!(receiver.connections(), 2);
}

/// Answers one request, closes without a word in the head, then says that it has.
fn one_each() -> Script {
    Arc::new(|mut stream, seen| {
        tokio::spawn(async move {
            if let Some(request) = read_request(&mut stream).await {
                seen.requests.lock().unwrap().push(request);
                let _ = stream.write_all(OK.as_bytes()).await;
            }
            drop(stream);
            seen.closed.add_permits(1);
        })
    })
}

#[tokio::test]
async fn a_receiver_that_closes_keep_alive_costs_no_failure() {
    let receiver = receiver(one_each()).await;
    let egress = egress();
    for round in 0..100 {
        let answer = egress.send(&receiver.target(), post("{}")).await;
        assert_eq!(answer.as_ref().map(|answer| answer.status), Ok(200), "round {round}");
        // From here on the close is in the kernel, seen by our side or not.
        receiver.seen.closed.acquire().await.unwrap().forget();
    }
    assert_eq!(receiver.requests().len(), 100, "each request must arrive exactly once");
}

#[tokio::test]
async fn the_same_without_waiting_for_requests_that_are_safe_to_repeat() {
    let receiver = receiver(one_each()).await;
    let egress = egress();
    for round in 0..100 {
        let answer = egress.send(&receiver.target(), get()).await;
        assert_eq!(answer.as_ref().map(|answer| answer.status), Ok(200), "round {round}");
    }
}

#[tokio::test]
async fn a_408_left_on_an_idle_connection_is_not_the_answer() {
    let receiver = receiver(Arc::new(|mut stream, seen| {
        tokio::spawn(async move {
            while let Some(request) = read_request(&mut stream).await {
                seen.requests.lock().unwrap().push(request);
                let late = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(OK.as_bytes()).await;
                tokio::task::yield_now().await;
                let _ = stream.write_all(late.as_bytes()).await;
                seen.closed.add_permits(1);
            }
        })
    }))
    .await;
    let egress = egress();
    for _ in 0..20 {
        assert_eq!(egress.send(&receiver.target(), post("{}")).await.unwrap().status, 200);
        receiver.seen.closed.acquire().await.unwrap().forget();
    }
    assert_eq!(receiver.requests().len(), 20);
}

#[tokio::test]
async fn connection_close_is_heeded() {
    let receiver =
        receiver(always("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")).await;
    let egress = egress();
    for _ in 0..3 {
        egress.send(&receiver.target(), post("{}")).await.unwrap();
    }
    assert_eq!(receiver.connections(), 3);
}

#[tokio::test]
async fn no_more_connections_are_kept_than_the_target_uses() {
    let receiver = receiver(always(OK)).await;
    let egress = egress();
    let target = Target { concurrency: 2, ..receiver.target() };
    let all = (0..6).map(|_| egress.send(&target, post("{}")));
    let sends: Vec<_> = all.collect();
    let mut answered = 0;
    for result in join(sends).await {
        result.unwrap();
        answered += 1;
    }
    assert_eq!(answered, 6);
    assert!(egress.pool.sizes().1 <= 2);
}

#[tokio::test]
async fn targets_are_bounded() {
    let receiver = receiver(always(OK)).await;
    let egress = egress();
    let most = mailspan_core::limits::TARGETS_MAX;
    for number in 0..most + 10 {
        let config = egress.trust.config(&receiver.target()).unwrap();
        egress.pool.keep_tls(&number.to_string(), config);
    }
    assert_eq!(egress.pool.sizes().0, most);
    assert!(egress.pool.tls("0").is_none() && egress.pool.tls(&(most + 9).to_string()).is_some());
}

/// Polls all of them in turn on this task.
async fn join<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut left = false;
        for (future, result) in &mut pending {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(output) => *result = Some(output),
                    std::task::Poll::Pending => left = true,
                }
            }
        }
        if left { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    pending.into_iter().filter_map(|(_, result)| result).collect()
}
