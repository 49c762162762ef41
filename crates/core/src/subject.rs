//! Who an event is about: an email address, an external id, or both.

use std::fmt;

use crate::limits::{ADDRESS_BYTES_MAX, EXTERNAL_ID_BYTES_MAX, LOCAL_PART_BYTES_MAX};

/// An email address: trimmed, its domain in lower case (IDNA to ASCII), its local part as given.
/// Two addresses are the same person's when their [`Address::key`] is the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address(String);

impl Address {
    /// Reads RFC 5321 `Mailbox` (4.1.2) with the UTF-8 local parts of RFC 6531; also
    /// `Name <mailbox>` as mailing platforms write it. Address literals (`a@[192.0.2.1]`) are refused.
    pub fn parse(text: &str) -> Result<Address, String> {
        let text = text.trim();
        let text = match (text.rfind('<'), text.strip_suffix('>')) {
            (Some(open), Some(inner)) => inner[open + 1..].trim(),
            _ => text,
        };
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(format!("an address has at most {ADDRESS_BYTES_MAX} bytes, this one {}", text.len()));
        }
        let Some(at) = text.rfind('@') else {
            return Err(format!("`{}` is no address: it has no @", crate::clip(text, 60)));
        };
        let (local, domain) = (&text[..at], &text[at + 1..]);
        check_local(local).map_err(|why| format!("`{}` is no address: {why}", crate::clip(text, 60)))?;
        let domain = idna::domain_to_ascii(domain)
            .ok()
            .filter(|domain| is_domain(domain))
            .ok_or_else(|| format!("`{}` is no address: its domain is not valid", crate::clip(text, 60)))?;
        Ok(Address(format!("{local}@{domain}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn domain(&self) -> &str {
        self.0.rsplit('@').next().unwrap_or_default()
    }

    /// What identities are compared by: the local part without case too.
    pub fn key(&self) -> String {
        self.0.to_lowercase()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_local(local: &str) -> Result<(), &'static str> {
    if local.is_empty() {
        return Err("nothing stands before the @");
    }
    if local.len() > LOCAL_PART_BYTES_MAX {
        return Err("the part before the @ has more than 64 bytes");
    }
    if let Some(inner) = local.strip_prefix('"') {
        let inner = inner.strip_suffix('"').ok_or("a quote is not closed")?;
        let mut escaped = false;
        for c in inner.chars() {
            match c {
                _ if c.is_control() => return Err("it has a control character"),
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return Err("a quote stands inside quotes"),
                _ => {}
            }
        }
        return if escaped { Err("a quote is not closed") } else { Ok(()) };
    }
    if local.starts_with('.') || local.ends_with('.') || local.contains("..") {
        return Err("a dot stands at an end or beside another");
    }
    let fits = |c: char| {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || (!c.is_ascii() && !c.is_control())
    };
    if local.chars().all(fits) { Ok(()) } else { Err("it has a character that must be quoted") }
}

fn is_domain(domain: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    domain.len() <= 253 && domain.split('.').all(label)
}

/// Whom an event is about. Without both parts it is about nobody and is a lane of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Subject {
    pub address: Option<Address>,
    pub external_id: Option<String>,
}

impl Subject {
    pub fn nobody() -> Subject {
        Subject::default()
    }

    /// Reads what a sender wrote into `subject`: an address where it is one, else an external id.
    /// Empty text and ids over 256 bytes are nobody.
    pub fn read(text: &str) -> Subject {
        let text = text.trim();
        match Address::parse(text) {
            Ok(address) => Subject { address: Some(address), external_id: None },
            Err(_) if text.is_empty() || text.len() > EXTERNAL_ID_BYTES_MAX => Subject::nobody(),
            Err(_) => Subject { address: None, external_id: Some(text.to_owned()) },
        }
    }

    /// What the event shows as its `subject`: the address, else the external id.
    pub fn shown(&self) -> Option<&str> {
        self.address.as_ref().map(Address::as_str).or(self.external_id.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: Option<&str>) {
        assert_eq!(Address::parse(input).ok().as_ref().map(Address::as_str), expected, "{input}");
    }

    #[test]
    fn addresses_are_read() {
        check("  User.Name+tag@EXAMPLE.com ", Some("User.Name+tag@example.com"));
        check("Jane Doe <jane@example.com>", Some("jane@example.com"));
        check("\"a b\"@example.com", Some("\"a b\"@example.com"));
        check("jörg@bücher.example", Some("jörg@xn--bcher-kva.example"));
        for bad in [
            "",
            "a",
            "@b.c",
            "a@",
            "a@@b",
            "a b@c.d",
            ".a@b.c",
            "a..b@c.d",
            "a@b..c",
            "a@-b.c",
            "\"a@b.c",
            "a@[127.0.0.1]",
        ] {
            check(bad, None);
        }
        check(&format!("{}@example.com", "a".repeat(65)), None);
    }

    #[test]
    fn the_local_part_is_kept_and_compared_without_case() {
        let (one, two) = (Address::parse("Ann@x.org").unwrap(), Address::parse("ann@X.org").unwrap());
        assert_ne!(one, two);
        assert_eq!(one.key(), two.key());
    }

    #[test]
    fn a_subject_is_an_address_or_an_id() {
        assert_eq!(Subject::read("a@b.co").shown(), Some("a@b.co"));
        assert_eq!(Subject::read("cus_17").external_id.as_deref(), Some("cus_17"));
        assert_eq!(Subject::read("  "), Subject::nobody());
    }
}
