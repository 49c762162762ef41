//! A request without what it says of one person.

use mailspan_core::json::{self, Node, Value};

use super::words::{ERASED_MARK, Words};
use crate::rows::RequestRow;

/// Stands in a list where an element was, so that the others keep their place.
const ERASED_ELEMENT: &str = r#"{"erased":true}"#;

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Somebody's: what names the person goes.
    Anybodys,
    /// An event of the person was read from this place of it.
    Theirs { part: usize },
}

/// True where something was taken out.
pub(crate) fn request(request: &mut RequestRow, words: &Words, whose: Whose) -> bool {
    let own = whose != Whose::Anybodys;
    let mut changed = false;
    for text in [&mut request.path, &mut request.query] {
        let in_name = || words.cut_anywhere(text).filter(|_| own);
        if let Some(kept) = words.cut(text, own).or_else(in_name) {
            *text = kept;
            changed = true;
        }
    }
    // Senders make names of their own there: `delivery-ann@x.org`.
    for (_, value) in &mut request.headers {
        if let Some(kept) = words.cut_loosely(value, own) {
            *value = kept;
            changed = true;
        }
    }
    if let Some(kept) = body(&request.body, words, whose) {
        request.body = kept;
        changed = true;
    }
    changed
}

/// What remains of a body; nothing where nothing has to go.
pub(crate) fn body(body: &[u8], words: &Words, whose: Whose) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(body);
    let kept = match json::parse(text.as_bytes()) {
        Ok(node) => document(&node, words, whose),
        Err(_) => lines(&text, words, whose),
    };
    kept.map(String::into_bytes)
}

/// The one element of a list that an event was read from; the whole body where it is no list.
pub fn element_of(body: &[u8], part: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    match json::parse(text.as_bytes()) {
        Ok(node) => match list_of(&node) {
            Some(list) => list.get(part).map_or(vec![], |one| one.raw.as_bytes().to_vec()),
            None => body.to_vec(),
        },
        Err(_) if text.trim_end().contains('\n') => {
            text.split('\n').nth(part).unwrap_or_default().as_bytes().to_vec()
        }
        Err(_) => body.to_vec(),
    }
}

/// True where no other event can have been read from it.
pub(crate) fn is_of_one(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    match json::parse(text.as_bytes()) {
        Ok(node) => list_of(&node).is_none_or(|list| list.len() <= 1),
        Err(_) => !text.trim_end().contains('\n'),
    }
}

/// Of a list the elements that name the person, for what was not read from one place of it; the whole body where it is
/// no list.
pub fn elements_naming(body: &[u8], words: &Words) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let parsed = json::parse(text.as_bytes()).ok();
    let parts: Vec<&str> = match &parsed {
        Some(node) => match list_of(node) {
            Some(list) => list.iter().map(|one| one.raw).collect(),
            None => return vec![text.into_owned()],
        },
        None if text.trim_end().contains('\n') => text.split('\n').collect(),
        None => return vec![text.into_owned()],
    };
    parts.into_iter().filter(|part| words.stands_in(part, false)).map(str::to_owned).collect()
}

fn document(node: &Node, words: &Words, whose: Whose) -> Option<String> {
    match (whose, list_of(node)) {
        // The whole of it is about the person.
        (Whose::Theirs { .. }, None) => Some(ERASED_ELEMENT.to_owned()),
        (Whose::Theirs { part }, Some(list)) => {
            let of_part = |at: usize, element: &Node| at == part && words.stands_in(element.raw, true);
            let marked = list.iter().enumerate().any(|(at, element)| of_part(at, element));
            match marked {
                true => Some(rebuilt(node, list, &|at, element| {
                    of_part(at, element).then(|| ERASED_ELEMENT.to_owned()).or_else(|| pruned(element, words))
                })),
                false => pruned(node, words),
            }
        }
        (Whose::Anybodys, _) => pruned(node, words),
    }
}

/// The list that a request is: the document itself, or the one list of objects in it.
fn list_of<'a, 'b>(node: &'a Node<'b>) -> Option<&'a [Node<'b>]> {
    let is_list =
        |node: &Node| node.as_array().is_some_and(|list| list.iter().any(|one| one.as_object().is_some()));
    if let Some(list) = node.as_array() {
        return Some(list);
    }
    let mut lists = node.as_object()?.iter().filter(|(_, node)| is_list(node));
    let (first, another) = (lists.next(), lists.next());
    first.filter(|_| another.is_none()).and_then(|(_, node)| node.as_array())
}

/// The document with each element of the list as `keep` says.
fn rebuilt(node: &Node, list: &[Node], keep: &dyn Fn(usize, &Node) -> Option<String>) -> String {
    let elements: Vec<String> = list
        .iter()
        .enumerate()
        .map(|(at, one)| keep(at, one).unwrap_or_else(|| one.raw.to_owned()))
        .collect();
    let elements = format!("[{}]", elements.join(","));
    match &node.value {
        Value::Object(members) => {
            let kept = members.iter().map(|(name, member)| {
                let is_list = member.as_array().is_some_and(|own| std::ptr::eq(own, list));
                (name.as_ref(), if is_list { elements.clone() } else { member.raw.to_owned() })
            });
            json::object(kept)
        }
        _ => elements,
    }
}

/// An object that names the person by a text of its own goes whole; one that only holds such an object keeps the
/// rest.
fn pruned(node: &Node, words: &Words) -> Option<String> {
    if !words.stands_in(node.raw, false) {
        return None;
    }
    match &node.value {
        Value::Array(list) => {
            let kept: Vec<String> =
                list.iter().map(|one| pruned(one, words).unwrap_or_else(|| one.raw.to_owned())).collect();
            Some(format!("[{}]", kept.join(",")))
        }
        Value::Object(members) => {
            let is_deep = |node: &Node| matches!(node.value, Value::Object(_) | Value::Array(_));
            let names = members.iter().any(|(name, member)| {
                words.stands_in(name, false) || !is_deep(member) && words.stands_in(member.raw, false)
            });
            if names {
                return Some(ERASED_ELEMENT.to_owned());
            }
            let kept = members.iter().map(|(name, member)| {
                (name.as_ref(), pruned(member, words).unwrap_or_else(|| member.raw.to_owned()))
            });
            Some(json::object(kept))
        }
        _ => Some(json::quote(ERASED_MARK)),
    }
}

/// No JSON: lines of it, or of something else.
fn lines(text: &str, words: &Words, whose: Whose) -> Option<String> {
    let own = whose != Whose::Anybodys;
    if !text.trim_end().contains('\n') {
        let stands = own && !text.is_empty() || words.stands_in(text, false);
        return stands.then(|| ERASED_MARK.to_owned());
    }
    if !words.stands_in(text, own) {
        return None;
    }
    let kept = text.split('\n').enumerate().map(|(at, line)| {
        let is_part = matches!(whose, Whose::Theirs { part } if part == at);
        let stands = words.stands_in(line, is_part);
        if stands { ERASED_MARK } else { line }
    });
    Some(kept.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, whose: Whose, expected: Option<&str>) {
        let words = Words::new(&["ann@x.org".to_owned()], &["17".to_owned()]);
        let kept = body(text.as_bytes(), &words, whose);
        assert_eq!(kept.as_deref().map(String::from_utf8_lossy).as_deref(), expected, "{text}");
    }

    #[test]
    fn others_stay_to_the_letter() {
        let theirs = |part| Whose::Theirs { part };
        check(
            r#"[{"r":"bob@x.org","n":1.50},{"r":"Ann@x.org"}]"#,
            Whose::Anybodys,
            Some(r#"[{"r":"bob@x.org","n":1.50},{"erased":true}]"#),
        );
        check(
            r#"{"contacts":[{"email":"b@x.org","n":17},{"externalId":"17"}],"k": 1}"#,
            theirs(1),
            Some(r#"{"contacts":[{"email":"b@x.org","n":17},{"erased":true}],"k":1}"#),
        );
        check(
            r#"{"recipient":"b@x.org","meta":{"by":"ann@x.org","n":1}}"#,
            Whose::Anybodys,
            Some(r#"{"recipient":"b@x.org","meta":{"erased":true}}"#),
        );
        check(r#"{"email":"nobody","first":"Ann"}"#, theirs(0), Some(r#"{"erased":true}"#));
        check("email=ann%40x.org&n=1", Whose::Anybodys, Some("[erased]"));
        check("a,b\nann@x.org,1\nbob@x.org,17", Whose::Anybodys, Some("a,b\n[erased]\nbob@x.org,17"));
        check(r#"[{"r":"bob@x.org","n":17}]"#, Whose::Anybodys, None);
        check("", theirs(0), None);
    }
}
