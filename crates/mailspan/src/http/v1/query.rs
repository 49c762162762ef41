//! Query parameters of listings, and the page that they answer with.

use mailspan_core::limits::{PAGE_ROWS, PAGE_ROWS_MAX};
use serde_json::{Value, json};

use crate::http::problem::Problem;

/// The parameters of a listing; an unknown one is an error, so that a misspelt filter is not «all».
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`; `known` are the names that the listing takes beside `limit` and `before`.
    pub fn read(query: Option<&str>, known: &[&str]) -> Result<Query, Problem> {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let pairs: Vec<(String, String)> =
            pairs.into_owned().filter(|(_, value)| !value.is_empty()).collect();
        for (name, _) in &pairs {
            if !known.contains(&name.as_str()) && !["limit", "before"].contains(&name.as_str()) {
                return Err(Problem::bad(format!(
                    "there is no parameter `{}` here: use {}, limit or before",
                    mailspan_core::clip(name, 40),
                    known.join(", ")
                )));
            }
        }
        Ok(Query(pairs))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Rows of a page: 100 where nothing is said, 1 to 1,000.
    pub fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.get("limit") else { return Ok(PAGE_ROWS) };
        let limit = text.parse().ok().filter(|limit| (1..=PAGE_ROWS_MAX).contains(limit));
        limit.ok_or_else(|| {
            Problem::bad(format!("parameter `limit`: expected a whole number from 1 to {PAGE_ROWS_MAX}"))
        })
    }

    /// The cursor of the page before.
    pub fn before(&self) -> Result<Option<i64>, Problem> {
        self.number("before")
    }

    pub fn number(&self, name: &str) -> Result<Option<i64>, Problem> {
        let wrong = || Problem::bad(format!("parameter `{name}`: give `next` of the page before"));
        self.get(name).map(|text| text.parse().map_err(|_| wrong())).transpose()
    }
}

/// `{"items": […], "next": cursor}`; `next` is there while the page was full.
pub fn page(items: Vec<Value>, limit: usize, last: Option<i64>) -> Value {
    match last.filter(|_| items.len() >= limit) {
        Some(last) => json!({ "items": items, "next": last.to_string() }),
        None => json!({ "items": items, "next": null }),
    }
}
