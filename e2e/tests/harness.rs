//! The lab itself, without the agent: what the network does when nobody judges it.

use std::net::{IpAddr, SocketAddr};

use oxilium_e2e::{
    lab::Lab,
    netns, packet,
    pod::host_interface,
    probe::{self, Outcome},
    require::{Need, require},
    server, wait,
    wire::{Tap, contains},
};

const NEEDS: [Need; 4] = [Need::Root, Need::Tools, Need::CniPlugins, Need::Binaries];

#[test]
fn pods_reach_each_other_and_the_nodes_when_nobody_judges() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::without_oxilium().unwrap();
    let (one, two) = (
        lab.pod("one").start().unwrap(),
        lab.pod("two").start().unwrap(),
    );
    let remote = lab.pod("remote").on_master().start().unwrap();
    let _nginx = server::nginx(&one, &[80, 8080]).unwrap();

    for address in [IpAddr::from(one.ipv4), IpAddr::from(one.ipv6)] {
        for from in [
            &two.netns,
            &remote.netns,
            &lab.master.netns,
            &lab.worker.netns,
            &one.netns,
        ] {
            assert_eq!(
                probe::ping(from, address).unwrap(),
                Outcome::Answered,
                "{from:?} {address}"
            );
            assert_eq!(
                probe::curl(from, address, 80).unwrap(),
                Outcome::Answered,
                "{from:?} {address}"
            );
            assert_eq!(
                probe::curl(from, address, 8080).unwrap(),
                Outcome::Answered,
                "{from:?} {address}"
            );
        }
        let closed = probe::curl(&two.netns, address, 81).unwrap();
        assert!(matches!(closed, Outcome::Refused(_)), "{closed}");

        let echo = server::UdpEcho::start(&one.netns, SocketAddr::from((address, 5353))).unwrap();
        for size in [10, 4000] {
            let to = SocketAddr::from((address, 5353));
            assert_eq!(probe::udp(&two.netns, to, size).unwrap(), Outcome::Answered);
        }
        drop(echo);
    }
}

#[test]
fn frames_sent_by_hand_arrive_in_order() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::without_oxilium().unwrap();
    let (one, two) = (
        lab.pod("one").start().unwrap(),
        lab.pod("two").start().unwrap(),
    );
    let (send, see) = (
        Tap::open(&one.netns, "eth0").unwrap(),
        Tap::open(&two.netns, "eth0").unwrap(),
    );
    let from: IpAddr = one.ipv4.into();
    let datagram = |text: &[u8]| {
        packet::udp((from, 1000), (two.ipv4.into(), 1000), text).frame(two.mac, one.mac)
    };
    send.send(&datagram(b"something else")).unwrap();
    send.send(&datagram(b"the marker")).unwrap();
    let before = see
        .until(wait::LONG, |frame| contains(frame, b"the marker"))
        .unwrap();
    assert!(
        before
            .iter()
            .any(|frame| contains(frame, b"something else"))
    );
    assert!(host_interface(&one.result).unwrap().starts_with("veth"));
}

#[test]
fn a_lab_leaves_nothing_behind() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::without_oxilium().unwrap();
    let pod = lab.pod("one").start().unwrap();
    let _nginx = server::nginx(&pod, &[80]).unwrap();
    let (prefix, directory) = (lab.prefix().to_owned(), lab.directory().to_owned());
    assert!(!netns::names_with(&prefix).unwrap().is_empty());
    drop(lab);
    assert!(netns::names_with(&prefix).unwrap().is_empty());
    assert!(!directory.exists());
}
