//! Invitations: a secret that lets one member in once, and the line that carries it.
//!
//! The cluster keeps only the secret's hash. The line names the cluster, where its members are and which keys they
//! have, so that the one who joins knows whom it tells the secret.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{ClusterFailure, StartError};
use crate::message::{Refusal, Request};
use crate::raft::MemberKey;
use crate::shared::Shared;
use crate::state::{ClusterCommand, ClusterOutcome};

/// What a line begins with: its kind and its format.
const PREFIX: &str = "obt-join-1.";
/// Members that a line names.
const NAMED: usize = 3;
/// Longest line, bytes.
const LINE_BYTES: usize = 4_096;
/// Longest that an invitation may be good.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What a join line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinLine {
    /// Which cluster.
    pub cluster: String,
    /// The secret, in hex.
    pub secret: String,
    /// Where some members are, and their keys.
    pub members: Vec<(MemberKey, Vec<String>)>,
}

impl JoinLine {
    /// The line.
    #[must_use]
    pub fn encode(&self) -> String {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads a line.
    ///
    /// # Errors
    /// [`StartError::JoinLine`].
    pub fn decode(line: &str) -> Result<Self, StartError> {
        let encoded = line.trim().strip_prefix(PREFIX).filter(|rest| rest.len() <= LINE_BYTES);
        let bytes = encoded.and_then(|text| data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok());
        let line = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        line.filter(|line: &Self| !line.members.is_empty()).ok_or(StartError::JoinLine)
    }
}

/// SHA-256 of a secret, in hex.
pub(crate) fn hash(secret: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(secret.as_bytes()))
}

/// 128 random bits in hex.
pub(crate) fn random_hex() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

/// Opens an invitation; at the leader.
pub(crate) async fn open(shared: &Shared, hash: String, for_ms: u64) -> Result<ClusterOutcome, Refusal> {
    let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
    let now_ms = shared.now_ms();
    let until_ms = now_ms.saturating_add(for_ms.min(longest));
    shared.change_cluster(&ClusterCommand::Invite { hash, until_ms, now_ms }).await
}

/// Opens an invitation wherever the leader is, and makes its line.
pub(crate) async fn invite(shared: &Shared, good_for: Duration) -> Result<JoinLine, ClusterFailure> {
    let secret = random_hex().map_err(|_| ClusterFailure::Stopping)?;
    let for_ms = u64::try_from(good_for.as_millis()).unwrap_or(u64::MAX);
    let hash = hash(&secret);
    let request = Request::Invite { hash: hash.clone(), for_ms };
    shared.at_leader(request, || open(shared, hash.clone(), for_ms)).await?;
    let members = shared.directory.members();
    let leader = shared.leader();
    let mut named: Vec<_> = members.all.iter().collect();
    named.sort_by_key(|(id, _)| (Some(**id) != leader, !members.voters.contains(id)));
    let named = named.into_iter().take(NAMED).map(|(_, member)| (member.key, member.addresses.clone())).collect();
    let cluster = shared.machine.position().borrow().cluster.id.clone();
    Ok(JoinLine { cluster, secret, members: named })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_round_trips_and_what_is_none_is_refused() {
        let line = JoinLine {
            cluster: "c".to_owned(),
            secret: "s".to_owned(),
            members: vec![(MemberKey([7; 32]), vec!["192.0.2.1:6970".to_owned()])],
        };
        let text = line.encode();
        assert_eq!(JoinLine::decode(&format!(" {text}\n")).unwrap(), line);
        let nobody = JoinLine { members: Vec::new(), ..line }.encode();
        for bad in [
            "",
            "obt-join-1.",
            "obt-join-2.e30",
            &text[..text.len() - 5],
            &nobody,
            &format!("{PREFIX}{}", "A".repeat(5_000)),
        ] {
            assert!(matches!(JoinLine::decode(bad), Err(StartError::JoinLine)), "{bad}");
        }
    }
}
