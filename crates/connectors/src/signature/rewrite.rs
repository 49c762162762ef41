//! Bodies as proxies, parsers and serialisers write them anew.

use mailspan_core::json;

/// What is done to bodies: written anew as JSON, ends of lines, a byte-order mark, another charset.
pub fn bodies(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut bodies = lines(body);
    if let Ok(node) = json::parse(body) {
        for (how, style) in STYLES {
            let mut out = String::with_capacity(body.len() + body.len() / 4);
            write(&node, style, 0, &mut out);
            bodies.push((how, out.into_bytes()));
        }
    }
    bodies.retain(|(_, other)| other != body);
    bodies
}

fn lines(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let mut bodies = vec![
        ("with a line end (\\n) after the body", [body, b"\n"].concat()),
        ("with a line end (\\r\\n) after the body", [body, b"\r\n"].concat()),
        ("without the white space around the body", body.trim_ascii().to_vec()),
        ("with a byte-order mark before the body", [MARK, body].concat()),
        ("without the byte-order mark before the body", body.strip_prefix(MARK).unwrap_or(body).to_vec()),
    ];
    if let Ok(text) = std::str::from_utf8(body) {
        let plain = text.replace("\r\n", "\n");
        bodies.push(("with \\r\\n for \\n in the body", plain.replace('\n', "\r\n").into_bytes()));
        bodies.push(("with \\n for \\r\\n in the body", plain.into_bytes()));
        let latin: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        bodies.extend(latin.map(|latin| ("with the body in Latin-1", latin)));
    }
    bodies
}

/// How a serialiser writes JSON.
#[derive(Clone, Copy)]
struct Style {
    /// After a comma, after a colon.
    blanks: bool,
    /// Blanks a level; 0: one line.
    indent: usize,
    /// Other characters than ASCII as `\uXXXX`.
    ascii: bool,
    /// `/` as `\/`.
    slashes: bool,
    sorted: bool,
}

const COMPACT: Style = Style { blanks: false, indent: 0, ascii: false, slashes: false, sorted: false };

const STYLES: [(&str, Style); 9] = [
    ("the body as compact JSON", COMPACT),
    ("the body as compact JSON in ASCII", Style { ascii: true, ..COMPACT }),
    ("the body as JSON with blanks, as Python writes it", Style { blanks: true, ascii: true, ..COMPACT }),
    ("the body as JSON with blanks", Style { blanks: true, ..COMPACT }),
    ("the body as JSON, as PHP writes it", Style { ascii: true, slashes: true, ..COMPACT }),
    ("the body as JSON with two blanks a level", Style { indent: 2, ..COMPACT }),
    ("the body as JSON with four blanks a level", Style { indent: 4, ascii: true, ..COMPACT }),
    ("the body as compact JSON with sorted keys", Style { sorted: true, ..COMPACT }),
    (
        "the body as JSON with blanks and sorted keys",
        Style { sorted: true, blanks: true, ascii: true, ..COMPACT },
    ),
];

fn write(node: &json::Node, style: Style, depth: usize, out: &mut String) {
    match &node.value {
        json::Value::String(text) => string(text, style, out),
        json::Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                between(at, style, depth + 1, out);
                write(item, style, depth + 1, out);
            }
            end(items.is_empty(), ']', style, depth, out);
        }
        json::Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            if style.sorted {
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
            }
            out.push('{');
            for (at, (key, value)) in members.iter().enumerate() {
                between(at, style, depth + 1, out);
                string(key, style, out);
                out.push_str(if style.blanks || style.indent > 0 { ": " } else { ":" });
                write(value, style, depth + 1, out);
            }
            end(members.is_empty(), '}', style, depth, out);
        }
        _ => out.push_str(node.raw),
    }
}

fn between(at: usize, style: Style, depth: usize, out: &mut String) {
    if at > 0 {
        out.push(',');
    }
    if style.indent > 0 {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', style.indent * depth));
    } else if at > 0 && style.blanks {
        out.push(' ');
    }
}

fn end(empty: bool, close: char, style: Style, depth: usize, out: &mut String) {
    if style.indent > 0 && !empty {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', style.indent * depth));
    }
    out.push(close);
}

fn string(text: &str, style: Style, out: &mut String) {
    let quoted = json::quote(text);
    if !style.ascii && !style.slashes {
        return out.push_str(&quoted);
    }
    for c in quoted.chars() {
        match c {
            '/' if style.slashes => out.push_str("\\/"),
            c if style.ascii && !c.is_ascii() => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            c => out.push(c),
        }
    }
}
