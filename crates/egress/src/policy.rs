//! Which addresses may be reached: pure, a table as data. Judged is the address, never its text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::Allowance;

/// Why an address may not be reached: the range it is in, and what that range is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    pub net: IpNet,
    pub what: &'static str,
}

/// Only global unicast addresses may be reached, unless an allowance names address and port.
/// IPv6 addresses that carry an IPv4 address are judged by that one.
pub fn may_reach(ip: IpAddr, port: u16, allow: &[Allowance]) -> Result<(), Denied> {
    let ip = ip.to_canonical();
    if allow.iter().any(|allowance| allowance.covers(ip, port)) {
        return Ok(());
    }
    match ip {
        IpAddr::V4(ip) => judge4(ip),
        IpAddr::V6(ip) => judge6(ip),
    }
}

fn judge4(ip: Ipv4Addr) -> Result<(), Denied> {
    match DENIED4.iter().find(|(net, _)| net.contains(&ip)) {
        Some((net, what)) => Err(Denied { net: IpNet::V4(*net), what }),
        None => Ok(()),
    }
}

fn judge6(ip: Ipv6Addr) -> Result<(), Denied> {
    if NAT64.contains(&ip) {
        return judge4(low32(ip));
    }
    if let Some((net, what)) = DENIED6.iter().find(|(net, _)| net.contains(&ip)) {
        return Err(Denied { net: IpNet::V6(*net), what });
    }
    if !GLOBAL6.contains(&ip) {
        return Err(Denied { net: IpNet::V6(ALL6), what: "not a global unicast address" });
    }
    if is_isatap(ip) {
        return judge4(low32(ip));
    }
    Ok(())
}

fn low32(ip: Ipv6Addr) -> Ipv4Addr {
    let bytes = ip.octets();
    Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15])
}

/// RFC 5214, 6.1: the interface identifier is `0000:5efe` or `0200:5efe`, then the IPv4 address.
fn is_isatap(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    segments[4] & !0x0200 == 0 && segments[5] == 0x5efe
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

/// RFC 6052: the address behind the translator is the one that counts.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
const GLOBAL6: Ipv6Net = v6(0x2000, 0, 0, 3);
const ALL6: Ipv6Net = v6(0, 0, 0, 0);

/// IANA's registry of special-purpose IPv4 addresses (RFC 6890 and updates), and one of a cloud.
pub const DENIED4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "this host on this network"),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "a shared address behind a carrier's NAT"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(169, 254, 0, 0, 16), "a link-local address; clouds keep their metadata there"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "an address of protocol assignments"),
    (v4(192, 0, 2, 0, 24), "a documentation address"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(198, 18, 0, 0, 15), "a benchmarking address"),
    (v4(198, 51, 100, 0, 24), "a documentation address"),
    (v4(203, 0, 113, 0, 24), "a documentation address"),
    (v4(168, 63, 129, 16, 32), "the host agent of a cloud"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

/// IANA's registry of special-purpose IPv6 addresses. What lies outside 2000::/3 is refused anyway;
/// those here have a name that helps.
pub const DENIED6: &[(Ipv6Net, &str)] = &[
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "a loopback address"),
    (v6(0x64, 0xff9b, 1, 48), "an address of a local NAT64"),
    (v6(0, 0, 0, 8), "a reserved address"),
    (v6(0x100, 0, 0, 64), "a discard address"),
    (v6(0x2001, 0, 0, 23), "an address of protocol assignments (Teredo, ORCHID, benchmarking)"),
    (v6(0x2001, 0xdb8, 0, 32), "a documentation address"),
    (v6(0x2002, 0, 0, 16), "a 6to4 address"),
    (v6(0x3fff, 0, 0, 20), "a documentation address"),
    (v6(0x5f00, 0, 0, 16), "an address of segment routing"),
    (v6(0xfc00, 0, 0, 7), "a private address"),
    (v6(0xfe80, 0, 0, 10), "a link-local address"),
    (v6(0xfec0, 0, 0, 10), "a site-local address"),
    (v6(0xff00, 0, 0, 8), "a multicast address"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(ip: &str, reachable: bool) {
        let result = may_reach(ip.parse().unwrap(), 443, &[]);
        assert_eq!(
            result.is_ok(),
            reachable,
            "{ip}: {result:?}; mend DENIED4, DENIED6 or the reading of embeddings"
        );
    }

    #[test]
    fn public_addresses_may_be_reached() {
        for ip in ["8.8.8.8", "1.1.1.1", "168.63.129.15", "2606:4700::1111", "2a00:1450:4001:82a::200e"] {
            check(ip, true);
        }
        // A translator's address of a public one.
        check("64:ff9b::8.8.8.8", true);
        check("2606:4700::5efe:8.8.8.8", true);
    }

    #[test]
    fn special_addresses_may_not() {
        let forbidden = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:2::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
            "2606:4700::5efe:10.0.0.1",
            "2606:4700::200:5efe:10.0.0.1",
        ];
        for ip in forbidden {
            check(ip, false);
        }
    }

    #[test]
    fn neighbours_of_the_ranges_may_be_reached() {
        for ip in
            ["9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"]
        {
            check(ip, true);
        }
        for ip in [
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
        ] {
            check(ip, true);
        }
    }

    #[test]
    fn an_allowance_wins_for_its_address_and_port_only() {
        let allow =
            [Allowance::parse("10.0.0.0/8:443-444").unwrap(), Allowance::parse("[fd00::]/8:*").unwrap()];
        let reach = |ip: &str, port| may_reach(ip.parse().unwrap(), port, &allow).is_ok();
        assert!(reach("10.1.2.3", 443) && reach("10.1.2.3", 444) && reach("fd00::1", 1));
        assert!(reach("::ffff:10.1.2.3", 443), "a mapped address is the IPv4 address");
        assert!(!reach("10.1.2.3", 445) && !reach("11.0.0.1".replace("11", "127").as_str(), 443));
        assert!(!reach("64:ff9b::10.1.2.3", 443), "a translator is another way than the one allowed");
    }

    fn embeddings(ip: Ipv4Addr) -> [Ipv6Addr; 10] {
        let [a, b, c, d] = ip.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, high, low, 0, 0, 0x1234, 0x5678),
            Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0x8000, 0x63bf, !high, !low),
            Ipv6Addr::new(0x2a00, 1, 2, 3, 0, 0x5efe, high, low),
            Ipv6Addr::new(0x2a00, 1, 2, 3, 0x200, 0x5efe, high, low),
        ]
    }

    proptest! {
        #[test]
        fn what_is_forbidden_is_forbidden_in_every_embedding(row in 0..DENIED4.len(), host: u32, port: u16) {
            let (net, _) = DENIED4[row];
            let ip = Ipv4Addr::from(u32::from(net.network()) | (host & u32::from(net.hostmask())));
            prop_assert!(may_reach(IpAddr::V4(ip), port, &[]).is_err(), "{}", ip);
            for embedded in embeddings(ip) {
                prop_assert!(may_reach(IpAddr::V6(embedded), port, &[]).is_err(), "{} of {}", embedded, ip);
            }
        }

        #[test]
        fn what_is_not_global_unicast_is_refused(bits: u128) {
            let ip = Ipv6Addr::from(bits);
            if may_reach(IpAddr::V6(ip), 443, &[]).is_ok() {
                let mapped = ip.to_ipv4_mapped().is_some_and(|v4| may_reach(IpAddr::V4(v4), 443, &[]).is_ok());
                prop_assert!(mapped || NAT64.contains(&ip) || ip.segments()[0] & 0xe000 == 0x2000);
            }
        }
    }
}
