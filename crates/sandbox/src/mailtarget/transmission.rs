//! Reading `POST /v1/layang/transmissions` the way three clients of the vendor write it.

use mailspan_core::Address;
use serde_json::{Map, Value};

/// Recipients of one transmission, all roles together.
const RECIPIENTS_MAX: usize = 1_000;
/// `substitutionData`, by the vendor's specification.
const SUBSTITUTION_BYTES_MAX: usize = 100 << 10;

/// What is wanted of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transmission {
    pub subject: String,
    pub sender: String,
    pub recipients: Vec<(String, &'static str)>,
    pub metadata: Map<String, Value>,
    pub links: Vec<String>,
    pub opens_tracked: bool,
    /// Not stopped by the suppression list.
    pub transactional: bool,
}

/// Reads the form. `null`, an empty text and an empty list count as absent; unknown keys are ignored;
/// `attachments` and `attachment`, `headers` as list and as object, `allRCPTto` of any type.
/// The error is a sentence for a 400.
pub(crate) fn read(body: &Value) -> Result<Transmission, String> {
    if !body.is_object() {
        return Err("the body must be a JSON object".to_owned());
    }
    let subject = text(body, "subject")?.ok_or("subject is required")?;
    let sender = body.get("from").filter(|from| from.is_object()).ok_or("from is required")?;
    let sender = address(sender, "from")?;
    let mut recipients = Vec::new();
    for role in ["to", "cc", "bcc"] {
        let addresses = addresses(body, role)?;
        recipients.extend(addresses.into_iter().map(|address| (address, role)));
    }
    if !recipients.iter().any(|(_, role)| *role == "to") {
        return Err("to needs at least one address".to_owned());
    }
    if recipients.len() > RECIPIENTS_MAX {
        return Err(format!("at most {RECIPIENTS_MAX} recipients"));
    }
    addresses(body, "replyTo")?;
    check_headers(body)?;
    check_attachments(body)?;
    let html = text(body, "bodyHtml")?;
    if html.is_none() && text(body, "bodyText")?.is_none() && text(body, "templateId")?.is_none() {
        return Err("bodyText, bodyHtml or templateId is required".to_owned());
    }
    let substitution = members(body, "substitutionData")?;
    if Value::Object(substitution).to_string().len() > SUBSTITUTION_BYTES_MAX {
        return Err("substitutionData is over 100 KB".to_owned());
    }
    let options = members(body, "optionsAttributes")?;
    let on = |name: &str| options.get(name).and_then(Value::as_bool).unwrap_or(true);
    let links = if on("clickTracking") { links(html.as_deref().unwrap_or("")) } else { Vec::new() };
    Ok(Transmission {
        subject,
        sender,
        recipients,
        metadata: members(body, "metadata")?,
        links,
        opens_tracked: on("openTracking") && (html.is_some() || text(body, "templateId")?.is_some()),
        transactional: on("transactional"),
    })
}

fn present<'a>(body: &'a Value, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}

fn text(body: &Value, name: &str) -> Result<Option<String>, String> {
    match present(body, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.trim().is_empty())),
        Some(_) => Err(format!("{name} must be a string")),
    }
}

fn members(body: &Value, name: &str) -> Result<Map<String, Value>, String> {
    match present(body, name) {
        None => Ok(Map::new()),
        Some(Value::Object(members)) => Ok(members.clone()),
        Some(_) => Err(format!("{name} must be an object")),
    }
}

/// A list of addresses, or one alone.
fn addresses(body: &Value, name: &str) -> Result<Vec<String>, String> {
    match present(body, name) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(|item| address(item, name)).collect(),
        Some(one @ Value::Object(_)) => Ok(vec![address(one, name)?]),
        Some(_) => Err(format!("{name} must be a list of addresses")),
    }
}

fn address(item: &Value, name: &str) -> Result<String, String> {
    let email = item.get("email").and_then(Value::as_str).unwrap_or("");
    if email.contains('<') || Address::parse(email).is_err() {
        return Err(format!("{name}: `{}` is not a valid email address", mailspan_core::clip(email, 60)));
    }
    Ok(email.trim().to_owned())
}

fn check_headers(body: &Value) -> Result<(), String> {
    let fits = match present(body, "headers") {
        None => true,
        Some(Value::Array(list)) => list.iter().all(|item| {
            item.get("name").is_some_and(Value::is_string) && item.get("value").is_some_and(Value::is_string)
        }),
        Some(Value::Object(members)) => members.values().all(Value::is_string),
        Some(_) => false,
    };
    if fits {
        Ok(())
    } else {
        Err("headers must be a list of {name, value}, or an object of strings".to_owned())
    }
}

fn check_attachments(body: &Value) -> Result<(), String> {
    let one_of = |item: &Value, names: [&str; 2]| {
        names.iter().find_map(|name| item.get(*name)?.as_str().map(str::to_owned))
    };
    for name in ["attachments", "attachment"] {
        let items = match present(body, name) {
            None => continue,
            Some(Value::Array(list)) => list.as_slice(),
            Some(one @ Value::Object(_)) => std::slice::from_ref(one),
            Some(_) => return Err(format!("{name} must be a list")),
        };
        for item in items {
            let data = one_of(item, ["value", "data"]);
            let base64 =
                |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=\r\n".contains(&b));
            if one_of(item, ["filename", "name"]).is_none() || !data.is_some_and(|data| base64(&data)) {
                return Err(format!("{name}: each needs a filename and a value in base64"));
            }
        }
    }
    Ok(())
}

/// The targets of links in a page: http and https only.
fn links(html: &str) -> Vec<String> {
    let after = html.split("href=").skip(1);
    after
        .filter_map(|rest| {
            let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            let target = rest[1..].split(quote).next()?;
            target.starts_with("http").then(|| target.replace("&amp;", "&"))
        })
        .take(20)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::links;

    #[test]
    fn links_are_found() {
        let html = "<a href=\"https://a.example/?x=1&amp;y=2\">a</a> <a href='http://b.example'>b</a> <a href=mailto:x>";
        assert_eq!(links(html), ["https://a.example/?x=1&y=2", "http://b.example"]);
        assert!(links("<b>href=").is_empty());
    }
}
