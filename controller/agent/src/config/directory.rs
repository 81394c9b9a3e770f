//! The configuration directory: a file per key, as a ConfigMap is mounted.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::settle::ConfigError;

/// The most that a ConfigMap can hold.
const LARGEST: u64 = 1 << 20;

/// Keys and values; names that begin with `..` are the mount's own.
///
/// # Errors
/// What cannot be read.
pub fn read(directory: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| ConfigError::Read { path, source }
    };
    let mut values = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
        let entry = entry.map_err(failed(directory))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return Err(ConfigError::Name(path));
        };
        // Keys are symbolic links into a directory that is exchanged as a whole.
        let metadata = std::fs::metadata(&path).map_err(failed(&path))?;
        if name.starts_with("..") || !metadata.is_file() {
            continue;
        }
        values.insert(name, text(&path).map_err(failed(&path))?);
    }
    Ok(values)
}

fn text(path: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    if file.take(LARGEST + 1).read_to_string(&mut text)? as u64 > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "larger than a ConfigMap may be",
        ));
    }
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// As kubelet lays it: `..data` is a link to a directory, each key a link through it.
    #[test]
    fn a_mounted_config_map_is_read_key_by_key() {
        let mount = tempfile::tempdir().unwrap();
        let version = mount.path().join("..2026_11_24");
        fs::create_dir(&version).unwrap();
        fs::write(version.join("debug"), "true\n").unwrap();
        fs::write(version.join("cluster-name"), "").unwrap();
        symlink("..2026_11_24", mount.path().join("..data")).unwrap();
        for key in ["debug", "cluster-name"] {
            symlink(format!("..data/{key}"), mount.path().join(key)).unwrap();
        }
        let values: Vec<_> = read(mount.path()).unwrap().into_iter().collect();
        let expected = [("cluster-name", ""), ("debug", "true")];
        assert_eq!(values, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let mount = tempfile::tempdir().unwrap();
        fs::write(mount.path().join("debug"), [0xff, 0xfe]).unwrap();
        let error = read(mount.path()).unwrap_err().to_string();
        assert!(error.contains("/debug"), "{error}");
        let error = read(&mount.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("/absent"), "{error}");
    }
}
