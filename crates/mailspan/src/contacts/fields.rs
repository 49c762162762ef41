//! Standard and custom fields of contacts: their names, types, and how a value is read.
//!
//! Names and types are Maileon's («standard contact fields», «custom contact fields»).

use jiff::civil::{Date, DateTime};
use mailspan_core::clip;
use mailspan_store::{FieldKind, FieldRow};
use serde_json::Value;

/// Characters of a text field.
const TEXT_CHARS_MAX: usize = 255;
/// Custom fields that one tenant may declare.
pub const FIELDS_MAX: usize = 1_000;

/// Standard fields; each name is written exactly so.
pub const STANDARD: &[(&str, Standard)] = &[
    ("ADDRESS", Standard::Text),
    ("BIRTHDAY", Standard::Date),
    ("CITY", Standard::Text),
    ("COUNTRY", Standard::Text),
    ("FIRSTNAME", Standard::Text),
    ("FULLNAME", Standard::Text),
    ("GENDER", Standard::Gender),
    ("HNR", Standard::Text),
    ("LASTNAME", Standard::Text),
    ("LOCALE", Standard::Locale),
    ("NAMEDAY", Standard::Date),
    ("ORGANIZATION", Standard::Text),
    ("REGION", Standard::Text),
    ("SALUTATION", Standard::Text),
    ("STATE", Standard::Text),
    ("TITLE", Standard::Text),
    ("ZIP", Standard::Text),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standard {
    Text,
    Date,
    /// `m`, `f` or `d`.
    Gender,
    /// `xx` or `xx_XX`.
    Locale,
}

/// The value of a standard field, from text or JSON. An empty text clears it: `Ok(None)`.
pub fn standard(name: &str, value: &Value) -> Result<Option<Value>, String> {
    let Some((_, kind)) = STANDARD.iter().find(|(known, _)| *known == name) else {
        return Err(unknown("standard", name, STANDARD.iter().map(|(known, _)| *known)));
    };
    let text = scalar(value)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let read = match kind {
        Standard::Text => bounded(&text),
        Standard::Date => date(&text),
        Standard::Gender => match text.trim() {
            gender @ ("m" | "f" | "d") => Ok(Value::from(gender)),
            _ => Err("is `m`, `f` or `d`".to_owned()),
        },
        Standard::Locale => locale(text.trim()),
    };
    read.map(Some).map_err(|why| format!("{name} {why}"))
}

/// The value of a custom field that the tenant declared. An empty text clears it: `Ok(None)`.
pub fn custom(declared: &[FieldRow], name: &str, value: &Value) -> Result<Option<Value>, String> {
    let Some(field) = declared.iter().find(|field| field.name == name) else {
        return Err(unknown("custom", name, declared.iter().map(|field| field.name.as_str())));
    };
    let text = scalar(value)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    read(field.kind, &text).map(Some).map_err(|why| format!("{name} {why}"))
}

/// Names of custom fields: 3 to 64 characters, none of the standard names.
pub fn check_name(name: &str) -> Result<(), String> {
    let chars = name.chars().count();
    if !(3..=64).contains(&chars) || name.trim() != name || name.chars().any(char::is_control) {
        return Err("the name of a custom field has 3 to 64 characters and no space at its ends".to_owned());
    }
    if name.contains('@') {
        return Err(
            "the name of a custom field holds no address: an erasure could not take it out".to_owned()
        );
    }
    if STANDARD.iter().any(|(standard, _)| standard.eq_ignore_ascii_case(name)) {
        return Err(format!("`{name}` is a standard field: it need not be declared"));
    }
    Ok(())
}

/// The word for a kind, with Maileon's further spellings.
pub fn kind(word: &str) -> Result<FieldKind, String> {
    let word = match word {
        "double" => "float",
        other => other,
    };
    FieldKind::ALL.into_iter().find(|kind| kind.name() == word).ok_or_else(|| {
        let names: Vec<&str> = FieldKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("`{}` is no type of a field: they are {}", clip(word, 40), names.join(", "))
    })
}

fn read(kind: FieldKind, text: &str) -> Result<Value, String> {
    match kind {
        FieldKind::String => bounded(text),
        FieldKind::Integer => {
            text.trim().parse::<i32>().map(Value::from).map_err(|_| "is a whole number of 32 bits".to_owned())
        }
        FieldKind::Float => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::from(number)),
            _ => Err("is a number, like 1.5".to_owned()),
        },
        FieldKind::Boolean => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Value::Bool(true)),
            "false" | "0" => Ok(Value::Bool(false)),
            _ => Err("is `true` or `false`".to_owned()),
        },
        FieldKind::Date => date(text),
        FieldKind::Timestamp => {
            let read = DateTime::strptime("%Y-%m-%d %H:%M:%S", text.trim());
            read.map(|at| Value::from(at.strftime("%Y-%m-%d %H:%M:%S").to_string()))
                .or_else(|_| date(text))
                .map_err(|_| "is a time, like 2026-12-24 18:00:00".to_owned())
        }
    }
}

fn bounded(text: &str) -> Result<Value, String> {
    match text.chars().count() <= TEXT_CHARS_MAX {
        true => Ok(Value::from(text)),
        false => Err(format!("has at most {TEXT_CHARS_MAX} characters")),
    }
}

/// `yyyy-MM-dd`, `yyyy-MM-dd HH:mm:ss`, and `dd.MM.yyyy` as Maileon's own example writes it; kept in the
/// first two forms.
fn date(text: &str) -> Result<Value, String> {
    let text = text.trim();
    let day = |format| Date::strptime(format, text).map(|day| day.strftime("%Y-%m-%d").to_string());
    let shape = |pattern: &str| {
        text.len() == pattern.len()
            && text.bytes().zip(pattern.bytes()).all(|(given, wanted)| match wanted {
                b'9' => given.is_ascii_digit(),
                other => given == other,
            })
    };
    let read = if shape("9999-99-99") {
        day("%Y-%m-%d")
    } else if shape("99.99.9999") {
        day("%d.%m.%Y")
    } else if shape("9999-99-99 99:99:99") {
        DateTime::strptime("%Y-%m-%d %H:%M:%S", text).map(|at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
    } else {
        return Err("is a date: yyyy-MM-dd, yyyy-MM-dd HH:mm:ss or dd.MM.yyyy".to_owned());
    };
    read.map(Value::from).map_err(|_| format!("`{}` is no day of the calendar", clip(text, 30)))
}

fn locale(text: &str) -> Result<Value, String> {
    let (language, country) = text.split_once('_').map_or((text, None), |(one, two)| (one, Some(two)));
    let fits = language.len() == 2
        && language.bytes().all(|byte| byte.is_ascii_lowercase())
        && country.is_none_or(|code| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase()));
    if fits { Ok(Value::from(text)) } else { Err("is `xx` or `xx_XX`, like `de` or `de_DE`".to_owned()) }
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Null => Ok(String::new()),
        Value::Array(_) | Value::Object(_) => Err("a field is a text, a number or a truth value".to_owned()),
    }
}

fn unknown<'a>(which: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|known| (strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase()), known));
    let near = near.filter(|(score, _)| *score > 0.8).max_by(|one, two| one.0.total_cmp(&two.0));
    let name = clip(name, 64);
    match near {
        Some((_, near)) => format!("there is no {which} field `{name}`: is it `{near}`?"),
        None => format!("there is no {which} field `{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use mailspan_core::Millis;
    use serde_json::json;

    use super::*;

    fn check(kind: FieldKind, text: &str, expected: Option<Value>) {
        let declared = [FieldRow { name: "a field".to_owned(), kind, made_at: Millis(0) }];
        let read = custom(&declared, "a field", &Value::from(text)).ok().flatten();
        assert_eq!(read, expected, "{kind:?} {text:?}");
    }

    #[test]
    fn values_are_read_by_their_type() {
        check(FieldKind::Date, "12.12.2020", Some(json!("2020-12-12")));
        check(FieldKind::Date, " 2020-12-12 ", Some(json!("2020-12-12")));
        check(FieldKind::Date, "2020-12-12 10:00:00", Some(json!("2020-12-12 10:00:00")));
        check(FieldKind::Date, "31.02.2020", None);
        check(FieldKind::Date, "1.1.2020", None);
        check(FieldKind::Integer, " 42", Some(json!(42)));
        check(FieldKind::Integer, "2147483648", None);
        check(FieldKind::Float, "1.5", Some(json!(1.5)));
        check(FieldKind::Float, "inf", None);
        check(FieldKind::Boolean, "TRUE", Some(json!(true)));
        check(FieldKind::Boolean, "yes", None);
        check(FieldKind::String, " kept as it is ", Some(json!(" kept as it is ")));
        check(FieldKind::String, &"x".repeat(256), None);
        check(FieldKind::Timestamp, "2026-12-24 18:00:00", Some(json!("2026-12-24 18:00:00")));
        check(FieldKind::String, "", None);
    }

    #[test]
    fn unknown_fields_name_the_nearest() {
        let text = standard("FIRSTNAM", &json!("Max")).unwrap_err();
        assert!(text.contains("`FIRSTNAME`"), "{text}");
        assert!(standard("PERMISSION_STATUS", &json!("none")).is_err());
        assert_eq!(standard("GENDER", &json!("d")), Ok(Some(json!("d"))));
        assert!(standard("LOCALE", &json!("de-DE")).is_err());
        assert_eq!(standard("LOCALE", &json!("de_DE")), Ok(Some(json!("de_DE"))));
    }

    #[test]
    fn names_are_checked() {
        assert!(check_name("special date").is_ok());
        for bad in ["ab", "firstname", " padded ", "of ann@x.org", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
