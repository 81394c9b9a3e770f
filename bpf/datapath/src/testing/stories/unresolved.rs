//! A pod on another node for whose address the ipcache has no room: a prefix around it says so.

use oxilium_abi::{
    DropReason::{FlowDenied, NoRoomForIdentity},
    IDENTITY_UNRESOLVED, IpcacheKey,
};

use super::{
    super::{PolicyEntry, World, Write, tcp},
    Family, PASS, Step, Story,
    Who::{Peer, Second, World as Outside},
};
use crate::Direction::Ingress;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// The prefixes around the peer.
fn around() -> [IpcacheKey; 2] {
    let [a, b, c, _] = World::PEER4;
    let mut around6 = World::PEER6;
    around6[15] = 0;
    [
        IpcacheKey::v4([a, b, c, 0], 24),
        IpcacheKey::v6(around6, 120),
    ]
}

/// The peer's entry goes, and the prefix around it comes.
fn no_room() -> Step {
    let mut writes = around()
        .map(|prefix| World::address(prefix, IDENTITY_UNRESOLVED))
        .to_vec();
    writes.push(Write::Ipcache(IpcacheKey::v4(World::PEER4, 32), None));
    writes.push(Write::Ipcache(IpcacheKey::v6(World::PEER6, 128), None));
    writes.extend(World::switch(World::TABLE, 2));
    Step::Plan(writes)
}

/// The prefixes go: another story is told of the same maps.
fn room_again() -> Step {
    Step::Plan(around().map(|prefix| Write::Ipcache(prefix, None)).to_vec())
}

pub(super) fn stories(f: Family) -> Vec<Story> {
    let everybody = PolicyEntry::allow(Ingress, 0, 6, 80);
    let peer = PolicyEntry::allow(Ingress, World::PEER, 6, 80);
    let second = PolicyEntry::allow(Ingress, World::SECOND, 6, 81);
    let syn = |who, port| f.to(who, 6, &tcp(4000, port, SYN, &[]));
    let ack = || f.to(Peer, 6, &tcp(4000, 80, ACK, &[]));
    vec![
        f.story(
            "a pod that is denied does not become the world for want of room",
            &[everybody, peer.denied()],
            vec![
                no_room(),
                Step::To(syn(Outside, 80), PASS),
                Step::To(syn(Second, 80), PASS),
                Step::To(syn(Peer, 80), Err(NoRoomForIdentity)),
                room_again(),
            ],
        ),
        f.story(
            "a pod without room may what everybody may, and no more",
            &[everybody, second],
            vec![
                no_room(),
                Step::To(syn(Peer, 80), PASS),
                Step::To(syn(Peer, 81), Err(NoRoomForIdentity)),
                Step::To(syn(Second, 81), PASS),
                room_again(),
            ],
        ),
        f.story(
            "a flow that lives is judged anew when there is no more room for its peer",
            &[peer],
            vec![
                Step::To(syn(Peer, 80), PASS),
                no_room(),
                Step::To(ack(), Err(FlowDenied)),
                room_again(),
            ],
        ),
    ]
}
