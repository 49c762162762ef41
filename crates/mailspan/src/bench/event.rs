//! The events of the load: signed clicks of a mailing platform, about 1 KB each, every one with its own id.

use aws_lc_rs::hmac;
use bytes::Bytes;
use std::fmt::Write;

/// Persons that the load is about; a person's events always take the same connection, so their order is known.
const PERSONS: u64 = 10_000;
/// Digits of an id: eight that name the run, twelve that count.
const ID_DIGITS: usize = 20;
/// What stands before an id, in the events and in whatever a map makes of them.
const BEFORE_ID: &str = "\"eventId\":\"";

/// Makes the events of one run against one hub or floor.
pub struct Maker {
    key: hmac::Key,
    run: String,
    connections: u64,
    timestamp_ms: i64,
}

impl Maker {
    /// `run` tells the ids of one run from those of another.
    pub fn new(secret: &str, run: u64, connections: u64, now_ms: i64) -> Maker {
        let run = format!("{}", 10_000_000 + run % 90_000_000);
        Maker {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            run,
            connections,
            timestamp_ms: now_ms,
        }
    }

    /// The body of a request with these events, an array where it is not one, and its signature in hex.
    pub fn request(&self, indices: &[u64]) -> (Bytes, String) {
        let body = match indices {
            [index] => self.event(*index),
            _ => {
                format!("[{}]", indices.iter().map(|index| self.event(*index)).collect::<Vec<_>>().join(","))
            }
        };
        let signature = hex(hmac::sign(&self.key, body.as_bytes()).as_ref());
        (body.into(), signature)
    }

    fn event(&self, index: u64) -> String {
        let (run, person) = (&self.run, self.person(index));
        let at = self.timestamp_ms.saturating_add_unsigned(index);
        format!(
            "{{\"status\":\"click\",{BEFORE_ID}{run}{index:012}\",\"messageId\":\"000443ee{index:012x}\",\
             \"transmissionId\":\"64a1{run}{index:012x}\",\"campaignId\":\"spring-offers\",\
             \"recipient\":\"person{person}@example.com\",\"recipientType\":\"original\",\"timestamp\":{at},\
             \"subject\":\"Your proposal is ready\",\"friendlyFrom\":\"Example Shop <news@shop.example.com>\",\
             \"targetLinkUrl\":\"https://shop.example.com/offers/spring?ref=mail&utm_source=newsletter&utm_campaign=spring\",\
             \"targetLinkName\":\"Look at the offer\",\"ipAddress\":\"203.0.113.7\",\"geoIp\":{{\"country\":\"ID\",\
             \"region\":\"JK\",\"city\":\"Jakarta\",\"latitude\":-6.1741,\"longitude\":106.8296}},\
             \"userAgent\":\"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36\",\
             \"recipientMeta\":\"{{\\\"crm_contact_id\\\":\\\"{person}\\\",\\\"crm_deal_id\\\":\\\"9007199254740993\\\",\
             \\\"crm_owner\\\":\\\"alice@example.com\\\"}}\",\"sendingIp\":\"198.51.100.23\",\
             \"mailboxProvider\":\"Example Mail\",\"clickTracking\":true,\"openTracking\":true,\"transactional\":false}}"
        )
    }

    /// Whom event number `index` is about.
    pub fn person(&self, index: u64) -> u64 {
        let (connection, round) = (index % self.connections, index / self.connections);
        connection + self.connections * (round % (PERSONS / self.connections).max(1))
    }

    /// The numbers of the events of this run that a body holds, in its order.
    pub fn indices(&self, body: &[u8]) -> Vec<u64> {
        let Ok(text) = std::str::from_utf8(body) else { return Vec::new() };
        let after = text.match_indices(BEFORE_ID).map(|(at, found)| at + found.len());
        let id = |at: usize| text.get(at..at + ID_DIGITS)?.strip_prefix(self.run.as_str())?.parse().ok();
        after.filter_map(id).collect()
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_of_a_kilobyte_and_its_number_is_found_again() {
        let maker = Maker::new("secret", 7, 64, 1_778_210_055_000);
        for index in [0, 1, 63, 64, 999_999, 123_456_789_012] {
            let (body, signature) = maker.request(&[index]);
            assert_eq!(maker.indices(&body), [index]);
            assert_eq!(signature.len(), 64);
            assert!((900..1_200).contains(&body.len()), "{} bytes: keep an event at about 1 KB", body.len());
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["recipient"], format!("person{}@example.com", maker.person(index)));
        }
        let (both, _) = maker.request(&[5, 3]);
        assert_eq!(maker.indices(&both), [5, 3]);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&both).unwrap().as_array().unwrap().len(), 2);
        assert!(Maker::new("secret", 8, 64, 0).indices(&both).is_empty(), "ids of another run are not ours");
    }

    #[test]
    fn a_person_stays_on_its_connection() {
        for connections in [1, 7, 64, 1_000] {
            let maker = Maker::new("secret", 7, connections, 0);
            for index in (0..100_000).step_by(13) {
                assert_eq!(maker.person(index) % connections, index % connections);
            }
        }
    }
}
