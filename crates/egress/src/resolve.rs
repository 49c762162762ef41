//! From a host to addresses, every one of them judged.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;

use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use mailspan_core::{Lost, limits};
use tokio::sync::{Semaphore, oneshot};
use url::Host;

use crate::Allowance;
use crate::address::Address;
use crate::policy::{Denied, may_reach};
use crate::trouble::{refused, unsent};

/// Looks a name up with a port; the host's own resolver, or a table in tests.
pub(crate) type Lookup = Arc<
    dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync,
>;

pub(crate) struct Resolver {
    permits: Arc<Semaphore>,
    lookup: Lookup,
}

impl Resolver {
    pub fn new(lookup: Lookup) -> Resolver {
        Resolver { permits: Arc::new(Semaphore::new(limits::LOOKUPS_MAX)), lookup }
    }

    /// The addresses to dial: none is left out, and all may be reached.
    pub async fn addresses(&self, to: &Address, allow: &[Allowance]) -> Result<Vec<SocketAddr>, Lost> {
        match &to.host {
            Host::Domain(name) => judge_all(to, self.look_up(name.clone(), to.port).await?, allow),
            Host::Ipv4(_) | Host::Ipv6(_) => literal(to, allow),
        }
    }

    /// `getaddrinfo` cannot be cancelled: its permit stays with it when the caller has gone.
    async fn look_up(&self, name: String, port: u16) -> Result<Vec<SocketAddr>, Lost> {
        let closed = || unsent("dns", "the resolver has ended");
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let (tell, told) = oneshot::channel();
        let lookup = (self.lookup)(name.clone(), port);
        TokioExecutor::new().execute(async move {
            // Nobody listens any more when the deadline has passed.
            let _ = tell.send(lookup.await);
            drop(permit);
        });
        let result = told.await.map_err(|_| closed())?;
        let found = result.map_err(|error| unsent("dns", format!("`{name}` cannot be resolved: {error}")))?;
        if found.is_empty() {
            return Err(unsent("dns", format!("`{name}` has no address")));
        }
        Ok(found)
    }
}

/// An address that is written out is judged like one that was looked up; a name is not judged here.
pub(crate) fn literal(to: &Address, allow: &[Allowance]) -> Result<Vec<SocketAddr>, Lost> {
    let ip = match &to.host {
        Host::Ipv4(ip) => IpAddr::V4(*ip),
        Host::Ipv6(ip) => IpAddr::V6(*ip),
        Host::Domain(_) => return Ok(Vec::new()),
    };
    judge_all(to, vec![SocketAddr::new(ip, to.port)], allow)
}

/// The host's resolver.
pub(crate) fn system() -> Lookup {
    Arc::new(|name, port| Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) }))
}

/// One bad address among good ones refuses the name: which one is dialled would be the name owner's choice.
fn judge_all(to: &Address, found: Vec<SocketAddr>, allow: &[Allowance]) -> Result<Vec<SocketAddr>, Lost> {
    let mut vetted: Vec<SocketAddr> = Vec::with_capacity(found.len());
    for address in found {
        let address = SocketAddr::new(address.ip().to_canonical(), to.port);
        judge(to, address, allow)?;
        if !vetted.contains(&address) && vetted.len() < limits::DIALS_MAX {
            vetted.push(address);
        }
    }
    Ok(vetted)
}

fn judge(to: &Address, address: SocketAddr, allow: &[Allowance]) -> Result<(), Lost> {
    if let Err(denied) = may_reach(address.ip(), address.port(), allow) {
        return Err(refusal(to, address, &denied.to_string()));
    }
    let named = allow.iter().any(|allowance| allowance.covers(address.ip(), address.port()));
    if !named && is_own(address.ip()) {
        return Err(refusal(to, address, "an address of this machine"));
    }
    Ok(())
}

/// The kernel sends to its own address from that same address. Nothing is sent by this.
fn is_own(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let chosen = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    chosen.is_ok_and(|local| local.ip() == ip)
}

fn refusal(to: &Address, address: SocketAddr, what: &str) -> Lost {
    let shown = match &to.host {
        Host::Domain(name) => format!("`{name}` resolves to {}, which is {what}", address.ip()),
        Host::Ipv4(_) | Host::Ipv6(_) => format!("{} is {what}", address.ip()),
    };
    let text = format!("{shown}; if it is meant, allow it: [egress] allow = [\"{address}\"]");
    refused("refused_address", text)
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.what, self.net)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, found: &[&str], allow: &[&str]) -> Result<Vec<SocketAddr>, Lost> {
        let to = crate::address::address(&format!("http://{name}:8080/"), "").unwrap();
        let allow: Vec<_> = allow.iter().map(|text| Allowance::parse(text).unwrap()).collect();
        let found = found.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 8080)).collect();
        judge_all(&to, found, &allow)
    }

    #[test]
    fn one_bad_address_refuses_the_name() {
        let lost = judged("crm.example", &["93.184.215.14", "10.0.0.5"], &[]).unwrap_err();
        assert!(lost.refused && !lost.sent);
        assert_eq!(lost.why.code, "refused_address");
        assert_eq!(
            lost.why.text,
            "`crm.example` resolves to 10.0.0.5, which is a private address (10.0.0.0/8); \
             if it is meant, allow it: [egress] allow = [\"10.0.0.5:8080\"]"
        );
    }

    #[test]
    fn literals_and_localhost_are_judged_by_address() {
        assert!(judged("[::1]", &["::1"], &[]).unwrap_err().why.text.contains("allow = [\"[::1]:8080\"]"));
        assert!(judged("localhost", &["127.0.0.1"], &[]).is_err());
        assert!(judged("localhost", &["127.0.0.1"], &["127.0.0.1:8080"]).is_ok());
        assert!(judged("localhost", &["127.0.0.1", "::1"], &["127.0.0.1:8080"]).is_err());
    }

    #[test]
    fn what_is_dialled_is_what_was_judged() {
        let many: Vec<String> = (0..40).map(|n| format!("93.184.215.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).chain(["93.184.215.1"]).collect();
        assert_eq!(judged("a.example", &many, &[]).unwrap().len(), limits::DIALS_MAX);
        let mapped = judged("a.example", &["::ffff:93.184.215.14"], &[]).unwrap();
        assert_eq!(mapped, vec!["93.184.215.14:8080".parse().unwrap()]);
        // A bad one behind those that would be dialled still refuses.
        let mut late = many.clone();
        late.push("127.0.0.1");
        assert!(judged("a.example", &late, &[]).is_err());
    }

    #[test]
    fn the_own_address_is_seen() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(!is_own("93.184.215.14".parse().unwrap()));
    }
}
