//! Who is at the other end: the connection's address, or what a trusted proxy says of it.

use std::net::IpAddr;

use axum::http::request::Parts;
use ipnet::IpNet;

use crate::http::server::Peer;

/// The client's address. `X-Forwarded-For` is read from the right, as long as who wrote an entry is a
/// trusted proxy; what stands left of the first stranger is that stranger's claim and is not read.
pub fn client(parts: &Parts, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip())?;
    let forwarded = parts.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    Some(behind(peer, &forwarded.collect::<Vec<_>>(), trusted))
}

/// A mark in the extensions of a request: its connection is the hub's own TLS.
#[derive(Debug, Clone, Copy)]
pub struct OwnTls;

/// True where nobody between the sender and the hub could read along: the hub's own TLS, a trusted proxy
/// that says `https` (where it says `http`, its own TLS to the hub changes nothing), the command socket, or loopback under `--dev`.
pub fn is_secure(parts: &Parts, hub: &crate::hub::Hub) -> bool {
    let own = parts.extensions.get::<OwnTls>().is_some();
    let Some(peer) = parts.extensions.get::<Peer>().map(|peer| peer.0.ip().to_canonical()) else {
        return true;
    };
    if hub.server.trusted_proxies.iter().any(|net| net.contains(&peer)) {
        // The nearest proxy wrote the last one.
        let said = parts.headers.get_all("x-forwarded-proto").iter().next_back();
        let Some(said) = said else { return own };
        let said = said.to_str().unwrap_or_default();
        return said.rsplit(',').next().is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"));
    }
    own || hub.dev && peer.is_loopback()
}

fn behind(peer: IpAddr, forwarded: &[&str], trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(&address.to_canonical()));
    let mut client = peer;
    let entries = forwarded.iter().flat_map(|value| value.split(',')).collect::<Vec<_>>();
    for entry in entries.iter().rev() {
        if !is_trusted(&client) {
            return client;
        }
        match entry.trim().parse() {
            Ok(address) => client = address,
            Err(_) => return client,
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, forwarded: &[&str], trusted: &[&str], expected: &str) {
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        assert_eq!(behind(peer.parse().unwrap(), forwarded, &trusted).to_string(), expected);
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        check("203.0.113.9", &["1.2.3.4"], &[], "203.0.113.9");
        check("10.0.0.1", &["1.2.3.4"], &["10.0.0.0/8"], "1.2.3.4");
        check("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], &["10.0.0.0/8"], "1.2.3.4");
        check("10.0.0.1", &["6.6.6.6", "1.2.3.4"], &["10.0.0.0/8"], "1.2.3.4");
        check("10.0.0.1", &["nonsense"], &["10.0.0.0/8"], "10.0.0.1");
        check("10.0.0.1", &[], &["10.0.0.0/8"], "10.0.0.1");
    }
}
