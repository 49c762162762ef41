//! What a person is known by, looked for in texts.

/// Stands where something was cut out.
pub(crate) const ERASED_MARK: &str = "[erased]";

/// Words shorter than this, or made of digits alone, may be anybody's: they are looked for in what is the
/// person's own, not in what names others.
const OWN_WORD_CHARS_MIN: usize = 6;

/// Needles, in ASCII lower case: the comparison is without case.
#[derive(Debug, Default)]
pub struct Words {
    /// Addresses, as they are and as URLs and JSON escape them.
    addresses: Vec<String>,
    /// Local parts and external ids that are hardly anybody else's.
    distinct: Vec<String>,
    /// All local parts and external ids.
    loose: Vec<String>,
}

impl Words {
    /// Of addresses and external ids, as they are listed; what holds an `@` is an address.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a String>) -> Words {
        let (addresses, ids): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.contains('@'));
        Words::new(addresses, ids)
    }

    pub(crate) fn new<'a>(
        addresses: impl IntoIterator<Item = &'a String>,
        ids: impl IntoIterator<Item = &'a String>,
    ) -> Words {
        let mut words = Words::default();
        for address in addresses {
            let address = address.to_ascii_lowercase();
            if let Some((local, domain)) = address.rsplit_once('@') {
                words.addresses.push(format!("{local}%40{domain}"));
                words.addresses.push(format!("{local}\\u0040{domain}"));
                words.loose.push(local.to_owned());
            }
            words.addresses.push(address);
        }
        words.loose.extend(ids.into_iter().map(|id| id.to_ascii_lowercase()));
        words.loose.retain(|word| !word.is_empty());
        words.loose.sort();
        words.loose.dedup();
        words.distinct = words.loose.iter().filter(|word| is_distinct(word)).cloned().collect();
        words
    }

    /// `own`: in a text that is the person's own, every word counts.
    pub fn stands_in(&self, text: &str, own: bool) -> bool {
        !self.places(text, own).is_empty()
    }

    /// The text without them; nothing where it holds none.
    pub(crate) fn cut(&self, text: &str, own: bool) -> Option<String> {
        without(text, self.places(text, own))
    }

    /// The same with looser edges, for what operators name after a person: `import-ann@x.org.csv`. What merely looks
    /// longer goes too: a note is worth less than a promise.
    pub(crate) fn cut_anywhere(&self, text: &str) -> Option<String> {
        let lower = text.to_ascii_lowercase();
        let is_free = |from: usize, to: usize| {
            !lower[..from].ends_with(char::is_alphanumeric) && !lower[to..].starts_with(char::is_alphanumeric)
        };
        let mut places = vec![];
        for word in self.addresses.iter().chain(&self.distinct) {
            find(&lower, word, &mut places, is_free);
        }
        places.sort_by_key(|(from, to)| (*from, usize::MAX - to));
        without(text, places)
    }

    /// Both: with looser edges, and then what stands there by itself.
    pub(crate) fn cut_loosely(&self, text: &str, own: bool) -> Option<String> {
        let loosely = self.cut_anywhere(text);
        self.cut(loosely.as_deref().unwrap_or(text), own).or(loosely)
    }

    /// Byte ranges, the longer first of those that begin together.
    fn places(&self, text: &str, own: bool) -> Vec<(usize, usize)> {
        let lower = text.to_ascii_lowercase();
        let mut places = vec![];
        for address in &self.addresses {
            find(&lower, address, &mut places, |from, to| {
                begins(&lower, from, false) && address_ends(&lower, to)
            });
        }
        for word in if own { &self.loose } else { &self.distinct } {
            find(&lower, word, &mut places, |from, to| begins(&lower, from, true) && word_ends(&lower, to));
        }
        places.sort_by_key(|(from, to)| (*from, usize::MAX - to));
        places
    }
}

/// The text without these ranges, sorted; nothing where there are none.
fn without(text: &str, places: Vec<(usize, usize)>) -> Option<String> {
    if places.is_empty() {
        return None;
    }
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    for (from, to) in places {
        if from >= at {
            kept.push_str(&text[at..from]);
            kept.push_str(ERASED_MARK);
        }
        at = at.max(to);
    }
    kept.push_str(&text[at..]);
    Some(kept)
}

/// Has a character that is no letter beside some that are no digits, or is long.
fn is_distinct(word: &str) -> bool {
    let chars = word.chars().count();
    let is_number = word.chars().all(|c| c.is_ascii_digit());
    let is_name = word.chars().all(char::is_alphabetic);
    chars >= OWN_WORD_CHARS_MIN && !is_number && (!is_name || chars >= 2 * OWN_WORD_CHARS_MIN)
}

fn find(text: &str, needle: &str, places: &mut Vec<(usize, usize)>, fits: impl Fn(usize, usize) -> bool) {
    if needle.is_empty() {
        return;
    }
    let found = text.match_indices(needle).map(|(from, _)| (from, from + needle.len()));
    places.extend(found.filter(|(from, to)| fits(*from, *to)));
}

/// Nothing before it makes it a part of something longer: `joann@x.org` is not `ann@x.org`. An escape before it
/// (`%3A`, `\n`) is none of it.
fn begins(text: &str, from: usize, is_word: bool) -> bool {
    let before = &text.as_bytes()[..from];
    if before.len() >= 3
        && before[before.len() - 3] == b'%'
        && before[before.len() - 2..].iter().all(u8::is_ascii_hexdigit)
    {
        return true;
    }
    if before.len() >= 2
        && before[before.len() - 2] == b'\\'
        && matches!(before[before.len() - 1], b'n' | b't' | b'r')
    {
        return true;
    }
    let Some(last) = text[..from].chars().next_back() else { return true };
    !(last.is_alphanumeric() || matches!(last, '.' | '_' | '-') || is_word && last == '@')
}

/// `ann@x.org.uk` is not `ann@x.org`; a full stop at the end of a sentence is nothing.
fn address_ends(text: &str, to: usize) -> bool {
    let mut after = text[to..].chars();
    match after.next() {
        Some('.') => !after.next().is_some_and(char::is_alphanumeric),
        Some(c) => !(c.is_alphanumeric() || c == '-'),
        None => true,
    }
}

fn word_ends(text: &str, to: usize) -> bool {
    let after = &text[to..];
    address_ends(text, to) && !after.starts_with(['@', '_']) && !after.starts_with("%40")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        let addresses = ["Ana.Perez7@example.org".to_owned()];
        Words::new(&addresses, &["u-1001".to_owned(), "17".to_owned()])
    }

    fn check(text: &str, own: bool, expected: &str) {
        let cut = words().cut(text, own);
        assert_eq!(cut.as_deref().unwrap_or(text), expected);
        assert_eq!(cut.is_some(), words().stands_in(text, own));
    }

    #[test]
    fn an_address_goes_in_every_spelling_and_nothing_else_with_it() {
        check("to ANA.PEREZ7@example.ORG.", false, "to [erased].");
        check("email=ana.perez7%40example.org&x=1", false, "email=[erased]&x=1");
        check(r#"{"a":"ana.perez7\u0040example.org"}"#, false, r#"{"a":"[erased]"}"#);
        check("mailto%3Aana.perez7@example.org", false, "mailto%3A[erased]");
        check(r"line\nana.perez7@example.org", false, r"line\n[erased]");
        for other in ["joana.perez7@example.org", "ana.perez7@example.org.uk", "x.ana.perez7@example.org"] {
            check(other, false, other);
        }
    }

    #[test]
    fn operators_name_things_after_a_person() {
        for (text, expected) in [
            ("/tmp/u-1001.csv", "/tmp/[erased].csv"),
            ("idem-ANA.perez7@example.org_2", "idem-[erased]_2"),
            (r#"{"subject":"ana.perez7@example.org"}"#, r#"{"subject":"[erased]"}"#),
            ("17 of u-10011", "17 of u-10011"),
        ] {
            let cut = words().cut_anywhere(text);
            assert_eq!(cut.as_deref().unwrap_or(text), expected);
        }
    }

    #[test]
    fn senders_glue_a_name_to_an_address() {
        let cut = |text: &str| words().cut_loosely(text, false);
        assert_eq!(cut("d-Ana.Perez7@example.org; u-1001").as_deref(), Some("d-[erased]; [erased]"));
        assert_eq!(cut("joana.perez7@example.org"), None);
    }

    #[test]
    fn a_word_that_may_be_anybodys_goes_only_from_what_is_the_persons_own() {
        check("Ana.Perez7 and u-1001, 17 of them", false, "[erased] and [erased], 17 of them");
        check("Ana.Perez7 and u-1001, 17 of them", true, "[erased] and [erased], [erased] of them");
        check("u-10011 u-1001-2 ana.perez7@other.org 170", true, "u-10011 u-1001-2 ana.perez7@other.org 170");
    }
}
