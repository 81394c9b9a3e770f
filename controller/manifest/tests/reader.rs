//! Reading: positions, limits, and what is refused instead of guessed.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use oxilium_manifest::reader::{Limits, read, read_lossy};
use oxilium_manifest::tree::{Node, Position, Value};
use proptest::prelude::*;

fn one(text: &str) -> Node {
    let mut documents = read(text.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn refused(text: &str) -> String {
    let error = read(text.as_bytes(), &Limits::default()).unwrap_err();
    format!("{}:{}: {error}", error.position.line, error.position.column)
}

#[test]
fn every_value_knows_its_line_and_column() {
    let node = one("# a comment\nspec:\n  ingress:\n  - ports: [80, \"b\"]\n    é: {x: 1}\n");
    let at = |node: &Node| (node.position.line, node.position.column);
    let item = &node.get("spec").unwrap().list("ingress")[0];
    assert_eq!(at(&node), (2, 1));
    assert_eq!(at(item), (4, 5));
    assert_eq!(at(&item.list("ports")[1]), (4, 17));
    assert_eq!(at(item.get("é").unwrap().get("x").unwrap()), (5, 12));
    assert_eq!(item.members()[1].position, Position { line: 5, column: 5 });
}

#[test]
fn json_is_read_as_yaml_is() {
    assert_eq!(
        one("{\"a\": [1, true, null, \"x\", 1.5]}").to_json(),
        one("a:\n- 1\n- true\n- ~\n- x\n- 1.5\n").to_json()
    );
}

#[test]
fn documents_are_told_apart_and_empty_ones_left_out() {
    let documents = read(
        b"---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n",
        &Limits::default(),
    )
    .unwrap();
    assert_eq!(documents.len(), 2);
    assert_eq!(documents[1].position.line, 7);
    assert!(read(b"", &Limits::default()).unwrap().is_empty());
}

#[test]
fn absent_null_and_empty_are_different() {
    let node = one("a: null\nb: []\nc: {}\nd:\ne: ''\n");
    let value = |name: &str| node.get(name).map(|node| node.value.clone());
    assert_eq!(value("a"), Some(Value::Null));
    assert_eq!(value("b"), Some(Value::List(vec![])));
    assert_eq!(value("c"), Some(Value::Object(vec![])));
    assert_eq!(value("d"), Some(Value::Null));
    assert_eq!(value("e"), Some(Value::Text("".into())));
    assert_eq!(value("f"), None);
}

#[test]
fn scalars_mean_what_they_mean_to_kubectl() {
    for (text, value) in [
        ("80", Value::Integer(80)),
        ("-5", Value::Integer(-5)),
        ("0x50", Value::Integer(80)),
        ("0o17", Value::Integer(15)),
        ("1_000", Value::Integer(1000)),
        ("90.0", Value::Integer(90)),
        ("80.5", Value::Float("80.5".into())),
        ("yes", Value::Bool(true)),
        ("off", Value::Bool(false)),
        ("~", Value::Null),
        ("\"80\"", Value::Text("80".into())),
        ("'yes'", Value::Text("yes".into())),
        ("!!str 80", Value::Text("80".into())),
        ("10.0.0.0/8", Value::Text("10.0.0.0/8".into())),
        ("1.2.3.4", Value::Text("1.2.3.4".into())),
        ("2026-01-01", Value::Text("2026-01-01".into())),
        ("::/0", Value::Text("::/0".into())),
        ("08", Value::Integer(8)),
    ] {
        assert_eq!(
            one(&format!("a: {text}\n")).get("a").unwrap().value,
            value,
            "{text}"
        );
    }
}

#[test]
fn what_two_readers_would_read_differently_is_refused_with_its_place() {
    let refusals: Vec<String> = [
        "a: 1\nb: 2\na: 3\n",
        "port: 010\n",
        "a: .inf\n",
        "a: 99999999999999999999\n",
        "<<: {a: 1}\n",
        "a: !secret x\n",
        "a: !!int x\n",
        "yes: 1\n",
        "[a]: 1\n",
        "a:\n\t- b\n",
        "a: b: c\n",
        "a: *nothing\n",
        "a: [1, 2\n",
        "---\na: &x 1\n---\nb: *x\n",
    ]
    .into_iter()
    .map(refused)
    .collect();
    insta::assert_snapshot!("refused", refusals.join("\n"));
}

#[test]
fn text_that_is_not_utf_8_is_refused_where_it_stops_being_it() {
    let error = read(b"a: 1\nb: \xff\n", &Limits::default()).unwrap_err();
    assert_eq!(error.position.line, 2);
}

#[test]
fn aliases_stand_for_their_value_within_the_limits() {
    assert_eq!(
        one("a: &x {b: [1]}\nc: *x\n").to_json(),
        one("a: {b: [1]}\nc: {b: [1]}\n").to_json()
    );
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let before = level - 1;
        let ten = vec![format!("*a{before}"); 10].join(", ");
        bomb.push_str(
            &[
                "a",
                &level.to_string(),
                ": &a",
                &level.to_string(),
                " [",
                &ten,
                "]\n",
            ]
            .concat(),
        );
    }
    assert!(refused(&bomb).contains("values"), "{}", refused(&bomb));
}

#[test]
fn depth_size_and_number_of_values_are_limited() {
    let limits = Limits {
        bytes: 100,
        depth: 3,
        nodes: 10,
    };
    let error = |text: &str| read(text.as_bytes(), &limits).unwrap_err().to_string();
    assert!(error(&"x".repeat(101)).contains("101 bytes"));
    assert!(error("[[[[1]]]]").contains("3 levels"));
    assert!(error("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]").contains("10 values"));
    assert!(read(b"[[[1]]]", &limits).is_ok());
    // Nesting that would overflow a stack is refused while reading, not after.
    assert!(refused(&"- ".repeat(200_000)).contains("levels"));
    assert!(refused(&"[".repeat(200_000)).starts_with("1:"));
}

#[test]
fn documents_before_an_error_can_be_told_about() {
    let read = read_lossy(b"a: 1\n---\nb: [\n", &Limits::default());
    assert_eq!(read.documents.len(), 1);
    assert!(read.error.is_some());
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map("[a-z<]{1,6}", inner, 0..6)
                .prop_filter("merge keys", |map| !map.contains_key("<<"))
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_value_reads_back_as_itself(value in json()) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        let documents = read(text.as_bytes(), &Limits::default()).unwrap();
        let back = documents.first().map_or(serde_json::Value::Null, Node::to_json);
        prop_assert_eq!(&back, &value);
        prop_assert_eq!(Node::from_json(&value).to_json(), value);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[-a-z0-9:\\[\\]{}&*!|>'\"%@`,?# \\n\\t]{0,80}") {
        let read = read_lossy(text.as_bytes(), &Limits::default());
        prop_assert!(read.error.is_some() || read.documents.len() <= text.len());
    }
}
