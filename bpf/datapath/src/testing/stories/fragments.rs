//! Fragments: a later one follows its first.

use oxilium_abi::DropReason::{
    self, FlowDenied, FragmentHeader, FragmentNotFound, FragmentOverlap, InvalidPacket,
    PolicyDenied,
};

use super::{
    super::{Frame, Ipv4, PolicyEntry, World, udp},
    Family, PASS, Story, Way, policy_change,
};

/// A fragment between the pod and its neighbour: `offset` in bytes.
fn fragment(
    (f, way): (Family, Way),
    id: u8,
    offset: u16,
    more: bool,
    protocol: u8,
    payload: &[u8],
) -> Frame {
    match f {
        Family::V4 => {
            let (source, destination) = way.ends(World::POD4, World::PEER4);
            let mut header = Ipv4::new(source, destination, protocol);
            header.id = u16::from(id);
            header.fragment = (offset / 8) | if more { 0x2000 } else { 0 };
            way.frame(0x0800, &header.with(payload))
        }
        Family::V6 => {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            let extension = [&[protocol, 0, high, low, 0, 0, 0, id], payload].concat();
            way.packet(f, 44, &extension)
        }
    }
}

pub(super) fn stories(f: Family, way: Way) -> Vec<Story> {
    let allow = [PolicyEntry::allow(way.direction(), World::PEER, 17, 53)];
    let everything = [PolicyEntry::allow_all(way.direction(), 0)];
    let fragment = |id, offset, more, protocol, payload: &[u8]| {
        fragment((f, way), id, offset, more, protocol, payload)
    };
    let story = |what, policy: &[PolicyEntry], steps| f.story(&way.name(what), policy, steps);
    let datagram = udp(999, 53, &[0; 40]);
    let (head, tail) = datagram.split_at(24);
    let first = |id| fragment(id, 0, true, 17, head);
    let later = |id| fragment(id, 24, false, 17, tail);
    let alone = |what, frame: Frame, reason: DropReason| {
        story(what, &allow, vec![way.step(frame, Err(reason))])
    };
    let other_port = udp(999, 54, &[0; 16]);
    vec![
        story(
            "first, then later",
            &allow,
            vec![way.step(first(1), PASS), way.step(later(1), PASS)],
        ),
        story(
            "of a known flow too",
            &allow,
            vec![
                way.step(way.packet(f, 17, &udp(999, 53, b"")), PASS),
                way.step(first(2), PASS),
                way.step(later(2), PASS),
            ],
        ),
        alone("a later one before its first", later(3), FragmentNotFound),
        story(
            "a denied first leaves nothing to follow",
            &[],
            vec![
                way.step(first(4), Err(PolicyDenied)),
                way.step(later(4), Err(FragmentNotFound)),
            ],
        ),
        story(
            "of another datagram",
            &allow,
            vec![
                way.step(first(5), PASS),
                way.step(later(6), Err(FragmentNotFound)),
            ],
        ),
        alone(
            "a first without the whole L4 header",
            fragment(7, 0, true, 6, &[0; 16]),
            FragmentHeader,
        ),
        alone(
            // Whole: in IPv6 atomic, in IPv4 no fragment at all. None but the first can reach into eight bytes of header.
            "the only one, cut inside the UDP header",
            fragment(8, 0, false, 17, &[0; 4]),
            DropReason::CtTruncated,
        ),
        alone(
            "one that overlaps the TCP header",
            fragment(9, 16, false, 6, &[0; 8]),
            FragmentOverlap,
        ),
        alone(
            "one that is no multiple of eight, with more to come",
            fragment(10, 24, true, 17, &[0; 7]),
            InvalidPacket,
        ),
        alone(
            "one without payload",
            fragment(11, 24, false, 17, &[]),
            InvalidPacket,
        ),
        alone(
            "one that ends beyond 64 KiB",
            fragment(12, 65_528, false, 17, &[0; 16]),
            InvalidPacket,
        ),
        story(
            "a second first with other ports",
            &everything,
            vec![
                way.step(first(13), PASS),
                way.step(fragment(13, 0, true, 17, &other_port), Err(FragmentOverlap)),
                way.step(first(13), PASS),
            ],
        ),
        story(
            "a later one under the policy of now",
            &allow,
            vec![
                way.step(first(14), PASS),
                policy_change(6, 2, &[]),
                way.step(later(14), Err(FlowDenied)),
            ],
        ),
    ]
}
