//! How much of the log may go: what is applied, but for what members that are a little behind are still to be sent.
//!
//! Pure. A member that takes in a snapshot needs every entry after it: were those cut meanwhile, it would need another
//! one, and would not be done for as long as names are published.

use crate::limits::{CUT_ENTRIES, KEPT_ENTRIES, LOG_ENTRIES};

/// What a member sees of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// The last entry that is not in the log any more.
    pub(crate) cut: u64,
    /// The last entry that is applied.
    pub(crate) applied: u64,
    /// Of each member that this one leads and that is heard, the last entry that it is known to have; 0 is none.
    pub(crate) reached: Vec<u64>,
}

/// Up to which entry the log may be cut, where that is worth it.
pub(crate) fn next_cut(view: &View) -> Option<u64> {
    let kept = view.applied.checked_sub(KEPT_ENTRIES)?;
    let behind = view.reached.iter().copied().min().unwrap_or(u64::MAX);
    // One that never catches up must not fill the disk.
    let most = view.applied.saturating_sub(LOG_ENTRIES);
    let upto = kept.min(behind).max(most);
    (upto >= view.cut.saturating_add(CUT_ENTRIES)).then_some(upto)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(cut: u64, applied: u64, reached: &[u64]) -> Option<u64> {
        next_cut(&View { cut, applied, reached: reached.to_vec() })
    }

    #[test]
    fn what_everybody_has_is_cut_now_and_then_but_for_the_last_entries() {
        let enough = KEPT_ENTRIES + CUT_ENTRIES;
        assert_eq!(cut(0, 5, &[]), None);
        assert_eq!(cut(0, enough - 1, &[]), None);
        assert_eq!(cut(0, enough, &[]), Some(CUT_ENTRIES));
        assert_eq!(cut(0, enough, &[enough, enough - 3]), Some(CUT_ENTRIES));
        assert_eq!(cut(CUT_ENTRIES, enough + 5, &[]), None, "it was just cut");
    }

    #[test]
    fn what_a_member_is_still_to_be_sent_is_kept() {
        let long = KEPT_ENTRIES + 10 * CUT_ENTRIES;
        assert_eq!(cut(100, long, &[long, 0]), None, "it takes in a snapshot");
        assert_eq!(cut(100, long, &[long, 200]), None);
        assert_eq!(cut(100, long, &[long, 2 * CUT_ENTRIES]), Some(2 * CUT_ENTRIES), "it catches up");
    }

    #[test]
    fn the_log_does_not_grow_without_end_for_one_that_never_catches_up() {
        assert_eq!(cut(0, LOG_ENTRIES, &[0]), None);
        assert_eq!(cut(0, LOG_ENTRIES + CUT_ENTRIES, &[0]), Some(CUT_ENTRIES));
    }
}
