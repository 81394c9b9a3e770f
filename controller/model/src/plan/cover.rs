//! Prefixes around addresses for which the ipcache has no room, so that these are nobody in particular
//! ([`NumericIdentity::UNRESOLVED`](crate::identity::NumericIdentity::UNRESOLVED)), and not the world around them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

/// Prefixes of the ipcache, asked for the longest around an address.
pub(super) struct Prefixes {
    prefixes: BTreeSet<IpNet>,
    /// Those that there are, of each family.
    lengths: BTreeSet<(bool, u8)>,
}

impl FromIterator<IpNet> for Prefixes {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        let prefixes: BTreeSet<IpNet> = prefixes.into_iter().collect();
        let lengths = prefixes
            .iter()
            .map(|prefix| (prefix.addr().is_ipv4(), prefix.prefix_len()))
            .collect();
        Self { prefixes, lengths }
    }
}

impl Prefixes {
    /// The longest prefix with the address in it.
    pub(super) fn around(&self, address: IpAddr) -> Option<IpNet> {
        let family = address.is_ipv4();
        self.lengths
            .range((family, 0)..=(family, u8::MAX))
            .rev()
            .filter_map(|(_, length)| IpNet::new(address, *length).ok())
            .map(|prefix| prefix.trunc())
            .find(|prefix| self.prefixes.contains(prefix))
    }
}

/// Addresses that one prefix may cover.
struct Group {
    /// As much of them as they must have in common.
    prefix: IpNet,
    first: IpAddr,
    last: IpAddr,
}

/// At most `most` prefixes, as long as may be, that have all `addresses` in them and are each longer than any of `entries`
/// around its addresses: so that the longest prefix around each of them is one of these. None when there are too few.
pub(super) fn cover(
    addresses: &BTreeSet<IpAddr>,
    entries: &Prefixes,
    most: usize,
) -> Option<BTreeSet<IpNet>> {
    let floors: Vec<(IpAddr, u8)> = addresses
        .iter()
        .map(|address| {
            // Never all of a family, even where nothing is around.
            let around = entries
                .around(*address)
                .map_or(0, |prefix| prefix.prefix_len());
            (*address, around.saturating_add(1))
        })
        .collect();
    let fits = |bits: u8| Some(groups(&floors, bits)).filter(|groups| groups.len() <= most);
    // The fewer bits of an address they may leave open, the more prefixes there are.
    let (mut too_few, mut enough) = (0_u8, 128_u8);
    let mut best = fits(enough)?;
    while enough - too_few > 1 {
        let bits = too_few.midpoint(enough);
        match fits(bits) {
            Some(groups) => {
                enough = bits;
                best = groups;
            }
            None => too_few = bits,
        }
    }
    Some(best.iter().map(Group::tight).collect())
}

/// Addresses that have all but their last `bits` in common, and what their floors demand.
fn groups(floors: &[(IpAddr, u8)], bits: u8) -> Vec<Group> {
    let mut groups: BTreeMap<IpNet, Group> = BTreeMap::new();
    for (address, floor) in floors {
        let whole = if address.is_ipv4() { 32_u8 } else { 128 };
        let length = whole.saturating_sub(bits).max(*floor).min(whole);
        let Ok(prefix) = IpNet::new(*address, length) else {
            continue;
        };
        let prefix = prefix.trunc();
        let group = groups.entry(prefix).or_insert(Group {
            prefix,
            first: *address,
            last: *address,
        });
        group.first = group.first.min(*address);
        group.last = group.last.max(*address);
    }
    groups.into_values().collect()
}

impl Group {
    /// The longest prefix around all of them; longer than one of them alone only where it must be.
    fn tight(&self) -> IpNet {
        let common = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                (first.to_bits() ^ last.to_bits()).leading_zeros()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                (first.to_bits() ^ last.to_bits()).leading_zeros()
            }
            _ => 0,
        };
        let longest = self.prefix.max_prefix_len().saturating_sub(1);
        let common = u8::try_from(common).unwrap_or(longest).min(longest);
        let length = common.max(self.prefix.prefix_len());
        IpNet::new(self.first, length).map_or(self.prefix, |prefix| prefix.trunc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Prefixes {
        texts
            .iter()
            .map(|text| text.parse::<IpNet>().expect("a prefix"))
            .collect()
    }

    fn covered(addresses: &[&str], entries: &[&str], most: usize) -> Option<Vec<String>> {
        let addresses = addresses
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect();
        let covers = cover(&addresses, &prefixes(entries), most)?;
        Some(covers.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn prefixes_are_as_long_as_their_number_allows() {
        let pods = ["10.1.0.4", "10.1.0.5", "10.1.7.1", "10.2.0.9"];
        let of = |most| covered(&pods, &["0.0.0.0/0"], most).expect("there are enough");
        assert_eq!(of(4), ["10.1.0.4/31", "10.1.7.0/31", "10.2.0.8/31"]);
        assert_eq!(of(2), ["10.1.0.0/21", "10.2.0.8/31"]);
        assert_eq!(of(1), ["10.0.0.0/14"]);
    }

    #[test]
    fn a_prefix_that_is_named_around_a_pod_does_not_come_between() {
        let covers = covered(&["10.1.0.4", "10.2.0.4"], &["10.1.0.0/24", "::/0"], 2);
        let covers = covers.expect("there are enough");
        assert_eq!(covers, ["10.1.0.4/31", "10.2.0.4/31"]);
        assert_eq!(
            covered(&["10.1.0.4", "10.2.0.4"], &["10.1.0.0/24"], 1),
            None
        );
    }

    #[test]
    fn families_do_not_share_a_prefix() {
        let pods = ["10.1.0.4", "10.9.0.4", "fd00::1", "fd00::9"];
        let entries = ["0.0.0.0/0", "::/0"];
        let covers = covered(&pods, &entries, 2).expect("there are enough");
        assert_eq!(covers, ["10.0.0.0/12", "fd00::/124"]);
        assert_eq!(covered(&pods, &entries, 1), None);
    }

    #[test]
    fn nothing_is_covered_by_nothing() {
        assert_eq!(covered(&[], &[], 0), Some(vec![]));
    }
}
