//! Instants, spans and rates as numbers, with the spellings that people write.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub i64);

impl Millis {
    /// `2026-05-08T03:14:15.123Z`; the milliseconds are left out when they are zero.
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => at.to_string(),
            Err(_) => self.0.to_string(),
        }
    }

    /// The same, always with milliseconds: `2026-06-30T12:00:00.000Z`, as JavaScript writes it.
    pub fn iso(self) -> String {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => format!("{at:.3}"),
            Err(_) => self.0.to_string(),
        }
    }

    /// Reads RFC 3339; an instant without an offset is refused.
    pub fn parse_rfc3339(text: &str) -> Option<Millis> {
        text.trim().parse::<jiff::Timestamp>().ok().map(|at| Millis(at.as_millisecond()))
    }

    /// Reads a number that means milliseconds, or seconds when it is below 10^11
    /// (as milliseconds that would be before March 1973).
    pub fn from_number(number: f64) -> Option<Millis> {
        let ms = if number.abs() < 1e11 { number * 1_000.0 } else { number };
        (ms.is_finite() && ms.abs() < 8e15).then_some(Millis(ms as i64))
    }

    pub fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` to here; zero when `earlier` is later.
    pub fn since(self, earlier: Millis) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

/// A length of time, written `"200ms"`, `"5m"`, `"72h"`, `"30d"`. At most ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub ms: u64,
}

impl Span {
    pub fn parse(text: &str) -> Result<Span, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| span_help(text))?;
        let unit = match text[digits..].trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(span_help(text)),
        };
        match number.checked_mul(unit) {
            Some(ms) if ms <= 10 * 366 * 86_400_000 => Ok(Span { ms }),
            _ => Err(format!(
                "`{}` is more than ten years: write a shorter time, like \"90d\"",
                crate::clip(text, 40)
            )),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
            .into_iter()
            .find(|(unit, _)| self.ms > 0 && self.ms.is_multiple_of(*unit))
            .unwrap_or((1, "ms"));
        write!(f, "{}{name}", self.ms / unit)
    }
}

fn span_help(text: &str) -> String {
    format!(
        "`{}` is not a length of time: write a whole number and ms, s, m, h or d, like \"5m\"",
        crate::clip(text, 40)
    )
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        Span::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// So many in so long, written `"100/10s"`. Neither is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per_ms: u64,
}

impl Rate {
    pub fn parse(text: &str) -> Result<Rate, String> {
        let help = || {
            format!("`{}` is not a rate: write a count and a time, like \"100/10s\"", crate::clip(text, 40))
        };
        let (count, per) = text.split_once('/').ok_or_else(help)?;
        let count: u32 = count.trim().parse().map_err(|_| help())?;
        let per = per.trim();
        let per =
            if per.starts_with(|c: char| c.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
        let per_ms = Span::parse(&per).map_err(|_| help())?.ms;
        if count == 0 || per_ms == 0 {
            return Err("a rate of zero would never send: pause the destination instead".to_owned());
        }
        Ok(Rate { count, per_ms })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, Span { ms: self.per_ms })
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Rate, D::Error> {
        Rate::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_always_written_where_a_reader_wants_them() {
        assert_eq!(Millis(1_782_820_800_000).iso(), "2026-06-30T12:00:00.000Z");
        assert_eq!(Millis(1_782_820_800_120).iso(), "2026-06-30T12:00:00.120Z");
    }

    #[test]
    fn spans_are_read_and_written() {
        for text in ["200ms", "5m", "71h", "30d", "0ms", "1500ms"] {
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "5", "m", "-5m", "5 minutes", "1.5s", "99999999999999999999d", "20000d"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_read_and_written() {
        assert_eq!(Rate::parse("100/10s").unwrap(), Rate { count: 100, per_ms: 10_000 });
        assert_eq!(Rate::parse("5/s").unwrap().to_string(), "5/1s");
        for text in ["100", "0/1s", "5/0s", "/1s", "a/1s", "1/1"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn instants_come_as_text_and_as_numbers() {
        let at = Millis::parse_rfc3339("2026-05-08T03:14:15Z").unwrap();
        assert_eq!(at.rfc3339(), "2026-05-08T03:14:15Z");
        assert_eq!(Millis::parse_rfc3339("2026-05-08T05:14:15+02:00"), Some(at));
        assert_eq!(Millis::from_number(1_460_989_507.0), Millis::from_number(1_460_989_507_000.0));
        assert_eq!(Millis::from_number(f64::NAN), None);
        assert_eq!(Millis::parse_rfc3339("yesterday"), None);
    }
}
