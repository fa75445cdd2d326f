//! One file a command: what was typed -> what it means -> run.

mod cluster;
mod control;
mod create;
mod daemon;
mod demo;
mod download;
mod find;
mod get;
mod hashing;
mod inspect;
mod keys;
mod peer;
mod peers;
mod prompt;
mod publish;
mod service;
mod share;
mod stdout;
mod tracker;
mod transfer;
mod verify;

use std::io::IsTerminal;

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::output::{Output, Status};
use crate::settings::Settings;
use crate::stop::Stop;

/// Runs what was asked for.
pub(crate) async fn run(
    command: Option<Command>,
    settings: &Settings,
    output: Output,
    stop: Stop,
) -> anyhow::Result<Status> {
    let Some(command) = command else {
        return without_command(settings, output, stop).await;
    };
    match command {
        Command::Get(args) => get::run(args, settings, output, stop).await,
        Command::Share(args) => share::run(args, settings, output, stop).await,
        Command::Peer(args) => peer::run(args, settings, output, stop).await,
        Command::Tracker(args) => tracker::run(args, settings, output, stop).await,
        Command::Find(args) => find::run(args, settings, output).await,
        Command::Peers(args) => peers::run(args, settings, output).await,
        Command::Download(args) => download::run(args, settings, output, stop).await,
        Command::Create(args) => create::run(args, output, stop).await,
        Command::Inspect(args) => inspect::run(args, output),
        Command::Verify(args) => verify::run(args, output, stop).await,
        Command::Cluster(args) => cluster::run(args, settings, output).await,
        Command::Publish(args) => publish::run(args, settings, output).await,
        Command::Demo(args) => demo::run(args, settings, output, stop).await,
    }
}

/// On a terminal the prompt, elsewhere the help: a script that runs `obt` by mistake must not hang on its input.
async fn without_command(settings: &Settings, output: Output, stop: Stop) -> anyhow::Result<Status> {
    if std::io::stdin().is_terminal() {
        return prompt::run(settings, output, stop).await;
    }
    output.talk(Cli::command().render_help());
    Ok(Status::Failed)
}
