//! `credential`: the life of credentials, from the first token to the last, through the admin API,
//! or at the cloud that the proxies ask themselves. A secret goes to standard output once, before
//! anything that may fail or take time.

mod admin;
mod cloud;
mod enroll;
mod import;
mod told;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::api::{Api, ApiArgs, Backend, target};
use super::argument::{self, Expires};
use super::output::Output;
use super::receipt::Wait;
use crate::config::value::Span;
use crate::credential::{CredentialId, TenantId};
use enroll::Enrolled;

#[derive(Args)]
pub struct Credential {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Make a credential; its token is shown this once
    Create {
        /// Whose it is to be. Default: the only tenant
        #[arg(long, value_parser = argument::TENANT)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        about: About,
        /// Delete this one first, of which the token was lost when it was made
        #[arg(long, value_name = "CREDENTIAL_ID", value_parser = argument::CREDENTIAL)]
        discard: Option<CredentialId>,
        #[command(flatten)]
        wait: Wait,
    },
    /// List credentials; exit code 10 if --expiring finds any
    List {
        /// Only this tenant's. Default: all that the token sees
        #[arg(long, value_parser = argument::TENANT)]
        tenant: Option<TenantId>,
        /// Only those that end within this time, soonest first; expired ones too
        #[arg(long, value_name = "TIME", value_parser = argument::SPAN)]
        expiring: Option<Span>,
    },
    /// Show a credential
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Let a disabled credential's token in again
    Enable {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
    /// Refuse a credential's token until it is enabled again
    Disable {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete a credential; its token opens nothing any more
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make a new credential in the place of one; the new token is shown this once
    Rotate {
        #[command(flatten)]
        which: Which,
        /// How long the old token goes on, never beyond its own end. Default: 24h
        #[arg(long, value_name = "TIME", value_parser = argument::SPAN, conflicts_with = "leaked")]
        overlap: Option<Span>,
        /// Somebody else has the old token: it ends at once
        #[arg(long)]
        leaked: bool,
        /// How long the new one lives (90d), or when it ends. Default: what the admin API's config says
        #[arg(long, value_name = "TIME", value_parser = argument::EXPIRES)]
        expires: Option<Expires>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take over a token that was made elsewhere, read from standard input; waits 10s by default
    Enroll {
        #[command(flatten)]
        whose: Enrolled,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take over the credentials of a file, as `source: file` reads it; waits 10s by default
    Import {
        file: PathBuf,
        #[command(flatten)]
        wait: Wait,
    },
}

/// What a new credential is to be.
#[derive(Args)]
struct About {
    /// What people call it
    #[arg(long)]
    label: Option<String>,
    /// How long it lives (90d), or when it ends. Default: what the admin API's config says; at a cloud
    /// a year
    #[arg(long, value_name = "TIME", value_parser = argument::EXPIRES)]
    expires: Option<Expires>,
}

/// Which credential is meant.
#[derive(Args)]
struct Which {
    #[arg(value_name = "CREDENTIAL_ID", value_parser = argument::CREDENTIAL)]
    id: CredentialId,
    /// Whose it is. Default: the one tenant that has it
    #[arg(long, value_parser = argument::TENANT)]
    tenant: Option<TenantId>,
}

impl Which {
    async fn target(&self, api: &Api) -> Result<(TenantId, String), String> {
        let tenant = match &self.tenant {
            Some(tenant) => tenant.clone(),
            None => api.credential(&self.id, None).await?.0,
        };
        let target = target(&tenant, &self.id);
        Ok((tenant, target))
    }
}

pub async fn run(arguments: Credential) -> Result<ExitCode, String> {
    let Credential { api, output, act } = arguments;
    match api.backend()? {
        Backend::Admin(api) => admin::Desk { api, output }.run(act).await,
        Backend::Cloud(cloud) => cloud::Desk { cloud, output }.run(act).await,
    }
}
