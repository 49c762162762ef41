//! A lossless reader of JSON (RFC 8259): numbers stay text, duplicate keys are all kept, depth and
//! keys are bounded, and every node knows its own bytes.

use std::borrow::Cow;
use std::fmt;

use crate::limits::{JSON_DEPTH_MAX, JSON_KEYS_MAX};

/// A value with the text it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Node<'a> {
    /// The value's own text, without white space around it.
    pub raw: &'a str,
    pub value: Value<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    /// The number's text is [`Node::raw`].
    Number,
    String(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    /// In the order written; a key may stand more than once.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// Why a text is not JSON that we take, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    pub at: usize,
    pub what: &'static str,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

/// Reads one document. A byte-order mark is skipped; anything after the value is an error.
pub fn parse(bytes: &[u8]) -> Result<Node<'_>, JsonError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes)
        .map_err(|error| JsonError { at: error.valid_up_to(), what: "the text is not UTF-8" })?;
    let mut reader = Reader { text, at: 0, depth: 0, keys: 0 };
    reader.space();
    if reader.at == text.len() {
        return Err(reader.error("the body is empty"));
    }
    let node = reader.value()?;
    reader.space();
    if reader.at == text.len() { Ok(node) } else { Err(reader.error("something follows the value")) }
}

impl<'a> Node<'a> {
    /// The value of a key; where it stands twice, the last one, as most readers take it.
    pub fn get(&self, key: &str) -> Option<&Node<'a>> {
        match &self.value {
            Value::Object(members) => members.iter().rev().find(|(k, _)| k == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The first of some keys that is there and not null.
    pub fn first_of(&self, keys: &[&str]) -> Option<&Node<'a>> {
        keys.iter().find_map(|key| self.get(key).filter(|node| node.value != Value::Null))
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Text as it is, numbers and booleans by their spelling; nothing for null, arrays and objects.
    pub fn scalar(&self) -> Option<Cow<'_, str>> {
        match &self.value {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number | Value::Bool(_) => Some(Cow::Borrowed(self.raw)),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Node<'a>]> {
        match &self.value {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&[(Cow<'a, str>, Node<'a>)]> {
        match &self.value {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The word for messages: «an object», «a number».
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    keys: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, what: &'static str) -> JsonError {
        JsonError { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Node<'a>, JsonError> {
        let from = self.at;
        let value = match self.peek() {
            Some(b'{') => self.nested(Reader::object)?,
            Some(b'[') => self.nested(Reader::array)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", Value::Bool(true))?,
            Some(b'f') => self.word("false", Value::Bool(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            _ => return Err(self.error("a value was expected")),
        };
        Ok(Node { raw: &self.text[from..self.at], value })
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value<'a>, JsonError>,
    ) -> Result<Value<'a>, JsonError> {
        if self.depth == JSON_DEPTH_MAX {
            return Err(self.error("nested deeper than 64"));
        }
        self.depth += 1;
        self.at += 1;
        self.space();
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn array(&mut self) -> Result<Value<'a>, JsonError> {
        let mut items = Vec::new();
        if self.eat(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            if self.eat(b']') {
                return Ok(Value::Array(items));
            }
            self.comma("a comma or ] was expected")?;
        }
    }

    fn object(&mut self) -> Result<Value<'a>, JsonError> {
        if self.eat(b'}') {
            return Ok(Value::Object(Vec::new()));
        }
        let mut members = Vec::with_capacity(8);
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error("a key in quotes was expected"));
            }
            self.keys += 1;
            if self.keys > JSON_KEYS_MAX {
                return Err(self.error("more than 200,000 keys"));
            }
            let key = self.string()?;
            self.space();
            if !self.eat(b':') {
                return Err(self.error("a colon was expected"));
            }
            self.space();
            members.push((key, self.value()?));
            self.space();
            if self.eat(b'}') {
                return Ok(Value::Object(members));
            }
            self.comma("a comma or } was expected")?;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn comma(&mut self, what: &'static str) -> Result<(), JsonError> {
        if !self.eat(b',') {
            return Err(self.error(what));
        }
        self.space();
        Ok(())
    }

    fn word(&mut self, word: &'static str, value: Value<'a>) -> Result<Value<'a>, JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.error("a value was expected"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn digits(&mut self) -> bool {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at > from
    }

    fn number(&mut self) -> Result<Value<'a>, JsonError> {
        self.eat(b'-');
        let zero = self.peek() == Some(b'0');
        let from = self.at;
        if !self.digits() || zero && self.at > from + 1 {
            return Err(self.error("a number is not spelled as JSON wants it"));
        }
        if self.eat(b'.') && !self.digits() {
            return Err(self.error("digits were expected after the dot"));
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !self.digits() {
                return Err(self.error("digits were expected in the exponent"));
            }
        }
        Ok(Value::Number)
    }

    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.at += 1;
        let from = self.at;
        let mut owned: Option<String> = None;
        let mut copied = from;
        loop {
            match self.peek() {
                None => return Err(self.error("a string is not closed")),
                Some(b'"') => {
                    let rest = &self.text[copied..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(rest),
                        Some(mut text) => {
                            text.push_str(rest);
                            Cow::Owned(text)
                        }
                    });
                }
                Some(b'\\') => {
                    let text = owned.get_or_insert_default();
                    text.push_str(&self.text[copied..self.at]);
                    self.at += 1;
                    let c = self.escape()?;
                    owned.get_or_insert_default().push(c);
                    copied = self.at;
                }
                Some(0..=0x1f) => return Err(self.error("a control character stands in a string")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let byte = self.peek().ok_or_else(|| self.error("a string is not closed"))?;
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.error("an unknown escape stands in a string")),
        })
    }

    /// A lone surrogate becomes U+FFFD: the raw text keeps it.
    fn unicode(&mut self) -> Result<char, JsonError> {
        let high = self.hex4()?;
        if !(0xd800..0xdc00).contains(&high) {
            return Ok(char::from_u32(high).unwrap_or('\u{fffd}'));
        }
        if !self.text[self.at..].starts_with("\\u") {
            return Ok('\u{fffd}');
        }
        let back = self.at;
        self.at += 2;
        let low = self.hex4()?;
        if (0xdc00..0xe000).contains(&low) {
            return Ok(
                char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).unwrap_or('\u{fffd}')
            );
        }
        self.at = back;
        Ok('\u{fffd}')
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let number = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.error("four hex digits were expected"))?;
        self.at += 4;
        Ok(number)
    }
}

/// Writes a string as JSON, quotes included.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}

fn push_quoted(out: &mut String, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.push_str(&serde_json::Value::from(text).to_string());
        return;
    }
    out.push('"');
    out.push_str(text);
    out.push('"');
}

/// Writes an object from members whose values are already JSON text.
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut out = String::with_capacity(2_048);
    out.push('{');
    for (key, value) in members {
        if out.len() > 1 {
            out.push(',');
        }
        push_quoted(&mut out, key);
        out.push(':');
        out.push_str(&value);
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_duplicates_and_spelling_survive() {
        let node = parse(br#" {"id": 92356927693813856123, "a":1, "a": 2.50, "s":"\u00e9\ud83d\ude00\/"} "#)
            .unwrap();
        assert_eq!(node.get("id").unwrap().raw, "92356927693813856123");
        assert_eq!(node.get("a").unwrap().raw, "2.50");
        assert_eq!(node.as_object().unwrap().len(), 4);
        assert_eq!(node.get("s").unwrap().as_str(), Some("é😀/"));
    }

    #[test]
    fn what_is_quoted_reads_back() {
        for text in ["", "a b", "\"", "\\", "\n\u{1}", "é😀/\u{7f}", "</script>"] {
            assert_eq!(quote(text), serde_json::Value::from(text).to_string());
        }
        let members = [("a\"b", "1".to_owned()), ("c", quote("d"))];
        assert_eq!(object(members), r#"{"a\"b":1,"c":"d"}"#);
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for (bad, at) in [
            ("", 0),
            ("[1,]", 3),
            ("{\"a\" 1}", 5),
            ("01", 2),
            ("1.", 2),
            ("\"\\x\"", 3),
            ("\"a", 2),
            ("nul", 0),
            ("[1] 2", 4),
            ("\"\n\"", 1),
            ("{a:1}", 1),
            ("-", 1),
            ("1e", 2),
            ("\"\\u12g4\"", 3),
        ] {
            assert_eq!(parse(bad.as_bytes()).unwrap_err().at, at, "{bad}");
        }
        assert_eq!(parse(b"{\"a\":\"\xff\"}").unwrap_err().what, "the text is not UTF-8");
        assert!(parse("[".repeat(65).as_bytes()).unwrap_err().what.contains("deeper"));
        assert!(parse(format!("{}{}", "[".repeat(64), "]".repeat(64)).as_bytes()).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_a_value_or_a_reason(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn it_agrees_with_serde_json(text in r#"[\[\]{}:,"\\a-c0-9.eE+\- untrfals]{0,24}"#) {
            let ours = parse(text.as_bytes()).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            // serde_json refuses numbers beyond the range of a double; we keep their text.
            let agree = ours == theirs.is_ok() || theirs.is_err_and(|e| e.to_string().contains("out of range"));
            proptest::prop_assert!(agree, "{text}");
        }
    }
}
