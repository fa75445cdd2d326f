//! How fast a swarm could be if bytes were a fluid: what a makespan is compared with.

use std::time::Duration;

/// Uplink and downlink of a node, bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// What it can send.
    pub up: u64,
    /// What it can receive.
    pub down: u64,
}

/// No schedule gives `size` bytes to all of `leechers` sooner: the seed must send each byte once, the slowest must
/// receive each, and all copies must come from somewhere (Kumar and Ross, 2006).
#[must_use]
pub fn fluid_bound(size: u64, seed: Share, leechers: &[Share]) -> Duration {
    let size = size as f64;
    let up: f64 = leechers.iter().map(|leecher| leecher.up as f64).sum();
    let slowest = leechers.iter().map(|leecher| leecher.down).min().unwrap_or(u64::MAX);
    let copies = size * leechers.len() as f64 / (seed.up as f64 + up);
    Duration::from_secs_f64((size / seed.up as f64).max(size / slowest as f64).max(copies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_of_three_limits_counts() {
        let link = |up, down| Share { up, down };
        let equal = [link(100, 100); 10];
        assert_eq!(fluid_bound(1_000, link(100, 100), &equal), Duration::from_secs(10));
        assert_eq!(fluid_bound(1_000, link(200, 100), &[link(100, 50)]), Duration::from_secs(20));
        assert_eq!(fluid_bound(1_000, link(1_000, 1_000), &[link(0, 1_000); 10]), Duration::from_secs(10));
    }
}
