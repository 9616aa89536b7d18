//! Where tenants may make us connect to. A host that a tenant names is resolved once, every address of it must be public
//! (unless the operator allows private networks), and the connection goes to the address that was checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why a host may not be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// No address.
    #[error("the host has no address")]
    Unresolved,
    /// One of its addresses is not public.
    #[error("the host resolves to a private, loopback, link-local or reserved address, which this installation does not allow")]
    NotPublic,
}

/// The rule, as the operator set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// May tenants reach private networks and this machine?
    pub allow_private: bool,
}

impl Guard {
    /// Resolves a host once and returns the address to connect to.
    ///
    /// # Errors
    /// [`GuardError`].
    pub async fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, GuardError> {
        self.resolve_by(async || Ok(tokio::net::lookup_host((host, port)).await?.collect())).await
    }

    /// Asks once: the address that is connected to is one that was looked at, whatever the name says a moment later.
    async fn resolve_by(&self, ask: impl AsyncFnOnce() -> std::io::Result<Vec<SocketAddr>>) -> Result<SocketAddr, GuardError> {
        self.choose(&ask().await.map_err(|_| GuardError::Unresolved)?)
    }

    fn choose(&self, found: &[SocketAddr]) -> Result<SocketAddr, GuardError> {
        let first = *found.first().ok_or(GuardError::Unresolved)?;
        // One private address among public ones is how a rebinding name looks: refuse the name, don't pick around it.
        if !self.allow_private && found.iter().any(|a| !is_public(a.ip())) {
            return Err(GuardError::NotPublic);
        }
        Ok(found.iter().copied().find(SocketAddr::is_ipv4).unwrap_or(first))
    }
}

/// Is this an address of the public internet? By the IANA special-purpose registries (RFC 6890 and its successors).
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// Networks as address and prefix length.
const RESERVED_V4: [([u8; 4], u32); 16] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 31, 196, 0], 24),
    ([192, 52, 193, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 3),
];

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let bits = u32::from(ip);
    !RESERVED_V4.iter().any(|(net, len)| (bits ^ u32::from_be_bytes(*net)) >> (32 - len) == 0)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    // What carries an IPv4 address inside is judged by it: mapped, compatible, NAT64, 6to4.
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    let inner = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return is_public_v4(inner(s[6], s[7]));
    }
    if s[0] == 0x2002 {
        return is_public_v4(inner(s[1], s[2]));
    }
    // Global unicast is 2000::/3; without Teredo, ORCHID, documentation and benchmarking.
    s[0] & 0xe000 == 0x2000 && !(s[0] == 0x2001 && (s[1] < 0x200 || s[1] == 0xdb8)) && !(s[0] == 0x3fff && s[1] < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "8.8.8.8",
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
            "2a00:1450::1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_name_with_one_private_address_is_refused_whole() {
        let addresses: Vec<SocketAddr> = ["8.8.8.8:25", "10.0.0.1:25"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(Guard { allow_private: false }.choose(&addresses), Err(GuardError::NotPublic));
        assert_eq!(Guard { allow_private: true }.choose(&addresses), Ok(addresses[0]));
        assert_eq!(Guard { allow_private: true }.choose(&[]), Err(GuardError::Unresolved));
    }

    #[tokio::test]
    async fn a_name_that_is_bound_anew_is_refused_from_then_on() {
        let guard = Guard { allow_private: false };
        let (mut asked, public, private) = (0, SocketAddr::from(([8, 8, 8, 8], 25)), SocketAddr::from(([169, 254, 169, 254], 25)));
        let mut name = async || {
            asked += 1;
            Ok(vec![if asked == 1 { public } else { private }])
        };
        assert_eq!(guard.resolve_by(&mut name).await, Ok(public), "what was looked at is connected to");
        assert_eq!(guard.resolve_by(&mut name).await, Err(GuardError::NotPublic));
        assert_eq!(asked, 2, "no second question after the look");
        assert_eq!(guard.resolve_by(async || Err(std::io::Error::other("no such name"))).await, Err(GuardError::Unresolved));
    }

    #[tokio::test]
    async fn loopback_by_any_spelling_is_refused() {
        let guard = Guard { allow_private: false };
        for host in ["127.0.0.1", "localhost", "::1", "127.1", "0x7f000001", "2130706433"] {
            assert!(guard.resolve(host, 25).await.is_err(), "{host}");
        }
    }
}
