//! Neighbour discovery and MLD.

use oxilium_abi::DropReason::{
    self, DadTarget, IcmpRedirect, InvalidSourceIp, LinkLocalSource, NdLinkLayer, NdMalformed,
    NdTarget, PolicyDenied, RouterAdvertisement,
};

use super::{
    super::{Frame, Ipv6, PolicyEntry, World, icmp},
    PASS, Step, Story, tell,
};
use crate::Direction::Ingress;

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];

fn message(source: [u8; 16], hop_limit: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let header = Ipv6 {
        hop_limit,
        ..Ipv6::new(source, World::PEER6, 58)
    };
    header.with(&icmp(kind, 0, &[&[0; 4], body].concat()))
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
    let many: Vec<u8> = (0..9).flat_map(|_| [14, 1, 0, 0, 0, 0, 0, 0]).collect();
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
            &solicit(&[14, 1, 1, 2, 3, 4, 5, 6]),
            PASS,
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
            &solicit(&[14, 2, 0, 0, 0, 0, 0, 0]),
            Err(NdMalformed),
        ),
        sends("nine options", &solicit(&many), Err(NdMalformed)),
        sends("eight options", &solicit(&many[8..]), PASS),
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
            &message([0; 16], 255, 135, &World::POD6),
            PASS,
        ),
        sends(
            "duplicate address detection for its neighbour",
            &message([0; 16], 255, 135, &World::PEER6),
            Err(DadTarget),
        ),
        sends(
            "duplicate address detection with a MAC",
            &message(
                [0; 16],
                255,
                135,
                &with(World::POD6, &option(1, World::MAC)),
            ),
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
        sends("MLD report", &message(own, 1, 143, &[]), PASS),
        sends("MLD report from ::", &message([0; 16], 1, 143, &[]), PASS),
        sends("MLD done", &message(own, 1, 132, &[0; 16]), PASS),
        sends(
            "MLD report that was routed",
            &message(own, 2, 143, &[]),
            Err(NdMalformed),
        ),
    ];
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
            World::to_pod(0x86DD, &message(World::PEER6, 1, 130, &[0; 16])),
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
