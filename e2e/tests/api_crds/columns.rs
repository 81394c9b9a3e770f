//! What `kubectl get` shows.

use crate::server::server;

const OBJECTS: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: l3-rule, namespace: columns}
spec:
  endpointSelector: {matchLabels: {id: app1}}
  ingress: [{fromEndpoints: [{matchLabels: {id: app2}}], toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: columns-dns}
spec:
  endpointSelector: {}
  egress: [{toEntities: [kube-apiserver]}]
---
apiVersion: cilium.io/v2
kind: CiliumEndpoint
metadata: {name: web-0, namespace: columns}
status:
  id: 17
  external-identifiers: {container-id: c, k8s-namespace: columns, k8s-pod-name: web-0}
  identity: {id: 4711, labels: ["k8s:app=web"]}
  networking: {addressing: [{ipv4: 10.0.0.1, ipv6: "fd00::1"}], node: 192.0.2.1}
  policy: {ingress: {enforcing: true, state: enforcing}, egress: {enforcing: false, state: disabled}}
  state: ready
  named-ports: [{name: http, port: 80, protocol: TCP}]
  service-account: default
  conditions: [{type: Ready, status: "True"}]
  encryption: {key: 3}
---
apiVersion: cilium.io/v2
kind: CiliumIdentity
metadata: {name: "4711", labels: {app: web, io.kubernetes.pod.namespace: columns}}
security-labels: {"k8s:app": web, "k8s:io.kubernetes.pod.namespace": columns}
---
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: columns-worker}
spec:
  addresses: [{type: InternalIP, ip: 192.0.2.1}, {type: CiliumInternalIP, ip: 10.0.0.2}]
  ipam: {podCIDRs: [10.0.0.0/24], pools: {requested: [{pool: default}]}}
  azure: {interface-name: eth0}
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: columns-group}
spec: {externalCIDRs: [192.0.2.0/24]}
---
apiVersion: cilium.io/v2
kind: CiliumNodeConfig
metadata: {name: columns-config, namespace: columns}
spec: {defaults: {debug: "true"}, nodeSelector: {matchLabels: {a: b}}}
"#;

/// The column of the age says how slow the machine is.
fn without_age(table: &str) -> String {
    let lines: Vec<&str> = table.lines().collect();
    let Some(start) = lines.first().and_then(|header| header.find("AGE")) else {
        return table.to_owned();
    };
    let end = lines[0][start..]
        .find(|c: char| c != 'A' && c != 'G' && c != 'E' && c != ' ')
        .map_or(usize::MAX, |width| start + width);
    let rows = lines.iter().map(|line| {
        let tail = line.get(end..).unwrap_or("");
        let head = line.get(..start).unwrap_or(line);
        format!(
            "{head}{}{tail}",
            if line == &lines[0] { "AGE  " } else { "(-)  " }
        )
    });
    rows.map(|row| row.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn kubectl_shows_what_users_know() {
    let Some(api) = server() else { return };
    api.namespace("columns").unwrap();
    api.apply(OBJECTS).unwrap();
    api.kubectl(&[
        "-n",
        "columns",
        "patch",
        "cnp",
        "l3-rule",
        "--subresource=status",
        "--type=merge",
        r#"--patch={"status": {"conditions": [{"type": "Valid", "status": "True"}]}}"#,
    ])
    .unwrap();
    let mut shown = String::new();
    for (what, name) in [
        ("cnp", "l3-rule"),
        ("ciliumnp", "l3-rule"),
        ("ccnp", "columns-dns"),
        ("cep", "web-0"),
        ("ciliumep", "web-0"),
        ("ciliumid", "4711"),
        ("cn", "columns-worker"),
        ("ciliumn", "columns-worker"),
        ("ccg", "columns-group"),
        ("ciliumnodeconfig", "columns-config"),
    ] {
        for wide in [&[][..], &["-o", "wide"]] {
            let args = [&["-n", "columns", "get", what, name], wide].concat();
            let table = api.kubectl(&args).unwrap();
            let header = args[2..].join(" ");
            let table = without_age(&table);
            shown.extend(["$ kubectl ", &header, "\n", &table, "\n\n"]);
        }
    }
    insta::assert_snapshot!("kubectl_get", shown);
    let categories = api
        .kubectl(&["-n", "columns", "get", "ciliumpolicy", "-o", "name"])
        .unwrap();
    assert!(categories.contains("l3-rule") && categories.contains("columns-dns"));
    // Other agents' and operators' fields, of which nothing is read.
    for (object, path, expected) in [
        ("cep/web-0", "{.status.encryption.key}", "3"),
        (
            "cn/columns-worker",
            "{.spec.ipam.pools.requested[0].pool}",
            "default",
        ),
        ("cn/columns-worker", "{.spec.azure.interface-name}", "eth0"),
    ] {
        let output = format!("jsonpath={path}");
        let found = api.kubectl(&["-n", "columns", "get", object, "-o", &output]);
        assert_eq!(found.unwrap(), expected, "{object} {path}");
    }
}

#[test]
fn a_group_of_the_old_version_is_read_and_warned_of() {
    let Some(api) = server() else { return };
    api.apply("{apiVersion: cilium.io/v2alpha1, kind: CiliumCIDRGroup, metadata: {name: old}, spec: {externalCIDRs: [192.0.2.0/24]}}")
        .unwrap();
    let version = api.kubectl(&[
        "get",
        "ciliumcidrgroups.v2.cilium.io",
        "old",
        "-o",
        "jsonpath={.apiVersion}",
    ]);
    assert_eq!(version.unwrap(), "cilium.io/v2");
}
