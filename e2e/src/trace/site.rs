//! What a site is called: the same in every run.

use std::path::Path;

/// A file by its name and its directory's, without what differs from run to run.
pub(super) fn object_of(path: &Path) -> String {
    let mut names: Vec<String> = path
        .components()
        .rev()
        .take(2)
        .map(|name| general(&name.as_os_str().to_string_lossy()))
        .collect();
    names.reverse();
    if path.starts_with("/sys/fs/bpf") && !names.iter().any(|name| name == "links" || name == "TAG")
    {
        return names.pop().unwrap_or_default();
    }
    names.join("/")
}

/// Numbers at the beginning, tags of programs, prefixes of labs and ids of boots are not the site's.
fn general(name: &str) -> String {
    let is_tag = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_tag {
        return "TAG".to_owned();
    }
    if name.starts_with("ox") && name.as_bytes().get(2).is_some_and(u8::is_ascii_digit) {
        return "lab".to_owned();
    }
    if name.starts_with("boot-") {
        return "boot".to_owned();
    }
    let rest = name.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() < name.len() {
        return format!("N{rest}");
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_called_the_same_in_every_run() {
        for (path, object) in [
            ("/sys/fs/bpf/ox12-0/oxilium/v1/ox_policy", "ox_policy"),
            (
                "/sys/fs/bpf/ox12-0/oxilium/v1/links/17_from_container",
                "links/N_from_container",
            ),
            (
                "/sys/fs/bpf/ox12-0/oxilium/v1/programs/0123456789abcdef/to_container",
                "TAG/to_container",
            ),
            (
                "/run/oxilium-e2e/ox12-0/state/boot-5f0c/claims.json.tmp",
                "boot/claims.json.tmp",
            ),
            ("/run/oxilium-e2e/ox12-0/agent.sock", "lab/agent.sock"),
        ] {
            assert_eq!(object_of(Path::new(path)), object, "{path}");
        }
    }
}
