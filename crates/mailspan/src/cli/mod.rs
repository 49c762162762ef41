//! The command line. Each command is a request of the hub's own API, sent through the socket, or
//! called in process under the store's lock when no hub runs.

mod audit;
mod bench;
mod check;
pub mod client;
mod contact_files;
mod contacts;
mod dead_letters;
mod deliveries;
mod destinations;
mod erasures;
mod events;
mod jobs;
mod keys;
mod migrate;
mod moving;
pub mod progress;
mod reconcile;
mod records;
mod sandbox;
mod send;
mod sources;
pub mod table;
mod tenants;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::hub::{Hub, Role};
use crate::{config, runtime, serve};

/// The hub between a mailing platform, an application and its CRM.
#[derive(Debug, Parser)]
#[command(name = "mailspan", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args, Clone)]
pub struct Common {
    /// The configuration file
    #[arg(long, short, global = true, default_value = "mailspan.toml", env = "MAILSPAN_CONFIG")]
    config: PathBuf,
    /// One JSON object a line instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Take secrets written in the configuration file (never in production)
    #[arg(long, global = true)]
    dev: bool,
}

#[derive(Debug, Args)]
struct Serve {
    /// What this process does, where several share a PostgreSQL; over `role` of the file
    #[arg(long)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub in the foreground
    Serve(Serve),
    /// A hub, fake vendors and live traffic; nothing to configure
    Demo(crate::sandbox::demo::Demo),
    /// One fake vendor, to rehearse against
    #[command(subcommand)]
    Sandbox(sandbox::Sandbox),
    /// Say whether the configuration is right, and where it is not
    Check(check::Check),
    /// Run cases of «these events, expect these requests»
    Test(test::Test),
    /// Create, list and revoke API keys; make secrets
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Make tenants with their first API key; change their settings
    #[command(subcommand)]
    Tenants(tenants::Tenants),
    /// Look at the contacts of a tenant
    #[command(subcommand)]
    Contacts(contacts::Contacts),
    /// Declare the custom fields of contacts
    #[command(subcommand)]
    Fields(tenants::Fields),
    /// Look at what arrived; send a sample through the front door
    #[command(subcommand)]
    Events(events::Events),
    /// Why an event went where it went
    Explain(events::Explain),
    /// Look at deliveries
    #[command(subcommand)]
    Deliveries(deliveries::Deliveries),
    /// List, inspect, replay and discard what needs a human
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    /// Look at long work; cancel, pause and resume it
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    /// Look at destinations; test, pause, resume, prepare them
    #[command(subcommand)]
    Destinations(destinations::Destinations),
    /// Look at sources: what they list against what arrived; ask one now
    #[command(subcommand)]
    Sources(sources::Sources),
    /// Compare what a source's provider lists with what arrived; name each difference
    Reconcile(reconcile::Reconcile),
    /// The compliance log: every consent fact and what each destination answered
    #[command(subcommand)]
    Ledger(records::Ledger),
    /// Requests that were refused, and what would have matched
    Refused(records::Refused),
    /// Elements of batches that could not be read
    Quarantined(records::Quarantined),
    /// Bring the store to this version's schema
    Migrate {
        /// Write the file anew: what was deleted or erased leaves it, and it gets smaller
        #[arg(long)]
        compact: bool,
    },
    /// Move a hub's data to another store; goes on where it was ended
    Move(moving::Move),
    /// Add up where every accepted event and delivery is
    Audit,
    /// Measure the hub on this machine beside bare programs, and look for everything that was sent
    #[command(subcommand)]
    Bench(bench::Bench),
}

/// Runs the command of the process's arguments.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.command {
        Command::Serve(_) => "info",
        Command::Demo(_) => "warn",
        _ => "error",
    };
    crate::telemetry::log::install(level);
    let runtime = match runtime::build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mailspan: the async runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match dispatch(cli).await {
            Ok(code) => code,
            Err(error) => {
                eprintln!("mailspan: {error:#}");
                ExitCode::FAILURE
            }
        }
    });
    runtime.shutdown_background();
    code
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let common = cli.common;
    match cli.command {
        Command::Serve(Serve { role }) => {
            let mut hub = load(&common)?;
            hub.server.role = role.unwrap_or(hub.server.role);
            serve::run(hub).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo(demo) => {
            crate::sandbox::demo::run(demo).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Sandbox(command) => sandbox::run(command).await,
        Command::Check(command) => Ok(check::run(&common, &command)),
        Command::Test(command) => test::run(&common, command).await,
        Command::Keys(command) => keys::run(&common, command).await,
        Command::Tenants(command) => tenants::tenants(&common, command).await,
        Command::Contacts(command) => contacts::run(&common, command).await,
        Command::Fields(command) => tenants::fields(&common, command).await,
        Command::Events(command) => events::run(&common, command).await,
        Command::Explain(command) => events::explain(&common, command).await,
        Command::Deliveries(command) => deliveries::run(&common, command).await,
        Command::DeadLetters(command) => dead_letters::run(&common, command).await,
        Command::Jobs(command) => jobs::run(&common, command).await,
        Command::Destinations(command) => destinations::run(&common, command).await,
        Command::Sources(command) => sources::run(&common, command).await,
        Command::Reconcile(command) => reconcile::run(&common, command).await,
        Command::Ledger(command) => records::ledger(&common, command).await,
        Command::Refused(command) => records::refused(&common, command).await,
        Command::Quarantined(command) => records::quarantined(&common, command).await,
        Command::Migrate { compact } => migrate::run(&common, compact).await,
        Command::Move(command) => moving::run(&common, command).await,
        Command::Audit => audit::run(&common).await,
        Command::Bench(command) => bench::run(&common, command).await,
    }
}

/// The configuration, or all of its problems.
fn load(common: &Common) -> anyhow::Result<Hub> {
    with_options(common, |options| config::load(&common.config, options))
        .map_err(|problems| anyhow::anyhow!("the configuration is not right\n{problems}"))
}

fn with_options<T>(common: &Common, run: impl FnOnce(&config::Options) -> T) -> T {
    let environment = |name: &str| runtime::env(name);
    run(&config::Options { env: &environment, names: &runtime::env_names("MAILSPAN_"), dev: common.dev })
}
