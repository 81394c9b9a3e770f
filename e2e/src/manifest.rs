//! The agent's manifest directory: what stands in for the API server.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A directory of YAML files that an agent watches.
#[derive(Clone, Debug)]
pub struct ManifestDir {
    path: PathBuf,
    /// On the same file system, not watched: files are written here and moved.
    staging: PathBuf,
}

impl ManifestDir {
    /// Makes `manifests/` and its staging place under `parent`.
    ///
    /// # Errors
    /// If a directory cannot be made.
    pub fn create(parent: &Path) -> Result<Self> {
        let this = Self {
            path: parent.join("manifests"),
            staging: parent.join("staging"),
        };
        for directory in [&this.path, &this.staging] {
            fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
        }
        Ok(this)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file whole: a reader sees all of it or nothing.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn put(&self, file: &str, text: &str) -> Result<()> {
        let staged = self.staging.join(file);
        fs::write(&staged, text).with_context(|| format!("{}", staged.display()))?;
        fs::rename(&staged, self.path.join(file)).with_context(|| file.to_owned())
    }

    /// Writes a file in place, as an editor does that is stopped half way.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn put_in_place(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.path.join(file), text).with_context(|| file.to_owned())
    }

    /// Removes a file; one that is not there is fine.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn remove(&self, file: &str) -> Result<()> {
        match fs::remove_file(self.path.join(file)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context(file.to_owned()),
            _ => Ok(()),
        }
    }
}

/// A port that a container declares.
#[derive(Clone, Debug)]
pub struct ContainerPort {
    /// The name that policies may use.
    pub name: String,
    /// 1 to 65535.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
}

/// What a Pod object says.
#[derive(Clone, Debug)]
pub struct PodObject {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: Vec<(String, String)>,
    /// `spec.nodeName`.
    pub node: String,
    /// `spec.containers[0].ports`.
    pub ports: Vec<ContainerPort>,
    /// `status.podIPs`: empty until the pod has some.
    pub ips: Vec<String>,
}

impl PodObject {
    /// The file that holds it.
    pub fn file(&self) -> String {
        format!("pod-{}-{}.yaml", self.namespace, self.name)
    }

    /// As YAML.
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {:?}\n  namespace: {:?}\n  uid: {:?}\n",
            self.name, self.namespace, self.uid
        );
        let mut line = |args: std::fmt::Arguments<'_>| {
            text.push_str(&args.to_string());
            text.push('\n');
        };
        if !self.labels.is_empty() {
            line(format_args!("  labels:"));
            for (key, value) in &self.labels {
                line(format_args!("    {key:?}: {value:?}"));
            }
        }
        line(format_args!("spec:\n  nodeName: {:?}", self.node));
        line(format_args!(
            "  containers:\n    - name: main\n      image: example.test/main:1"
        ));
        if !self.ports.is_empty() {
            line(format_args!("      ports:"));
            for port in &self.ports {
                line(format_args!(
                    "        - name: {:?}\n          containerPort: {}\n          protocol: {}",
                    port.name, port.port, port.protocol
                ));
            }
        }
        if let Some(first) = self.ips.first() {
            line(format_args!("status:\n  podIP: {first:?}\n  podIPs:"));
            for ip in &self.ips {
                line(format_args!("    - ip: {ip:?}"));
            }
        }
        text
    }
}

/// What the agent of another node publishes of a pod there: its identity and where it is.
pub fn cilium_endpoint_yaml(
    pod: &PodObject,
    addresses: &[String; 2],
    node: &str,
    identity: u32,
) -> String {
    let mut labels = vec![
        "k8s:io.cilium.k8s.policy.cluster=default".to_owned(),
        format!("k8s:io.kubernetes.pod.namespace={}", pod.namespace),
    ];
    let own = pod.labels.iter();
    labels.extend(own.map(|(key, value)| format!("k8s:{key}={value}")));
    let [ipv4, ipv6] = addresses;
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEndpoint\nmetadata:\n  name: {:?}\n  namespace: {:?}\nstatus:\n  id: 77\n  \
         state: ready\n  identity:\n    id: {identity}\n    labels: {labels:?}\n  networking:\n    node: {node:?}\n    \
         addressing:\n      - ipv4: {ipv4:?}\n        ipv6: {ipv6:?}\n",
        pod.name, pod.namespace
    )
}

/// A Node object as YAML.
pub fn node_yaml(name: &str, addresses: &[String], pod_cidrs: &[String]) -> String {
    let quoted: Vec<String> = pod_cidrs.iter().map(|cidr| format!("{cidr:?}")).collect();
    let mut lines = vec![
        "apiVersion: v1\nkind: Node\nmetadata:".to_owned(),
        format!("  name: {name:?}\n  labels:\n    kubernetes.io/hostname: {name:?}\nspec:"),
    ];
    if let Some(first) = quoted.first() {
        lines.push(format!(
            "  podCIDR: {first}\n  podCIDRs: [{}]",
            quoted.join(", ")
        ));
    }
    lines.push("status:\n  addresses:".to_owned());
    for address in addresses {
        lines.push(format!(
            "    - type: InternalIP\n      address: {address:?}"
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_written_as_an_api_server_would_show_them() {
        let pod = PodObject {
            name: "nm".to_owned(),
            namespace: "default".to_owned(),
            uid: "u-1".to_owned(),
            labels: vec![("app".to_owned(), "network-multitool".to_owned())],
            node: "worker".to_owned(),
            ports: vec![ContainerPort {
                name: "http".to_owned(),
                port: 80,
                protocol: "TCP",
            }],
            ips: vec!["10.0.0.1".to_owned()],
        };
        assert_eq!(
            pod.yaml(),
            r#"apiVersion: v1
kind: Pod
metadata:
  name: "nm"
  namespace: "default"
  uid: "u-1"
  labels:
    "app": "network-multitool"
spec:
  nodeName: "worker"
  containers:
    - name: main
      image: example.test/main:1
      ports:
        - name: "http"
          containerPort: 80
          protocol: TCP
status:
  podIP: "10.0.0.1"
  podIPs:
    - ip: "10.0.0.1"
"#
        );
        let node = node_yaml(
            "worker",
            &["192.168.1.201".to_owned()],
            &["10.244.1.0/24".to_owned()],
        );
        assert_eq!(
            node,
            r#"apiVersion: v1
kind: Node
metadata:
  name: "worker"
  labels:
    kubernetes.io/hostname: "worker"
spec:
  podCIDR: "10.244.1.0/24"
  podCIDRs: ["10.244.1.0/24"]
status:
  addresses:
    - type: InternalIP
      address: "192.168.1.201"
"#
        );
    }
}
