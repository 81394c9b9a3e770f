//! Neighbour discovery and MLD.

use oxilium_abi::DropReason::{
    self, DadTarget, IcmpRedirect, InvalidSourceIp, LinkLocalSource, NdLinkLayer, NdMalformed,
    NdTarget, PolicyDenied, RouterAdvertisement,
};

use super::{
    super::{Frame, Ipv6, PolicyEntry, World, Write, icmp},
    PASS, Step, Story, tell,
};
use crate::Direction::{Egress, Ingress};

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];

/// ff02::1, of all nodes on the link, and ff02::2, of its routers.
const ALL_NODES: [u8; 16] = group(1);
const ALL_ROUTERS: [u8; 16] = group(2);
/// Router of another subnet that is on the link nonetheless.
const GATEWAY6: [u8; 16] = [0xFD, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1];

const fn group(number: u8) -> [u8; 16] {
    [0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number]
}

/// The solicited-node multicast address.
const fn solicited(target: [u8; 16]) -> [u8; 16] {
    let [.., a, b, c] = target;
    [0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xFF, a, b, c]
}

fn message(source: [u8; 16], hop_limit: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    message_to(World::PEER6, (source, hop_limit), (kind, 0), [0; 4], body)
}

/// The flags are the four bytes behind the checksum.
fn message_to(
    destination: [u8; 16],
    (source, hop_limit): ([u8; 16], u8),
    (kind, code): (u8, u8),
    flags: [u8; 4],
    body: &[u8],
) -> Vec<u8> {
    let header = Ipv6 {
        hop_limit,
        ..Ipv6::new(source, destination, 58)
    };
    header.with(&icmp(kind, code, &[&flags, body].concat()))
}

/// Solicits `target` at `destination`.
fn solicitation(source: [u8; 16], destination: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    message_to(destination, (source, 255), (135, 0), [0; 4], &target)
}

/// Advertises one of the pod's addresses to `destination`.
fn advertisement(source: [u8; 16], destination: [u8; 16], flags: u8) -> Vec<u8> {
    let flags = [flags, 0, 0, 0];
    message_to(destination, (source, 255), (136, 0), flags, &source)
}

/// Duplicate address detection.
fn probe(target: [u8; 16], options: &[u8]) -> Vec<u8> {
    let body = [&target, options].concat();
    message_to(solicited(target), ([0; 16], 255), (135, 0), [0; 4], &body)
}

/// A pod sends under a policy, on a node where `GATEWAY6` is the host's.
fn sends_under(
    what: &str,
    policy: &[PolicyEntry],
    bytes: &[u8],
    expect: Result<(), DropReason>,
) -> Story {
    let gateway = World::address(oxilium_abi::IpcacheKey::v6(GATEWAY6, 128), 1);
    tell(
        &format!("ND from a pod: {what}"),
        policy,
        vec![
            Step::Plan(vec![gateway]),
            Step::From(World::from_pod(0x86DD, bytes), expect),
        ],
    )
}

fn option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

fn sends(what: &str, bytes: &[u8], expect: Result<(), DropReason>) -> Story {
    tell(
        &format!("ND from a pod: {what}"),
        &[],
        vec![Step::From(World::from_pod(0x86DD, bytes), expect)],
    )
}

fn receives(
    what: &str,
    frame: Frame,
    policy: &[PolicyEntry],
    expect: Result<(), DropReason>,
) -> Story {
    tell(
        &format!("ND to a pod: {what}"),
        policy,
        vec![Step::To(frame, expect)],
    )
}

#[expect(clippy::too_many_lines, reason = "one table")]
pub(super) fn stories() -> Vec<Story> {
    let own = World::LINK_LOCAL;
    let with = |target: [u8; 16], options: &[u8]| [&target[..], options].concat();
    let solicit = |options: &[u8]| message(own, 255, 135, &with(World::PEER6, options));
    let many: Vec<u8> = (0..3).flat_map(|_| option(1, World::MAC)).collect();
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let atomic = {
        let inner = icmp(135, 0, &[&[0; 4][..], &World::PEER6].concat());
        let header = Ipv6 {
            hop_limit: 255,
            ..Ipv6::new(own, World::PEER6, 44)
        };
        header.with(&[&[58, 0, 0, 0, 0, 0, 0, 1][..], &inner].concat())
    };
    let mut stories = vec![
        sends("solicitation", &solicit(&option(1, World::MAC)), PASS),
        sends(
            "solicitation from its own address",
            &message(World::POD6, 255, 135, &World::PEER6),
            PASS,
        ),
        sends(
            "solicitation with a nonce",
            &solicit(&nonce),
            Err(NdMalformed),
        ),
        sends(
            "solicitation with a foreign MAC",
            &solicit(&option(1, OTHER_MAC)),
            Err(NdLinkLayer),
        ),
        sends(
            "solicitation with a foreign target MAC",
            &solicit(&option(2, OTHER_MAC)),
            Err(NdLinkLayer),
        ),
        sends(
            "solicitation that was routed",
            &message(own, 254, 135, &World::PEER6),
            Err(NdMalformed),
        ),
        sends("solicitation in a fragment", &atomic, Err(NdMalformed)),
        sends(
            "an option of length 0",
            &solicit(&[1, 0, 0, 0, 0, 0, 0, 0]),
            Err(NdMalformed),
        ),
        sends("half an option", &solicit(&[1, 1, 0, 0]), Err(NdMalformed)),
        sends(
            "an option longer than the packet",
            &solicit(&[1, 2, 0, 0, 0, 0, 0, 0]),
            Err(NdLinkLayer),
        ),
        sends("three options", &solicit(&many), Err(NdMalformed)),
        sends("two options", &solicit(&many[8..]), PASS),
        sends(
            "solicitation without target",
            &message(own, 255, 135, &[0; 8]),
            Err(NdMalformed),
        ),
        sends(
            "advertisement",
            &message(own, 255, 136, &with(World::POD6, &option(2, World::MAC))),
            PASS,
        ),
        sends(
            "advertisement of its link-local address",
            &message(own, 255, 136, &own),
            PASS,
        ),
        sends(
            "advertisement for its neighbour",
            &message(own, 255, 136, &World::PEER6),
            Err(NdTarget),
        ),
        sends(
            "advertisement with a foreign MAC",
            &message(own, 255, 136, &with(World::POD6, &option(2, OTHER_MAC))),
            Err(NdLinkLayer),
        ),
        sends(
            "duplicate address detection",
            &probe(World::POD6, &[]),
            PASS,
        ),
        sends(
            "duplicate address detection of its link-local address, with a nonce",
            &probe(own, &nonce),
            PASS,
        ),
        sends(
            "duplicate address detection with a nonce and more",
            &probe(own, &[14, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
            Err(NdMalformed),
        ),
        sends(
            "duplicate address detection to a neighbour",
            &message([0; 16], 255, 135, &World::POD6),
            Err(NdMalformed),
        ),
        sends(
            "duplicate address detection for its neighbour",
            &probe(World::PEER6, &[]),
            Err(DadTarget),
        ),
        sends(
            "duplicate address detection with a MAC",
            &probe(World::POD6, &option(1, World::MAC)),
            Err(NdLinkLayer),
        ),
        sends(
            "advertisement from ::",
            &message([0; 16], 255, 136, &World::POD6),
            Err(InvalidSourceIp),
        ),
        sends(
            "router solicitation",
            &message(own, 255, 133, &option(1, World::MAC)),
            PASS,
        ),
        sends(
            "router solicitation with a foreign MAC",
            &message(own, 255, 133, &option(1, OTHER_MAC)),
            Err(NdLinkLayer),
        ),
        sends(
            "router advertisement",
            &message(own, 255, 134, &[0; 8]),
            Err(RouterAdvertisement),
        ),
        sends(
            "redirect",
            &message(own, 255, 137, &[0; 32]),
            Err(IcmpRedirect),
        ),
        sends(
            "a foreign link-local source",
            &message(
                [0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
                255,
                135,
                &World::PEER6,
            ),
            Err(InvalidSourceIp),
        ),
        sends(
            "echo from its link-local address",
            &message(own, 64, 128, &[]),
            Err(LinkLocalSource),
        ),
        sends("MLD report", &mld(own, 1, 143), PASS),
        sends("MLD report from ::", &mld([0; 16], 1, 143), PASS),
        sends("MLD done", &mld(own, 1, 132), PASS),
        sends(
            "MLD report that was routed",
            &mld(own, 2, 143),
            Err(NdMalformed),
        ),
        sends(
            "MLD report to one address",
            &message(own, 1, 143, &[0; 16]),
            Err(PolicyDenied),
        ),
    ];
    stories.extend(on_link());
    stories.extend(off_link());
    let router = message(
        [0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        255,
        134,
        &[0; 8],
    );
    let from_host = Frame {
        ingress_ifindex: 0,
        ..World::to_pod(0x86DD, &router)
    };
    let redirect = message(World::PEER6, 255, 137, &[0; 32]);
    stories.extend([
        receives(
            "solicitation",
            World::to_pod(0x86DD, &message(World::PEER6, 255, 135, &World::POD6)),
            &[],
            PASS,
        ),
        receives(
            "solicitation that was routed",
            World::to_pod(0x86DD, &message(World::PEER6, 64, 135, &World::POD6)),
            &[],
            Err(NdMalformed),
        ),
        receives(
            "MLD query",
            World::to_pod(0x86DD, &mld(World::PEER6, 1, 130)),
            &[],
            PASS,
        ),
        receives(
            "a neighbour's router advertisement",
            World::to_pod(0x86DD, &router),
            &[PolicyEntry::allow_all(Ingress, 0)],
            Err(RouterAdvertisement),
        ),
        receives(
            "its host's router advertisement, policed",
            from_host.clone(),
            &[],
            Err(PolicyDenied),
        ),
        receives(
            "its host's router advertisement, allowed",
            from_host,
            &[PolicyEntry::allow_all(Ingress, 1)],
            PASS,
        ),
        receives(
            "a neighbour's redirect",
            World::to_pod(0x86DD, &redirect),
            &[PolicyEntry::allow_all(Ingress, 0)],
            Err(IcmpRedirect),
        ),
    ]);
    stories
}

/// MLD to a group.
fn mld(source: [u8; 16], hop_limit: u8, kind: u8) -> Vec<u8> {
    message_to(
        group(0x16),
        (source, hop_limit),
        (kind, 0),
        [0; 4],
        &[0; 16],
    )
}

/// What hosts say on their link, and the forms that nobody needs.
fn on_link() -> Vec<Story> {
    let own = World::LINK_LOCAL;
    let (pod, peer, router) = (World::POD6, World::PEER6, own_router());
    let with = |code, flags: [u8; 4]| message_to(peer, (pod, 255), (135, code), flags, &peer);
    let stories = [
        (
            "resolves a neighbour",
            solicitation(pod, solicited(peer), peer),
            PASS,
        ),
        (
            "resolves its link-local router",
            solicitation(own, solicited(router), router),
            PASS,
        ),
        (
            "resolves its host in another subnet",
            solicitation(pod, solicited(GATEWAY6), GATEWAY6),
            PASS,
        ),
        (
            "finds out whether a neighbour is still there",
            solicitation(pod, peer, peer),
            PASS,
        ),
        (
            "finds out whether its router is still there",
            solicitation(own, router, router),
            PASS,
        ),
        (
            "finds out whether its host in another subnet is still there",
            solicitation(pod, GATEWAY6, GATEWAY6),
            PASS,
        ),
        ("answers a neighbour", advertisement(pod, peer, 0x60), PASS),
        (
            "answers its host in another subnet",
            advertisement(pod, GATEWAY6, 0x60),
            PASS,
        ),
        (
            "answers a link-local address",
            advertisement(own, router, 0x60),
            PASS,
        ),
        (
            "answers a probe, or announces itself",
            advertisement(pod, ALL_NODES, 0x20),
            PASS,
        ),
        (
            "announces itself to routers",
            advertisement(pod, ALL_ROUTERS, 0x20),
            PASS,
        ),
        (
            "advertises as asked for to all",
            advertisement(pod, ALL_NODES, 0x60),
            Err(NdMalformed),
        ),
        (
            "solicits a group",
            solicitation(pod, ALL_NODES, ALL_NODES),
            Err(NdMalformed),
        ),
        (
            "solicits one neighbour at another",
            solicitation(pod, peer, World::HOST6),
            Err(NdMalformed),
        ),
        (
            "solicits a neighbour at all nodes",
            solicitation(pod, ALL_NODES, peer),
            Err(NdMalformed),
        ),
        (
            "solicits a neighbour at another's group",
            solicitation(pod, solicited(pod), peer),
            Err(NdMalformed),
        ),
        ("a code", with(1, [0; 4]), Err(NdMalformed)),
        (
            "bits that are reserved",
            with(0, [0, 0, 0, 1]),
            Err(NdMalformed),
        ),
        (
            "flags of an advertisement in a solicitation",
            with(0, [0x40, 0, 0, 0]),
            Err(NdMalformed),
        ),
        (
            "a reserved bit of an advertisement",
            advertisement(pod, peer, 0x70),
            Err(NdMalformed),
        ),
    ];
    stories
        .map(|(what, bytes, expect)| sends_under(what, &[], &bytes, expect))
        .into()
}

/// Neighbour discovery is no way to whom policy denies: not by its payload, nor by whom it goes to.
fn off_link() -> Vec<Story> {
    let (pod, far) = (World::POD6, World::WORLD6);
    let other_node = [0xFD, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8];
    let organisation = [0xFF, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let allowed = [PolicyEntry::allow_all(Egress, 0)];
    let solicit_routers = |to| message_to(to, (pod, 255), (133, 0), [0; 4], &[]);
    let cases = [
        ("solicits somebody far away", solicitation(pod, far, far)),
        (
            "seeks somebody far away on the link",
            solicitation(pod, solicited(far), far),
        ),
        (
            "solicits a pod of another subnet",
            solicitation(pod, other_node, other_node),
        ),
        (
            "advertises itself to somebody far away",
            advertisement(pod, far, 0x60),
        ),
        (
            "advertises itself beyond the link",
            advertisement(pod, organisation, 0x20),
        ),
        ("solicits routers far away", solicit_routers(far)),
    ];
    let mut stories = vec![sends(
        "solicits its routers",
        &solicit_routers(ALL_ROUTERS),
        PASS,
    )];
    for (what, bytes) in cases {
        stories.push(sends_under(what, &[], &bytes, Err(PolicyDenied)));
        let what = format!("{what}, whom policy allows");
        stories.push(sends_under(&what, &allowed, &bytes, PASS));
    }
    // Subnets are what the pod was given, not always of 64 bits.
    for (length, expect) in [
        (56, PASS),
        (64, Err(PolicyDenied)),
        (128, Err(PolicyDenied)),
    ] {
        let mut config = World::config();
        config.flags |= oxilium_abi::InterfaceFlags::with_prefix_length(length);
        let given = Step::Plan(vec![Write::Interface(World::IFINDEX, Some(config))]);
        let bytes = advertisement(pod, other_node, 0x60);
        let sent = Step::From(World::from_pod(0x86DD, &bytes), expect);
        let name =
            format!("ND from a pod: answers a pod of another subnet, on a link of /{length}");
        stories.push(tell(&name, &[], vec![given, sent]));
    }
    stories
}

const fn own_router() -> [u8; 16] {
    [0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
}
