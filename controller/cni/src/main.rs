//! The program: environment and stdin in, stdout and exit status out.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use oxilium_cni::{Environment, call};

fn main() -> ExitCode {
    let mut input = Vec::new();
    let input = io::stdin().read_to_end(&mut input).map(|_| input);
    let (text, code) = match call(&Environment::from_process(), input) {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error, ExitCode::FAILURE),
    };
    if text.is_empty() || writeln!(io::stdout(), "{text}").is_ok() {
        return code;
    }
    ExitCode::FAILURE
}
