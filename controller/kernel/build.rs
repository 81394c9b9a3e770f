//! Builds `bpf/programs` for the BPF target and hands its path to the crate in `OXILIUM_BPF_OBJECT`.
//!
//! The BPF target has no prebuilt `core` in rustup's toolchains, so one of two compilers is used: a rustup nightly that
//! has rust-src (which builds `core` itself), else Debian's rustc, which ships `core` for BPF. `OXILIUM_BPF_RUST` set to
//! `nightly` or to the path of a rustc decides instead.
use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";
const FIX: &str = "Run `make setup`, which installs what is missing.";

/// Why there is no BPF object. Every text ends with what to do.
struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn main() {
    match build() {
        Ok(object) => println!("cargo::rustc-env=OXILIUM_BPF_OBJECT={}", object.display()),
        Err(failure) => {
            for line in failure.0.lines() {
                println!("cargo::error={line}");
            }
        }
    }
}

fn build() -> Result<PathBuf, Failure> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?)
        .join("../..")
        .canonicalize()
        .map_err(|e| Failure(format!("the workspace root cannot be found: {e}")))?;
    watch(&root);

    let linker = find_linker()?;
    let mut cargo = Toolchain::choose()?.cargo();
    let target_dir = out.join("bpf");
    // A build script inherits settings meant for the outer build; each of them would send this one astray. Its own
    // target directory keeps it from waiting for the lock that the outer cargo holds.
    for name in [
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
        "MAKEFLAGS",
    ] {
        cargo.env_remove(name);
    }
    let output = cargo
        .current_dir(root.join("bpf/programs"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        .args(
            env::var_os("CARGO_FEATURE_TEST_LAYOUT")
                .map_or(&[][..], |_| &["--features", "test-layout"]),
        )
        .arg("--target-dir")
        .arg(&target_dir)
        .output()
        .map_err(|e| {
            Failure(format!(
                "{} cannot be run: {e}. {FIX}",
                cargo.get_program().display()
            ))
        })?;
    if !output.status.success() {
        return Err(Failure(format!(
            "bpf/programs does not build ({}, linker {}):\n{}",
            cargo.get_program().display(),
            linker.display(),
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    let object = target_dir.join(TARGET).join("release/oxilium-programs");
    if object.is_file() {
        Ok(object)
    } else {
        Err(Failure(format!(
            "bpf/programs was built, but {} is not there: its [[bin]] must be called oxilium-programs",
            object.display()
        )))
    }
}

/// What the object is made from; a change of anything else leaves it as it is.
fn watch(root: &Path) {
    for path in [
        "Cargo.toml",
        "bpf/abi/Cargo.toml",
        "bpf/abi/src",
        "bpf/datapath/Cargo.toml",
        "bpf/datapath/src",
        "bpf/programs/.cargo/config.toml",
        "bpf/programs/Cargo.toml",
        "bpf/programs/Cargo.lock",
        "bpf/programs/src",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=OXILIUM_BPF_RUST");
}

/// The compiler that has, or can build, `core` for the BPF target.
enum Toolchain {
    /// rustup's nightly with rust-src: `-Z build-std`.
    Nightly,
    /// A rustc with a prebuilt `core`, and the cargo beside it.
    Prebuilt(PathBuf),
}

impl Toolchain {
    fn choose() -> Result<Self, Failure> {
        let debian = PathBuf::from("/usr/bin/rustc");
        match env::var_os("OXILIUM_BPF_RUST") {
            Some(wish) if wish == "nightly" => Ok(Self::Nightly),
            Some(path) => Ok(Self::Prebuilt(path.into())),
            None if nightly_has_source() => Ok(Self::Nightly),
            None if has_prebuilt_core(&debian) => Ok(Self::Prebuilt(debian)),
            None => Err(Failure(format!(
                "no Rust compiler for {TARGET}: neither a rustup nightly with rust-src \
                 (`rustup toolchain install nightly --component rust-src`) nor Debian's rustc-web with \
                 libstd-rust-web-dev-bpf.\n{FIX}"
            ))),
        }
    }

    fn cargo(&self) -> Command {
        match self {
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command
                    .args(["run", "nightly", "cargo", "build", "--release"])
                    .args(["-Z", "build-std=core", "--target", TARGET])
                    .env_remove("RUSTC");
                command
            }
            Self::Prebuilt(rustc) => {
                let mut command = Command::new(rustc.with_file_name("cargo"));
                command
                    .args(["build", "--release", "--target", TARGET])
                    .env("RUSTC", rustc)
                    // aya-ebpf uses features that a stable compiler admits only so.
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }
}

fn nightly_has_source() -> bool {
    answer(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
        .is_some_and(|sysroot| {
            Path::new(&sysroot)
                .join("lib/rustlib/src/rust/library/core/Cargo.toml")
                .is_file()
        })
}

fn has_prebuilt_core(rustc: &Path) -> bool {
    answer(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))
        .is_some_and(|libdir| holds_core(Path::new(&libdir)))
}

fn holds_core(libdir: &Path) -> bool {
    libdir.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
        })
    })
}

/// A command's one line of output, or nothing if it cannot be run or fails: then its toolchain is not there.
fn answer(command: &mut Command) -> Option<String> {
    let output = command
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| text.trim().to_owned())
        .filter(|line| !line.is_empty())
}

/// bpf-linker on the path, or where `cargo install` puts it, which a fresh machine does not have on its path.
fn find_linker() -> Result<PathBuf, Failure> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Failure(format!("bpf-linker is not installed. {FIX}")))
}

fn variable(name: &str) -> Result<String, Failure> {
    env::var(name).map_err(|e| Failure(format!("cargo did not set {name}: {e}")))
}
