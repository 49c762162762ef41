//! Who holds a connection: how many each address may, and who has to leave when all places are taken.
//!
//! A connection waits (for a head, for the rest of a body, for the next request) or works (its request is
//! whole and not yet answered). Only who waits can be sent away, the one that waits longest first: a sender
//! that drips waits for seconds, an honest one for milliseconds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
}

#[derive(Default)]
struct Seats {
    /// Grows with each seat and each wait.
    clock: u64,
    /// Those who wait, by when they began.
    waiting: BTreeMap<u64, Arc<Seat>>,
    shares: HashMap<Origin, Share>,
}

/// What one origin has.
#[derive(Default)]
struct Share {
    seats: usize,
    waiting: BTreeSet<u64>,
}

/// The place of one connection.
pub struct Seat {
    origin: Option<Origin>,
    /// When it began to wait; [`WORKS`] or [`LEFT`] else. Changed under the lock of the crowd.
    since: AtomicU64,
    gone: Notify,
}

const WORKS: u64 = u64::MAX;
const LEFT: u64 = u64::MAX - 1;

impl Crowd {
    /// A place for a new connection of `origin`, which may have `most`. Where it has as many, the one of them
    /// that waits longest leaves; nothing when all of them work.
    pub fn enter(&self, origin: Option<Origin>, most: usize) -> Option<Arc<Seat>> {
        let mut seats = self.lock();
        if let Some(share) = origin.and_then(|origin| seats.shares.get(&origin))
            && share.seats >= most
        {
            let first = *share.waiting.first()?;
            seats.send_away(first);
        }
        let seat = Arc::new(Seat { origin, since: AtomicU64::new(WORKS), gone: Notify::new() });
        if let Some(origin) = origin {
            seats.shares.entry(origin).or_default().seats += 1;
        }
        seats.wait(&seat);
        Some(seat)
    }

    /// The connection that waits longest leaves; false when all work.
    pub fn make_room(&self) -> bool {
        let mut seats = self.lock();
        let first = seats.waiting.first_key_value().map(|(since, _)| *since);
        first.is_some_and(|since| seats.send_away(since))
    }

    /// Its connection ended.
    pub fn leave(&self, seat: &Seat) {
        self.lock().leave(seat);
    }

    /// Its request is whole.
    fn works(&self, seat: &Seat) {
        let mut seats = self.lock();
        if seats.waits_no_more(seat) {
            seat.since.store(WORKS, Ordering::Relaxed);
        }
    }

    /// Its answer begins, or a request whose body is still to come.
    pub fn waits(&self, seat: &Arc<Seat>) {
        let mut seats = self.lock();
        if seat.since.load(Ordering::Relaxed) != LEFT {
            seats.waits_no_more(seat);
            seats.wait(seat);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    fn wait(&mut self, seat: &Arc<Seat>) {
        self.clock += 1;
        seat.since.store(self.clock, Ordering::Relaxed);
        self.waiting.insert(self.clock, seat.clone());
        if let Some(share) = seat.origin.and_then(|origin| self.shares.get_mut(&origin)) {
            share.waiting.insert(self.clock);
        }
    }

    /// True where it waited.
    fn waits_no_more(&mut self, seat: &Seat) -> bool {
        let since = seat.since.load(Ordering::Relaxed);
        if let Some(share) = seat.origin.and_then(|origin| self.shares.get_mut(&origin)) {
            share.waiting.remove(&since);
        }
        self.waiting.remove(&since).is_some()
    }

    /// The place is given up at once; the connection ends as soon as it hears of it.
    fn send_away(&mut self, since: u64) -> bool {
        let Some(seat) = self.waiting.get(&since).cloned() else { return false };
        self.leave(&seat);
        seat.gone.notify_one();
        true
    }

    fn leave(&mut self, seat: &Seat) {
        if seat.since.load(Ordering::Relaxed) == LEFT {
            return;
        }
        self.waits_no_more(seat);
        seat.since.store(LEFT, Ordering::Relaxed);
        let Some(origin) = seat.origin else { return };
        if let Some(share) = self.shares.get_mut(&origin) {
            share.seats -= 1;
            if share.seats == 0 {
                self.shares.remove(&origin);
            }
        }
    }
}

impl Seat {
    /// Resolves when another connection gets this place.
    pub async fn sent_away(&self) {
        self.gone.notified().await;
    }
}

/// A body whose end makes the connection one that works.
pub struct Watched {
    body: Incoming,
    seat: Arc<Seat>,
    crowd: Arc<Crowd>,
    whole: bool,
}

impl Watched {
    pub fn body(body: Incoming, seat: Arc<Seat>, crowd: Arc<Crowd>) -> Body {
        let mut watched = Watched { body, seat, crowd, whole: false };
        if watched.body.is_end_stream() {
            watched.is_whole();
        }
        Body::new(watched)
    }

    fn is_whole(&mut self) {
        if !std::mem::replace(&mut self.whole, true) {
            self.crowd.works(&self.seat);
        }
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
            self.is_whole();
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
        seat.since.load(Ordering::Relaxed) == LEFT
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
        crowd.works(&first);
        let third = crowd.enter(one, 2).unwrap();
        assert!(is_told(&second) && !is_told(&first) && !is_told(&stranger));
        crowd.works(&third);
        assert!(crowd.enter(one, 2).is_none(), "who works is not sent away");
        // Whoever was sent away leaves a second time, when its connection ends.
        crowd.leave(&second);
        crowd.leave(&third);
        assert!(crowd.enter(one, 2).is_some());
        crowd.leave(&stranger);
        assert_eq!(crowd.lock().shares.len(), 1);
        assert!((0..100).all(|_| crowd.enter(None, 2).is_some()), "a proxy is not counted");
    }

    #[test]
    fn who_waits_longest_makes_room() {
        let crowd = Crowd::default();
        let seats: Vec<Arc<Seat>> = (0..3).map(|_| crowd.enter(None, 1).unwrap()).collect();
        crowd.works(&seats[0]);
        crowd.waits(&seats[0]);
        assert!(crowd.make_room());
        assert_eq!(seats.iter().map(|seat| is_told(seat)).collect::<Vec<_>>(), [false, true, false]);
        crowd.works(&seats[2]);
        assert!(crowd.make_room());
        assert!(is_told(&seats[0]));
        assert!(!crowd.make_room(), "the last one works");
    }
}
