//! Maps: the event in, bodies or operations out.

use mailspan_core::limits::{MAP_RESULT_BYTES_MAX, OPERATIONS_MAX};
use mailspan_core::{Event, Millis, Operation, Reason};
use serde_json::Value as Json;

use crate::{Program, value};

impl Program {
    /// Runs a map for kind `http`: the bodies, as JSON text; an array gives one an element. `null`, an
    /// empty array and elements that are `null` give nothing. At most 100 bodies and 1 MiB in all.
    pub fn bodies(&self, event: &Event) -> Result<Vec<String>, Reason> {
        let elements = self.elements(event)?;
        elements.iter().map(|element| self.text(element)).collect()
    }

    /// Runs a map for a CRM kind: operations, checked. One operation may stand without an array.
    /// `at` may be RFC 3339 text, and is the event's time where it is missing; `record`, `deal` and
    /// `owner` may be numbers.
    pub fn operations(&self, event: &Event) -> Result<Vec<Operation>, Reason> {
        let elements = self.elements(event)?;
        let count = elements.len();
        let read = |(index, element): (usize, Json)| {
            let name = element.get("op").and_then(Json::as_str).unwrap_or("no `op`").to_owned();
            operation(element, event.time)
                .map_err(|why| self.failed(format!("operation {} of {count} ({name}): {why}", index + 1)))
        };
        elements.into_iter().enumerate().map(read).collect()
    }

    fn elements(&self, event: &Event) -> Result<Vec<Json>, Reason> {
        let result = value::json(self.run(value::event(event))?, MAP_RESULT_BYTES_MAX)
            .map_err(|why| self.failed(why))?;
        let mut elements = match result {
            Json::Array(elements) => elements,
            one => vec![one],
        };
        elements.retain(|element| !element.is_null());
        if elements.len() > OPERATIONS_MAX {
            let count = elements.len();
            return Err(self.failed(format!("the map gave {count} results, more than {OPERATIONS_MAX}")));
        }
        Ok(elements)
    }

    pub(crate) fn text(&self, element: &Json) -> Result<String, Reason> {
        let text = element.to_string();
        if text.len() > MAP_RESULT_BYTES_MAX {
            let bytes = text.len();
            return Err(self.failed(format!("a result has {bytes} bytes, more than {MAP_RESULT_BYTES_MAX}")));
        }
        Ok(text)
    }
}

fn operation(mut element: Json, time: Millis) -> Result<Operation, String> {
    let Some(members) = element.as_object_mut() else {
        return Err("an object with `op` was expected, like {\"op\": \"log_activity\", …}".to_owned());
    };
    let name = members.get("op").and_then(Json::as_str).unwrap_or_default();
    if name == "send" {
        return Err("`send` is for destinations of kind http, whose maps give the body itself".to_owned());
    }
    if matches!(name, "set_consent" | "log_activity" | "notify_owner") {
        let at = members.entry("at").or_insert(time.0.into());
        if let Some(text) = at.as_str() {
            let read = Millis::parse_rfc3339(text)
                .ok_or("`at` is neither RFC 3339 nor milliseconds since 1970: use .time")?;
            *at = read.0.into();
        }
    }
    for key in ["record", "deal", "owner"] {
        if let Some(id) = members.get_mut(key).filter(|id| id.is_number()) {
            *id = id.to_string().into();
        }
    }
    serde_json::from_value(element).map_err(|error| error.to_string())
}
