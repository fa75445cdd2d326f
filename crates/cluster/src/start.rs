//! The first steps of a member: what its log and its catalogue say, whether they belong together, how it begins.

use std::collections::BTreeMap;
use std::path::Path;

use obt_catalogue::{Applied, Catalogue};

use crate::config::{Config, Origin};
use crate::failure::StartError;
use crate::invite::{JoinLine, random_hex};
use crate::log::{Beginning, Identity, LogFile};
use crate::raft::{LogId, Member, Membership, NodeId, StoredMembership, Vote};
use crate::snapshot::{self, entry_of};
use crate::state::Position;

/// Files that are open and fit each other.
pub(crate) struct Opened {
    pub(crate) log: LogFile,
    pub(crate) catalogue: Catalogue,
}

/// Opens what is there, or begins as `config.origin` says. Blocks.
pub(crate) fn open(config: &Config) -> Result<Opened, StartError> {
    if let Some(folder) = config.catalogue.parent() {
        snapshot::sweep(folder)?;
    }
    let mut catalogue = Catalogue::open(&config.catalogue)?;
    let log = if config.log.exists() {
        let log = LogFile::open(&config.log)?;
        let log = check_pair(log, &mut catalogue)?;
        check_line(log, &config.origin)?
    } else {
        begin(config, &mut catalogue)?
    };
    Ok(Opened { log, catalogue })
}

pub(crate) fn position(catalogue: &Catalogue) -> Result<(Applied, Position), StartError> {
    let applied = catalogue.applied()?;
    let position = Position::decode(&applied.position).map_err(StartError::Mismatch)?;
    Ok((applied, position))
}

fn check_pair(mut log: LogFile, catalogue: &mut Catalogue) -> Result<LogFile, StartError> {
    let (applied, position) = position(catalogue)?;
    let identity = log.identity().clone();
    let Some(log_id) = position.log_id else {
        // One that is being let in has nothing yet.
        return if identity.joining.is_some() { Ok(log) } else { Err(catalogue_gone()) };
    };
    if position.cluster.id != identity.cluster {
        return Err(StartError::Mismatch(format!(
            "the catalogue belongs to cluster {} and the log to cluster {}; restore both from the same member",
            position.cluster.id, identity.cluster
        )));
    }
    if applied.entry != entry_of(log_id) {
        let alone = position.membership.nodes().count() == 1;
        if !alone || applied.entry < entry_of(log_id) {
            return Err(StartError::Mismatch(
                "the catalogue was changed behind the cluster's back; remove this member's state and join it anew"
                    .to_owned(),
            ));
        }
        adopt(&mut log, catalogue, &applied, position)?;
    }
    if log.ends()?.purged.is_some_and(|purged| purged.index > applied.entry.saturating_sub(1)) {
        return Err(StartError::Mismatch(
            "the catalogue is older than the log that belongs to it; restore both from the same moment".to_owned(),
        ));
    }
    Ok(log)
}

/// A line in a start script is there at every start: where this is a member of its cluster already it says nothing. Who
/// was not let in yet goes on with the newest line.
fn check_line(mut log: LogFile, origin: &Origin) -> Result<LogFile, StartError> {
    let Origin::Join(line) = origin else { return Ok(log) };
    let cluster = JoinLine::decode(line)?.cluster;
    let identity = log.identity().clone();
    let line = line.trim();
    let begun = log.ends()?.last.is_some();
    match &identity.joining {
        Some(known) if known != line && !begun => {
            log.set_identity(Identity { cluster, joining: Some(line.to_owned()), ..identity })?;
        }
        _ if identity.cluster != cluster => {
            return Err(StartError::Mismatch(
                "this state directory belongs to a member of another cluster; `obt cluster leave` lets it go"
                    .to_owned(),
            ));
        }
        _ => {}
    }
    Ok(log)
}

/// Takes over what was written into the catalogue of a cluster of one while it was not running.
fn adopt(
    log: &mut LogFile,
    catalogue: &mut Catalogue,
    applied: &Applied,
    mut position: Position,
) -> Result<(), StartError> {
    let vote = log.vote()?;
    let log_id = LogId::new(vote.leader_id, applied.entry.saturating_sub(1));
    log.begin_at(log_id)?;
    position.log_id = Some(log_id);
    let applied = Applied { entry: applied.entry, position: position.encode() };
    catalogue.apply_through(&[], &applied)?;
    Ok(())
}

fn catalogue_gone() -> StartError {
    StartError::Mismatch("the catalogue is gone; remove this member's log as well and join it anew".to_owned())
}

/// The founder has its own voice, and that is all there are: it leads from the first moment.
fn founding_vote(node: NodeId) -> Vote {
    Vote::new_committed(1, node)
}

fn begin(config: &Config, catalogue: &mut Catalogue) -> Result<LogFile, StartError> {
    let (applied, position) = position(catalogue)?;
    match &config.origin {
        Origin::Join(line) => join(&config.log, line, &applied),
        Origin::Found if position.log_id.is_some() && !was_just_begun(&position) => Err(StartError::Mismatch(format!(
            "the log of cluster {} is gone, and with it this member's vote: it must not go on under its old id. If other \
             members live, remove this catalogue and join them; if this is all that is left, `obt cluster recover`",
            position.cluster.id
        ))),
        Origin::Found => found(&config.log, config.member.clone(), catalogue, &applied),
    }
}

/// A founder that was stopped after it wrote the catalogue and before it wrote the log.
fn was_just_begun(position: &Position) -> bool {
    position.log_id == *position.membership.log_id() && position.log_id.is_some_and(|log_id| log_id.leader_id.term == 0)
}

fn join(path: &Path, line: &str, applied: &Applied) -> Result<LogFile, StartError> {
    let decoded = JoinLine::decode(line)?;
    if *applied != Applied::default() {
        return Err(StartError::Mismatch(
            "this catalogue holds names already; a member joins with an empty one: choose another state directory"
                .to_owned(),
        ));
    }
    let identity = Identity { node: new_id()?, cluster: decoded.cluster, joining: Some(line.trim().to_owned()) };
    Ok(LogFile::create(path, &Beginning { identity, vote: Vote::default(), purged: None })?)
}

/// A cluster of one with what is in the catalogue. The catalogue comes first: a log without it could not be told from a
/// member that lost its names.
pub(crate) fn found(
    log: &Path,
    member: Member,
    catalogue: &mut Catalogue,
    applied: &Applied,
) -> Result<LogFile, StartError> {
    let node = new_id()?;
    let log_id = LogId::new(openraft::LeaderId::new(0, 0), applied.entry);
    let mut position = Position::default();
    let membership = Membership::new(vec![[node].into()], BTreeMap::from([(node, member)]));
    position.membership = StoredMembership::new(Some(log_id), membership);
    position.log_id = Some(log_id);
    position.cluster.id = random_hex()?;
    position.cluster.secret = format!("{}{}", random_hex()?, random_hex()?);
    let cluster = position.cluster.id.clone();
    let next = Applied { entry: entry_of(log_id), position: position.encode() };
    catalogue.apply_through(&[], &next)?;
    let identity = Identity { node, cluster, joining: None };
    let beginning = Beginning { identity, vote: founding_vote(node), purged: Some(log_id) };
    Ok(LogFile::create(log, &beginning)?)
}

/// Never 0, which is what openraft takes for nobody in an empty vote.
fn new_id() -> std::io::Result<NodeId> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    // 63 bits: SQLite and JSON readers keep them.
    Ok((u64::from_be_bytes(bytes) >> 1).max(1))
}
