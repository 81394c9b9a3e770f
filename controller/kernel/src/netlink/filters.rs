//! clsact qdiscs and the bpf filters on them.

use std::os::fd::{AsRawFd, BorrowedFd};

use oxilium_model::node_state::Hook;

use super::Netlink;
use super::wire::{Message, Request, attributes, flag, kind, string, u32_at};
use crate::count::{Action, Target, WriteCounter};
use crate::error::NetlinkError;

/// Length of `struct tcmsg`.
const TCMSG: usize = 20;
const CLSACT_PARENT: u32 = 0xFFFF_FFF1;
const CLSACT_HANDLE: u32 = 0xFFFF_0000;
const INGRESS_PARENT: u32 = 0xFFFF_FFF2;
const EGRESS_PARENT: u32 = 0xFFFF_FFF3;
/// `ETH_P_ALL`.
const ALL_PROTOCOLS: u16 = 3;

/// `TCA_*`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_BPF_*`.
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;
const DIRECT_ACTION: u32 = 1;

/// A filter on a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub hook: Hook,
    pub priority: u16,
    pub handle: u32,
    /// `bpf`, `flower` …
    pub kind: String,
    /// Id of a bpf filter's program; 0 for other kinds.
    pub program: u32,
    pub name: String,
    pub direct_action: bool,
}

/// Where a filter is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilterSlot {
    pub ifindex: u32,
    pub hook: Hook,
    pub priority: u16,
    pub handle: u32,
}

fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::FromContainer => INGRESS_PARENT,
        Hook::ToContainer => EGRESS_PARENT,
    }
}

fn header(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG] {
    let mut bytes = [0; TCMSG];
    bytes[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    bytes[8..12].copy_from_slice(&handle.to_ne_bytes());
    bytes[12..16].copy_from_slice(&parent.to_ne_bytes());
    bytes[16..20].copy_from_slice(&info.to_ne_bytes());
    bytes
}

fn filter_header(place: FilterSlot) -> [u8; TCMSG] {
    let info = (u32::from(place.priority) << 16) | u32::from(ALL_PROTOCOLS.to_be());
    header(place.ifindex, place.handle, parent(place.hook), info)
}

impl Netlink {
    /// Indices of all interfaces that have a clsact qdisc.
    pub(crate) fn clsact_interfaces(&mut self) -> Result<Vec<u32>, NetlinkError> {
        let request = Request::new(kind::GET_QDISC, flag::DUMP, &header(0, 0, 0, 0));
        self.dump("qdiscs", request, |message| {
            let is_clsact = message.kind == kind::NEW_QDISC
                && attributes(message.body.get(TCMSG..)?)
                    .any(|(attribute, value)| attribute == KIND && string(value) == "clsact");
            is_clsact.then(|| u32_at(message.body, 4)).flatten()
        })
    }

    /// The filters of a hook in the order in which they run.
    pub(crate) fn filters(
        &mut self,
        ifindex: u32,
        hook: Hook,
    ) -> Result<Vec<Filter>, NetlinkError> {
        let fixed = header(ifindex, 0, parent(hook), 0);
        let request = Request::new(kind::GET_FILTER, flag::DUMP, &fixed);
        match self.dump("filters", request, |message| filter(hook, message)) {
            // No qdisc, or no such interface any more: no filters.
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENODEV)) => {
                Ok(Vec::new())
            }
            result => result,
        }
    }

    /// Makes a clsact qdisc. Where there is one, the call fails and that counts as done: asking first costs a list of
    /// all qdiscs of the node, and a new device has none.
    pub(crate) fn ensure_clsact(
        &mut self,
        ifindex: u32,
        counter: &WriteCounter,
    ) -> Result<(), NetlinkError> {
        let fixed = header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
        let request = Request::new(
            kind::NEW_QDISC,
            flag::ACK | flag::CREATE | flag::EXCLUSIVE,
            &fixed,
        )
        .with(KIND, b"clsact\0");
        let made = self.change(
            "new clsact",
            request,
            counter,
            Target::Filters,
            Action::Create,
        );
        match made {
            // Or a qdisc of another kind is in its place.
            Err(error)
                if error.errno() == Some(libc::EEXIST)
                    && self.clsact_interfaces()?.contains(&ifindex) =>
            {
                Ok(())
            }
            made => made,
        }
    }

    /// Takes something off a hook; what is not there counts as taken.
    fn take_off(
        &mut self,
        what: &'static str,
        request: Request,
        counter: &WriteCounter,
    ) -> Result<(), NetlinkError> {
        match self.change(what, request, counter, Target::Filters, Action::Remove) {
            Err(error)
                if matches!(
                    error.errno(),
                    Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)
                ) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Takes a clsact qdisc away, and with it whatever is on it; one that is not there counts as taken.
    pub(crate) fn delete_clsact(
        &mut self,
        ifindex: u32,
        counter: &WriteCounter,
    ) -> Result<(), NetlinkError> {
        let fixed = header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
        let request = Request::new(kind::DEL_QDISC, flag::ACK, &fixed).with(KIND, b"clsact\0");
        self.take_off("delete clsact", request, counter)
    }

    /// Puts a program on a hook; over the filter of the same priority and handle, if there is one,
    /// in one step.
    pub(crate) fn set_filter(
        &mut self,
        place: FilterSlot,
        program: BorrowedFd<'_>,
        counter: &WriteCounter,
        action: Action,
    ) -> Result<(), NetlinkError> {
        let exclusive = match action {
            Action::Create => flag::EXCLUSIVE,
            _ => 0,
        };
        let mut name = place.hook.program().as_bytes().to_vec();
        name.push(0);
        let request = Request::new(
            kind::NEW_FILTER,
            flag::ACK | flag::CREATE | exclusive,
            &filter_header(place),
        )
        .with(KIND, b"bpf\0")
        .with_nested(
            OPTIONS,
            &[
                (BPF_FD, &program.as_raw_fd().to_ne_bytes()),
                (BPF_NAME, &name),
                (BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes()),
            ],
        );
        self.change("set filter", request, counter, Target::Filters, action)
    }

    /// Takes a filter away; one that is not there counts as taken.
    pub(crate) fn delete_filter(
        &mut self,
        place: FilterSlot,
        counter: &WriteCounter,
    ) -> Result<(), NetlinkError> {
        let request =
            Request::new(kind::DEL_FILTER, flag::ACK, &filter_header(place)).with(KIND, b"bpf\0");
        self.take_off("delete filter", request, counter)
    }
}

fn filter(hook: Hook, message: &Message<'_>) -> Option<Filter> {
    if message.kind != kind::NEW_FILTER {
        return None;
    }
    let info = u32_at(message.body, 16)?;
    let mut filter = Filter {
        hook,
        priority: u16::try_from(info >> 16).ok()?,
        handle: u32_at(message.body, 8)?,
        kind: String::new(),
        program: 0,
        name: String::new(),
        direct_action: false,
    };
    let mut options = None;
    for (attribute, value) in attributes(message.body.get(TCMSG..)?) {
        match attribute {
            KIND => filter.kind = string(value),
            OPTIONS => options = Some(value),
            _ => {}
        }
    }
    // The first message of each priority tells of the priority alone.
    let options = options?;
    if filter.kind == "bpf" {
        for (attribute, value) in attributes(options) {
            match attribute {
                BPF_NAME => filter.name = string(value),
                BPF_ID => filter.program = u32_at(value, 0)?,
                BPF_FLAGS => filter.direct_action = u32_at(value, 0)? & DIRECT_ACTION != 0,
                _ => {}
            }
        }
    }
    Some(filter)
}
