//! Who holds a connection: how many each address may, and who has to leave when all places are taken.
//!
//! A connection waits (for a head, for the rest of a body, for the next request) or works (its request is
//! whole and not yet answered). Only who waits can be sent away, the one that waits longest first: a sender
//! that drips waits for seconds, an honest one for milliseconds.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use ipnet::IpNet;
use tokio::sync::Notify;

/// Whose connections are counted together: an IPv4 address, or the network of 64 bits that one sender of
/// IPv6 has (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin(IpAddr);

impl Origin {
    /// Nothing for the machine itself and for trusted proxies: many senders stand behind them.
    pub fn of(address: IpAddr, trusted: &[IpNet]) -> Option<Origin> {
        let address = address.to_canonical();
        let is_self = address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST;
        if is_self || trusted.iter().any(|net| net.contains(&address)) {
            return None;
        }
        Some(Origin(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        }))
    }
}

/// All connections of one listener.
#[derive(Default)]
pub struct Crowd {
    seats: Mutex<Seats>,
    clock: AtomicU64,
}

#[derive(Default)]
struct Seats {
    all: HashMap<u64, Arc<Seat>>,
    by_origin: HashMap<Origin, usize>,
}

/// The place of one connection.
pub struct Seat {
    number: u64,
    origin: Option<Origin>,
    works: AtomicBool,
    /// When it began to wait, in turns of the crowd's clock.
    since: AtomicU64,
    told: AtomicBool,
    gone: Notify,
}

impl Crowd {
    /// A place for a new connection of `origin`, which may have `most`. Where it has as many, the one of them
    /// that waits longest leaves; nothing when all of them work.
    pub fn enter(&self, origin: Option<Origin>, most: usize) -> Option<Arc<Seat>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(origin) = origin
            && seats.by_origin.get(&origin).is_some_and(|count| *count >= most)
            && !seats.send_away(|seat| seat.origin == Some(origin))
        {
            return None;
        }
        let seat = Arc::new(Seat {
            number: now,
            origin,
            works: AtomicBool::new(false),
            since: AtomicU64::new(now),
            told: AtomicBool::new(false),
            gone: Notify::new(),
        });
        seats.all.insert(now, seat.clone());
        if let Some(origin) = origin {
            *seats.by_origin.entry(origin).or_default() += 1;
        }
        Some(seat)
    }

    /// The connection that waits longest leaves; false when all work.
    pub fn make_room(&self) -> bool {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).send_away(|_| true)
    }

    pub fn leave(&self, seat: &Seat) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.forget(seat);
    }

    /// Its request is whole.
    fn works(seat: &Seat) {
        seat.works.store(true, Ordering::Relaxed);
    }

    /// Its answer begins, or a request whose body is still to come.
    pub fn waits(&self, seat: &Seat) {
        seat.since.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        seat.works.store(false, Ordering::Relaxed);
    }
}

impl Seats {
    /// The place is given up at once; the connection ends as soon as it hears of it.
    fn send_away(&mut self, is_meant: impl Fn(&Seat) -> bool) -> bool {
        let waiting = self.all.values().filter(|seat| is_meant(seat) && !seat.works.load(Ordering::Relaxed));
        let Some(seat) = waiting.min_by_key(|seat| seat.since.load(Ordering::Relaxed)).cloned() else {
            return false;
        };
        seat.told.store(true, Ordering::Relaxed);
        seat.gone.notify_one();
        self.forget(&seat);
        true
    }

    fn forget(&mut self, seat: &Seat) {
        if self.all.remove(&seat.number).is_none() {
            return;
        }
        let Some(origin) = seat.origin else { return };
        if let Some(count) = self.by_origin.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.by_origin.remove(&origin);
            }
        }
    }
}

impl Seat {
    /// Resolves when another connection gets this place.
    pub async fn sent_away(&self) {
        while !self.told.load(Ordering::Relaxed) {
            self.gone.notified().await;
        }
    }
}

/// A body whose end makes the connection one that works.
pub struct Watched {
    body: Incoming,
    seat: Arc<Seat>,
}

impl Watched {
    pub fn body(body: Incoming, seat: Arc<Seat>) -> Body {
        if body.is_end_stream() {
            Crowd::works(&seat);
        }
        Body::new(Watched { body, seat })
    }
}

impl hyper::body::Body for Watched {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            Crowd::works(&self.seat);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Option<Origin> {
        Origin::of(text.parse().unwrap(), &["10.0.0.0/8".parse().unwrap()])
    }

    fn is_told(seat: &Seat) -> bool {
        seat.told.load(Ordering::Relaxed)
    }

    #[test]
    fn who_counts_together() {
        for many in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3"] {
            assert_eq!(origin(many), None, "{many}");
        }
        assert_eq!(origin("192.0.2.1"), origin("::ffff:192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
    }

    #[test]
    fn an_address_has_its_bound_and_pays_for_more_with_its_own() {
        let crowd = Crowd::default();
        let (one, other) = (origin("192.0.2.1"), origin("192.0.2.2"));
        let first = crowd.enter(one, 2).unwrap();
        let second = crowd.enter(one, 2).unwrap();
        let stranger = crowd.enter(other, 2).unwrap();
        Crowd::works(&first);
        let third = crowd.enter(one, 2).unwrap();
        assert!(is_told(&second) && !is_told(&first) && !is_told(&stranger));
        Crowd::works(&third);
        assert!(crowd.enter(one, 2).is_none(), "who works is not sent away");
        // Whoever was sent away leaves a second time, when its connection ends.
        crowd.leave(&second);
        crowd.leave(&third);
        assert!(crowd.enter(one, 2).is_some());
        crowd.leave(&stranger);
        assert_eq!(crowd.seats.lock().unwrap().by_origin.len(), 1);
        assert!((0..100).all(|_| crowd.enter(None, 2).is_some()), "a proxy is not counted");
    }

    #[test]
    fn who_waits_longest_makes_room() {
        let crowd = Crowd::default();
        let seats: Vec<Arc<Seat>> = (0..3).map(|_| crowd.enter(None, 1).unwrap()).collect();
        Crowd::works(&seats[0]);
        crowd.waits(&seats[0]);
        assert!(crowd.make_room());
        assert_eq!(seats.iter().map(|seat| is_told(seat)).collect::<Vec<_>>(), [false, true, false]);
        Crowd::works(&seats[2]);
        assert!(crowd.make_room());
        assert!(is_told(&seats[0]));
        assert!(!crowd.make_room(), "the last one works");
    }
}
