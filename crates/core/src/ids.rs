//! Numbers, digests and names that identify stored things.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Place of an event in the journal: grows by one with every accepted event, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub i64);

/// Row number of a stored raw request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub i64);

/// Row number of a delivery. Within a lane, a smaller one goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub i64);

/// Row number of a person, unique over all tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersonId(pub i64);

impl PersonId {
    /// Of an event about nobody whom the hub knows: a number of its own, below zero.
    pub fn nobody(event: Seq) -> PersonId {
        PersonId(event.0.saturating_neg())
    }
}

/// Row number of a destination: the engine and the store know it by this, people by its [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(pub i64);

/// Row number of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub i64);

/// First 16 bytes of a SHA-256: dedupe keys and request digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Id of an event: a UUIDv7, written with hyphens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u128);

impl EventId {
    /// Makes a UUIDv7 from a time in milliseconds and 74 random bits (RFC 9562, 5.7).
    pub fn v7(at: crate::Millis, random: u128) -> EventId {
        let time = (at.0.max(0) as u128 & 0xffff_ffff_ffff) << 80;
        let rand_a = (random >> 64 & 0x0fff) << 64;
        let rand_b = random & 0x3fff_ffff_ffff_ffff;
        EventId(time | 0x7 << 76 | rand_a | 0b10 << 62 | rand_b)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EventId {
    type Err = String;

    fn from_str(text: &str) -> Result<EventId, String> {
        uuid::Uuid::parse_str(text)
            .map(|id| EventId(id.as_u128()))
            .map_err(|_| format!("`{}` is not an event id: expected a UUID", crate::clip(text, 60)))
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<EventId, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Name of a tenant, source, route or destination as its user wrote it; cheap to copy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(pub Arc<str>);

impl Name {
    pub fn new(text: &str) -> Name {
        Name(text.into())
    }

    /// The tenant of everything that names none.
    pub fn default_tenant() -> Name {
        Name::new("default")
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Idempotency key of one operation of a delivery: the same for every attempt and replay.
/// Written as text, for example `0197f0c2…-4f1d…`; at most 80 bytes of `[0-9a-z-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Arc<str>);

impl Key {
    /// Derived, so it is never stored and is the same after a move to another store.
    /// `part` is the position of the operation in what the map returned.
    pub fn derive(event: EventId, route: &str, destination: &str, part: u16) -> Key {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in route.bytes().chain([0]).chain(destination.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Key(match part {
            0 => format!("{event}-{hash:016x}"),
            part => format!("{event}-{hash:016x}-{part}"),
        }
        .into())
    }
}

impl Key {
    /// The key of a request in which a delivery carries others: that of the carrier, with a mark that changes
    /// with what is carried, so that one key never means two bodies.
    pub fn carrying<'a>(&self, carried: impl Iterator<Item = &'a Key>) -> Key {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in carried.flat_map(|key| key.0.bytes().chain([0])) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Key(format!("{}-c{hash:016x}", self.0).into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_are_version_7_and_ordered_by_time() {
        let early = EventId::v7(crate::Millis(1_700_000_000_000), u128::MAX);
        let late = EventId::v7(crate::Millis(1_700_000_000_001), 0);
        assert!(early < late);
        let text = late.to_string();
        assert_eq!(text.as_bytes()[14], b'7');
        assert_eq!(text.as_bytes()[19], b'8');
        assert_eq!(text.parse::<EventId>().unwrap(), late);
    }

    #[test]
    fn keys_differ_by_route_destination_and_part() {
        let event = EventId(7);
        let keys = [
            Key::derive(event, "a", "bc", 0),
            Key::derive(event, "ab", "c", 0),
            Key::derive(event, "a", "bc", 1),
            Key::derive(EventId(8), "a", "bc", 0),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), 4);
    }
}
