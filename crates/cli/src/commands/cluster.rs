//! `obt cluster`: who is a member, who leads, and who joins or leaves. The process that runs with the state is asked;
//! where all is lost but one, its state is what a new cluster begins with.

use obt_node::control::{ControlReply, ControlRequest};
use obt_node::server::{ClusterStatus, Recovered, Role};
use obt_node::state::StateFolder;
use serde_json::json;

use crate::args::{Cluster, ClusterAction};
use crate::commands::control::ask;
use crate::output::{Output, Status, Told, plain};
use crate::settings::Settings;

/// A member that was silent for longer than this is said to be.
const SILENT_MS: u64 = 3_000;

pub(crate) async fn run(args: Cluster, settings: &Settings, output: Output) -> anyhow::Result<Status> {
    let state = StateFolder::open(&settings.state()?)?;
    let request = match args.action {
        ClusterAction::Invite { minutes } => ControlRequest::ClusterInvite { seconds: minutes * 60 },
        ClusterAction::Status => ControlRequest::ClusterStatus,
        ClusterAction::Leave { member } => ControlRequest::ClusterLeave { member },
        ClusterAction::Recover { yes } => return recover(yes, &state, output).await,
    };
    let reply = ask(&state.control_socket(), &request).await.map_err(|error| {
        let hint = "start the tracker first, or name the state that it runs with: --state DIR";
        Told::failed(format!("no tracker can be asked: {error}")).hint(hint)
    })?;
    match reply {
        ControlReply::Invited { line } => invited(&line, output)?,
        ControlReply::ClusterStatus { status } if output.is_json() => output.value(&told(&status))?,
        ControlReply::ClusterStatus { status } => show(&status, output)?,
        ControlReply::Left => output.talk("left the cluster; the tracker here stops, and what it had is in STATE/left"),
        ControlReply::Done => output.talk("that member is gone"),
        ControlReply::Refused { message, hint } => return Err(Told::failed(message).hint_if(hint).into()),
        ControlReply::Shared { .. } | ControlReply::Key { .. } => {
            return Err(Told::failed("the obt that runs with this state answered something else").into());
        }
    }
    Ok(Status::Done)
}

async fn recover(yes: bool, state: &StateFolder, output: Output) -> anyhow::Result<Status> {
    let _lock = state.lock()?;
    if !yes {
        let hint = "if any majority of them can be started again, start it instead; else repeat this with --yes";
        return Err(Told::failed("recovering gives up what the other members had and this machine has not")
            .hint(hint)
            .into());
    }
    let state = state.clone();
    let recovered = tokio::task::spawn_blocking(move || obt_node::server::recover(&state)).await??;
    if output.is_json() {
        let Recovered { cluster, replayed, log_lost } = &recovered;
        output.value(&json!({"cluster": cluster, "replayed": replayed, "log_lost": log_lost}))?;
        return Ok(Status::Done);
    }
    if let Some(why) = &recovered.log_lost {
        output.talk(format_args!("warning: what was acknowledged last may be missing: {}", plain(why)));
    }
    output.talk(format_args!("this machine is cluster {} now, alone, with all names that it had", recovered.cluster));
    output.talk("start it as before, and invite the others; they join with an empty --state");
    Ok(Status::Done)
}

fn invited(line: &str, output: Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.value(&json!({"join": line}));
    }
    output.talk("on the machine that joins:");
    output.line(format_args!("obt tracker --join {line}"))
}

/// For programs. Ids are text: they have more digits than numbers of many programs.
fn told(status: &ClusterStatus) -> serde_json::Value {
    let members = status.members.iter().map(|member| {
        json!({
            "id": member.node.to_string(), "address": member.member.trackers.first(), "role": member.role,
            "member_address": member.member.addresses.first(), "lag": member.lag, "silent_ms": member.silent_ms,
            "leaving": member.leaving,
        })
    });
    json!({
        "cluster": status.cluster, "id": status.node.to_string(), "leader": status.leader.map(|id| id.to_string()),
        "term": status.term, "members": members.collect::<Vec<_>>(), "as_of_ms": status.as_of.age_ms,
        "index": status.as_of.index, "log_index": status.log_index, "writable": status.writable, "warnings": status.warnings,
    })
}

fn show(status: &ClusterStatus, output: Output) -> anyhow::Result<()> {
    let leader = status.leader.map_or_else(|| "nobody leads".to_owned(), |leader| format!("{leader} leads"));
    let age = match status.as_of.age_ms {
        Some(age) => format!("{age} ms old"),
        None => "of unknown age".to_owned(),
    };
    let names = if status.writable { "names can be changed" } else { "names can be read, and not changed" };
    output.line(format_args!("cluster {}: {leader}, term {}, {names}", status.cluster, status.term))?;
    output.line(format_args!("this is {}; what it says of names is {age}", status.node))?;
    for member in &status.members {
        let role = match member.role {
            Role::Leader => "leader",
            Role::Voter => "voter",
            Role::Learner => "learner",
        };
        let heard = match member.silent_ms {
            Some(silent) if silent > SILENT_MS => format!("silent for {} s", silent / 1_000),
            Some(_) => "answers".to_owned(),
            None => "not heard yet".to_owned(),
        };
        let lag = member.lag.map_or_else(String::new, |lag| format!(", {lag} entries behind"));
        let leaving = if member.leaving { ", leaving" } else { "" };
        let at = member.member.trackers.first().map_or("?", String::as_str);
        output.line(format_args!("{:>19}  {role:7}  {}  {heard}{lag}{leaving}", member.node, plain(at)))?;
    }
    for warning in &status.warnings {
        output.talk(format_args!("warning: {warning}"));
    }
    Ok(())
}
