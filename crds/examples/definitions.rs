//! Writes the definitions of the resources into a directory: `cargo run -p oxilium-crds --example definitions -- DIR`.

use std::path::Path;
use std::{env, fs, io};

use oxilium_crds::definition;

fn main() -> io::Result<()> {
    let directory = env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::other("name the directory to write to"))?;
    let directory = Path::new(&directory);
    fs::create_dir_all(directory)?;
    for definition in definition::all() {
        fs::write(
            directory.join(definition::file_name(&definition)),
            definition::to_yaml(&definition),
        )?;
    }
    Ok(())
}
