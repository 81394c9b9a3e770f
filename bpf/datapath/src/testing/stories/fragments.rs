//! Fragments: a later one follows its first.

use oxilium_abi::DropReason::{
    self, FlowDenied, FragmentHeader, FragmentNotFound, FragmentOverlap, InvalidPacket,
    PolicyDenied,
};

use super::{
    super::{Frame, Ipv4, PolicyEntry, World, udp},
    Family, PASS, Step, Story, policy_change,
};
use crate::Direction::Ingress;

/// A fragment to the pod: `offset` in bytes.
fn fragment(f: Family, id: u8, offset: u16, more: bool, protocol: u8, payload: &[u8]) -> Frame {
    match f {
        Family::V4 => {
            let mut header = Ipv4::new(World::PEER4, World::POD4, protocol);
            header.id = u16::from(id);
            header.fragment = (offset / 8) | if more { 0x2000 } else { 0 };
            World::to_pod(0x0800, &header.with(payload))
        }
        Family::V6 => {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            let extension = [&[protocol, 0, high, low, 0, 0, 0, id], payload].concat();
            World::to6(World::PEER6, 44, &extension)
        }
    }
}

pub(super) fn stories(f: Family) -> Vec<Story> {
    let allow = [PolicyEntry::allow(Ingress, World::PEER, 17, 53)];
    let datagram = udp(999, 53, &[0; 40]);
    let (head, tail) = datagram.split_at(24);
    let first = |id| fragment(f, id, 0, true, 17, head);
    let later = |id| fragment(f, id, 24, false, 17, tail);
    let alone = |what: &str, frame: Frame, reason: DropReason| {
        f.story(what, &allow, vec![Step::To(frame, Err(reason))])
    };
    let other_port = udp(999, 54, &[0; 16]);
    vec![
        f.story(
            "first, then later",
            &allow,
            vec![Step::To(first(1), PASS), Step::To(later(1), PASS)],
        ),
        f.story(
            "of a known flow too",
            &allow,
            vec![
                Step::To(f.to(super::Who::Peer, 17, &udp(999, 53, b"")), PASS),
                Step::To(first(2), PASS),
                Step::To(later(2), PASS),
            ],
        ),
        alone("a later one before its first", later(3), FragmentNotFound),
        f.story(
            "a denied first leaves nothing to follow",
            &[],
            vec![
                Step::To(first(4), Err(PolicyDenied)),
                Step::To(later(4), Err(FragmentNotFound)),
            ],
        ),
        f.story(
            "of another datagram",
            &allow,
            vec![
                Step::To(first(5), PASS),
                Step::To(later(6), Err(FragmentNotFound)),
            ],
        ),
        alone(
            "a first without the whole L4 header",
            fragment(f, 7, 0, true, 6, &[0; 16]),
            FragmentHeader,
        ),
        alone(
            "one that overlaps the UDP header",
            fragment(f, 8, 0, false, 17, &[0; 4]),
            DropReason::CtTruncated,
        ),
        alone(
            "one that overlaps the TCP header",
            fragment(f, 9, 16, false, 6, &[0; 8]),
            FragmentOverlap,
        ),
        alone(
            "one that is no multiple of eight, with more to come",
            fragment(f, 10, 24, true, 17, &[0; 7]),
            InvalidPacket,
        ),
        alone(
            "one without payload",
            fragment(f, 11, 24, false, 17, &[]),
            InvalidPacket,
        ),
        alone(
            "one that ends beyond 64 KiB",
            fragment(f, 12, 65_528, false, 17, &[0; 16]),
            InvalidPacket,
        ),
        f.story(
            "a second first with other ports",
            &[PolicyEntry::allow_all(Ingress, 0)],
            vec![
                Step::To(first(13), PASS),
                Step::To(
                    fragment(f, 13, 0, true, 17, &other_port),
                    Err(FragmentOverlap),
                ),
                Step::To(first(13), PASS),
            ],
        ),
        f.story(
            "a later one under the policy of now",
            &allow,
            vec![
                Step::To(first(14), PASS),
                policy_change(6, 2, &[]),
                Step::To(later(14), Err(FlowDenied)),
            ],
        ),
    ]
    .into_iter()
    // A datagram that ends with its first fragment is whole in IPv6 (atomic), and in IPv4 no fragment.
    .collect()
}
