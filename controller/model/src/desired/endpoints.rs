//! Endpoints: the attachments of this boot, with what their pods say of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use oxilium_abi::ADDRESSES_PER_FAMILY;

use crate::condition::{Condition, Object, Reason};
use crate::identity::{IdentityLabels, NamedPorts, NumericIdentity};
use crate::label::Label;
use crate::node_state::{Endpoint, EndpointPolicy, EndpointState, Interface};
use crate::policy::SubjectView;
use crate::world::{Attachment, AttachmentId, Device, Lifecycle, Pod, World};

/// An endpoint before it has numbers.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) attachment: Arc<Attachment>,
    /// The device, unless another attachment has it.
    pub(super) device: Option<Device>,
    /// The addresses that are served.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The labels of its identity; none while its Pod object is not known.
    pub(super) labels: Option<IdentityLabels>,
    pub(super) named_ports: NamedPorts,
    /// Its labels have no number yet.
    pub(super) waits: bool,
}

/// The attachments of this boot, by their ids.
pub(super) fn drafts(world: &World, conditions: &mut Vec<Condition>) -> Vec<Draft> {
    let devices = device_owners(world);
    let mut drafts = Vec::new();
    for (id, attachment) in &world.attachments {
        if attachment.boot_id != world.config.boot_id {
            conditions.push(Condition {
                object: Object::Attachment(id.clone()),
                reason: Reason::OtherBoot,
            });
            continue;
        }
        let pod = world
            .pods
            .get(&attachment.pod)
            .filter(|pod| attachment.pod_uid.is_empty() || pod.uid == attachment.pod_uid);
        if pod.is_none() {
            conditions.push(Condition {
                object: Object::Pod(attachment.pod.clone()),
                reason: Reason::PodUnknown,
            });
        }
        let device = attachment
            .device
            .clone()
            .filter(|device| devices.get(&device.ifindex) == Some(id));
        drafts.push(Draft {
            attachment: attachment.clone(),
            addresses: device
                .as_ref()
                .map(|d| served(d, attachment, conditions))
                .unwrap_or_default(),
            device,
            labels: pod.map(|pod| labels(world, pod)),
            named_ports: pod.map(|pod| pod.named_ports.clone()).unwrap_or_default(),
            waits: false,
        });
    }
    give_each_address_to_one(world, &mut drafts, conditions);
    drafts
}

/// Which attachment has a device that several name: one that was not deleted, then the first by id.
fn device_owners(world: &World) -> BTreeMap<u32, AttachmentId> {
    let mut by_precedence: Vec<&Arc<Attachment>> = world
        .attachments
        .values()
        .filter(|attachment| attachment.boot_id == world.config.boot_id)
        .collect();
    by_precedence.sort_by_key(|attachment| attachment.lifecycle == Lifecycle::Deleted);
    let mut owners = BTreeMap::new();
    for attachment in by_precedence {
        if let Some(device) = &attachment.device {
            owners
                .entry(device.ifindex)
                .or_insert_with(|| attachment.id.clone());
        }
    }
    owners
}

/// The addresses that an interface can have: two of each family, the lowest.
fn served(
    device: &Device,
    attachment: &Attachment,
    conditions: &mut Vec<Condition>,
) -> BTreeSet<IpAddr> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        device.addresses.iter().copied().partition(IpAddr::is_ipv4);
    let split = |mut family: Vec<IpAddr>| {
        let refused = family.split_off(family.len().min(ADDRESSES_PER_FAMILY));
        (family, refused)
    };
    let ((v4, v4_refused), (v6, v6_refused)) = (split(v4), split(v6));
    let refused: Vec<IpAddr> = v4_refused.into_iter().chain(v6_refused).collect();
    if !refused.is_empty() {
        conditions.push(Condition {
            object: Object::Pod(attachment.pod.clone()),
            reason: Reason::TooManyAddresses { refused },
        });
    }
    v4.into_iter().chain(v6).collect()
}

/// An address has one owner: this node, then an attachment that was not deleted, then the first by id.
/// Who does not get it cannot send from it either.
fn give_each_address_to_one(world: &World, drafts: &mut [Draft], conditions: &mut Vec<Condition>) {
    let mut owners: BTreeMap<IpAddr, Arc<str>> = super::addresses::host_addresses(world)
        .into_iter()
        .map(|address| (address, Arc::from("this node")))
        .collect();
    let mut order: Vec<usize> = (0..drafts.len()).collect();
    order.sort_by_key(|i| drafts[*i].attachment.lifecycle == Lifecycle::Deleted);
    for index in order {
        let draft = &mut drafts[index];
        let pod = draft.attachment.pod.clone();
        draft.addresses.retain(|address| {
            let Some(kept) = owners.get(address) else {
                owners.insert(*address, format!("pod {pod}").into());
                return true;
            };
            conditions.push(Condition {
                object: Object::Pod(pod.clone()),
                reason: Reason::AddressConflict {
                    address: *address,
                    kept: kept.clone(),
                    refused: format!("pod {pod}").into(),
                },
            });
            false
        });
    }
}

/// The labels of a pod's identity: its own, and those that its namespace, service account and cluster give it.
fn labels(world: &World, pod: &Pod) -> IdentityLabels {
    let namespace = world.namespaces.get(&pod.reference.namespace);
    let mut labels: Vec<Label> = pod.labels.iter().cloned().collect();
    labels.push(Label::pod_namespace(&pod.reference.namespace));
    labels.push(Label::cluster(&world.config.policy.cluster_name));
    labels.extend(pod.service_account.as_deref().map(Label::service_account));
    labels.extend(
        namespace
            .iter()
            .flat_map(|namespace| &namespace.labels)
            .cloned(),
    );
    labels.into()
}

impl Draft {
    fn state(&self, policy: &EndpointPolicy) -> EndpointState {
        if self.device.is_none() {
            EndpointState::Disconnected
        } else if self.attachment.lifecycle == Lifecycle::Deleted {
            EndpointState::Disconnecting
        } else if self.labels.is_none() || self.waits {
            EndpointState::WaitingForIdentity
        } else if policy.resolved.policy.error.is_some() {
            EndpointState::Invalid
        } else {
            EndpointState::Ready
        }
    }

    pub(super) fn into_endpoint(
        self,
        id: u16,
        identity: NumericIdentity,
        subject: SubjectView,
        policy: Arc<EndpointPolicy>,
    ) -> Endpoint {
        let state = self.state(&policy);
        let device = self.device.as_ref();
        Endpoint {
            id,
            attachment: self.attachment.id.clone(),
            pod: self.attachment.pod.clone(),
            pod_uid: self.attachment.pod_uid.clone(),
            ifindex: device.map(|device| device.ifindex),
            device: device.map(|device| device.name.clone()).unwrap_or_default(),
            mac: device.map(|device| device.mac).unwrap_or_default(),
            host_mac: device.map(|device| device.host_mac).unwrap_or_default(),
            link_local: device.map(link_locals).unwrap_or_default(),
            ipv6_prefix_length: device.and_then(|device| device.ipv6_prefix_length),
            netns_id: device.and_then(|device| device.netns_id),
            addresses: self.addresses,
            identity,
            labels: subject.labels,
            named_ports: subject.named_ports,
            state,
            policy,
        }
    }
}

/// What the programs are to know of an endpoint's interface.
pub(super) fn interface(world: &World, endpoint: &Endpoint) -> Option<(u32, Interface)> {
    let interface = Interface {
        endpoint: endpoint.id,
        identity: endpoint.identity,
        mac: endpoint.mac,
        addresses: endpoint.addresses.clone(),
        link_local: endpoint.link_local.clone(),
        ipv6_prefix_length: endpoint.ipv6_prefix_length,
        allow_spoofing: world.config.allow_spoofing.covers(&endpoint.pod),
        netns_id: endpoint.netns_id,
    };
    Some((endpoint.ifindex?, interface))
}

/// The EUI-64 address of the pod's MAC address, and the one that was observed.
fn link_locals(device: &Device) -> BTreeSet<Ipv6Addr> {
    let mut eui64 = [0; 16];
    eui64[..2].copy_from_slice(&[0xFE, 0x80]);
    eui64[8..11].copy_from_slice(&device.mac[..3]);
    eui64[11..13].copy_from_slice(&[0xFF, 0xFE]);
    eui64[13..].copy_from_slice(&device.mac[3..]);
    eui64[8] ^= 2;
    std::iter::once(Ipv6Addr::from(eui64))
        .chain(device.link_local)
        .collect()
}
