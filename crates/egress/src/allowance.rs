//! Allowances as an operator writes them.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::Allowance;

impl Allowance {
    /// Reads `127.0.0.1:19100-19199`, `10.0.0.0/8:443`, `[fd00::]/8:*`: an address or a range by CIDR,
    /// then a port, a range of ports or `*`. The error says what to write instead.
    pub fn parse(text: &str) -> Result<Allowance, String> {
        let trimmed = text.trim();
        let (net, ports) = split(trimmed)?;
        let net = parse_net(net, trimmed)?;
        let (port_min, port_max) = parse_ports(ports, trimmed)?;
        Ok(Allowance { net, port_min, port_max })
    }

    /// `ip` must be canonical: a mapped IPv4 address is the IPv4 address.
    pub fn covers(&self, ip: IpAddr, port: u16) -> bool {
        self.net.contains(&ip) && (self.port_min..=self.port_max).contains(&port)
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ip, bits) = (self.net.addr(), self.net.prefix_len());
        match ip {
            IpAddr::V4(ip) => write!(f, "{ip}")?,
            IpAddr::V6(ip) => write!(f, "[{ip}]")?,
        }
        if bits < self.net.max_prefix_len() {
            write!(f, "/{bits}")?;
        }
        match (self.port_min, self.port_max) {
            (0, u16::MAX) => f.write_str(":*"),
            (min, max) if min == max => write!(f, ":{min}"),
            (min, max) => write!(f, ":{min}-{max}"),
        }
    }
}

/// Parts `10.0.0.0/8:443`, `[fd00::]/8:443` and `[fd00::/8]:443` at the colon before the ports.
fn split(text: &str) -> Result<(&str, &str), String> {
    let from = text.rfind(']').unwrap_or(0);
    match text[from..].find(':') {
        Some(at) if !text[from + at + 1..].contains(':') => Ok((&text[..from + at], &text[from + at + 1..])),
        Some(_) => Err(format!("`{text}`: write an IPv6 address in brackets, as in `[fd00::]/8:443`")),
        None => {
            Err(format!("`{text}` names no port: add one, as in `{text}:443`, a range `:8000-8100`, or `:*`"))
        }
    }
}

fn parse_net(net: &str, text: &str) -> Result<IpNet, String> {
    let bare = net.replace(['[', ']'], "");
    if bare.contains(':') != net.starts_with('[') {
        return Err(format!("`{text}`: brackets belong round an IPv6 address, as in `[fd00::]/8:443`"));
    }
    let (address, bits) = match bare.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (bare.as_str(), None),
    };
    let ip: IpAddr = address.parse().map_err(|_| {
        format!("`{text}`: `{address}` is not an address; names cannot be allowed, since the address is what is judged")
    })?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let bits: u8 = bits.map_or(Ok(longest), str::parse).map_err(|_| bad_bits(text, longest))?;
    let net = IpNet::new(ip, bits).map_err(|_| bad_bits(text, longest))?;
    if net.trunc() != net {
        return Err(format!(
            "`{text}`: {ip} lies inside a range of {bits} bits; write {} or {ip}",
            net.trunc()
        ));
    }
    if ip.to_canonical() != ip {
        return Err(format!("`{text}`: write the IPv4 address {}", ip.to_canonical()));
    }
    Ok(net)
}

fn bad_bits(text: &str, longest: u8) -> String {
    format!("`{text}`: after the slash comes a number of bits from 0 to {longest}")
}

fn parse_ports(ports: &str, text: &str) -> Result<(u16, u16), String> {
    if ports == "*" {
        return Ok((0, u16::MAX));
    }
    let (min, max) = ports.split_once('-').unwrap_or((ports, ports));
    let read = |port: &str| port.trim().parse::<u16>().ok().filter(|port| *port > 0);
    match (read(min), read(max)) {
        (Some(min), Some(max)) if min <= max => Ok((min, max)),
        (Some(min), Some(max)) => Err(format!("`{text}`: {min} is above {max}; write {max}-{min}")),
        _ => Err(format!("`{text}`: `{ports}` is not a port from 1 to 65535, a range `8000-8100`, or `*`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (Allowance::parse(text), expected) {
            (Ok(allowance), Ok(shown)) => assert_eq!(allowance.to_string(), shown, "{text}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: `{error}` should say `{part}`"),
            (result, expected) => panic!("{text}: {result:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn what_operators_write() {
        check("127.0.0.1:19100-19199", Ok("127.0.0.1:19100-19199"));
        check(" 10.0.0.0/8:443 ", Ok("10.0.0.0/8:443"));
        check("[fd00::]/8:*", Ok("[fd00::]/8:*"));
        check("[fd00::/8]:8443", Ok("[fd00::]/8:8443"));
        check("[::1]:80", Ok("[::1]:80"));
        check("0.0.0.0/0:443", Ok("0.0.0.0/0:443"));
    }

    #[test]
    fn what_is_refused_says_the_mend() {
        check("10.0.0.0/8", Err("10.0.0.0/8:443"));
        check("fd00::/8:443", Err("brackets"));
        check("[10.0.0.1]:443", Err("brackets"));
        check("localhost:80", Err("names cannot be allowed"));
        check("10.1.2.3/8:443", Err("10.0.0.0/8"));
        check("10.0.0.0/33:443", Err("0 to 32"));
        check("10.0.0.0/x:443", Err("0 to 32"));
        check("10.0.0.1:0", Err("1 to 65535"));
        check("10.0.0.1:70000", Err("1 to 65535"));
        check("10.0.0.1:90-80", Err("80-90"));
        check("[::ffff:10.0.0.1]:80", Err("10.0.0.1"));
        check("", Err("names no port"));
        check("]:", Err("is not an address"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f.:/\\[\\]*-]{0,40}|.{0,20}") {
            if let Ok(allowance) = Allowance::parse(&text) {
                assert_eq!(Allowance::parse(&allowance.to_string()), Ok(allowance));
            }
        }
    }
}
