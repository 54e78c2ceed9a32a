//! Which addresses a webhook may call.
//!
//! In comes an address, with the host and port that it was asked for under; out goes nothing, or why it
//! is refused. Public addresses are open to all; everything else (this machine, private networks,
//! the metadata services of clouds, and the forms of IPv6 that carry such an IPv4 address inside) only
//! to those whose configuration says so.
//!
//! Not here: when it is asked. `super` asks for each address that is written in a URL, and `Guard`
//! filters what a name resolves to, so that what was checked is what is connected to.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Stands for all ports that no rule names. Nobody can be called at it.
pub(crate) const ANY_PORT: u16 = 0;

/// What the configuration says about addresses that are not public.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// `webhook.allow`.
    pub allow: Vec<Rule>,
    /// `webhook.allow_private`: everything is open.
    pub allow_private: bool,
}

impl Policy {
    /// Whether `address`, to which `host` led, may be called at `port`.
    pub(crate) fn check(&self, host: &str, address: IpAddr, port: u16) -> Result<(), Refused> {
        let Some(kind) = kind_unless_public(address) else { return Ok(()) };
        if self.allow_private || self.allow.iter().any(|rule| rule.covers(host, address, port)) {
            return Ok(());
        }
        Err(Refused { host: host.to_owned(), address, port, kind })
    }

    /// Whether some rule asks for this very port, so that answers for it are good for no other.
    pub(crate) fn names_port(&self, port: u16) -> bool {
        self.allow.iter().any(|rule| rule.port == Some(port))
    }
}

/// An address that is not public and not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// As it stands in the URL.
    pub host: String,
    pub address: IpAddr,
    pub port: u16,
    /// Such as `loopback`.
    pub kind: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused { host, address, port, kind } = self;
        write!(f, "refusing to call {address} ({kind})")?;
        if !same_address(host, *address) {
            write!(f, ", which {host} leads to")?;
        }
        let socket = SocketAddr::new(*address, *port);
        write!(f, ": allow it with [notify.webhook] allow = [\"{socket}\"]")
    }
}

impl Error for Refused {}

fn same_address(host: &str, address: IpAddr) -> bool {
    literal(host) == Some(address)
}

/// The address that a URL's host is, when it is one and no name.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

/// One entry of `webhook.allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    target: Target,
    /// Absent: every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Network {
        first: IpAddr,
        prefix: u8,
    },
    /// In lower case, without a final dot.
    Host(String),
}

impl Rule {
    fn covers(&self, host: &str, address: IpAddr, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
            && match &self.target {
                Target::Network { first, prefix } => in_network(plain(address), *first, *prefix),
                Target::Host(own) => *own == name(host),
            }
    }
}

/// What is wrong with an entry of `webhook.allow`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRule {
    /// Neither an address nor a network nor a host.
    #[error("is no address, network or host")]
    Form,
    /// The prefix is longer than an address of this family.
    #[error("has a prefix longer than {longest}")]
    Prefix { longest: u8 },
    /// Bits are set behind the prefix, so it is unclear what was meant.
    #[error("is no network: write {network} for the network, or the address alone")]
    HostBits { network: String },
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Rule, BadRule> {
        if let Some((address, prefix)) = text.split_once('/') {
            return network(address, prefix);
        }
        if let Some(address) = literal(text) {
            return Ok(Rule { target: single(address), port: None });
        }
        if let Ok(socket) = text.parse::<SocketAddr>()
            && socket.port() != ANY_PORT
        {
            return Ok(Rule { target: single(socket.ip()), port: Some(socket.port()) });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(given_port(port)?)),
            None => (text, None),
        };
        if !is_host(host) {
            return Err(BadRule::Form);
        }
        Ok(Rule { target: Target::Host(name(host)), port })
    }
}

fn given_port(text: &str) -> Result<u16, BadRule> {
    text.parse().ok().filter(|port| *port != ANY_PORT).ok_or(BadRule::Form)
}

fn network(address: &str, prefix: &str) -> Result<Rule, BadRule> {
    let address: IpAddr = address.parse().map_err(|_| BadRule::Form)?;
    let prefix: u8 = prefix.parse().map_err(|_| BadRule::Form)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    if prefix > longest {
        return Err(BadRule::Prefix { longest });
    }
    let first = first_of(address, prefix);
    if first != address {
        return Err(BadRule::HostBits { network: format!("{first}/{prefix}") });
    }
    Ok(Rule { target: Target::Network { first, prefix }, port: None })
}

fn single(address: IpAddr) -> Target {
    let first = plain(address);
    Target::Network { first, prefix: if first.is_ipv4() { 32 } else { 128 } }
}

/// Letters, digits, hyphens, underscores and dots, and not digits and dots alone: a mistyped address is no host.
fn is_host(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty()
        && text.len() <= 253
        && text.chars().all(known)
        && text.chars().any(|c| c.is_ascii_alphabetic())
}

/// A host's name in the form that rules hold.
fn name(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// `::ffff:1.2.3.4` is another way to write 1.2.3.4, and a connection to it is one over IPv4.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn in_network(address: IpAddr, first: IpAddr, prefix: u8) -> bool {
    address.is_ipv4() == first.is_ipv4() && first_of(address, prefix) == first
}

fn first_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

/// What of IPv4 is not public, from the IANA special-purpose registry.
const SPECIAL_V4: [(Ipv4Addr, u8, &str); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "unspecified"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared by a carrier"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(255, 255, 255, 255), 32, "broadcast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// What of IPv6 is not public and is known by a name. The rest outside of `2000::/3` is reserved.
const SPECIAL_V6: [(Ipv6Addr, u8, &str); 13] = [
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, "private"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "unique local"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
    (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48, "for benchmarks"),
    (Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 0), 32, "for documentation"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "for documentation"),
    (Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0), 28, "reserved"),
    (Ipv6Addr::new(0x2001, 0x20, 0, 0, 0, 0, 0, 0), 28, "reserved"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, "a Teredo tunnel"),
];

/// What an address is when it is not public.
pub(crate) fn kind_unless_public(address: IpAddr) -> Option<&'static str> {
    match plain(address) {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    }
}

fn kind_v4(address: Ipv4Addr) -> Option<&'static str> {
    SPECIAL_V4
        .iter()
        .find(|(first, prefix, _)| in_network(address.into(), (*first).into(), *prefix))
        .map(|(_, _, kind)| *kind)
}

fn kind_v6(address: Ipv6Addr) -> Option<&'static str> {
    let special = SPECIAL_V6
        .iter()
        .find(|(first, prefix, _)| in_network(address.into(), (*first).into(), *prefix));
    if let Some((_, _, kind)) = special {
        return Some(kind);
    }
    match address.segments() {
        // NAT64: what the gateway calls is the IPv4 address in the last half.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => kind_v4(embedded(high, low)),
        // 6to4: the tunnel ends at the IPv4 address behind the prefix.
        [0x2002, high, low, ..] => kind_v4(embedded(high, low)),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("reserved"),
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

/// A resolver that lets only those addresses of a name through that may be called.
///
/// The client connects to what comes out of here and asks nobody else, so that a name which changes
/// its mind between check and call gains nothing.
pub(crate) struct Guard {
    pub policy: Arc<Policy>,
    /// The port that the client is for. Names reach a resolver without their port, so rules with one
    /// need a client of their own; the one for all other ports has [`ANY_PORT`].
    pub port: u16,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, port) = (self.policy.clone(), self.port);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), port)).await?;
            let open = open_of(&policy, name.as_str(), port, found)?;
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

/// Those that may be called; if there is none, why the first may not.
fn open_of(
    policy: &Policy,
    host: &str,
    port: u16,
    found: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, Refused> {
    let mut refused = None;
    let mut open = Vec::new();
    for socket in found {
        match policy.check(host, socket.ip(), port) {
            // Port 0: the client puts in the one of the URL.
            Ok(()) => open.push(SocketAddr::new(socket.ip(), 0)),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    match refused {
        Some(why) if open.is_empty() => Err(why),
        _ => Ok(open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_have_no_kind() {
        let cases = [
            // (address, what it is)
            ("8.8.8.8", None),
            ("93.184.216.34", None),
            ("100.63.255.255", None),
            ("100.128.0.0", None),
            ("172.15.255.255", None),
            ("172.32.0.0", None),
            ("223.255.255.255", None),
            ("0.0.0.0", Some("unspecified")),
            ("0.1.2.3", Some("unspecified")),
            ("10.1.2.3", Some("private")),
            ("100.64.0.1", Some("shared by a carrier")),
            ("127.0.0.1", Some("loopback")),
            ("127.255.255.254", Some("loopback")),
            ("169.254.169.254", Some("link-local")),
            ("172.16.0.1", Some("private")),
            ("172.31.255.255", Some("private")),
            ("192.0.0.8", Some("reserved")),
            ("192.0.2.1", Some("for documentation")),
            ("192.88.99.1", Some("reserved")),
            ("192.168.0.1", Some("private")),
            ("198.19.255.255", Some("for benchmarks")),
            ("198.51.100.7", Some("for documentation")),
            ("203.0.113.7", Some("for documentation")),
            ("224.0.0.1", Some("multicast")),
            ("240.0.0.1", Some("reserved")),
            ("255.255.255.255", Some("broadcast")),
            ("2606:2800:220:1::1", None),
            ("2a00:1450:4001:800::200e", None),
            ("::", Some("unspecified")),
            ("::1", Some("loopback")),
            ("::7f00:1", Some("reserved")),
            ("::127.0.0.1", Some("reserved")),
            ("::8.8.8.8", Some("reserved")),
            ("::ffff:127.0.0.1", Some("loopback")),
            ("::ffff:10.0.0.1", Some("private")),
            ("::ffff:8.8.8.8", None),
            ("::ffff:0:127.0.0.1", Some("reserved")),
            ("64:ff9b::7f00:1", Some("loopback")),
            ("64:ff9b::a9fe:a9fe", Some("link-local")),
            ("64:ff9b::808:808", None),
            ("64:ff9b:1::808:808", Some("private")),
            ("2002:7f00:1::", Some("loopback")),
            ("2002:c0a8:101::1", Some("private")),
            ("2002:808:808::1", None),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Some("a Teredo tunnel")),
            ("2001:2::1", Some("for benchmarks")),
            ("2001:10::1", Some("reserved")),
            ("2001:20::1", Some("reserved")),
            ("2001:db8::1", Some("for documentation")),
            ("3fff:fff::1", Some("for documentation")),
            ("100::1", Some("reserved")),
            ("4000::1", Some("reserved")),
            ("fc00::1", Some("unique local")),
            ("fdff::1", Some("unique local")),
            ("fe80::1", Some("link-local")),
            ("fec0::1", Some("site-local")),
            ("ff02::1", Some("multicast")),
        ];
        for (text, kind) in cases {
            assert_eq!(kind_unless_public(text.parse().unwrap()), kind, "{text}");
        }
    }

    #[test]
    fn rules_open_what_they_name_and_no_more() {
        let cases = [
            // (rule, host, address, port, open)
            ("127.0.0.1", "localhost", "127.0.0.1", 80, true),
            ("127.0.0.1", "localhost", "127.0.0.2", 80, false),
            ("127.0.0.1", "[::ffff:127.0.0.1]", "::ffff:127.0.0.1", 80, true),
            ("127.0.0.0/8", "127.9.9.9", "127.9.9.9", 1, true),
            ("10.0.0.0/8", "x", "127.0.0.1", 80, false),
            ("0.0.0.0/0", "x", "192.168.1.1", 80, true),
            ("0.0.0.0/0", "x", "fe80::1", 80, false),
            ("::/0", "x", "fe80::1", 80, true),
            ("::1", "x", "::1", 80, true),
            ("[::1]", "x", "::1", 80, true),
            ("fd00::/8", "x", "fd12::1", 80, true),
            ("127.0.0.1:9000", "127.0.0.1", "127.0.0.1", 9000, true),
            ("127.0.0.1:9000", "127.0.0.1", "127.0.0.1", 9001, false),
            ("[::1]:9000", "x", "::1", 9000, true),
            ("hooks.internal", "HOOKS.internal.", "10.0.0.1", 80, true),
            ("Hooks.Internal:8080", "hooks.internal", "10.0.0.1", 8080, true),
            ("hooks.internal:8080", "hooks.internal", "10.0.0.1", 80, false),
            ("hooks.internal", "evil.hooks.internal", "10.0.0.1", 80, false),
        ];
        for (rule, host, address, port, open) in cases {
            let policy = Policy { allow: vec![rule.parse().unwrap()], allow_private: false };
            let answer = policy.check(host, address.parse().unwrap(), port);
            assert_eq!(answer.is_ok(), open, "{rule} for {host} {address} {port}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let bits = |network: &str| BadRule::HostBits { network: network.to_owned() };
        let cases = [
            ("", BadRule::Form),
            ("127.0.0.1.", BadRule::Form),
            ("300.1.1.1", BadRule::Form),
            ("http://x", BadRule::Form),
            ("x:99999", BadRule::Form),
            ("x:0", BadRule::Form),
            ("127.0.0.1:0", BadRule::Form),
            ("10.0.0.0/x", BadRule::Form),
            ("x/8", BadRule::Form),
            ("10.0.0.0/33", BadRule::Prefix { longest: 32 }),
            ("fd00::/129", BadRule::Prefix { longest: 128 }),
            ("10.0.0.1/8", bits("10.0.0.0/8")),
            ("fd00::1/8", bits("fd00::/8")),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<Rule>(), Err(why), "{text}");
        }
    }

    #[test]
    fn of_several_addresses_the_open_ones_remain() {
        let policy = Policy::default();
        let found = |texts: &[&str]| {
            let sockets: Vec<SocketAddr> =
                texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 80)).collect();
            open_of(&policy, "x.example", 80, sockets.into_iter())
        };
        assert_eq!(
            found(&["10.0.0.1", "8.8.8.8", "::1"]).unwrap(),
            [SocketAddr::new("8.8.8.8".parse().unwrap(), 0)]
        );
        assert_eq!(
            found(&["10.0.0.1", "::1"]).unwrap_err().to_string(),
            "refusing to call 10.0.0.1 (private), which x.example leads to: \
             allow it with [notify.webhook] allow = [\"10.0.0.1:80\"]"
        );
        assert!(found(&[]).unwrap().is_empty());
    }
}
