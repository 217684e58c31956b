//! Arguments and commands. Tables for people, `--output json` for programs.
//!
//! Exit codes: 0 done; 1 failed, invalid or refused; 2 bad usage; 3 a drain that its deadline cut
//! off.

mod check;
mod demo;
mod explain;
mod health;
mod output;
mod sample;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use output::Output;

use crate::config::Config;

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
    /// Tell what would become of a request, and why; the token is read from standard input
    Explain {
        #[command(flatten)]
        config: ConfigFile,
        /// A credential's id, instead of a token
        #[arg(long, value_name = "CREDENTIAL_ID")]
        id: Option<String>,
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
    #[arg(long = "config", short = 'c', env = "SCIM_GUARD_CONFIG", default_value = "proxy.yaml")]
    #[arg(value_name = "PATH", global = true)]
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
    let outcome = match Cli::parse().command {
        Command::Serve { config, watch } => serve::run(&config, watch),
        Command::Check { config, print, output } => check::run(&config, print, &output),
        Command::Demo => demo::run(),
        Command::Explain { config, id, method, path, host, output } => {
            let request = explain::Request { id, method, path, host };
            explain::run(&config, &request, &output)
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

/// A core dump would hold tokens.
fn refuse_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // Where neither is allowed there is no dump either.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
