//! The table of docs/configuration.md says what the code does.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use oxilium_agent::config::keys::{self, Key, Treatment};

const BEGIN: &str = "<!-- keys: begin; `OXILIUM_UPDATE_DOCS=1 cargo test -p oxilium-agent --test configuration` writes this table -->\n";
const END: &str = "<!-- keys: end -->\n";

fn becomes(key: &Key) -> String {
    let quoted = |values: &[&str]| {
        let values: Vec<_> = values
            .iter()
            .filter(|value| !value.is_empty())
            .map(|value| format!("`{value}`"))
            .collect();
        values.join(", ")
    };
    match key.treatment {
        Treatment::Option(programs) => {
            let names: Vec<_> = programs.iter().map(|program| program.name()).collect();
            format!("honoured by {}", names.join(", "))
        }
        Treatment::Only([]) => "refused".to_owned(),
        Treatment::Only(values) => format!("{}; else refused", quoted(values)),
        Treatment::Always([]) | Treatment::Unused => "not supported yet".to_owned(),
        Treatment::Always(values) if quoted(values).is_empty() => "not supported yet".to_owned(),
        Treatment::Always(values) => format!("always {}", quoted(values)),
    }
}

fn table() -> String {
    let mut table =
        "| key | values | here | why, or what it does |\n|---|---|---|---|\n".to_owned();
    let mut sorted: Vec<_> = keys::all().collect();
    sorted.sort_by_key(|key| key.name);
    for key in sorted {
        let allowed = key.kind.allowed();
        writeln!(
            table,
            "| `{}` | {allowed} | {} | {} |",
            key.name,
            becomes(key),
            key.why
        )
        .unwrap();
    }
    table
}

#[test]
fn the_page_has_each_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let current = format!("{before}{BEGIN}{}{END}{after}", table());
    if std::env::var_os("OXILIUM_UPDATE_DOCS").is_some() {
        fs::write(&path, current).unwrap();
        return;
    }
    assert!(
        page == current,
        "docs/configuration.md is stale: OXILIUM_UPDATE_DOCS=1 cargo test -p oxilium-agent --test configuration"
    );
}
