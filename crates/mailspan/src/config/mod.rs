//! The configuration file: read whole, checked whole, every problem with its place and its mend.
//!
//! The order is: TOML with places (`tree`), variables over it (`env`), typed readings that report
//! and go on (`reader` and one file a section), and at the end the hub or all problems, drawn.

mod access;
mod asked;
mod certificate;
mod choice;
mod destinations;
mod echo;
mod endpoint;
mod env;
mod kinds;
mod limits;
mod mask;
pub mod programs;
mod reader;
mod report;
mod retry;
mod routes;
mod schema;
mod secrets;
mod server;
mod settings;
mod sign;
mod sources;
mod storage;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mailspan_core::Name;
use mailspan_core::limits::CONFIG_BYTES_MAX;

pub use report::Problems;
pub use secrets::read_file as secret_file;

use crate::hub::{Destination, Hub, Map, Role, Route, Source, Storage};
use reader::Reader;
use report::{Draft, Place, draw};
use tree::{Data, Node, Table};

/// What a reading depends on beside the file.
pub struct Options<'a> {
    /// Reads an environment variable; the configuration reads the environment nowhere else.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Names of the variables that are set and begin with `MAILSPAN_`: one that is unknown is a problem.
    pub names: &'a [String],
    /// Secrets in clear are taken (`--dev`), with a warning.
    pub dev: bool,
}

/// The JSON Schema of the file (draft 2020-12), for editors.
pub fn json_schema() -> serde_json::Value {
    schema::json_schema()
}

/// The commented example of the repository; a valid configuration.
pub fn example() -> &'static str {
    include_str!("../../../../mailspan.toml")
}

/// Reads a file of at most [`CONFIG_BYTES_MAX`] bytes. Relative paths are taken from its folder.
pub fn load(file: &Path, options: &Options) -> Result<Hub, Problems> {
    let name = file.display().to_string();
    let whole = |message: String, help: &str| {
        let draft = Draft { at: Place::Whole, message, help: Some(help.to_owned()) };
        draw(&name, "", vec![draft], &[])
    };
    let mut bytes = Vec::new();
    fs::File::open(file)
        .and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| whole(format!("cannot be read: {error}"), "name another file with --config FILE"))?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        let message = format!("has more than {} bytes", CONFIG_BYTES_MAX);
        return Err(whole(message, "a configuration is one TOML file; is this another one?"));
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let help = Some("save the file as UTF-8".to_owned());
            let draft = Draft { at: Place::File(at..at), message: "not UTF-8".to_owned(), help };
            return Err(draw(&name, &text, vec![draft], &[]));
        }
    };
    read(&name, file.parent().unwrap_or(Path::new("")), &text, options)
}

/// The SQLite file that a configuration names, whatever else is wrong with it: where the hub can be found that
/// still runs with an earlier text.
pub fn sqlite_file(file: &Path, options: &Options) -> Option<PathBuf> {
    let mut text = String::new();
    fs::File::open(file).ok()?.take(CONFIG_BYTES_MAX).read_to_string(&mut text).ok()?;
    let reader = Reader::new("", file.parent().unwrap_or(Path::new("")), &text, options);
    let mut root = tree::parse(&text).ok()?;
    env::apply(&reader, &mut root);
    let empty = Table::default();
    let table = match root.get("storage") {
        Some(node) => reader.table(node, "write [storage]")?,
        None => &empty,
    };
    match storage::storage(&reader, table)? {
        Storage::Sqlite { path } => Some(path),
        Storage::Postgres { .. } => None,
    }
}

/// Reads the text of a file that is shown as `file_name`.
pub fn read(file_name: &str, folder: &Path, text: &str, options: &Options) -> Result<Hub, Problems> {
    let reader = Reader::new(file_name, folder, text, options);
    let hub = match tree::parse(text) {
        Ok(mut root) => {
            env::apply(&reader, &mut root);
            hub(&reader, &root)
        }
        Err(broken) => {
            hide_odd_lines(&reader, &broken.drafts);
            reader.problems(broken.drafts);
            // Keys that stand twice leave a whole tree: what else is wrong with it is said too.
            if let Some(mut root) = broken.readable {
                env::apply(&reader, &mut root);
                hub(&reader, &root);
            }
            None
        }
    };
    let complete = hub.is_some() || reader.count() > 0;
    if !complete {
        // No section may fail in silence; this text says which promise was broken.
        reader.problem(
            &Place::Whole,
            "refused without a reason: this is a fault of mailspan",
            "please report it with the file",
        );
    }
    let warnings = reader.finish()?;
    match hub {
        Some(hub) => Ok(Hub { warnings, ..hub }),
        None => Err(Problems(Vec::new())),
    }
}

/// A line of broken TOML without a key may be the middle of a secret: it is not shown.
fn hide_odd_lines(reader: &Reader, drafts: &[Draft]) {
    let mut places: Vec<usize> = drafts
        .iter()
        .filter_map(|draft| if let Place::File(at) = &draft.at { Some(at.start) } else { None })
        .filter(|start| reader.text.is_char_boundary(*start))
        .collect();
    places.sort_unstable();
    let mut seen_to = None;
    for place in places {
        if seen_to.is_some_and(|end| place <= end) {
            continue;
        }
        let start = reader.text[..place].rfind('\n').map_or(0, |newline| newline + 1);
        let line = reader.text[start..].split('\n').next().unwrap_or_default();
        seen_to = Some(start + line.len());
        if is_odd(line) {
            reader.hide(&Place::File(start..start + line.len()));
        }
    }
}

fn is_odd(line: &str) -> bool {
    let keyed = line.split_once('=').is_some_and(|(key, value)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.\"' {,".contains(c);
        !key.trim().is_empty() && key.chars().all(plain) && !value.trim_matches(['=', ' ']).is_empty()
    });
    !keyed && !line.trim_start().starts_with('[')
}

fn hub(reader: &Reader, root: &Table) -> Option<Hub> {
    reader.known(root, "", settings::SECTIONS);
    let empty = Table::default();
    let section = |key: &str| match root.get(key) {
        Some(node) => reader.table(node, &format!("write [{key}]")).unwrap_or(&empty),
        None => &empty,
    };
    let named = |key: &str| match root.get(key) {
        Some(node) => reader.table(node, &format!("write [{key}.NAME]")).unwrap_or(&empty),
        None => &empty,
    };
    let server = server::server(reader, section("server"));
    let storage = storage::storage(reader, section("storage"));
    let store_keys = storage::keys(reader, section("storage"), storage.as_ref());
    if let (Some(server), Some(Storage::Sqlite { .. })) = (&server, &storage)
        && server.role != Role::All
        && let Some(node) = section("server").get("role")
    {
        let help = "leave it out, or name a PostgreSQL under [storage]: several processes can share that";
        reader.problem(&node.at, "one process serves a SQLite file, so it must do all", help);
    }
    let allow = server::egress(reader, section("egress"));
    let intake_queue = server::limits(reader, section("limits"));
    let retention = server::retention(reader, section("retention"));
    let ends = routes::Ends { sources: named("sources"), destinations: named("destinations") };
    let sources = sources::sources(reader, ends.sources, &allow);
    let mut destinations = destinations::destinations(reader, ends.destinations, ends.sources, &allow);
    let list: &[Node] = match root.get("routes") {
        Some(Node { data: Data::Table(_), at }) => {
            reader.problem(
                at,
                "`routes` is a table, not a list",
                "write [[routes]] with double brackets for each route",
            );
            &[]
        }
        Some(node) => reader.list(node, "write [[routes]] for each route").unwrap_or_default(),
        None => &[],
    };
    let (routes, made) = routes::routes(reader, list, &ends, &allow);
    idle(reader, &ends, &sources, &destinations, &routes);
    coalesces_nothing(reader, &ends, &destinations, &routes);
    destinations.extend(made);
    Some(Hub {
        file: Path::new(reader.file).to_owned(),
        dev: reader.options.dev,
        server: server?,
        storage: storage?,
        store_keys,
        egress_allow: allow,
        intake_queue: intake_queue?,
        retention: retention?,
        sources,
        destinations,
        routes,
        warnings: Vec::new(),
    })
}

/// Updates are coalesced, and a body that is sent as it is is none.
fn coalesces_nothing(
    reader: &Reader,
    ends: &routes::Ends,
    destinations: &[Arc<Destination>],
    routes: &[Arc<Route>],
) {
    let makes_updates = |route: &&Arc<Route>| matches!(route.map, Map::Crm | Map::Audience);
    let updated: HashSet<&Name> = routes.iter().filter(makes_updates).flat_map(|route| &route.to).collect();
    for destination in destinations.iter().filter(|one| one.limits.coalesces && one.kind.name == "http") {
        let Some(entry) = ends.destinations.entry(destination.name.as_str()) else { continue };
        if !updated.contains(&destination.name) {
            reader.warn(
                &entry.key_at,
                format_args!(
                    "`destinations.{}` has `coalesce`, and no route sends it updates: it does nothing without `map = \"crm\"` on a route",
                    entry.key
                ),
            );
        }
    }
}

/// Sources whose events go nowhere and destinations that get none: allowed, but seldom meant.
fn idle(
    reader: &Reader,
    ends: &routes::Ends,
    sources: &[Arc<Source>],
    destinations: &[Arc<Destination>],
    routes: &[Arc<Route>],
) {
    let takes_all: HashSet<&Name> =
        routes.iter().filter(|route| route.from.is_empty()).map(|route| &route.tenant).collect();
    let taken: HashSet<(&Name, &Name)> =
        routes.iter().flat_map(|route| route.from.iter().map(|from| (&route.tenant, from))).collect();
    for source in sources {
        if takes_all.contains(&source.tenant) || taken.contains(&(&source.tenant, &source.name)) {
            continue;
        }
        if let Some(entry) = ends.sources.entry(source.name.as_str()) {
            reader.warn(
                &entry.key_at,
                format_args!(
                    "no route takes from `sources.{}`: its events are kept as unmatched",
                    source.name
                ),
            );
        }
    }
    let reached: HashSet<&Name> = routes.iter().flat_map(|route| &route.to).collect();
    for destination in destinations.iter().filter(|to| !reached.contains(&to.name)) {
        if let Some(entry) = ends.destinations.entry(destination.name.as_str()) {
            reader.warn(&entry.key_at, format_args!("no route leads to `destinations.{}`", destination.name));
        }
    }
}
