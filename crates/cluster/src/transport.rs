//! How messages travel, as the rest of the crate sees it: TLS in the program, memory in tests.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::message::{Reply, Request};
use crate::raft::{Member, NodeId};

/// A boxed future, so that [`Transport`] can be chosen at run time.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// No reply came.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// There is no connection, and none can be made now.
    #[error("the member cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long. What was asked may have been done.
    #[error("the member did not answer in time")]
    TimedOut,
    /// The connection broke in the middle. What was asked may have been done.
    #[error("the connection to the member broke: {0}")]
    Broken(String),
    /// All that may be under way to this member is.
    #[error("too much is under way to the member")]
    Busy,
}

/// Carries requests to members.
pub trait Transport: Send + Sync + 'static {
    /// Asks `to`, and waits for its reply for `limit` at most. Dropping the future does not take the request back.
    fn call<'a>(
        &'a self,
        to: NodeId,
        member: &'a Member,
        request: Request,
        body: Bytes,
        limit: Duration,
    ) -> Boxed<'a, Result<(Reply, Bytes), LinkError>>;
}

/// Answers requests that came over a connection whose identity was proved.
pub trait Serve: Send + Sync + 'static {
    /// The reply to a request of member `from`.
    fn serve(&self, from: NodeId, request: Request, body: Bytes) -> Boxed<'_, (Reply, Bytes)>;
}
