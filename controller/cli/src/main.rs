//! The `oxilium` command. Under the names `cilium` and `cilium-dbg` the same commands work.

mod args;
mod bpf;
mod cni;
mod endpoint;
mod explain;
mod files;
mod identity;
mod jsonpath;
mod monitor;
mod operator;
mod output;
mod plan;
mod policy;
mod service;
mod status;
mod uninstall;
mod vectors;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use oxilium_agent::config::settle::{ParseError, parse, with_other_keys};

use crate::args::{Bpf, Cli, Command, Ct, Endpoint, Lb, List, Policy, ServiceCommand};
use crate::output::{Out, Verdict};

fn main() -> ExitCode {
    let cli = match command_line() {
        Ok(cli) => cli,
        Err(ParseError::Arguments(error)) => {
            let told = error.print();
            drop(told);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(ParseError::Config(error)) => return complain(&error.to_string()),
    };
    match run(cli) {
        Ok(Verdict::Yes) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::from(1),
        Ok(Verdict::Contradiction) => ExitCode::from(3),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => complain(&whole(&error)),
    }
}

fn complain(text: &str) -> ExitCode {
    // Nobody is left to tell when stderr is closed too.
    let told = writeln!(io::stderr(), "Error: {text}");
    drop(told);
    ExitCode::from(2)
}

/// What was asked for, with the options that the environment and the configuration directory give.
fn command_line() -> Result<Cli, ParseError> {
    const AGENT: &str = "agent";
    let mut command = Cli::command().mut_subcommand(AGENT, with_other_keys);
    let arguments = std::env::args_os().collect();
    let (matches, configured) = parse(&mut command, arguments, AGENT)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let Command::Agent(options) = &mut cli.command {
        options.configured = configured;
    }
    Ok(cli)
}

/// An error with its causes, except where it tells them itself.
fn whole(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The reader of our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

fn run(cli: Cli) -> anyhow::Result<Verdict> {
    let socket = cli.socket_path();
    let client = cli.client();
    let stdout = io::stdout();
    let mut out = Out::new(cli.output, stdout.lock());
    match cli.command {
        Command::Agent(options) => {
            drop(out);
            oxilium_agent::run(*options, &socket).map(|()| Verdict::Yes)
        }
        Command::Operator(options) => {
            drop(out);
            operator::run(&options)
        }
        Command::Cni(command) => cni::run(&command, &mut out),
        Command::Status(args) => status::run(&client, &args, &mut out),
        Command::Endpoint(Endpoint::Show(List::List { no_headers })) => {
            endpoint::list(&client, no_headers, &mut out)
        }
        Command::Endpoint(Endpoint::Show(List::Get { what })) => {
            endpoint::get(&client, &what, &mut out)
        }
        Command::Endpoint(Endpoint::Log { endpoint }) => {
            endpoint::log(&client, &endpoint, &mut out)
        }
        Command::Endpoint(Endpoint::Health { endpoint }) => {
            endpoint::health(&client, &endpoint, &mut out)
        }
        Command::Identity(List::List { no_headers }) => {
            identity::list(&client, no_headers, &mut out)
        }
        Command::Identity(List::Get { what }) => identity::get(&client, &what, &mut out),
        Command::Policy(Policy::Get) => policy::get(&client, &mut out),
        Command::Policy(Policy::Check { paths }) => policy::check(&paths, &mut out),
        Command::Policy(Policy::Resolve { vectors }) => vectors::resolve(&vectors, &mut out),
        Command::Bpf(Bpf::Policy(args)) => bpf::policy(&client, &args, &mut out),
        Command::Bpf(Bpf::Ipcache(_)) => bpf::ipcache(&client, &mut out),
        Command::Bpf(Bpf::Ct(Ct::List { scope })) => bpf::conntrack(&client, &scope, &mut out),
        Command::Bpf(Bpf::Ct(Ct::Top { number })) => bpf::conntrack_top(&client, number, &mut out),
        Command::Bpf(Bpf::Metrics(_)) => bpf::metrics(&client, &mut out),
        Command::Bpf(Bpf::Endpoint(_)) => bpf::endpoints(&client, &mut out),
        Command::Bpf(Bpf::Lb(Lb::List(args))) => service::tables(&client, &args, &mut out),
        Command::Service(ServiceCommand::List { no_headers }) => {
            service::list(&client, no_headers, &mut out)
        }
        Command::Monitor(args) => monitor::run(&client, &args, &mut out),
        Command::Plan(args) => plan::run(&client, &args, &mut out),
        Command::Explain(args) => explain::run(&client, &args, &mut out),
        Command::Uninstall(options) => uninstall::run(&options, &socket, &mut out),
    }
}

#[cfg(test)]
mod tests {
    use oxilium_agent::config::keys::{self, Program, Treatment};

    use super::*;

    /// Long options and their variables of a sub-command and those in it.
    fn options(command: &clap::Command) -> Vec<(String, Option<String>)> {
        let own = command.get_arguments().filter_map(|argument| {
            let variable = argument.get_env().map(|name| name.to_string_lossy().into());
            Some((argument.get_long()?.to_owned(), variable))
        });
        own.chain(command.get_subcommands().flat_map(options))
            .collect()
    }

    #[test]
    fn each_key_of_operator_and_installer_is_an_option_with_cilium_s_variable() {
        let command = Cli::command();
        for (program, name) in [(Program::Operator, "operator"), (Program::Installer, "cni")] {
            let options = options(command.find_subcommand(name).unwrap());
            for key in keys::all() {
                if matches!(key.treatment, Treatment::Option(programs) if programs.contains(&program))
                {
                    let option = (key.name.to_owned(), Some(key.variable()));
                    assert!(options.contains(&option), "{name} has no {option:?}");
                }
            }
            for (option, variable) in options {
                let cilium_s = variable.is_some_and(|name| name.starts_with("CILIUM_"));
                let listed = keys::find(&option).is_some() || option == "config-dir";
                assert!(listed || !cilium_s, "{option} of {name} is in no row");
            }
        }
    }
}
