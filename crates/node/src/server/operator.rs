//! What the operator of this machine may ask of its tracker, beside what everybody may: keys and membership.
//!
//! Nothing of it is served over the network; the control socket of the state folder is the way in.

use std::sync::Arc;
use std::time::Duration;

use obt_catalogue::{Command, Outcome, Reader};
use obt_cluster::raft::NodeId;
use obt_cluster::{ClusterFailure, ClusterStatus};
use thiserror::Error;

use super::App;
use super::catalogue::CatalogueFailure;
use super::membership::InviteError;
use crate::keyring::{KeyringError, one_key};
use crate::signing::PublicKey;

/// A running tracker, for its operator. Cheap to clone.
#[derive(Clone)]
pub struct Operator(Arc<App>);

/// What was asked for was not done.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// The cluster did not do it.
    #[error(transparent)]
    Cluster(#[from] ClusterFailure),
    /// Nobody can be invited.
    #[error(transparent)]
    Invite(#[from] InviteError),
    /// The keys cannot be read, or none is meant.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// The catalogue's file failed.
    #[error("the catalogue cannot be used")]
    Catalogue(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<CatalogueFailure> for OperatorError {
    fn from(failure: CatalogueFailure) -> Self {
        match failure {
            CatalogueFailure::Cluster(failure) => Self::Cluster(failure),
            other => Self::Catalogue(Box::new(other)),
        }
    }
}

impl Operator {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self(app)
    }

    /// The cluster as this member sees it.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        self.0.membership.linked().cluster.status()
    }

    /// A line with which one more machine joins, within `good_for`.
    ///
    /// # Errors
    /// Where there is no majority, or no port.
    pub async fn invite(&self, good_for: Duration) -> Result<String, OperatorError> {
        Ok(self.0.membership.invite(good_for).await?)
    }

    /// This member.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.membership.linked().cluster.node()
    }

    /// Has a member leave, and waits until it has left.
    ///
    /// # Errors
    /// Where there is no majority; where it is the only one, or none.
    pub async fn leave(&self, node: NodeId) -> Result<(), OperatorError> {
        Ok(self.0.membership.linked().cluster.leave(node).await?)
    }

    /// Lets a key publish.
    ///
    /// # Errors
    /// Where there is no majority.
    pub async fn add_key(&self, key: PublicKey, label: &str) -> Result<(), OperatorError> {
        self.change(Command::AddKey { key, label: label.to_owned(), names: None }).await
    }

    /// Lets a key publish no longer; `prefix` is the whole key or its first 8 or more digits.
    ///
    /// # Errors
    /// Where it means no key, or more than one; where there is no majority.
    pub async fn revoke_key(&self, prefix: &str) -> Result<PublicKey, OperatorError> {
        let keys = self.0.catalogue.read(Reader::keys).await.map_err(KeyringError::from)?;
        let key = one_key(&keys, prefix)?;
        self.change(Command::RevokeKey { key }).await?;
        Ok(key)
    }

    async fn change(&self, command: Command) -> Result<(), OperatorError> {
        match self.0.catalogue.apply_own(command).await? {
            Outcome::Done => Ok(()),
            _ => Err(KeyringError::Refused.into()),
        }
    }
}
