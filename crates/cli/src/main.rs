//! The obt program: what was typed -> what it means -> run. Data on stdout, talk on stderr.

mod args;
mod commands;
mod output;
mod progress;
mod quantity;
mod settings;
mod stop;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::output::{Output, Status, tell};
use crate::settings::Settings;
use crate::stop::Stop;

/// How long the end of a command may wait for a disk that is slow.
const WRITTEN: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    obt_node::bound_heap();
    let cli = Cli::parse();
    start_log(cli.common.verbose, &cli.command);
    let json = cli.common.json;
    let status = run(cli).unwrap_or_else(|error| tell(&error, json));
    ExitCode::from(status.code())
}

fn run(cli: Cli) -> anyhow::Result<Status> {
    let settings = Settings::new(&cli.common)?;
    let output = Output::new(cli.common.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        let stop = Stop::listen()?;
        let status = commands::run(cli.command, &settings, output, stop).await;
        // What a short command learnt is for the next one.
        let _ = timeout(WRITTEN, settings.members.written()).await;
        status
    });
    // A blocked thread (a prompt's read, a slow disk) must not hold the process back.
    runtime.shutdown_background();
    status
}

fn start_log(verbose: u8, command: &Option<Command>) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("OBT_LOG").unwrap_or_else(|_| {
        // It calls every message that is not answered an error, four a second; what matters of it is told by ours.
        let raft = if verbose < 2 { "off" } else { "warn" };
        // What becomes of the one transfer of these is told in sentences; a full disk fails a thousand pieces.
        let is_told = verbose == 0 && matches!(command, Some(Command::Get(_) | Command::Download(_)));
        let transfer = if is_told { "error" } else { level };
        EnvFilter::new(format!(
            "warn,openraft={raft},obt={level},obt_node={level},obt_node::torrent={transfer},obt_node::disk={transfer},\
             obt_cluster={level},obt_swarm={level}"
        ))
    });
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr).init();
}
