//! Query parameters of lists, and cursors.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mailspan_connectors::signature::digest;
use mailspan_core::{Millis, Name};
use mailspan_store::{ContactFilter, ContactPage};
use serde::Deserialize;
use utoipa::IntoParams;

use super::errors::ApiError;
use crate::contacts::rules::LOCALES;

/// The first page, and the most: more would be no contacts of anybody.
const PAGES: (usize, usize) = (1, u32::MAX as usize);
/// Contacts of a page: MailingCore's sample, and its documented maximum.
const CONTACTS: (usize, usize) = (50, 500);

/// Parameters of `GET /contacts`. With `cursor` (an empty one too) or `updatedSince` the list goes by
/// cursor and never passes over a row that was committed late; else by numbered pages.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub struct ContactQuery {
    /// From 1.
    #[param(value_type = Option<u64>, minimum = 1, maximum = 4294967295_u64)]
    pub page: Option<String>,
    /// 1 to 500; 50 where nothing is said.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500)]
    pub limit: Option<String>,
    /// One of es, en, it, fr, ca, de.
    pub locale: Option<String>,
    #[param(value_type = Option<bool>)]
    pub opt_in: Option<String>,
    /// ISO 8601; this time itself is included.
    pub updated_since: Option<String>,
    /// `meta.nextCursor` of the page before.
    pub cursor: Option<String>,
    pub project_id: Option<String>,
}

/// What is asked for.
pub struct Asked {
    pub filter: ContactFilter,
    pub page: ContactPage,
    pub limit: usize,
}

impl ContactQuery {
    pub fn read(&self, tenant: &Name) -> Result<Asked, ApiError> {
        let mut filter = ContactFilter { tenant: Some(tenant.clone()), ..ContactFilter::default() };
        filter.locale = locale(self.locale.as_deref())?;
        filter.opt_in = truth("optIn", self.opt_in.as_deref())?;
        filter.project = text(self.project_id.as_deref());
        filter.updated_since = time("updatedSince", self.updated_since.as_deref())?;
        let limit = number("limit", self.limit.as_deref(), CONTACTS)?;
        let by_cursor = self.cursor.is_some() || filter.updated_since.is_some();
        let page = match by_cursor {
            true => {
                let cursor = self.cursor.as_deref().unwrap_or_default().trim();
                if !cursor.is_empty() && text(self.page.as_deref()).is_some() {
                    return Err(ApiError::bad("page: does not go with a cursor: leave one of them out"));
                }
                let rev = if cursor.is_empty() { 0 } else { opened(cursor, &filter)? };
                ContactPage::After { rev, limit }
            }
            false => {
                let page = number("page", self.page.as_deref(), PAGES)? as u64;
                ContactPage::Numbered { page, limit }
            }
        };
        Ok(Asked { filter, page, limit })
    }
}

/// `v1`, the revision, and a digest of the filters, so that it opens no other list.
pub fn cursor(rev: i64, filter: &ContactFilter) -> String {
    URL_SAFE_NO_PAD.encode(format!("v1.{rev}.{}", mark(filter)))
}

fn opened(cursor: &str, filter: &ContactFilter) -> Result<i64, ApiError> {
    let wrong = || ApiError::bad("cursor: give `meta.nextCursor` of the page before");
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (rev, given) = text.strip_prefix("v1.").and_then(|rest| rest.split_once('.')).ok_or_else(wrong)?;
    if given != mark(filter) {
        return Err(ApiError::bad("cursor: it belongs to a list with other filters"));
    }
    rev.parse().map_err(|_| wrong())
}

fn mark(filter: &ContactFilter) -> String {
    let mut mark = digest(format!("{filter:?}").as_bytes()).to_string();
    mark.truncate(12);
    mark
}

/// A plain cursor over row numbers.
pub fn plain_cursor(id: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("v1.{id}"))
}

pub fn plain_opened(cursor: Option<&str>) -> Result<i64, ApiError> {
    let Some(cursor) = text(cursor) else { return Ok(0) };
    let bytes = URL_SAFE_NO_PAD.decode(cursor).unwrap_or_default();
    let id = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_prefix("v1.")?.parse().ok());
    id.ok_or_else(|| ApiError::bad("cursor: give `meta.nextCursor` of the page before"))
}

/// A number from 1 to the maximum; the first of `bounds` where nothing is said.
pub fn number(name: &str, value: Option<&str>, bounds: (usize, usize)) -> Result<usize, ApiError> {
    let Some(text) = value else { return Ok(bounds.0) };
    match text.trim().parse::<usize>() {
        Ok(number) if (1..=bounds.1).contains(&number) => Ok(number),
        _ => Err(ApiError::bad(format!("{name}: is a whole number from 1 to {}", bounds.1))),
    }
}

fn text(value: Option<&str>) -> Option<String> {
    value.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn truth(name: &str, value: Option<&str>) -> Result<Option<bool>, ApiError> {
    match text(value).as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(ApiError::bad(format!("{name}: is `true` or `false`"))),
    }
}

fn locale(value: Option<&str>) -> Result<Option<Option<String>>, ApiError> {
    match text(value) {
        None => Ok(None),
        Some(none) if none == "null" => Ok(Some(None)),
        Some(locale) if LOCALES.contains(&locale.as_str()) => Ok(Some(Some(locale))),
        Some(_) => Err(ApiError::bad(format!("locale: is one of {}", LOCALES.join(", ")))),
    }
}

fn time(name: &str, value: Option<&str>) -> Result<Option<Millis>, ApiError> {
    let Some(text) = text(value) else { return Ok(None) };
    // A `+` of an offset that was not encoded has become a space.
    let text = text.replace(' ', "+");
    Millis::parse_rfc3339(&text)
        .map(Some)
        .ok_or_else(|| ApiError::bad(format!("{name}: is a time like 2026-06-30T12:00:00.000Z")))
}
