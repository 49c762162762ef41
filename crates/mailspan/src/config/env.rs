//! `MAILSPAN_SECTION_KEY` variables that stand over the file: one for each setting that stands in no named table.

use super::reader::{Reader, nearest};
use super::report::Place;
use super::settings::{EGRESS, LIMITS, RETENTION, SERVER, STORAGE, Setting, Shape};
use super::tree::{Data, Entry, Node, Table};

const PREFIX: &str = "MAILSPAN_";

/// Sections without names of the user's choosing.
const SECTIONS: [(&str, &[Setting]); 5] = [
    ("server", SERVER),
    ("storage", STORAGE),
    ("egress", EGRESS),
    ("limits", LIMITS),
    ("retention", RETENTION),
];

/// Read elsewhere: by the command line, the log, the sandbox.
const OTHERS: [&str; 10] = [
    "MAILSPAN_API_KEY",
    "MAILSPAN_BENCH_STORE",
    "MAILSPAN_CONFIG",
    "MAILSPAN_LOG",
    "MAILSPAN_LOG_FORMAT",
    "MAILSPAN_MOVE_FROM",
    "MAILSPAN_MOVE_TO",
    "MAILSPAN_SANDBOX_API_KEY",
    "MAILSPAN_SANDBOX_SECRET",
    "MAILSPAN_SANDBOX_TOKEN",
];

/// Of tests, which start the program with what they were started with.
const OF_TESTS: [&str; 13] = [
    "MAILSPAN_BLESS",
    "MAILSPAN_BODY_MS",
    "MAILSPAN_CLOCK_FILE",
    "MAILSPAN_CRASH_",
    "MAILSPAN_DRIPS",
    "MAILSPAN_HEAD_MS",
    "MAILSPAN_POISON_SUBJECT",
    "MAILSPAN_POISON_ANSWER",
    "MAILSPAN_RECOVERY_",
    "MAILSPAN_SHIM_",
    "MAILSPAN_SIM_",
    "MAILSPAN_TEST_",
    "MAILSPAN_WRITE_STORES",
];

/// A setting that a variable can set.
pub struct Override {
    pub variable: String,
    section: &'static str,
    key: &'static str,
    shape: Shape,
}

/// All of them; `docs/CONFIGURATION.md` lists the same. Secrets and tables of them are not among them: they are references.
pub fn overrides() -> Vec<Override> {
    let of = |(section, settings): (&'static str, &'static [Setting])| {
        let closed = |set: &&Setting| matches!(set.shape, Shape::Secret | Shape::Secrets | Shape::Table(_));
        let open = settings.iter().filter(move |set| !closed(set));
        open.map(move |setting| Override {
            variable: format!("{PREFIX}{section}_{}", setting.name).to_uppercase(),
            section,
            key: setting.name,
            shape: setting.shape,
        })
    };
    // Another name for a setting that differs between processes of one image.
    let role = |set: &Override| set.section == "server" && set.key == "role";
    let mut all: Vec<Override> = SECTIONS.into_iter().flat_map(of).collect();
    let shape = all.iter().find(|set| role(set)).map(|set| set.shape);
    all.extend(shape.map(|shape| Override {
        variable: "MAILSPAN_ROLE".to_owned(),
        section: "server",
        key: "role",
        shape,
    }));
    all
}

/// Puts the variables that are set into the tree; from there on they are read like the file. A variable that
/// begins like them and is none is a problem: its setting would be forgotten in silence.
pub fn apply(reader: &Reader, root: &mut Table) {
    let all = overrides();
    for set in &all {
        if let Some(text) = (reader.options.env)(&set.variable) {
            put(root, set, &text);
        }
    }
    let mut names = reader.options.names.to_vec();
    names.sort_unstable();
    for name in names {
        let known = !name.starts_with(PREFIX)
            || all.iter().any(|set| set.variable == name)
            || OTHERS.contains(&name.as_str())
            || OF_TESTS.iter().any(|of_tests| name.starts_with(of_tests))
            || root.entries.iter().any(|entry| refers(&entry.node, &name));
        if !known {
            reader.problem(&Place::Env(name.clone()), "no setting has this variable", help(&name, &all));
        }
    }
}

/// The nearest name; compared without what they all begin with.
fn help(name: &str, all: &[Override]) -> String {
    let short = |name: &str| name.trim_start_matches(PREFIX).to_lowercase();
    let variables = all.iter().map(|set| set.variable.as_str()).chain(OTHERS);
    let shorts: Vec<String> = variables.map(short).collect();
    let near = nearest(&short(name), &shorts.iter().map(String::as_str).collect::<Vec<_>>());
    match near {
        Some(near) => format!("did you mean `{PREFIX}{}`?", near.to_uppercase()),
        None => "docs/CONFIGURATION.md lists them; unset it, or give it another name".to_owned(),
    }
}

/// `{ env = "NAME" }` anywhere: a secret may have any name.
fn refers(node: &Node, name: &str) -> bool {
    match &node.data {
        Data::List(list) => list.iter().any(|node| refers(node, name)),
        Data::Table(table) => table.entries.iter().any(|entry| match &entry.node.data {
            Data::Text(text) => entry.key == "env" && text == name,
            _ => refers(&entry.node, name),
        }),
        _ => false,
    }
}

fn put(root: &mut Table, set: &Override, text: &str) {
    let at = Place::Env(set.variable.clone());
    let node = Node { at: at.clone(), data: data(set.shape, text, &at) };
    if !root.has(set.section) {
        let node = Node { at: at.clone(), data: Data::Table(Table::default()) };
        root.put(Entry { key: set.section.to_owned(), key_at: at.clone(), node });
    }
    // A section that is no table is reported when it is read.
    if let Some(Entry { node: Node { data: Data::Table(table), .. }, .. }) = root.entry_mut(set.section) {
        table.put(Entry { key: set.key.to_owned(), key_at: at, node });
    }
}

/// The value as the file would have it: a number without quotes, a list by commas. What does not fit stays text, and
/// whoever reads it says so.
fn data(shape: Shape, text: &str, at: &Place) -> Data {
    let as_text = || Data::Text(text.to_owned());
    match shape {
        Shape::Number => text.trim().parse().map_or_else(|_| as_text(), |number| Data::Integer(Some(number))),
        Shape::Flag => text.trim().parse().map_or_else(|_| as_text(), Data::Flag),
        Shape::Texts => {
            let one = |text: &str| Node { at: at.clone(), data: Data::Text(text.trim().to_owned()) };
            Data::List(text.split(',').filter(|text| !text.trim().is_empty()).map(one).collect())
        }
        _ => as_text(),
    }
}
