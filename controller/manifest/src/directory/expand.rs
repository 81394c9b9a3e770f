//! Lists of objects, as `kubectl get -o yaml` prints them: their items are documents.

use crate::tree::{Member, Node, Value};

/// Replaces each list by its items. Items of a typed list (`PodList`) need not repeat version and kind.
pub(crate) fn lists(documents: Vec<Node>) -> Vec<Node> {
    let mut all = Vec::with_capacity(documents.len());
    for document in documents {
        let item_kind = document
            .text_of("kind")
            .and_then(|kind| kind.strip_suffix("List"))
            .map(str::to_owned);
        let is_list = document
            .get("items")
            .is_some_and(|items| matches!(items.value, Value::List(_)));
        match item_kind {
            Some(kind) if is_list => all.extend(lists(items(document, &kind))),
            _ => all.push(document),
        }
    }
    all
}

fn items(list: Node, kind: &str) -> Vec<Node> {
    let version = list.get("apiVersion").cloned();
    let Value::Object(members) = list.value else {
        return Vec::new();
    };
    let items = members.into_iter().find(|member| &*member.name == "items");
    let Some(Value::List(mut items)) = items.map(|member| member.node.value) else {
        return Vec::new();
    };
    for item in &mut items {
        if kind.is_empty() {
            continue;
        }
        let position = item.position;
        let missing = |name: &str, item: &Node| item.get(name).is_none();
        let add = |name: &str, node: Node, item: &mut Node| {
            if let Value::Object(members) = &mut item.value {
                members.insert(
                    0,
                    Member {
                        name: name.into(),
                        position,
                        node,
                    },
                );
            }
        };
        if missing("kind", item) {
            let node = Node {
                value: Value::Text(kind.into()),
                position,
            };
            add("kind", node, item);
        }
        if missing("apiVersion", item)
            && let Some(version) = version.clone()
        {
            add("apiVersion", version, item);
        }
    }
    items
}
