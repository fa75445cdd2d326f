//! How many swarms each address has brought into being in this hour.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};

use super::key::HashKey;

/// Counters, 128 KiB. Addresses share them: that one is refused for another's sake takes both the other at its limit
/// and a chance of 1 in 65,536 that it cannot choose.
const COUNTERS: usize = 1 << 16;
const HOUR: u32 = 3_600;

/// Counts per address, shared by all shards without a lock.
pub(crate) struct Quota {
    key: HashKey,
    limit: u16,
    hour: AtomicU32,
    counters: Box<[AtomicU16]>,
}

impl Quota {
    pub(crate) fn new(limit: u16, key: HashKey) -> Self {
        let counters = std::iter::repeat_with(AtomicU16::default).take(COUNTERS).collect();
        Self { key, limit, hour: AtomicU32::new(0), counters }
    }

    /// Counts one more swarm of `ip` at `now`, in seconds of the store; false where it has had all of its share.
    pub(crate) fn admit(&self, ip: IpAddr, now: u32) -> bool {
        self.turn(now / HOUR);
        let hash = match ip {
            IpAddr::V4(ip) => self.key.address(&ip.octets(), [0; 2]),
            // Who has one address of a /64 has them all.
            IpAddr::V6(ip) => {
                let mut network = ip.octets();
                network[8..].fill(0);
                self.key.address(&network, [0; 2])
            }
        };
        let counter = usize::try_from(hash >> 48).ok().and_then(|at| self.counters.get(at));
        counter.is_some_and(|counter| {
            counter.fetch_update(Relaxed, Relaxed, |count| (count < self.limit).then(|| count + 1)).is_ok()
        })
    }

    fn turn(&self, hour: u32) {
        if self.hour.load(Relaxed) != hour && self.hour.swap(hour, Relaxed) != hour {
            for counter in &self.counters {
                counter.store(0, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u06_an_address_has_its_share_every_hour() {
        let quota = Quota::new(1_000, HashKey::new([9; 24]));
        let ip = IpAddr::from([10, 0, 0, 1]);
        assert_eq!((0..5_000).filter(|now| quota.admit(ip, now / 2)).count(), 1_000);
        assert!(quota.admit(IpAddr::from([10, 0, 0, 2]), 10));
        assert!(quota.admit(ip, HOUR));
    }

    #[test]
    fn u06_addresses_of_one_network_count_as_one() {
        let quota = Quota::new(1, HashKey::new([9; 24]));
        assert!(quota.admit("2001:db8::1".parse().unwrap(), 0));
        assert!(!quota.admit("2001:db8::2".parse().unwrap(), 0));
        assert!(quota.admit("2001:db8:0:1::1".parse().unwrap(), 0));
    }
}
