//! Flows: replies, changes of policy and of identities, and what must not pass as a reply.

use oxilium_abi::{
    DropReason::{FlowDenied, IcmpErrorUnrelated, PolicyDenied},
    IpcacheKey,
};

use super::{
    super::{PolicyEntry, World, icmp, tcp, udp},
    Family, PASS, Step, Story,
    Who::{self, Peer, World as Outside},
    policy_change,
};
use crate::Direction::{Egress, Ingress};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn to(f: Family, flags: u8) -> super::Frame {
    f.to(Peer, 6, &tcp(4000, 80, flags, b""))
}

fn from(f: Family, flags: u8) -> super::Frame {
    f.from(Peer, 6, &tcp(80, 4000, flags, b""))
}

pub(super) fn stories(f: Family) -> Vec<Story> {
    let mut stories = connections(f);
    stories.extend(changes(f));
    stories.extend(echo(f));
    stories.extend(errors(f));
    stories
}

fn connections(f: Family) -> Vec<Story> {
    let allow = [PolicyEntry::allow(Ingress, World::PEER, 6, 80)];
    let handshake = || {
        vec![
            Step::To(to(f, SYN), PASS),
            Step::From(from(f, SYN | ACK), PASS),
            Step::To(to(f, ACK), PASS),
        ]
    };
    let with = |more: Vec<Step>| [handshake(), more].concat();
    vec![
        f.story(
            "replies of an allowed flow pass without policy of their own",
            &allow,
            handshake(),
        ),
        f.story(
            "a SYN is never a reply",
            &allow,
            with(vec![
                Step::From(from(f, SYN), Err(PolicyDenied)),
                // The connection is untouched.
                Step::From(from(f, ACK), PASS),
                Step::To(to(f, ACK), PASS),
            ]),
        ),
        f.story(
            "ACK then SYN from a denied peer: neither passes, neither opens",
            &[],
            vec![
                Step::To(to(f, ACK), Err(PolicyDenied)),
                Step::To(to(f, SYN), Err(PolicyDenied)),
                Step::From(from(f, SYN | ACK), Err(PolicyDenied)),
            ],
        ),
        f.story(
            "a SYN the other way that is allowed begins a flow of its own",
            &[allow[0], PolicyEntry::allow(Egress, World::PEER, 6, 4000)],
            with(vec![
                Step::From(from(f, SYN), PASS),
                Step::To(to(f, SYN | ACK), PASS),
                Step::From(from(f, ACK), PASS),
            ]),
        ),
        f.story(
            "after both FINs a SYN begins anew, under the policy of now",
            &allow,
            with(vec![
                Step::To(to(f, FIN | ACK), PASS),
                Step::From(from(f, FIN | ACK), PASS),
                policy_change(6, 2, &[]),
                Step::To(to(f, SYN), Err(PolicyDenied)),
            ]),
        ),
        f.story(
            "a reset without a flow is judged and opens none",
            &allow,
            vec![
                Step::To(to(f, RST), PASS),
                Step::From(from(f, ACK), Err(PolicyDenied)),
            ],
        ),
        f.story(
            "a recycled address inherits nothing",
            &allow,
            with(vec![
                policy_change(6, 2, &[]),
                Step::Plan(vec![super::Write::Interface(
                    World::IFINDEX,
                    Some(oxilium_abi::InterfaceConfig {
                        birth: 2,
                        ..World::config()
                    }),
                )]),
                Step::From(from(f, ACK), Err(PolicyDenied)),
            ]),
        ),
        f.story(
            "UDP answers pass, and what is no answer does not",
            &[PolicyEntry::allow(Egress, World::PEER, 17, 53)],
            vec![
                Step::From(f.from(Peer, 17, &udp(999, 53, b"?")), PASS),
                Step::To(f.to(Peer, 17, &udp(53, 999, b"!")), PASS),
                Step::To(f.to(Peer, 17, &udp(54, 999, b"!")), Err(PolicyDenied)),
                Step::To(f.to(Outside, 17, &udp(53, 999, b"!")), Err(PolicyDenied)),
            ],
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn changes(f: Family) -> Vec<Story> {
    let allow = [PolicyEntry::allow(Ingress, World::PEER, 6, 80)];
    let handshake = || {
        vec![
            Step::To(to(f, SYN), PASS),
            Step::From(from(f, SYN | ACK), PASS),
            Step::To(to(f, ACK), PASS),
        ]
    };
    let with = |more: Vec<Step>| [handshake(), more].concat();
    let peer_becomes = |identity| {
        let mut writes = vec![
            World::address(IpcacheKey::v4(World::PEER4, 32), identity),
            World::address(IpcacheKey::v6(World::PEER6, 128), identity),
        ];
        writes.extend(World::switch(World::TABLE, 2));
        Step::Plan(writes)
    };
    let redirect = PolicyEntry {
        precedence: 0xFFFF_FF9A,
        proxy_port: 10_000,
        ..allow[0]
    };
    vec![
        f.story(
            "denied ingress stops the server's next payload, and stays stopped",
            &allow,
            with(vec![
                policy_change(6, 2, &[]),
                Step::From(from(f, ACK), Err(FlowDenied)),
                Step::From(from(f, ACK), Err(FlowDenied)),
                Step::To(to(f, ACK), Err(FlowDenied)),
                Step::To(to(f, SYN), Err(FlowDenied)),
            ]),
        ),
        f.story(
            "a flow that is allowed again lives on",
            &allow,
            with(vec![
                policy_change(6, 2, &[]),
                Step::From(from(f, ACK), Err(FlowDenied)),
                policy_change(5, 3, &allow),
                Step::From(from(f, ACK), PASS),
                Step::To(to(f, ACK), PASS),
            ]),
        ),
        f.story(
            "a change that allows the same leaves the flow as it is",
            &allow,
            with(vec![
                policy_change(6, 2, &allow),
                Step::From(from(f, ACK), PASS),
                Step::To(to(f, ACK), PASS),
            ]),
        ),
        f.story(
            "the original direction is evaluated, not the reply's",
            &allow,
            with(vec![
                policy_change(6, 2, &[PolicyEntry::allow_all(Egress, 0)]),
                Step::From(from(f, ACK), Err(FlowDenied)),
            ]),
        ),
        f.story(
            "another identity of the peer counts as a change",
            &allow,
            with(vec![
                peer_becomes(10_999),
                Step::From(from(f, ACK), Err(FlowDenied)),
            ]),
        ),
        f.story(
            "a redirect on a live flow is a denial",
            &allow,
            with(vec![
                policy_change(6, 2, &[redirect]),
                Step::To(to(f, ACK), Err(FlowDenied)),
            ]),
        ),
        f.story(
            "after the denied entry is gone neither side opens the flow anew",
            &allow,
            with(vec![
                policy_change(6, 2, &[]),
                Step::From(from(f, ACK), Err(FlowDenied)),
                Step::Purge,
                Step::From(from(f, ACK), Err(PolicyDenied)),
                Step::To(to(f, ACK), Err(PolicyDenied)),
            ]),
        ),
        f.story(
            "a flow of the host is still the host's when a reply has it judged again",
            &[PolicyEntry::allow_all(Ingress, 1)],
            vec![
                Step::To(f.to(Who::Host, 6, &tcp(1, 80, SYN, &[])), PASS),
                policy_change(6, 2, &[PolicyEntry::allow(Ingress, 1, 6, 80)]),
                Step::From(f.from(Who::Host, 6, &tcp(80, 1, SYN | ACK, &[])), PASS),
                policy_change(5, 3, &[]),
                Step::From(f.from(Who::Host, 6, &tcp(80, 1, ACK, &[])), Err(FlowDenied)),
            ],
        ),
    ]
}

fn echo(f: Family) -> Vec<Story> {
    let (request, reply) = f.echo();
    let echo = |kind, id: u8| icmp(kind, 0, &[0, id, 0, 1]);
    let p = f.icmp();
    let egress = [PolicyEntry::allow(
        Egress,
        World::PEER,
        p,
        u16::from(request),
    )];
    vec![
        f.story(
            "an echo is answered",
            &egress,
            vec![
                Step::From(f.from(Peer, p, &echo(request, 1)), PASS),
                Step::To(f.to(Peer, p, &echo(reply, 1)), PASS),
                Step::To(f.to(Peer, p, &echo(reply, 2)), Err(PolicyDenied)),
            ],
        ),
        f.story(
            "advisory 24: a request with the flow's id is not its reply",
            &egress,
            vec![
                Step::From(f.from(Peer, p, &echo(request, 1)), PASS),
                Step::To(f.to(Peer, p, &echo(request, 1)), Err(PolicyDenied)),
            ],
        ),
        f.story(
            "a reply to nothing is policed by its type and opens no flow",
            &[PolicyEntry::allow(
                Ingress,
                World::PEER,
                p,
                u16::from(reply),
            )],
            vec![
                Step::To(f.to(Peer, p, &echo(reply, 1)), PASS),
                Step::From(f.from(Peer, p, &echo(request, 1)), Err(PolicyDenied)),
            ],
        ),
    ]
}

fn errors(f: Family) -> Vec<Story> {
    let p = f.icmp();
    let allow = [PolicyEntry::allow(Egress, World::PEER, 17, 53)];
    let error = |quote: &[u8]| icmp(f.unreachable(), 0, &[&[0; 4], quote].concat());
    let query = f.from(Peer, 17, &udp(999, 53, b"?"));
    let quoted = error(&f.quote_from(Peer, 17, &udp(999, 53, b"?")));
    let sent_to_pod = f.quote_to(Peer, 17, &udp(53, 999, b"!"));
    let foreign = match f {
        Family::V4 => super::Ipv4::new(World::WORLD4, World::PEER4, 17).with(&udp(1, 2, b"")),
        Family::V6 => super::Ipv6::new(World::WORLD6, World::PEER6, 17).with(&udp(1, 2, b"")),
    };
    vec![
        f.story(
            "a router's error about the pod's flow passes",
            &allow,
            vec![
                Step::To(f.to(Outside, p, &quoted), Err(PolicyDenied)),
                Step::From(query.clone(), PASS),
                Step::To(f.to(Outside, p, &quoted), PASS),
            ],
        ),
        f.story(
            "an error follows its flow's verdict",
            &allow,
            vec![
                Step::From(query.clone(), PASS),
                policy_change(6, 2, &[]),
                Step::To(f.to(Outside, p, &quoted), Err(FlowDenied)),
                Step::To(f.to(Outside, p, &quoted), Err(FlowDenied)),
                Step::From(query.clone(), Err(FlowDenied)),
            ],
        ),
        f.story(
            "an error of the pod's about what it got passes",
            &allow,
            vec![
                Step::From(query, PASS),
                Step::To(f.to(Peer, 17, &udp(53, 999, b"!")), PASS),
                Step::From(f.from(Peer, p, &error(&sent_to_pod)), PASS),
            ],
        ),
        f.story(
            "an error of the pod's about what it never got is a lie",
            &[PolicyEntry::allow_all(Egress, 0)],
            vec![Step::From(
                f.from(Peer, p, &error(&foreign)),
                Err(IcmpErrorUnrelated),
            )],
        ),
    ]
}
