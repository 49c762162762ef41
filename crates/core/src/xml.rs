//! As much of XML 1.0 as mailing platforms speak: elements, attributes, text, CDATA, the five entities and
//! numbers. Anything else is passed over; any bytes give a tree or nothing. No entity is ever looked up.

/// Deeper elements are passed over.
const DEPTH_MAX: usize = 16;
/// Elements of one document: a report of a thousand contacts has some six thousand.
const ELEMENTS_MAX: usize = 50_000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The trimmed text of a child; nothing where it is empty.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim()).filter(|text| !text.is_empty())
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The root element; nothing where there is none.
pub fn parse(bytes: &[u8]) -> Option<Element> {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = &*text;
    let mut open: Vec<Element> = Vec::new();
    let mut count = 0;
    while let Some(at) = rest.find('<') {
        if let Some(current) = open.last_mut() {
            current.text.push_str(&unescaped(&rest[..at]));
        }
        rest = &rest[at..];
        if let Some(data) = rest.strip_prefix("<![CDATA[") {
            let end = data.find("]]>")?;
            if let Some(current) = open.last_mut() {
                current.text.push_str(&data[..end]);
            }
            rest = &data[end + 3..];
        } else if let Some(comment) = rest.strip_prefix("<!--") {
            rest = &comment[comment.find("-->")? + 3..];
        } else if rest.starts_with("<!") || rest.starts_with("<?") {
            rest = &rest[rest.find('>')? + 1..];
        } else {
            let end = rest.find('>')?;
            let (tag, after) = (&rest[1..end], &rest[end + 1..]);
            rest = after;
            count += 1;
            let done = match tag.strip_prefix('/') {
                Some(_) => close(&mut open),
                None if count > ELEMENTS_MAX || open.len() == DEPTH_MAX => return None,
                None => {
                    open.push(element(tag.trim_end_matches('/')));
                    if tag.ends_with('/') { close(&mut open) } else { None }
                }
            };
            if done.is_some() {
                return done;
            }
        }
    }
    None
}

/// Ends the innermost element; the root, where it was that.
fn close(open: &mut Vec<Element>) -> Option<Element> {
    let ended = open.pop()?;
    match open.last_mut() {
        Some(parent) => {
            parent.children.push(ended);
            None
        }
        None => Some(ended),
    }
}

fn element(tag: &str) -> Element {
    let (name, mut rest) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
    let mut attributes = Vec::new();
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let Some(quote) = after.chars().next().filter(|c| matches!(c, '"' | '\'')) else { break };
        let Some((value, more)) = after[1..].split_once(quote) else { break };
        attributes.push((key.trim().to_owned(), unescaped(value)));
        rest = more;
    }
    Element { name: name.to_owned(), attributes, ..Element::default() }
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match rest.find(';').filter(|end| *end <= 10).and_then(|end| Some((entity(&rest[1..end])?, end))) {
            Some((c, end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

/// Text as it stands in an element. What XML 1.0 has no place for (2.2) is left out.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\t' | '\n' | '\r' => out.push(c),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c < ' ' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read() {
        let text = "<?xml version=\"1.0\"?><!-- x --><report a='1' b=\"&lt;\"><id>17</id><e/>\
            <m><![CDATA[a<b]]> &amp; &#x63;&#100;&nope;</m></report>";
        let root = parse(text.as_bytes()).expect("a tree");
        assert_eq!(
            (root.name.as_str(), root.attribute("a"), root.attribute("b")),
            ("report", Some("1"), Some("<"))
        );
        assert_eq!(root.text_of("id"), Some("17"));
        assert_eq!(root.text_of("m"), Some("a<b & cd&nope;"));
        assert_eq!(root.text_of("e"), None);
        for bad in ["", "text", "<a>", "<a", "<a><![CDATA[x</a>", "<!-- ", "</a>", "&", "<a b></a", "<é"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse("<a>".repeat(40).as_bytes()), None);
    }

    #[test]
    fn what_was_escaped_is_read_again() {
        let text = "a<b>&amp;\"' é\u{1}";
        let root = parse(format!("<a>{}</a>", escaped(text)).as_bytes()).expect("a tree");
        assert_eq!(root.text, text.replace('\u{1}', ""));
    }
}
