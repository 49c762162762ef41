//! Notes (specifications «Notes» and «Associations», 2026-03). An upserted note hangs on nobody until
//! it is associated; the unique key makes the upsert repeatable, and repeating an association is harmless.

use mailspan_core::{Operation, Request};
use serde_json::{Value, json};

use super::call::{Call, Input};
use super::settings::Settings;
use crate::contract::Item;

/// Characters that `hs_note_body` takes.
pub const NOTE_CHARS_MAX: usize = 65_536;

const NOTE_TO_CONTACT: u32 = 202;
const TASK_TO_CONTACT: u32 = 204;

/// `notes/batch/upsert`: the idempotency key is the id.
pub fn write(settings: &Settings, items: &[Item], inputs: &[Input]) -> Request {
    let inputs = inputs.iter().filter_map(|input| {
        let item = &items[*input.members.first()?];
        let Operation::LogActivity { title, body, at, .. } = item.operation else { return None };
        let properties = json!({
            "hs_timestamp": at.0.to_string(),
            "hs_note_body": html(title, body, NOTE_CHARS_MAX),
        });
        Some(upsert_input(settings, item, properties))
    });
    let inputs: Vec<Value> = inputs.collect();
    Request::json(
        "POST",
        format!("/crm/objects/{}/notes/batch/upsert", settings.version),
        &json!({"inputs": inputs}),
    )
}

/// An input of `batch/upsert` under the item's key.
pub fn upsert_input(settings: &Settings, item: &Item, mut properties: Value) -> Value {
    properties[&settings.note_key] = json!(item.key.to_string());
    json!({
        "id": item.key.to_string(),
        "idProperty": settings.note_key,
        "objectWriteTraceId": item.key.to_string(),
        "properties": properties,
    })
}

/// Associates notes or tasks with contacts, or notes with deals.
pub fn hang(settings: &Settings, call: Call, inputs: &[Input]) -> Request {
    let (path, association) = match call {
        Call::HangTask => ("tasks/contacts/batch/create", Some(TASK_TO_CONTACT)),
        Call::HangNoteOnDeal => ("notes/deals/batch/associate/default", None),
        _ => ("notes/contacts/batch/create", Some(NOTE_TO_CONTACT)),
    };
    let pair = |input: &Input| {
        let mut pair = json!({"from": {"id": input.id}, "to": {"id": input.to}});
        if let Some(id) = association {
            pair["types"] = json!([{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": id}]);
        }
        pair
    };
    let inputs: Vec<Value> = inputs.iter().map(pair).collect();
    Request::json(
        "POST",
        format!("/crm/associations/{}/{path}", settings.version),
        &json!({"inputs": inputs}),
    )
}

/// `notes/batch/archive`; answered 204, also for a note that is gone.
pub fn drop_notes(settings: &Settings, inputs: &[Input]) -> Request {
    let ids: Vec<Value> = inputs.iter().map(|input| json!({"id": input.id})).collect();
    Request::json(
        "POST",
        format!("/crm/objects/{}/notes/batch/archive", settings.version),
        &json!({"inputs": ids}),
    )
}

/// Title and text as HTML, escaped and cut at so many characters, never inside an entity.
pub fn html(title: &str, body: &str, chars_max: usize) -> String {
    const ELLIPSIS: char = '…';
    let mut html = String::with_capacity(title.len() + body.len() + 32);
    let mut room = chars_max.saturating_sub(1);
    let mut push = |piece: &str| {
        let chars = piece.chars().count();
        let fits = chars <= room;
        if fits {
            room -= chars;
            html.push_str(piece);
        }
        fits
    };
    let mut buffer = [0; 4];
    let title: String = mailspan_core::clip(title, 500).into_owned();
    let marked = [("<strong>", title.as_str(), "</strong>"), ("<br>", body, "")];
    for (open, text, close) in marked {
        if text.is_empty() {
            continue;
        }
        let whole = push(open) && text.chars().all(|c| push(escaped(c, &mut buffer)));
        if !whole {
            html.push(ELLIPSIS);
            break;
        }
        push(close);
    }
    html
}

fn escaped(c: char, buffer: &mut [u8; 4]) -> &str {
    match c {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '"' => "&quot;",
        '\'' => "&#39;",
        '\n' => "<br>",
        '\t' => " ",
        c if c.is_control() => "",
        c => c.encode_utf8(buffer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(title: &str, body: &str, expected: &str) {
        assert_eq!(html(title, body, 100), expected);
    }

    #[test]
    fn text_becomes_html() {
        check(
            "Email clicked",
            "https://x.org/?a=1&b=2",
            "<strong>Email clicked</strong><br>https://x.org/?a=1&amp;b=2",
        );
        check("", "<b>\n\u{0}'", "<br>&lt;b&gt;<br>&#39;");
        check("t", "", "<strong>t</strong>");
    }

    #[test]
    fn a_long_text_is_cut_outside_entities() {
        let text = html("t", &"&".repeat(NOTE_CHARS_MAX), NOTE_CHARS_MAX);
        assert!(text.chars().count() <= NOTE_CHARS_MAX);
        assert!(text.ends_with("&amp;…"), "cut inside an entity: {}", &text[text.len() - 20..]);
    }
}
