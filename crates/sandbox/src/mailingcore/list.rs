//! Lists: by page, or by cursor in the order of change.

use std::collections::BTreeMap;

use mailspan_core::Millis;
use serde_json::{Value, json};

use super::book::Book;
use super::contacts::Contact;
use super::problem::Problem;
use crate::wire::Reply;

const LIMIT: usize = 50;
const LIMIT_MAX: usize = 500;

type Query = BTreeMap<String, String>;

/// `GET /contacts`: with `updatedSince` or `cursor` in the order of change, else by page.
pub(crate) fn contacts(book: &Book, query: &Query) -> Result<Reply, Problem> {
    let limit = number(query, "limit", LIMIT)?;
    if limit == 0 || limit > LIMIT_MAX {
        return Err(Problem::new(400, format!("limit must not be greater than {LIMIT_MAX}")));
    }
    let fits = filter(query)?;
    let cursor = query.get("cursor");
    if query.contains_key("page") && cursor.is_some_and(|cursor| !cursor.is_empty()) {
        return Err(Problem::new(400, "page and cursor exclude each other"));
    }
    let mut ordered = book.changes.iter().filter_map(|(at, id)| Some((*at, book.contacts.get(id)?)));
    let shown = |contact: &Contact| contact.json(&book.tenant);
    if (cursor.is_some() || query.contains_key("updatedSince")) && !query.contains_key("page") {
        let since = since(query)?;
        let after = match cursor.map(String::as_str) {
            None | Some("") => None,
            Some(text) => Some(read_cursor(text).ok_or_else(|| Problem::new(400, "cursor is not valid"))?),
        };
        let rest = |(at, contact): &(i64, &Contact)| {
            *at >= since
                && after.as_ref().is_none_or(|after| (*at, contact.id.as_str()) > (after.0, after.1.as_str()))
        };
        let found: Vec<(i64, &Contact)> =
            ordered.filter(|(_, contact)| fits(contact)).filter(rest).take(limit + 1).collect();
        let next = (found.len() > limit).then(|| found.get(limit - 1)).flatten();
        let next = next.map(|(at, contact)| format!("{at}.{}", contact.id));
        let data: Vec<Value> = found.iter().take(limit).map(|(_, contact)| shown(contact)).collect();
        return Ok(Reply::json(200, &json!({"data": data, "meta": {"limit": limit, "nextCursor": next}})));
    }
    let page = number(query, "page", 1)?.max(1);
    let since = since(query)?;
    let all: Vec<&Contact> = ordered
        .by_ref()
        .filter(|(at, contact)| *at >= since && fits(contact))
        .map(|(_, contact)| contact)
        .collect();
    let data: Vec<Value> =
        all.iter().skip((page - 1).saturating_mul(limit)).take(limit).map(|contact| shown(contact)).collect();
    let pages = all.len().div_ceil(limit);
    let meta = json!({"page": page, "limit": limit, "total": all.len(), "totalPages": pages});
    Ok(Reply::json(200, &json!({"data": data, "meta": meta})))
}

fn number(query: &Query, name: &str, default: usize) -> Result<usize, Problem> {
    let Some(text) = query.get(name) else { return Ok(default) };
    text.parse().map_err(|_| Problem::new(400, format!("{name} must be an integer number")))
}

fn since(query: &Query) -> Result<i64, Problem> {
    match query.get("updatedSince") {
        None => Ok(i64::MIN),
        Some(text) => Millis::parse_rfc3339(text)
            .map(|at| at.0)
            .ok_or_else(|| Problem::new(400, "updatedSince must be a valid ISO 8601 date string")),
    }
}

fn filter(query: &Query) -> Result<impl Fn(&Contact) -> bool + use<>, Problem> {
    let opt_in = match query.get("optIn").map(String::as_str) {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => return Err(Problem::new(400, "optIn must be a boolean value")),
    };
    let (locale, project) = (query.get("locale").cloned(), query.get("projectId").cloned());
    Ok(move |contact: &Contact| {
        opt_in.is_none_or(|opt_in| contact.opt_in == opt_in)
            && (locale.is_none() || contact.locale == locale)
            && (project.is_none() || contact.project_id == project)
    })
}

fn read_cursor(text: &str) -> Option<(i64, String)> {
    let (at, id) = text.split_once('.')?;
    Some((at.parse().ok()?, id.to_owned()))
}
