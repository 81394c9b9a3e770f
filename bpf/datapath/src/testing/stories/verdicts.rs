//! First packets: each class of verdict.

use oxilium_abi::DropReason::{AuthRequired, PolicyDenied, PolicyDeny, ProxyUnavailable};

use super::{
    super::{PolicyEntry, icmp, sctp, tcp, udp},
    Family, PASS, Step, Story,
    Who::{Host, Peer, World as Outside},
};
use crate::Direction::{Egress, Ingress};

const SYN: u8 = 2;
const PEER: u32 = super::World::PEER;

#[expect(clippy::too_many_lines, reason = "one table")]
pub(super) fn stories(f: Family) -> Vec<Story> {
    let entry = PolicyEntry::allow(Ingress, PEER, 6, 80);
    let syn = || f.to(Peer, 6, &tcp(4000, 80, SYN, &[]));
    let (request, _) = f.echo();
    let mut stories = vec![
        f.story(
            "no policy entry denies",
            &[],
            vec![Step::To(syn(), Err(PolicyDenied))],
        ),
        f.story(
            "an allowed port passes",
            &[entry],
            vec![Step::To(syn(), PASS)],
        ),
        f.story(
            "another port is denied",
            &[entry],
            vec![Step::To(
                f.to(Peer, 6, &tcp(4000, 81, SYN, &[])),
                Err(PolicyDenied),
            )],
        ),
        f.story(
            "another protocol is denied",
            &[entry],
            vec![Step::To(
                f.to(Peer, 17, &udp(4000, 80, &[])),
                Err(PolicyDenied),
            )],
        ),
        f.story(
            "another identity is denied",
            &[entry],
            vec![Step::To(
                f.to(Outside, 6, &tcp(4000, 80, SYN, &[])),
                Err(PolicyDenied),
            )],
        ),
        f.story(
            "the other direction is denied",
            &[entry],
            vec![Step::From(
                f.from(Peer, 6, &tcp(4000, 80, SYN, &[])),
                Err(PolicyDenied),
            )],
        ),
        f.story(
            "a deny entry has its own reason",
            &[PolicyEntry::allow_all(Ingress, 0), entry.denied()],
            vec![Step::To(syn(), Err(PolicyDeny))],
        ),
        f.story(
            "a redirect without proxy is dropped",
            &[PolicyEntry {
                precedence: 0xFFFF_FF9A,
                proxy_port: 10_000,
                ..entry
            }],
            vec![Step::To(syn(), Err(ProxyUnavailable))],
        ),
        f.story(
            "authentication that nobody gives is dropped",
            &[PolicyEntry {
                auth: 0x81,
                ..entry
            }],
            vec![Step::To(syn(), Err(AuthRequired))],
        ),
        f.story(
            "a weaker entry's authentication holds for an allow without its own",
            &[
                entry,
                PolicyEntry {
                    auth: 0x81,
                    ..PolicyEntry::allow_all(Ingress, 0)
                },
            ],
            vec![Step::To(syn(), Err(AuthRequired))],
        ),
        f.story(
            "authentication of lower precedence does not hold",
            &[
                entry,
                PolicyEntry {
                    auth: 0x81,
                    precedence: 1,
                    ..PolicyEntry::allow_all(Ingress, 0)
                },
            ],
            vec![Step::To(syn(), PASS)],
        ),
        f.story(
            "a port range passes its ports alone",
            &[PolicyEntry {
                port: 8000,
                prefix: Some(13),
                ..entry
            }],
            vec![
                Step::To(f.to(Peer, 6, &tcp(1, 8000, SYN, &[])), PASS),
                Step::To(f.to(Peer, 6, &tcp(1, 8007, SYN, &[])), PASS),
                Step::To(f.to(Peer, 6, &tcp(1, 8008, SYN, &[])), Err(PolicyDenied)),
                Step::To(f.to(Peer, 6, &tcp(1, 7999, SYN, &[])), Err(PolicyDenied)),
            ],
        ),
        f.story(
            "the aggregate of a pod's identity is the cluster",
            &[PolicyEntry::allow_all(Ingress, 11)],
            vec![
                Step::To(syn(), PASS),
                Step::To(f.to(Outside, 6, &tcp(1, 80, SYN, &[])), Err(PolicyDenied)),
            ],
        ),
        f.story(
            "SCTP and UDP by port",
            &[
                PolicyEntry::allow(Ingress, PEER, 132, 9),
                PolicyEntry::allow(Ingress, PEER, 17, 53),
            ],
            vec![
                Step::To(f.to(Peer, 132, &sctp(1, 9)), PASS),
                Step::To(f.to(Peer, 132, &sctp(1, 8)), Err(PolicyDenied)),
                Step::To(f.to(Peer, 17, &udp(1, 53, b"x")), PASS),
            ],
        ),
        f.story(
            "a protocol without ports by its number",
            &[PolicyEntry {
                prefix: Some(0),
                ..PolicyEntry::allow(Egress, PEER, 47, 0)
            }],
            vec![
                Step::From(f.from(Peer, 47, &[0; 8]), PASS),
                Step::To(f.to(Peer, 47, &[0; 8]), PASS),
                Step::From(f.from(Peer, 50, &[0; 8]), Err(PolicyDenied)),
            ],
        ),
        f.story(
            "ICMP by type",
            &[PolicyEntry::allow(
                Egress,
                PEER,
                f.icmp(),
                u16::from(request),
            )],
            vec![
                Step::From(
                    f.from(Peer, f.icmp(), &icmp(request, 0, &[0, 1, 0, 1])),
                    PASS,
                ),
                Step::From(
                    f.from(Peer, f.icmp(), &icmp(200, 0, &[0; 4])),
                    Err(PolicyDenied),
                ),
            ],
        ),
    ];
    stories.extend(host(f));
    stories
}

fn host(f: Family) -> Vec<Story> {
    let allow_host = PolicyEntry::allow_all(Ingress, 1);
    let from_host = || f.to(Host, 6, &tcp(1, 80, SYN, &[]));
    let mut masquerade = from_host();
    masquerade.ingress_ifindex = super::World::OTHER_IFINDEX;
    vec![
        f.story(
            "a local source that nothing brought is the host",
            &[allow_host],
            vec![Step::To(from_host(), PASS)],
        ),
        f.story(
            "advisory 22: a local source that came through an interface is never the host",
            &[allow_host],
            vec![Step::To(masquerade.clone(), Err(PolicyDenied))],
        ),
        f.story(
            "advisory 22: nor does the host's flow let it through",
            &[allow_host],
            vec![
                Step::To(from_host(), PASS),
                Step::To(masquerade, Err(PolicyDenied)),
                Step::To(from_host(), PASS),
            ],
        ),
        f.story(
            "the pod reaches the host by an entry for it",
            &[PolicyEntry::allow_all(Egress, 1)],
            vec![Step::From(f.from(Host, 6, &tcp(1, 80, SYN, &[])), PASS)],
        ),
        f.story(
            "an unknown address is world of its family",
            &[PolicyEntry::allow_all(
                Ingress,
                if f == Family::V4 { 9 } else { 10 },
            )],
            vec![Step::To(f.to(Outside, 6, &tcp(1, 80, SYN, &[])), PASS)],
        ),
    ]
}
