//! Pods: network namespaces that a CNI chain connected, and the Pod objects that belong to them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    apiserver::ApiServer,
    cni::{Chain, Sandbox},
    lab::{Lab, Node},
    manifest::{ContainerPort, ManifestDir, PodObject, cilium_endpoint_yaml},
    netns::Netns,
    wire::{Mac, parse_mac},
};

/// A pod to be started.
#[derive(Debug)]
pub struct PodBuilder<'a> {
    lab: &'a Lab,
    node: &'a Node,
    object: PodObject,
    number: u32,
    address: Option<Ipv4Addr>,
}

impl<'a> PodBuilder<'a> {
    pub(crate) fn new(lab: &'a Lab, name: &str) -> Self {
        let number = lab.next_pod();
        Self {
            lab,
            node: &lab.worker,
            object: PodObject {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                uid: format!("00000000-0000-4000-8000-{number:012x}"),
                labels: Vec::new(),
                node: lab.worker.name.clone(),
                ports: Vec::new(),
                ips: Vec::new(),
            },
            number,
            address: None,
        }
    }

    /// Puts it into another namespace than `default`.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.object.namespace);
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.object.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Declares a port by name.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16, protocol: &'static str) -> Self {
        self.object.ports.push(ContainerPort {
            name: name.to_owned(),
            port,
            protocol,
        });
        self
    }

    /// Asks the address management for this address.
    #[must_use]
    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.address = Some(address);
        self
    }

    /// Runs it on the master: a remote pod, as the worker's agent sees it.
    #[must_use]
    pub fn on_master(mut self) -> Self {
        self.node = &self.lab.master;
        self.object.node.clone_from(&self.node.name);
        self
    }

    /// Writes the Pod object, makes the namespace and runs ADD through the chain.
    ///
    /// # Errors
    /// What the chain said. The Pod object and the namespace stay, as they do on a node.
    pub fn start(self) -> Result<Pod> {
        let prepared = self.prepare()?;
        prepared.add()
    }

    /// Writes the Pod object and makes the namespace, but does not run ADD yet.
    ///
    /// # Errors
    /// If either cannot be made.
    pub fn prepare(self) -> Result<PreparedPod> {
        let name = &self.object.name;
        self.lab
            .manifests
            .put(&self.object.file(), &self.object.yaml())?;
        let netns = Netns::create(&format!("{}{name}", self.lab.prefix()))?;
        netns.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        let files = self.lab.directory().join(format!("pod-{name}"));
        fs::create_dir_all(&files)?;
        let wish = self
            .address
            .map_or_else(String::new, |address| format!("IP={address};"));
        let sandbox = Sandbox {
            container_id: format!("{}{:08x}", self.lab.prefix(), self.number),
            netns: netns.path(),
            interface: "eth0".to_owned(),
            args: wish
                + &format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={:08x};K8S_POD_UID={}",
                    self.object.namespace, self.number, self.object.uid
                ),
        };
        Ok(PreparedPod {
            chain: self.lab.chain(self.node),
            manifests: self.lab.manifests.clone(),
            node: self.node.clone(),
            object: self.object,
            netns,
            files,
            sandbox,
        })
    }
}

/// A pod whose namespace exists and whose ADD has not been run.
#[derive(Debug)]
pub struct PreparedPod {
    /// The chain that will connect it.
    pub chain: Chain,
    /// What the runtime says of it.
    pub sandbox: Sandbox,
    /// Its namespace.
    pub netns: Netns,
    /// What the manifest directory says of it.
    pub object: PodObject,
    manifests: ManifestDir,
    node: Node,
    files: PathBuf,
}

impl PreparedPod {
    /// Makes the Pod object on an API server, which gives it its UID.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub fn known_to(mut self, api: &ApiServer) -> Result<Self> {
        api.apply(&self.object.yaml())?;
        let namespace = format!("--namespace={}", self.object.namespace);
        let uid = "--output=jsonpath={.metadata.uid}";
        let uid = api.kubectl(&["get", "pod", &self.object.name, &namespace, uid])?;
        self.sandbox.args = self.sandbox.args.replace(&self.object.uid, &uid);
        self.object.uid = uid;
        Ok(self)
    }

    /// Runs ADD.
    ///
    /// # Errors
    /// What the chain said.
    pub fn add(self) -> Result<Pod> {
        let result = self
            .chain
            .add(&self.sandbox)
            .with_context(|| format!("pod {}", self.object.name))?;
        let (ipv4, ipv6) = addresses(&result)?;
        let mac = interface_mac(&self.netns)?;
        self.netns.until_ipv6("eth0")?;
        self.chain.node.until_ipv6("cni0")?;
        Ok(Pod {
            chain: self.chain,
            sandbox: self.sandbox,
            result,
            object: self.object,
            manifests: self.manifests,
            node: self.node,
            netns: self.netns,
            files: self.files,
            ipv4,
            ipv6,
            mac,
        })
    }
}

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    /// The chain that connected it.
    pub chain: Chain,
    /// What the runtime said of it.
    pub sandbox: Sandbox,
    /// What ADD answered.
    pub result: Value,
    /// The object in the manifest directory.
    pub object: PodObject,
    /// Its namespace.
    pub netns: Netns,
    /// A directory for its processes' files.
    pub files: PathBuf,
    /// Its address.
    pub ipv4: Ipv4Addr,
    /// Its address.
    pub ipv6: Ipv6Addr,
    /// Of its `eth0`.
    pub mac: Mac,
    manifests: ManifestDir,
    node: Node,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.object.name
    }

    /// Replaces its labels in the Pod object.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set_labels(&mut self, labels: &[(&str, &str)]) -> Result<()> {
        self.object.labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        self.publish()
    }

    /// Writes its addresses into the Pod object's status, as a kubelet does.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn publish_addresses(&mut self) -> Result<()> {
        self.object.ips = vec![self.ipv4.to_string(), self.ipv6.to_string()];
        self.publish()
    }

    /// Writes the CiliumEndpoint that the agent of its node would publish: for a pod on the master.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn publish_endpoint(&self, identity: u32) -> Result<()> {
        let addresses = [self.ipv4.to_string(), self.ipv6.to_string()];
        let node = self.node.ipv4.to_string();
        let yaml = cilium_endpoint_yaml(&self.object, &addresses, &node, identity);
        self.manifests
            .put(&format!("endpoint-{}.yaml", self.name()), &yaml)
    }

    /// The index of the host's end of its veth.
    ///
    /// # Errors
    /// If the node has no such interface.
    pub fn host_ifindex(&self) -> Result<u64> {
        let name = host_interface(&self.result)?;
        let links: Value =
            serde_json::from_str(&self.chain.node.ip(&format!("-json link show dev {name}"))?)?;
        links[0]["ifindex"]
            .as_u64()
            .with_context(|| format!("no index of {name} in {links}"))
    }

    fn publish(&self) -> Result<()> {
        self.manifests.put(&self.object.file(), &self.object.yaml())
    }

    /// Runs CHECK.
    ///
    /// # Errors
    /// What the chain said.
    pub fn check(&self) -> Result<()> {
        self.chain.check(&self.sandbox, &self.result)
    }

    /// Deletes it: DEL, the namespace, the Pod object, in the order that a node does it.
    ///
    /// # Errors
    /// What the chain said, or what could not be removed.
    pub fn delete(self) -> Result<()> {
        self.chain.del(&self.sandbox, Some(&self.result))?;
        self.netns.delete()?;
        self.manifests.remove(&self.object.file())
    }
}

/// The host's end of a pod's veth, as ADD's result names it.
///
/// # Errors
/// If the result names no such interface.
pub fn host_interface(result: &Value) -> Result<String> {
    result["interfaces"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|interface| interface.get("sandbox").is_none_or(|path| path == ""))
        .filter_map(|interface| interface["name"].as_str())
        .find(|name| name.starts_with("veth"))
        .map(str::to_owned)
        .with_context(|| format!("no host veth in {result}"))
}

fn addresses(result: &Value) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let mut found = (None, None);
    for entry in result["ips"].as_array().into_iter().flatten() {
        let text = entry["address"].as_str().unwrap_or_default();
        let address = text.split('/').next().unwrap_or_default();
        match address.parse().with_context(|| text.to_owned())? {
            IpAddr::V4(address) => found.0 = Some(address),
            IpAddr::V6(address) => found.1 = Some(address),
        }
    }
    match found {
        (Some(v4), Some(v6)) => Ok((v4, v6)),
        _ => anyhow::bail!("ADD's result has not one address of each family: {result}"),
    }
}

fn interface_mac(netns: &Netns) -> Result<Mac> {
    let links: Value = serde_json::from_str(&netns.ip("-json link show dev eth0")?)?;
    parse_mac(links[0]["address"].as_str().unwrap_or_default())
}
