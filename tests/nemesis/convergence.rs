//! When nothing fails any more: all members vote, and hold the same catalogue.

use std::time::{Duration, Instant};

use obt_catalogue::Reader;
use serde_json::Value;

use crate::members::{LOOK, Member, Members};

/// How long it may take after the last fault, on a machine with other things to do.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

/// Waits until every member sees as many voters as there can be, and the same leader.
pub(crate) fn all_vote(members: &Members) -> Result<(), String> {
    let count = members.all.len();
    let voters = if count.is_multiple_of(2) { count - 1 } else { count };
    until("all vote", || {
        let told: Vec<Value> = members.all.iter().map(|member| member.told().unwrap_or_default()).collect();
        let same_leader = told.iter().all(|status| status["leader"] == told[0]["leader"] && status["writable"] == true);
        let vote = |status: &Value| {
            let all = status["members"].as_array().cloned().unwrap_or_default();
            all.len() == count && all.iter().filter(|member| member["role"] != "learner").count() == voters
        };
        let there = same_leader && told.iter().all(vote);
        if there { Ok(()) } else { Err(format!("{told:?}")) }
    })
}

/// Waits until all are at the same entry of the log; their catalogues are equal then.
pub(crate) fn all_agree(members: &Members) -> Result<(), String> {
    let mut at = Vec::new();
    until("all are at the same entry", || {
        at = members.all.iter().map(digest).collect::<Result<Vec<_>, _>>()?;
        match at.iter().all(|(entry, _)| *entry == at[0].0) {
            true => Ok(()),
            false => Err(format!("{:?}", at.iter().map(|(entry, _)| entry).collect::<Vec<_>>())),
        }
    })?;
    match at.iter().all(|this| this == &at[0]) {
        true => Ok(()),
        false => Err(format!("catalogues differ at entry {}: {at:x?}", at[0].0)),
    }
}

/// The last entry that a member has applied, and the hash over its catalogue after it.
fn digest(member: &Member) -> Result<(u64, [u8; 32]), String> {
    let read = || {
        let reader = Reader::open(&member.state().join("catalogue.sqlite"))?;
        let before = reader.applied()?.entry;
        let digest = reader.digest()?;
        Ok::<_, obt_catalogue::CatalogueError>((before, digest, reader.applied()?.entry))
    };
    match read() {
        Ok((before, digest, after)) if before == after => Ok((after, digest)),
        Ok(_) => Err(format!("{} is at work", member.name())),
        Err(error) => Err(format!("{}: {error}", member.name())),
    }
}

fn until(what: &str, mut come: impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let deadline = Instant::now() + WITHIN;
    while let Err(why) = come() {
        if Instant::now() > deadline {
            return Err(format!("not within {WITHIN:?}: {what}: {why}"));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
