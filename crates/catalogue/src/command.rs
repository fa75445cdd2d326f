//! What can be done to a catalogue, and what came of it: the entries of a replicated log and their answers.
//!
//! A command holds everything that its effect depends on, time and ids included, so that applying it needs neither
//! clock nor randomness. Metainfo travels beside the log; a command names it by its hash.

use obt_wire::{InfoHash, InfoHashes};
use serde::{Deserialize, Serialize};

use crate::blobs::BlobHash;
use crate::error::CatalogueError;
use crate::hex;
use crate::names::Name;
use crate::signing::PublicKey;

/// The newest format of [`Envelope`] that this code reads, and the one that it writes.
pub const FORMAT: u16 = 1;
/// Longest label of a key, bytes.
pub(crate) const LABEL_BYTES: usize = 128;
/// Longest text that says who held an item last, bytes: an address or a host and its port.
pub(crate) const HOLDER_BYTES: usize = 300;

/// Made by whoever sends a command; a command whose id was seen in the last 24 h is answered and not applied again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandId(#[serde(with = "hex")] pub [u8; 16]);

impl From<[u8; 16]> for CommandId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// A command with what makes it repeatable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    format: u16,
    /// For exactly-once.
    pub id: CommandId,
    /// When, by the clock of the one that accepted it, milliseconds since 1970.
    pub time_ms: u64,
    /// What to do.
    pub command: Command,
}

impl Envelope {
    /// `command` in the newest format.
    #[must_use]
    pub fn new(id: CommandId, time_ms: u64, command: Command) -> Self {
        Self { format: FORMAT, id, time_ms, command }
    }

    /// The bytes of a log entry.
    ///
    /// # Errors
    /// Never for a command that was parsed or built from checked parts.
    pub fn encode(&self) -> Result<Vec<u8>, CatalogueError> {
        serde_json::to_vec(self).map_err(|error| CatalogueError::Malformed(error.to_string()))
    }

    /// The command in a log entry.
    ///
    /// # Errors
    /// [`CatalogueError::NewerFormat`] where a later release wrote it: a replica that skipped it would differ from
    /// the others. [`CatalogueError::Malformed`] for anything else that cannot be read.
    pub fn decode(bytes: &[u8]) -> Result<Self, CatalogueError> {
        #[derive(Deserialize)]
        struct Head {
            format: u16,
        }
        let malformed = |error: serde_json::Error| CatalogueError::Malformed(error.to_string());
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.format > FORMAT {
            return Err(CatalogueError::NewerFormat { format: head.format });
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }
}

/// A change of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Puts a content under a name.
    Publish(Publish),
    /// Takes a content away from a name. The name keeps its owner and its version counter.
    Withdraw {
        /// Which item.
        name: Name,
        /// None is all of them.
        version: Option<u32>,
        /// On whose word.
        by: Authority,
    },
    /// Lets a key publish, or changes its label and quota.
    AddKey {
        /// Which.
        key: PublicKey,
        /// What people call its owner; at most [`LABEL_BYTES`].
        label: String,
        /// How many names it may own; None is the default.
        names: Option<u32>,
    },
    /// Lets a key publish no longer, under the open policy neither. Its names stay its own.
    RevokeKey {
        /// Which.
        key: PublicKey,
    },
    /// Says which keys may publish.
    SetPublishPolicy {
        /// From here on.
        policy: PublishPolicy,
    },
    /// Notes that swarms lost their last holder.
    RecordDepartures {
        /// Any number; those of unknown contents are skipped.
        departures: Vec<Departure>,
    },
}

impl Command {
    /// Whether applying it again changes nothing by itself, so that its id need not be kept.
    pub(crate) fn is_idempotent(&self) -> bool {
        matches!(self, Self::RecordDepartures { .. })
    }
}

/// See [`Command::Publish`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Under which name.
    pub name: Name,
    /// What.
    pub content: Content,
    /// Who signed the request.
    pub key: PublicKey,
    /// Whether other content may become the next version.
    pub replace: Replace,
}

/// Whether a publisher means to put other content under a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replace {
    /// Answer [`Outcome::NeedsReplace`].
    No,
    /// Make the next version.
    Yes,
}

/// Whose word a withdrawal stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// Who signed the request; good for its own names.
    Key(PublicKey),
    /// Whoever runs the tracker; good for every name.
    Operator,
}

/// Whether an item is a file or a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One file, nothing inside.
    File,
    /// Files can be selected inside it.
    Folder,
}

/// A content: what identifies it, and as much of its metainfo as lists show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// At least one of the two is there.
    #[serde(with = "hex::hashes")]
    pub hashes: InfoHashes,
    /// Bytes of all files, padding not counted; at most `i64::MAX`.
    pub size: u64,
    /// How many files, padding not counted.
    pub files: u32,
    /// File or folder.
    pub layout: Layout,
    /// Bytes.
    pub piece_length: u32,
    /// The cleaned .torrent.
    pub blob: BlobHash,
}

impl Content {
    /// Whether the invariants of its fields hold; a command where they do not is [`Outcome::Invalid`].
    pub(crate) fn is_valid(&self) -> bool {
        let named = self.hashes.v1.is_some() || self.hashes.v2.is_some();
        named && i64::try_from(self.size).is_ok() && self.files > 0 && self.piece_length > 0
    }
}

/// Which keys may publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishPolicy {
    /// Those that were added.
    #[default]
    Keys,
    /// All but those that were revoked.
    Open,
}

/// A swarm has no holder any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Either name of the swarm.
    #[serde(with = "hex::swarm")]
    pub info_hash: InfoHash,
    /// The address of the last one; at most [`HOLDER_BYTES`].
    pub holder: String,
    /// When it was last heard of, milliseconds since 1970.
    pub at_ms: u64,
}

/// What came of a command. Business as usual, refusals included; a failure of the file is an error instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The content is the newest version of the name.
    Published {
        /// Its number.
        version: u32,
    },
    /// The name has this content; nothing changed.
    AlreadyThere {
        /// Under this number.
        version: u32,
    },
    /// Another key published this name, or the item that it would be read as a part of, first.
    OwnedBy {
        /// That key.
        key: PublicKey,
    },
    /// The name is the publisher's own and holds other content.
    NeedsReplace {
        /// The newest version.
        version: u32,
    },
    /// The key may not do that.
    Forbidden {
        /// Why not.
        denial: Denial,
    },
    /// No such name, version or key.
    NotFound,
    /// These versions are gone.
    Withdrawn {
        /// Their numbers, in order.
        versions: Vec<u32>,
        /// What they were.
        #[serde(default, with = "hex::hashes_of_many")]
        contents: Vec<InfoHashes>,
    },
    /// The command is well formed and makes no sense.
    Invalid,
    /// Done; there is nothing more to say.
    Done,
}

/// Why a key may not publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// Only listed keys may, and this is none.
    Unlisted,
    /// It was revoked.
    Revoked,
    /// It owns as many names as it may.
    NameQuota {
        /// How many that is.
        names: u32,
    },
    /// It has published as many versions as it may.
    VersionQuota {
        /// How many that is.
        versions: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let command =
            Command::Withdraw { name: Name::parse("a b").unwrap(), version: Some(2), by: Authority::Operator };
        Envelope::new(CommandId([1; 16]), 5, command)
    }

    #[test]
    fn a_log_entry_round_trips_and_its_form_is_frozen() {
        let bytes = envelope().encode().unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"format":1,"id":"01010101010101010101010101010101","time_ms":5,"command":{"withdraw":{"name":"a b","version":2,"by":"operator"}}}"#
        );
        assert_eq!(Envelope::decode(&bytes).unwrap(), envelope());
    }

    #[test]
    fn entries_of_a_later_release_are_told_from_broken_ones() {
        let newer = br#"{"format":2,"id":"??","command":"unheard of"}"#;
        assert!(matches!(Envelope::decode(newer), Err(CatalogueError::NewerFormat { format: 2 })));
        for broken in [&b"{}"[..], b"", br#"{"format":1,"id":"01","time_ms":5,"command":{}}"#] {
            assert!(matches!(Envelope::decode(broken), Err(CatalogueError::Malformed(_))));
        }
    }

    #[test]
    fn names_of_an_entry_are_checked() {
        let bytes = String::from_utf8(envelope().encode().unwrap()).unwrap().replace("a b", "../a");
        assert!(matches!(Envelope::decode(bytes.as_bytes()), Err(CatalogueError::Malformed(_))));
    }
}
