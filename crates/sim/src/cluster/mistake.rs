//! Members that tell others something wrong: what the simulation has to notice.

use obt_tracker::exchange::wire::{LeaseNews, News, Record, Writer, batch, read};

/// A mistake in what a member tells others (HOSTILE 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// It does not tell that a client left.
    KeepsStopsToItself,
    /// It tells nobody what it heard before they were connected.
    KeepsOldNewsToItself,
    /// It says of everything that it has just happened.
    MakesNewsYoung,
    /// It does not tell that a lease was renewed.
    ForgetsRenewals,
    /// It says that every seed lacks something.
    TellsOfNoSeeds,
    /// It counts its own completions twice.
    CountsTwice,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::KeepsStopsToItself,
        Self::KeepsOldNewsToItself,
        Self::MakesNewsYoung,
        Self::ForgetsRenewals,
        Self::TellsOfNoSeeds,
        Self::CountsTwice,
    ];

    /// What it makes of a batch.
    pub(super) fn make(self, bytes: &[u8]) -> Vec<u8> {
        let Ok((mut head, records)) = read(bytes) else {
            return bytes.to_vec();
        };
        if self == Self::MakesNewsYoung {
            head.aged = 0;
        }
        let mut writer = Writer::default();
        records.flatten().filter_map(|record| self.say(record)).for_each(|record| writer.record(&record));
        batch(&head, &writer.take())
    }

    fn say(self, mut record: Record) -> Option<Record> {
        match (self, &mut record) {
            (Self::ForgetsRenewals, Record::Lease { news: LeaseNews::Renewed { whole: false, .. }, .. }) => None,
            (Self::CountsTwice, Record::Counted { own, .. }) => {
                *own *= 2;
                Some(record)
            }
            (Self::MakesNewsYoung, Record::Lease { age, .. }) => {
                *age = 0;
                Some(record)
            }
            (_, Record::Swarm { peers, .. }) => {
                peers.retain_mut(|peer| {
                    match (self, &mut peer.news) {
                        (Self::KeepsStopsToItself, News::Stopped) => return false,
                        (Self::KeepsOldNewsToItself, News::Alive { .. }) if peer.age > 3 => return false,
                        (Self::TellsOfNoSeeds, News::Alive { seed, .. }) => *seed = false,
                        (Self::MakesNewsYoung, _) => peer.age = 0,
                        _ => {}
                    }
                    true
                });
                Some(record).filter(|record| !matches!(record, Record::Swarm { peers, .. } if peers.is_empty()))
            }
            _ => Some(record),
        }
    }
}
