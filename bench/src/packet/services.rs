//! The first packet of a flow to a service: with a single service on the node, and with ten thousand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use oxilium_abi::{
    Be16, Family as AbiFamily, LbAddress, LbState, ServiceKey, ServiceValue, ServiceWord,
};
use oxilium_e2e::packet::{self, protocol::TCP, tcp_flag};
use oxilium_kernel::PolicyAsked;
use oxilium_model::plan::Write;

use super::{Bed, FLOWS, Family, Hook, NODE_MAC, OPEN, PASSED, POD_MAC, test};
use crate::{
    empty,
    figures::Pairs,
    report::{Goal, Line, Unit},
};

/// The size of a big cluster.
const SERVICES: u16 = 10_000;
/// A prime: flows go to services far from each other.
const STRIDE: u32 = 7_919;
/// The port that services are reached at.
const PORT: u16 = 443;

/// Both families, `rounds` times.
///
/// # Errors
/// If a packet is not judged as it should be.
pub(super) fn run(rounds: usize) -> Result<Vec<Line>> {
    let mut single = Bed::new("single", PolicyAsked::default())?;
    single.serve(1)?;
    let mut many = Bed::new("many", PolicyAsked::default())?;
    many.serve(SERVICES)?;
    let mut lines = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (mut same, mut services, mut translation) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let direct = single.new_flows(family, Hook::From)?;
            let to_single = single.flows_to_services(family, 1)?;
            same.push((many.flows_to_services(family, 1)?, to_single));
            services.push((many.flows_to_services(family, SERVICES)?, to_single));
            translation.push((to_single, direct));
        }
        let mut ratio = |what: &str, samples: &[(f64, f64)], goal| -> Result<()> {
            let name = format!("from_container {}, new: {what}", family.name());
            let pairs = Pairs::new(samples).context("nothing measured")?;
            lines.push(Line::ratio(&name, &pairs, Unit::Seconds, goal));
            Ok(())
        };
        ratio(
            "to one of 10,000 services to the only one",
            &same,
            Some(Goal::AtMost(1.1)),
        )?;
        // What each of them has lies elsewhere, and in no cache.
        ratio(
            "to 10,000 services in turn to the only one",
            &services,
            Some(Goal::AtMost(1.1)),
        )?;
        ratio("to a service to direct", &translation, None)?;
    }
    Ok(lines)
}

impl Family {
    /// The frontend of service `number`.
    fn frontend(self, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        match self {
            Self::V4 => Ipv4Addr::new(10, 96, high, low).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number).into(),
        }
    }
}

fn wide(address: IpAddr) -> (AbiFamily, [u8; 16]) {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (AbiFamily::V4, bytes)
        }
        IpAddr::V6(v6) => (AbiFamily::V6, v6.octets()),
    }
}

impl Bed {
    /// Services of both families, each with the peer as its only backend.
    fn serve(&mut self, count: u16) -> Result<()> {
        for family in [Family::V4, Family::V6] {
            for number in 0..count {
                let id = number
                    + 1
                    + if matches!(family, Family::V6) {
                        count
                    } else {
                        0
                    };
                self.serve_one(family, number, id)?;
            }
        }
        self.write(Write::ServicesInUse(true))
    }

    fn serve_one(&mut self, family: Family, number: u16, id: u16) -> Result<()> {
        let address = |of: IpAddr, port: u16| {
            let (family, address) = wide(of);
            LbAddress {
                address,
                port: Be16::new(port),
                frontend: id,
                protocol: TCP,
                family: family as u8,
                state: LbState::Active as u8,
                ..LbAddress::default()
            }
            .sealed(u32::from(id))
        };
        self.write(Write::Backend {
            id: u32::from(id),
            value: address(family.peer(), OPEN),
        })?;
        self.write(Write::ReverseNat {
            id: u32::from(id),
            value: address(family.frontend(number), PORT),
        })?;
        let (abi, bytes) = wide(family.frontend(number));
        let master = ServiceKey::master(abi, bytes, Be16::new(PORT), TCP);
        let slot = master.slot(1);
        for (key, word) in [
            (slot, u64::from(id)),
            (master, ServiceWord::new(id, 1, 0).0),
        ] {
            let value = ServiceValue::new(&key, word);
            self.write(Write::Service { key, value })?;
        }
        Ok(())
    }

    /// Seconds that the first packet of a flow to one of the services takes, net of an empty program's: the mean over
    /// many flows.
    fn flows_to_services(&mut self, family: Family, services: u16) -> Result<f64> {
        let mut sum = 0.0;
        for number in 0..u32::from(FLOWS) {
            let client = self.next_client();
            let service = u16::try_from(number * STRIDE % u32::from(services))?;
            let frame = packet::tcp(
                (family.pod(), client),
                (family.frontend(service), PORT),
                tcp_flag::SYN,
                (1, 1),
                &[],
            )
            .frame(NODE_MAC, POD_MAC);
            let nothing = test(empty::program(&mut self.empty)?, &frame, 1)?.1;
            sum += self.once(Hook::From, &frame, PASSED)? - nothing;
        }
        Ok(sum / f64::from(FLOWS))
    }
}
