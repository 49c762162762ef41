//! `[server] tls`: the hub's own certificate.

use std::path::PathBuf;
use std::sync::Arc;

use super::endpoint::pem;
use super::reader::Reader;
use super::settings::{TLS, names};
use super::tree::{Data, Node};
use crate::http::own_tls::{OwnCertificate, Pem, Unfit};

const HELP: &str = "write tls = { cert = { file = \"hub.pem\" }, key = { file = \"hub.key\" } }";

/// `tls = { cert = { file = "…" }, key = { file = "…" } }`, fit to be shown: both can be read, and belong
/// together.
pub fn own(reader: &Reader, node: &Node) -> Option<Arc<OwnCertificate>> {
    const PLACE: &str = "server.tls";
    let table = reader.table(node, HELP)?;
    reader.known(table, PLACE, &names(TLS));
    let cert = reader.required(table, &node.at, "cert", PLACE, "cert = { file = \"hub.pem\" }");
    let key = reader.required(table, &node.at, "key", PLACE, "key = { file = \"hub.key\" }");
    let part = |node: &Node, key: &str| {
        let text = pem(reader, node, &format!("{PLACE}.{key}"))?;
        Some(Pem { text, file: file_of(reader, node) })
    };
    let chain = cert.and_then(|node| part(node, "cert"));
    let secret = key.and_then(|node| part(node, "key"));
    let (unfit, at) = match OwnCertificate::new(chain?, secret?) {
        Ok(own) => return Some(Arc::new(own)),
        Err(unfit @ Unfit::Chain(_)) => (unfit, &cert?.at),
        Err(unfit @ Unfit::Key(_)) => (unfit, &key?.at),
    };
    let text = unfit.to_string();
    let (message, help) = text.split_once(": ").unwrap_or((&text, HELP));
    reader.problem(at, message, help);
    None
}

/// Of a reference to a file: where that is.
fn file_of(reader: &Reader, node: &Node) -> Option<PathBuf> {
    let Data::Table(table) = &node.data else { return None };
    match &table.get("file")?.data {
        Data::Text(name) => Some(reader.folder.join(name)),
        _ => None,
    }
}
