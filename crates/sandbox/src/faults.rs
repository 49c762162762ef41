//! What shall go wrong, as people write it: `duplicates=5%,slow=5%:2s,drip`.

use std::fmt;

use mailspan_core::{Rate, Span, clip};

/// What shall go wrong. All off by default; shares are per cent, 0 to 100, drawn from the seed.
/// One text serves every fake: each takes the faults that it knows and leaves the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Share of webhook requests that are posted twice.
    pub duplicates: u64,
    /// Share of webhook requests that change places with the one behind.
    pub reorder: u64,
    /// Webhook requests that are held until so many can go at once; 0: none are held.
    pub burst: u64,
    /// Share of webhook requests signed with a secret that nobody knows. Their repeats draw again.
    pub wrong_secret: u64,
    /// Requests over it are answered 429.
    pub rate_limit: Option<Rate>,
    /// Requests a day (UTC) over it are answered 429 with policy `DAILY`.
    pub daily_limit: Option<u64>,
    /// Share of the items of a batch that fail for a moment (`INTERNAL_ERROR`, the call is 207).
    pub partial: u64,
    /// Share of the items of a batch that are refused for good (`VALIDATION_ERROR`, the call is 207).
    pub reject: u64,
    /// Share of batch calls that are answered with neither results nor errors, without acting.
    pub empty_results: u64,
    /// Share of requests answered 500, 502, 503 or 504, without acting.
    pub server_error: u64,
    /// The next request is answered 401, further ones are not.
    pub unauthorized_once: bool,
    /// Every request is answered 401.
    pub unauthorized: bool,
    /// 403 for what needs this scope, or one of several with `+` between; `*`: for everything.
    pub missing_scopes: Option<String>,
    /// Share of requests that act and whose connection then breaks without an answer.
    pub reset_after_commit: u64,
    /// Share of answers that come so much later.
    pub slow: Option<(u64, Span)>,
    /// Share of answers that never end.
    pub endless: u64,
    /// Share of requests that are never answered, and do nothing.
    pub hang: u64,
    /// Share of webhooks that are never posted: the platform gave up, or forgot.
    pub forget: u64,
    /// Every answer comes a byte at a time.
    pub drip: bool,
    /// Every request is answered 503, without acting.
    pub down: bool,
    /// Every request is answered with this status, without acting.
    pub status: Option<u16>,
}

/// Spelling and meaning of each, for the help text.
const NAMES: [(&str, &str); 21] = [
    ("duplicates=5%", "webhooks posted twice"),
    ("reorder=10%", "webhooks that change places"),
    ("burst=20", "webhooks held until so many go at once"),
    ("wrong_secret=2%", "webhooks signed with another secret"),
    ("forget=20%", "webhooks that are never posted"),
    ("rate_limit=100/10s", "429 over it"),
    ("daily_limit=1000", "429 over so many a day"),
    ("partial=5%", "items that fail for a moment"),
    ("reject=5%", "items refused for good"),
    ("empty_results=2%", "2xx with neither results nor errors"),
    ("server_error=5%", "500, 502, 503 or 504"),
    ("unauthorized_once", "401 once"),
    ("unauthorized", "401 always"),
    ("missing_scopes", "403, or missing_scopes=SCOPE for one scope, SCOPE+SCOPE for several"),
    ("reset_after_commit=2%", "acts, then the connection breaks"),
    ("slow=5%:2s", "answers that come later"),
    ("endless=1%", "answers that never end"),
    ("hang=1%", "requests never answered"),
    ("drip", "answers a byte at a time"),
    ("down", "503 always"),
    ("status=500", "this status always"),
];

impl Faults {
    /// Reads names with their values, separated by commas or white space. An empty text or `none`
    /// is no fault at all. The error lists the names.
    pub fn parse(text: &str) -> Result<Faults, String> {
        let mut faults = Faults::default();
        for item in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty()) {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (item, None),
            };
            faults.set(name, value).map_err(|why| format!("`{}`: {why}; {}", clip(item, 60), help()))?;
        }
        Ok(faults)
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        match name {
            "none" => *self = Faults::default(),
            "duplicates" => self.duplicates = share(value)?,
            "reorder" => self.reorder = share(value)?,
            "burst" => self.burst = number(value, 10_000)?,
            "wrong_secret" => self.wrong_secret = share(value)?,
            "forget" => self.forget = share(value)?,
            "rate_limit" => self.rate_limit = Some(rate(value)?),
            "daily_limit" => self.daily_limit = Some(number(value, u64::MAX)?),
            "partial" => self.partial = share(value)?,
            "reject" => self.reject = share(value)?,
            "empty_results" => self.empty_results = share(value)?,
            "server_error" => self.server_error = share(value)?,
            "unauthorized_once" => self.unauthorized_once = alone(value)?,
            "unauthorized" => self.unauthorized = alone(value)?,
            "missing_scopes" => self.missing_scopes = Some(value.unwrap_or("*").to_owned()),
            "reset_after_commit" => self.reset_after_commit = share(value)?,
            "slow" => self.slow = Some(slow(value)?),
            "endless" => self.endless = share(value)?,
            "hang" => self.hang = share(value)?,
            "drip" => self.drip = alone(value)?,
            "down" => self.down = alone(value)?,
            "status" => self.status = Some(status(value)?),
            _ => return Err("no fault of that name".to_owned()),
        }
        Ok(())
    }
}

fn help() -> String {
    let names: Vec<String> = NAMES.iter().map(|(name, what)| format!("{name} ({what})")).collect();
    format!("there are: none, {}", names.join(", "))
}

/// A share without a value is all of them: `server_error` alone breaks every request.
fn share(value: Option<&str>) -> Result<u64, String> {
    let Some(text) = value else { return Ok(100) };
    let percent = text.strip_suffix('%').unwrap_or(text).parse::<u64>().ok().filter(|n| *n <= 100);
    percent.ok_or_else(|| "write a whole share from 0% to 100%".to_owned())
}

fn number(value: Option<&str>, max: u64) -> Result<u64, String> {
    let number = value.and_then(|text| text.parse::<u64>().ok()).filter(|n| *n <= max);
    number.ok_or_else(|| format!("write a whole number up to {max}"))
}

fn rate(value: Option<&str>) -> Result<Rate, String> {
    let rate = Rate::parse(value.unwrap_or(""))?;
    if rate.count > 100_000 { Err("write at most 100000 requests".to_owned()) } else { Ok(rate) }
}

fn alone(value: Option<&str>) -> Result<bool, String> {
    if value.is_none() { Ok(true) } else { Err("takes no value".to_owned()) }
}

fn slow(value: Option<&str>) -> Result<(u64, Span), String> {
    let text = value.unwrap_or("");
    let (percent, span) = text.split_once(':').unwrap_or(("100%", text));
    Ok((share(Some(percent))?, Span::parse(span)?))
}

fn status(value: Option<&str>) -> Result<u16, String> {
    let code = value.and_then(|text| text.parse::<u16>().ok()).filter(|code| (200..600).contains(code));
    code.ok_or_else(|| "write a status from 200 to 599".to_owned())
}

/// The same text that [`Faults::parse`] reads; `none` when all is off.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items: Vec<String> = Vec::new();
        let shares = [
            ("duplicates", self.duplicates),
            ("reorder", self.reorder),
            ("wrong_secret", self.wrong_secret),
            ("forget", self.forget),
            ("partial", self.partial),
            ("reject", self.reject),
            ("empty_results", self.empty_results),
            ("server_error", self.server_error),
            ("reset_after_commit", self.reset_after_commit),
            ("endless", self.endless),
            ("hang", self.hang),
        ];
        items.extend(shares.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}={n}%")));
        let flags = [
            ("unauthorized_once", self.unauthorized_once),
            ("unauthorized", self.unauthorized),
            ("drip", self.drip),
            ("down", self.down),
        ];
        items.extend(flags.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()));
        items.extend((self.burst > 0).then(|| format!("burst={}", self.burst)));
        items.extend(self.rate_limit.map(|rate| format!("rate_limit={rate}")));
        items.extend(self.daily_limit.map(|n| format!("daily_limit={n}")));
        items.extend(self.missing_scopes.as_ref().map(|scope| format!("missing_scopes={scope}")));
        items.extend(self.slow.map(|(percent, span)| format!("slow={percent}%:{span}")));
        items.extend(self.status.map(|code| format!("status={code}")));
        f.write_str(if items.is_empty() { "none" } else { "" })?;
        f.write_str(&items.join(","))
    }
}

#[cfg(test)]
#[path = "faults_tests.rs"]
mod tests;
