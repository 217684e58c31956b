use std::process::ExitCode;

fn main() -> ExitCode {
    scim_guard::cli::run()
}
