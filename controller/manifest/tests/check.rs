//! `policy check`: what a pipeline sees.

use std::fs;

use oxilium_manifest::check::{CheckError, check};
use oxilium_manifest::directory::Settings;

#[test]
fn findings_are_lines_that_editors_can_jump_to() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "bad.yaml",
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: web
spec:
  endpointSelector:
    matchLabels:
      app: web
  ingress:
  - fromEndpoint:
    - matchLabels: {app: api}
    toPorts:
    - ports:
      - port: \"80\"
        protocol: tcp
  - fromCIDR: [10.0.0.0/8]
    fromEntities: [word]
",
    );
    write("broken.yaml", "a: [1\n");
    write(
        "other.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
    );
    let good = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\nspec: {podSelector: {}, ingress: [{ports: [{port: 90, endPort: 80}]}]}\n";
    write("good.yaml", good);
    write("good2.yaml", good);
    let (report, _) = check(directory.path(), &Settings::default()).unwrap();
    let text = report
        .to_string()
        .replace(&directory.path().display().to_string(), "DIR");
    insta::assert_snapshot!("report", text);
    assert!(!report.ok);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["refused"], 3);
    assert_eq!(json["results"][0]["errors"][0]["line"], 10);
}

#[test]
fn a_good_file_is_ok_and_says_so() {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(
        file.path(),
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec: {endpointSelector: {}, ingress: [{}]}\n",
    )
    .unwrap();
    let (report, snapshot) = check(file.path(), &Settings::default()).unwrap();
    assert!(report.ok);
    assert_eq!(report.to_string(), "1 document: 0 refused, 0 warnings\n");
    assert_eq!(snapshot.objects.len(), 1);
}

#[test]
fn nothing_to_check_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(
        check(directory.path(), &Settings::default()),
        Err(CheckError::Empty { .. })
    ));
    let missing = directory.path().join("missing.yaml");
    assert!(matches!(
        check(&missing, &Settings::default()),
        Err(CheckError::Unreadable { .. })
    ));
}
