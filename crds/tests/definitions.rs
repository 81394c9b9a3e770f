//! The definitions of the resources, as files and in what an API server takes.

use std::{collections::BTreeSet, fs, path::Path};

use oxilium_crds::definition;
use serde_json::Value;

#[test]
fn the_files_are_what_the_types_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut expected = BTreeSet::new();
    for definition in definition::all() {
        let name = definition::file_name(&definition);
        let text = fs::read_to_string(directory.join(&name)).unwrap_or_default();
        assert!(
            text == definition::to_yaml(&definition),
            "crds/yaml/{name} is not what the types say: run `make crds` and commit what it wrote"
        );
        expected.insert(name);
    }
    let found: BTreeSet<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(found, expected, "files in crds/yaml, and definitions");
}

/// `kubectl apply` writes the object it applied into an annotation, and annotations have a limit.
#[test]
fn kubectl_can_apply_each() {
    for definition in definition::all() {
        let size = definition.to_string().len();
        assert!(
            size < 262_144,
            "{}: {size} bytes",
            definition["metadata"]["name"]
        );
    }
}

fn visit(schema: &Value, path: &str, see: &mut dyn FnMut(&Value, &str)) {
    see(schema, path);
    for (keyword, value) in schema.as_object().into_iter().flatten() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                for (name, field) in fields {
                    visit(field, &format!("{path}.{name}"), see);
                }
            }
            ("items" | "additionalProperties" | "not", value) => {
                visit(value, &format!("{path}[{keyword}]"), see);
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(choices)) => {
                for choice in choices {
                    visit(choice, &format!("{path}({keyword})"), see);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn nothing_has_a_default_and_null_is_no_value() {
    for definition in definition::all() {
        for version in definition["spec"]["versions"].as_array().unwrap() {
            let schema = &version["schema"]["openAPIV3Schema"];
            visit(schema, "", &mut |schema, path| {
                for keyword in ["default", "nullable", "$ref"] {
                    assert!(schema.get(keyword).is_none(), "{path}: {keyword}");
                }
                assert!(!schema["type"].is_array(), "{path}: {schema}");
            });
        }
    }
}

/// A field that the server does not know is taken away before anybody sees it, and then the policy says something else.
#[test]
fn a_policy_field_that_is_read_is_one_that_the_server_keeps() {
    for definition in definition::all() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        if !kind.ends_with("NetworkPolicy") {
            continue;
        }
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut fields = BTreeSet::new();
        visit(schema, "", &mut |schema, path| {
            if !path.contains("Of)") && !path.contains("[not]") && schema.get("type").is_some() {
                fields.insert(path.to_owned());
            }
        });
        insta::assert_snapshot!(
            format!("fields_of_{kind}"),
            fields.into_iter().collect::<Vec<_>>().join("\n")
        );
    }
}
