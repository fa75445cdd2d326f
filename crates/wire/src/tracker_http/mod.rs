//! The HTTP tracker protocol, as the tracker and as the client see it: announces (BEP 3, 7, 21, 23, 24, 31) and scrapes
//! (BEP 48).
//!
//! Queries and answers as values; HTTP itself is not here. A query holds raw bytes that no URL library gives back
//! unchanged, so it is read from the request line as it came.

mod query;
mod reply;

pub use query::{AnnounceQuery, QueryError, scrape_query, scrape_url};
pub use reply::{
    AnnounceReply, Announced, FullPeer, Peers, ReplyError, RetryIn, read_scrape, write_announce, write_failure,
    write_scrape,
};

#[cfg(test)]
mod tests;
