//! Connection ids of UDP announces (BEP 15), without memory of who got which.
//!
//! An id proves that whoever sends it can receive at its address, so nobody can enter others into a swarm or have
//! answers sent to them. It is the time of issue and a keyed hash of time and address; the port is not in it, since
//! NATs change it between datagrams. 32 bits of hash are guessed once in four billion datagrams. The hash is SipHash 2-4,
//! which is made for that: short inputs, a secret key, and nobody who can tell its outputs from chance.

use std::hash::Hasher;
#[expect(deprecated, reason = "in favour of a hasher that may change; this one is SipHash 2-4 for good")]
use std::hash::SipHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits::CONNECTION_ID_LIFE;

type Key = [u64; 2];

/// Makes and checks connection ids.
#[derive(Clone)]
pub struct ConnectionIds {
    key: Key,
    /// The key of the epoch before: ids that were issued with it are good for the rest of their two minutes.
    previous: Option<Key>,
    /// When `epoch` was, in seconds since 1970: trackers that share the key agree on the time.
    seconds: u32,
    epoch: Instant,
}

impl ConnectionIds {
    /// With a random key, and the time of day at `now`.
    #[must_use]
    pub fn new(key: [u8; 16], time: SystemTime, now: Instant) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        Self { key: words(key), previous: None, seconds: low(since), epoch: now }
    }

    /// The same, with what was the key before: a cluster changes it at all members, and not at the same moment.
    #[must_use]
    pub fn with_previous(self, previous: [u8; 16]) -> Self {
        Self { previous: Some(words(previous)), ..self }
    }

    fn seconds(&self, now: Instant) -> u32 {
        self.seconds.wrapping_add(low(now.saturating_duration_since(self.epoch).as_secs()))
    }

    fn proof(key: &Key, seconds: u32, ip: IpAddr) -> u32 {
        let mut input = [0; 24];
        input[..4].copy_from_slice(&seconds.to_be_bytes());
        match ip {
            IpAddr::V4(ip) => input[8..].copy_from_slice(&ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => input[8..].copy_from_slice(&ip.octets()),
        }
        #[expect(deprecated, reason = "see its import")]
        let mut hasher = SipHasher::new_with_keys(key[0], key[1]);
        hasher.write(&input);
        low(hasher.finish())
    }

    /// The id for a sender at `ip`.
    #[must_use]
    pub fn issue(&self, ip: IpAddr, now: Instant) -> u64 {
        let seconds = self.seconds(now);
        u64::from(seconds) << 32 | u64::from(Self::proof(&self.key, seconds, ip))
    }

    /// Whether `id` was issued to `ip` within the last two minutes.
    #[must_use]
    pub fn is_valid(&self, id: u64, ip: IpAddr, now: Instant) -> bool {
        let issued = low(id >> 32);
        // An id from the future has an age of decades.
        let age = self.seconds(now).wrapping_sub(issued);
        let proves = |key: &Key| low(id) == Self::proof(key, issued, ip);
        u64::from(age) <= CONNECTION_ID_LIFE.as_secs()
            && (proves(&self.key) || self.previous.as_ref().is_some_and(proves))
    }
}

fn words(key: [u8; 16]) -> Key {
    let (words, _) = key.as_chunks();
    [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(number: u64) -> u32 {
    number as u32
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests need some instant to count from")]
mod tests {
    use super::*;

    fn ids() -> (ConnectionIds, Instant) {
        let now = Instant::now();
        (ConnectionIds::new([7; 16], UNIX_EPOCH + Duration::from_secs(1_800_000_000), now), now)
    }

    #[test]
    fn u02_an_id_is_good_for_two_minutes_at_its_address_only() {
        let (ids, now) = ids();
        let (ip, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let id = ids.issue(ip, now);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert!(ids.is_valid(id, ip, now) && ids.is_valid(id, ip, later(120)));
        assert!(!ids.is_valid(id, ip, later(121)));
        assert!(!ids.is_valid(id, other, now));
        assert!(!ids.is_valid(ids.issue(ip, later(1)), ip, now), "from the future");
        assert!(!ids.is_valid(id | 1 << 63, ip, now) && !ids.is_valid(0, ip, now) && !ids.is_valid(u64::MAX, ip, now));
        for bit in 0..64 {
            assert!(!ids.is_valid(id ^ 1 << bit, ip, now), "bit {bit}");
        }
    }

    #[test]
    fn a_new_key_leaves_ids_good_that_were_issued_with_the_last_one() {
        let (ids, now) = ids();
        let ip = IpAddr::from([10, 0, 0, 1]);
        let time = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let renewed = ConnectionIds::new([8; 16], time, now).with_previous([7; 16]);
        assert!(renewed.is_valid(ids.issue(ip, now), ip, now));
        assert!(renewed.is_valid(renewed.issue(ip, now), ip, now));
        assert!(!ids.is_valid(renewed.issue(ip, now), ip, now), "it is issued with the new one");
        let next = ConnectionIds::new([9; 16], time, now).with_previous([8; 16]);
        assert!(!next.is_valid(ids.issue(ip, now), ip, now), "two keys ago is too long ago");
    }

    #[test]
    fn trackers_that_share_the_key_take_each_others_ids() {
        let (ids, now) = ids();
        let started_later = now + Duration::from_secs(50);
        let other = ConnectionIds::new([7; 16], UNIX_EPOCH + Duration::from_secs(1_800_000_050), started_later);
        let ip = "2001:db8::1".parse().unwrap();
        assert!(other.is_valid(ids.issue(ip, now), ip, started_later));
        assert!(!ConnectionIds::new([8; 16], UNIX_EPOCH, now).is_valid(ids.issue(ip, now), ip, now));
    }
}
