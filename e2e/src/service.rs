//! Services: the objects, and what kube-proxy does with them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};

use crate::{manifest::ManifestDir, netns::Netns, process::command};

/// A service with one port of each of some protocols, and its backends.
#[derive(Clone, Debug)]
pub struct ServiceObject {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `spec.clusterIPs`, one of each family.
    pub addresses: [IpAddr; 2],
    /// The service's port.
    pub port: u16,
    /// The backends' port.
    pub target_port: u16,
    /// `TCP`, `UDP`.
    pub protocols: Vec<&'static str>,
    /// Addresses of the backends that are ready, of both families.
    pub backends: Vec<IpAddr>,
}

impl ServiceObject {
    /// Writes the Service and its EndpointSlices.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn put(&self, manifests: &ManifestDir) -> Result<()> {
        let file = format!("service-{}-{}.yaml", self.namespace, self.name);
        manifests.put(&file, &self.yaml())
    }

    /// The frontends, one for each family.
    pub fn sockets(&self) -> [SocketAddr; 2] {
        self.addresses
            .map(|address| SocketAddr::from((address, self.port)))
    }

    fn yaml(&self) -> String {
        let ports = |number| -> String {
            let port = |protocol: &&str| {
                let name = protocol.to_lowercase();
                format!("{{name: {name}, protocol: {protocol}, port: {number}}}")
            };
            self.protocols
                .iter()
                .map(port)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (name, namespace) = (&self.name, &self.namespace);
        let [first, second] = self.addresses;
        let mut parts = vec![format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
             clusterIPs: [\"{first}\", \"{second}\"]\n  ports: [{}]\n",
            ports(self.port)
        )];
        for (family, v4) in [("IPv4", true), ("IPv6", false)] {
            let of_family = self
                .backends
                .iter()
                .filter(|address| address.is_ipv4() == v4);
            let endpoints: Vec<String> = of_family
                .map(|address| format!("{{addresses: [\"{address}\"]}}"))
                .collect();
            parts.push(format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{}\n  \
                 namespace: {namespace}\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: {family}\n\
                 ports: [{}]\nendpoints: [{}]\n",
                family.to_lowercase(),
                ports(self.target_port),
                endpoints.join(", ")
            ));
        }
        parts.concat()
    }

    /// Translates the frontends on a node as kube-proxy does in its nftables mode, to the first backend of each
    /// family.
    ///
    /// # Errors
    /// If nft does not take the rules.
    pub fn proxy(&self, node: &Netns) -> Result<()> {
        let mut rules = Vec::new();
        for frontend in self.addresses {
            let v4 = frontend.is_ipv4();
            let backend = self
                .backends
                .iter()
                .find(|address| address.is_ipv4() == v4)
                .with_context(|| format!("{} has no backend for {frontend}", self.name))?;
            let family = if v4 { "ip" } else { "ip6" };
            let to = SocketAddr::from((*backend, self.target_port));
            rules.push(format!(
                "table {family} kube-proxy {{\n chain nat-prerouting {{\n  type nat hook prerouting priority dstnat; policy accept;\n  \
                 {family} daddr {frontend} meta l4proto {{ tcp, udp }} th dport {} dnat to {to}\n }}\n \
                 chain filter-forward {{\n  type filter hook forward priority filter; policy accept;\n  \
                 ct state invalid drop\n }}\n}}\n",
                self.port
            ));
        }
        let mut nft = command("nft");
        nft.arg(rules.concat());
        let output = node.output(&mut nft)?;
        if !output.status.success() {
            bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}
