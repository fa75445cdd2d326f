//! What announces say and trackers answer, in whichever of the two protocols (BEP 3, 15, 21).

/// What happened to the download since the last announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AnnounceEvent {
    /// Nothing: still here.
    #[default]
    Regular,
    /// The last missing byte came in.
    Completed,
    /// It began.
    Started,
    /// The peer leaves.
    Stopped,
    /// The peer is complete enough for itself: a partial seed (BEP 21).
    Paused,
}

/// How many peers a swarm has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SwarmCounts {
    /// Complete peers.
    pub seeders: u32,
    /// Incomplete peers.
    pub leechers: u32,
    /// Downloads ever completed.
    pub completed: u32,
}
