//! Addresses that no URL may lead to.
//!
//! A machine in a cloud hands its credentials to everybody who asks a certain address from inside.
//! A Writer that told a pusher to fetch from there would have the pusher's network for its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services outside of the link-local ranges.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Whether an object store can be at this address. Loopback and private networks can have one.
pub(crate) fn is_allowed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_allowed_v4(address),
        IpAddr::V6(address) => {
            let is_special = address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || METADATA_V6.contains(&address);
            !is_special && embedded(address).is_none_or(is_allowed_v4)
        }
    }
}

fn is_allowed_v4(address: Ipv4Addr) -> bool {
    let is_this_network = address.octets().first() == Some(&0);
    !(is_this_network
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || METADATA_V4.contains(&address))
}

/// The IPv4 address that a mapped, a translated, a 6to4 or a compatible one leads to.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(of(high, low)),
        // Loopback has this form too.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_and_links_are_not_allowed_and_their_neighbours_are() {
        for (address, allowed) in [
            ("169.254.169.254", false),
            ("169.254.0.0", false),
            ("169.254.255.255", false),
            ("169.253.255.255", true),
            ("169.255.0.0", true),
            ("0.0.0.0", false),
            ("0.255.255.255", false),
            ("1.0.0.0", true),
            ("100.100.100.200", false),
            ("100.100.100.201", true),
            ("168.63.129.16", false),
            ("168.63.129.17", true),
            ("192.0.0.192", false),
            ("192.0.0.191", true),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("127.0.0.1", true),
            ("10.0.0.1", true),
            ("192.168.1.1", true),
            ("::1", true),
            ("::", false),
            ("fe80::1", false),
            ("febf:ffff::1", false),
            ("fec0::1", true),
            ("fe7f::1", true),
            ("ff02::1", false),
            ("fd00:ec2::254", false),
            ("fd00:ec2::255", true),
            ("fd20:ce::254", false),
            ("fd00::1", true),
            ("::ffff:169.254.169.254", false),
            ("::ffff:127.0.0.1", true),
            ("::169.254.169.254", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("64:ff9b::7f00:1", true),
            ("2002:a9fe:a9fe::1", false),
            ("2002:a9fd:a9fe::1", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(is_allowed(address.parse().unwrap()), allowed, "{address}");
        }
    }
}
