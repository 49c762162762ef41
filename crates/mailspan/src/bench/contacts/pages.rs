//! Pages of a reconciliation, from places all over the list: by `updatedSince`, and by the cursor of the page before.

use anyhow::Context;
use mailspan_core::Millis;

use super::api::Api;
use super::people;
use crate::bench::figures::{Figure, quantiles};
use crate::bench::link::Link;

pub const CURSOR: &str = "page by cursor";
pub const SINCE: &str = "page by updatedSince";

/// Latencies of both kinds; contacts were written in `span`, at an even pace.
pub async fn of_hub(
    api: &Api,
    span: (Millis, Millis),
    count: u64,
    among: &str,
) -> anyhow::Result<Vec<Figure>> {
    let mut link = Link::new(api.address);
    let (mut since, mut cursor) = (vec![], vec![]);
    let width = span.1.since(span.0).max(1);
    for k in 0..count {
        let at = Millis(span.0.0.saturating_add_unsigned(people::scattered(k, width) * 8 / 10));
        let query = format!("updatedSince={}", at.iso());
        let (page, micros) = api.page(&mut link, &query).await?;
        since.push(micros);
        let Some(next) = next_cursor(&page) else { continue };
        let (_, micros) = api.page(&mut link, &format!("{query}&cursor={next}")).await?;
        cursor.push(micros);
    }
    if cursor.is_empty() {
        anyhow::bail!("no page had another behind it: give more --contacts");
    }
    let figures = [(CURSOR, cursor), (SINCE, since)];
    Ok(figures
        .iter()
        .flat_map(|(kind, micros)| quantiles(&format!("{kind} among {among}"), micros))
        .collect())
}

/// A parser for the whole page would be a part of what is measured next to it.
fn next_cursor(page: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(page).context("a page is text").ok()?;
    let (_, rest) = text.rsplit_once("\"nextCursor\":\"")?;
    rest.split_once('"').map(|(cursor, _)| cursor.to_owned())
}
