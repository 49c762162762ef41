//! Parse programs: a verified request in, events out.

use mailspan_core::limits::{BODY_BYTES_MAX, EVENTS_PER_REQUEST_MAX};
use mailspan_core::{RawRequest, Reason};
use serde_json::Value as Json;

use crate::{Program, value};

impl Program {
    /// Runs a `parse` program on a verified request: JSON text of each event it made, at most 5,000
    /// of at most 1 MiB. `null`, an empty array and elements that are `null` give none. Any other element
    /// is handed on whatever it is, so that one bad element is quarantined and the others are kept.
    pub fn parse(&self, request: &RawRequest) -> Result<Vec<String>, Reason> {
        let result = self.run(value::request(request))?;
        let mut events = match value::json(result, 2 * BODY_BYTES_MAX).map_err(|why| self.failed(why))? {
            Json::Array(events) => events,
            Json::Null => return Ok(Vec::new()),
            event @ Json::Object(_) => vec![event],
            _ => return Err(self.failed("the result is neither an event (an object) nor an array of events")),
        };
        events.retain(|event| !event.is_null());
        if events.len() > EVENTS_PER_REQUEST_MAX {
            let count = events.len();
            return Err(self.failed(format!("{count} events are more than {EVENTS_PER_REQUEST_MAX}")));
        }
        events.iter().map(|event| self.text(event)).collect()
    }
}
