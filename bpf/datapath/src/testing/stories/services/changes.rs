//! What becomes of flows to a service when policy, backends or the service change.

use oxilium_abi::{
    DropReason::{FlowDenied, NoServiceFrontend, PolicyDenied},
    LbState,
};

use super::{
    super::{PolicyEntry, Step, Story, World, Write, policy_change},
    ACK, Family, Front, PASS, SYN, TCP, UDP,
    Who::{Peer, Second, Service},
    allow, back, out, received, refused, sent,
};
use crate::Direction::Egress;

pub(super) fn stories(f: Family) -> Vec<Story> {
    let mut stories = policy(f);
    stories.extend(backends(f));
    stories.extend(ids(f));
    stories.extend(older(f));
    stories
}

fn all() -> [PolicyEntry; 1] {
    [PolicyEntry::allow_all(Egress, 0)]
}

fn one(f: Family) -> Front {
    Front::new(f, TCP, &[(70, Peer, 8080)])
}

/// A flow to the service's only backend, answered, and what comes then.
fn with(f: Family, protocol: u8, more: Vec<Step>) -> Vec<Step> {
    let opened = vec![
        Front::new(f, protocol, &[(70, Peer, 8080)]).plan(),
        sent(f, protocol, SYN, Peer, 8080),
        received(f, protocol, SYN | ACK, Peer, 8080),
    ];
    [opened, more].concat()
}

/// The first backend rests, a second one is in its slot.
fn moved(f: Family, protocol: u8) -> Step {
    let next = Front::new(f, protocol, &[(71, Second, 9090)]);
    let mut writes = next.writes();
    writes.push(next.backend((70, Peer, 8080), LbState::Resting));
    Step::Plan(writes)
}

/// The service is gone, its backend rests.
fn gone(f: Family) -> Step {
    let one = one(f);
    Step::Plan(vec![
        Write::Service(one.key(), None),
        Write::Service(one.key().slot(1), None),
        one.backend((70, Peer, 8080), LbState::Resting),
    ])
}

fn policy(f: Family) -> Vec<Story> {
    vec![
        f.story(
            "a connection to a service is under the policy of now",
            &allow(TCP, 8080),
            with(
                f,
                TCP,
                vec![
                    policy_change(6, 2, &[]),
                    refused(f, TCP, ACK, FlowDenied),
                    Step::To(back(f, Peer, 8080, TCP, ACK), Err(FlowDenied)),
                    policy_change(7, 3, &allow(TCP, 8080)),
                    sent(f, TCP, ACK, Peer, 8080),
                    received(f, TCP, ACK, Peer, 8080),
                ],
            ),
        ),
        f.story(
            "a connection to a service is under its backend's identity of now",
            &allow(TCP, 8080),
            with(
                f,
                TCP,
                vec![
                    Step::Plan(vec![f.address_of_peer(10_004)]),
                    Step::Plan(World::switch(World::TABLE, 2)),
                    Step::To(back(f, Peer, 8080, TCP, ACK), Err(FlowDenied)),
                    refused(f, TCP, ACK, FlowDenied),
                ],
            ),
        ),
    ]
}

fn backends(f: Family) -> Vec<Story> {
    vec![
        f.story(
            "a connection goes on when its backend is taken out of the service",
            &all(),
            with(
                f,
                TCP,
                vec![
                    moved(f, TCP),
                    sent(f, TCP, ACK, Peer, 8080),
                    received(f, TCP, ACK, Peer, 8080),
                ],
            ),
        ),
        f.story(
            "a SYN that is sent again goes to a backend of the service",
            &all(),
            with(f, TCP, vec![moved(f, TCP), sent(f, TCP, SYN, Second, 9090)]),
        ),
        f.story(
            "UDP moves at once when its backend is taken out of the service",
            &all(),
            with(
                f,
                UDP,
                vec![
                    moved(f, UDP),
                    sent(f, UDP, 0, Second, 9090),
                    received(f, UDP, 0, Second, 9090),
                ],
            ),
        ),
        f.story(
            "a connection goes on when the service is gone",
            &all(),
            with(
                f,
                TCP,
                vec![
                    gone(f),
                    sent(f, TCP, ACK, Peer, 8080),
                    received(f, TCP, ACK, Peer, 8080),
                ],
            ),
        ),
    ]
}

fn ids(f: Family) -> Vec<Story> {
    vec![
        f.story(
            "an answer whose service is not known any more reaches nobody",
            &all(),
            with(
                f,
                TCP,
                vec![
                    Step::Plan(vec![Write::ReverseNat(7, None)]),
                    Step::To(back(f, Peer, 8080, TCP, ACK), Err(NoServiceFrontend)),
                ],
            ),
        ),
        f.story(
            "a flow follows no id to its next owner",
            &allow(TCP, 8080),
            with(
                f,
                TCP,
                vec![
                    Step::Plan(vec![one(f).backend((70, Second, 8080), LbState::Active)]),
                    // In the middle of a connection that is not known: every backend must be allowed.
                    refused(f, TCP, ACK, PolicyDenied),
                ],
            ),
        ),
        f.story(
            "a recycled address inherits no choice",
            &allow(TCP, 8080),
            with(
                f,
                TCP,
                vec![
                    Step::Plan(vec![Write::Interface(
                        World::IFINDEX,
                        Some(oxilium_abi::InterfaceConfig {
                            birth: 2,
                            ..World::config()
                        }),
                    )]),
                    policy_change(6, 2, &allow(TCP, 8080)),
                    // Not translated: it is kube-proxy's, if anybody's.
                    Step::Sent(out(f, Service, 80, TCP, ACK), out(f, Service, 80, TCP, ACK)),
                ],
            ),
        ),
    ]
}

fn older(f: Family) -> Vec<Story> {
    vec![
        f.story(
            "a flow that is older than the service is the service's from then on",
            &[
                PolicyEntry::allow(Egress, f.world(), UDP, 80),
                PolicyEntry::allow(Egress, World::PEER, UDP, 8080),
            ],
            vec![
                Step::Sent(out(f, Service, 80, UDP, 0), out(f, Service, 80, UDP, 0)),
                Step::Received(back(f, Service, 80, UDP, 0), back(f, Service, 80, UDP, 0)),
                Front::new(f, UDP, &[(70, Peer, 8080)]).plan(),
                Step::Plan(World::switch(World::TABLE, 2)),
                sent(f, UDP, 0, Peer, 8080),
                received(f, UDP, 0, Peer, 8080),
            ],
        ),
        f.story(
            "a flow that is older than the service passes no policy of its backends",
            &[PolicyEntry::allow(Egress, f.world(), TCP, 80)],
            vec![
                Step::From(out(f, Service, 80, TCP, SYN), PASS),
                Step::To(back(f, Service, 80, TCP, SYN | ACK), PASS),
                Front::new(f, TCP, &[(70, Peer, 8080)]).plan(),
                Step::Plan(World::switch(World::TABLE, 2)),
                refused(f, TCP, ACK, PolicyDenied),
                Step::To(back(f, Service, 80, TCP, ACK), Err(PolicyDenied)),
            ],
        ),
    ]
}
