//! Limits of bandwidth, and how those of a process are divided among its torrents.

/// Limits of payload, bytes per second; None is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// To receive.
    pub download: Option<u64>,
    /// To send.
    pub upload: Option<u64>,
}

/// Divides `limit` among torrents that used so much of their last shares: whoever uses little leaves the rest to others,
/// and keeps room to grow. The shares add up to the limit, but for rounding.
pub(crate) fn divide(limit: u64, used: impl Iterator<Item = u64>) -> Vec<u64> {
    let wants: Vec<u64> = used.map(|used| used.saturating_add(used / 2)).collect();
    let count = wants.len() as u64;
    let mut shares = vec![0; wants.len()];
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|at| wants.get(*at).copied());
    // A tenth is for those who used nothing: they may have got somebody to fetch from meanwhile.
    let floor = limit / 10 / count.max(1);
    let mut left = limit - floor * count;
    for (done, at) in order.into_iter().enumerate() {
        let fair = left / (count - done as u64).max(1);
        if let (Some(share), Some(want)) = (shares.get_mut(at), wants.get(at)) {
            *share = fair.min(*want);
            left -= *share;
        }
    }
    let rest = left / count.max(1);
    shares.iter().map(|share| share + floor + rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f42_shares_add_up_to_the_limit_and_follow_the_demand() {
        for used in [vec![0], vec![0, 0, 0], vec![1_000_000, 0], vec![400, 500, 600], vec![u64::MAX, 3]] {
            let shares = divide(1_000_000, used.iter().copied());
            let sum: u64 = shares.iter().sum();
            assert!(sum <= 1_000_000 && sum > 999_900, "{used:?} {shares:?}");
            assert!(shares.iter().all(|share| *share >= 1_000_000 / 10 / used.len() as u64));
        }
        let shares = divide(1_000_000, [900_000, 0].into_iter());
        assert!(shares[0] > 900_000 && shares[1] < 100_000, "{shares:?}");
        assert!(divide(1000, std::iter::empty()).is_empty());
    }
}
