//! A store for the tests of this crate.

use std::time::Instant;

use crate::limits::Limits;
use crate::store::Advertised;
use crate::swarms::{StoreConfig, Swarms};

/// An empty store with these budgets, and the moment at which it began.
#[expect(clippy::disallowed_methods, reason = "tests need some instant to count from")]
pub(crate) fn store(limits: Limits) -> (Swarms, Instant) {
    let now = Instant::now();
    let config = StoreConfig { shard_bits: 2, limits, advertised: Advertised::default(), secret: [4; 32] };
    (Swarms::new(&config, now), now)
}
