//! Arguments and commands. Tables for people, `--output json` for programs.
//!
//! Exit codes: 0 done; 1 failed, invalid, refused, or a receipt that is not complete; 2 bad usage; 3 a
//! drain that its deadline cut off; 10 `credential list --expiring` has found some.

mod api;
mod argument;
mod audit;
mod check;
mod cloud;
mod credential;
mod demo;
mod explain;
mod health;
mod output;
mod receipt;
mod sample;
mod serve;
mod source;
mod store;
mod supervisor;

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use api::ApiArgs;
use clap::{Args, CommandFactory, Parser, Subcommand};
use output::Output;

use crate::config::Config;
use crate::credential::CredentialId;

/// Checks the bearer tokens of a SCIM 2.0 endpoint, and forwards what may pass.
#[derive(Parser)]
#[command(name = "scim-guard", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run what the config names
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// Reload when the config file changes, as SIGHUP does
        #[arg(long)]
        watch: bool,
    },
    /// Tell all faults of the config and of the files that it names
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Print the config as it is in force, defaults and all; secrets are references
        #[arg(long)]
        print: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show everything in one process: a proxy, a sample backend, a fresh credential
    Demo,
    /// Make credentials, list and change them, through the admin API or at a cloud
    Credential(credential::Credential),
    /// Settle what counts after the admin API's store was replaced
    Source(source::Source),
    /// Back up the admin API's store, and put a backup in its place
    Store(store::Store),
    /// Tell who did what through the admin API
    Audit(audit::Audit),
    /// Tell what would become of a request, and why; the token is read from standard input
    Explain {
        #[command(flatten)]
        api: ApiArgs,
        /// A credential's id, instead of a token
        #[arg(long, value_name = "CREDENTIAL_ID", value_parser = argument::CREDENTIAL)]
        id: Option<CredentialId>,
        #[arg(long, default_value = "GET")]
        method: String,
        /// Path and query of the request
        #[arg(long, value_name = "TARGET")]
        path: String,
        /// The request's Host header
        #[arg(long, default_value = "localhost")]
        host: String,
        #[command(flatten)]
        output: Output,
    },
    /// Ask a running process for its health, as container probes do
    Health {
        #[command(flatten)]
        config: ConfigFile,
        /// Ask for readiness (`/readyz`) instead of liveness
        #[arg(long)]
        ready: bool,
    },
    /// Print the JSON Schema of the config file, for editors
    Schema,
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
}

#[derive(Args)]
struct ConfigFile {
    /// The config file
    #[arg(id = "config", long, short = 'c', env = "SCIM_GUARD_CONFIG", global = true)]
    #[arg(value_name = "PATH", default_value = "proxy.yaml")]
    file: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, String> {
        Config::load(&self.file).map_err(|invalid| invalid.to_string())
    }
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    refuse_core_dumps();
    raise_descriptor_limit();
    let outcome = match Cli::parse().command {
        Command::Serve { config, watch } => serve::run(&config, watch),
        Command::Check { config, print, output } => check::run(&config, print, &output),
        Command::Demo => demo::run(),
        Command::Credential(arguments) => asking(credential::run(arguments)),
        Command::Source(arguments) => asking(source::run(arguments)),
        Command::Store(arguments) => asking(store::run(arguments)),
        Command::Audit(arguments) => asking(audit::run(arguments)),
        Command::Explain { api, id, method, path, host, output } => {
            let request = explain::Request { id, method, path, host };
            asking(explain::run(&api, &request, &output))
        }
        Command::Health { config, ready } => health::run(&config, ready),
        Command::Schema => {
            anstream::println!("{}", Config::schema());
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "scim-guard",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|what| {
        let red = anstyle::AnsiColor::Red.on_default().bold();
        anstream::eprintln!("{red}error:{red:#} {what}");
        ExitCode::FAILURE
    })
}

/// Runs a command that asks an admin API.
fn asking(command: impl Future<Output = Result<ExitCode, String>>) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(command)
}

/// Asks whoever sits at the terminal, unless the answer is given already.
fn confirm(question: &str, yes: bool) -> Result<(), String> {
    if yes {
        return Ok(());
    }
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        return Err(format!("{question} nobody is at a terminal to say so: give --yes"));
    }
    anstream::eprint!("{question} [y/N] ");
    let mut answer = String::new();
    input.read_line(&mut answer).map_err(|error| format!("cannot read the answer: {error}"))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err("nothing was changed".to_owned()),
    }
}

/// A core dump would hold tokens.
fn refuse_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // Where neither is allowed there is no dump either.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// The usual limit is for programs that cannot do with more.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // What is not allowed is done without.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("scim-guard").chain(line.split(' ')))
    }

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
        for line in [
            "credential create",
            "credential create --tenant z-1 --label Okta --expires 90d --wait",
            "credential list --expiring 90d -o json --admin-url http://127.0.0.1:1",
            "credential show c-1 --config other.yaml",
            "credential disable c-1 --wait=0s --admin-token env:TOKEN",
            "credential rotate c-1 --leaked",
            "credential rotate c-1 --overlap 1h --expires 2030-01-01T00:00:00Z",
            "credential create --discard c-1",
            "credential enroll --expires 1y",
            "credential enroll --id c-1 --label Okta",
            "credential import credentials.yaml --wait=1m",
            "source accept --yes --wait=1m",
            "store backup here.db",
            "store restore here.db --store data/admin.db --exact --yes",
            "audit --after 7",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_refused_argument_is_not_repeated() {
        for (line, told) in [
            ("credential list --admin-token s3cret", "file:PATH or env:NAME"),
            ("credential list --admin-url s3cret", "https://"),
            ("credential enroll --expires 1y --digest s3cret", "sha256:"),
            ("credential enroll --expires 1y s3cret", "standard input"),
            ("credential show s/3cret", "an id of"),
            ("credential create --expires s3cret", "such as 90d"),
            ("credential create --wait=s3cret", "a whole number and a unit"),
        ] {
            let error = parse(line).err().expect(line);
            let text = error.to_string();
            assert_eq!(
                (error.kind(), error.exit_code()),
                (ErrorKind::ValueValidation, 2),
                "{line}"
            );
            assert!(text.contains(told) && !text.contains("3cret"), "{text}");
        }
        for (line, kind) in [
            ("credential rotate c-1 --leaked --overlap 1h", ErrorKind::ArgumentConflict),
            ("credential enroll --id c-1 --expires 1y", ErrorKind::ArgumentConflict),
            ("credential enroll", ErrorKind::MissingRequiredArgument),
        ] {
            assert_eq!(parse(line).err().expect("refused").kind(), kind, "{line}");
        }
    }
}
