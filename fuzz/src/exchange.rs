//! Properties of what members of a tracker cluster tell each other. Each panics where its property does not hold.

use obt_tracker::exchange::wire::{Record, Writer, batch, read};

/// A batch that is read means the same when it is written.
pub fn tracker_exchange(data: &[u8]) {
    let Ok((head, records)) = read(data) else {
        return;
    };
    let Ok(records) = records.collect::<Result<Vec<Record>, _>>() else {
        return;
    };
    let mut writer = Writer::default();
    records.iter().for_each(|record| writer.record(record));
    // Neighbours of one swarm may be written as one, which is never longer.
    let out = batch(&head, &writer.take());
    assert!(out.len() <= data.len());
    let (again, rest) = read(&out).expect("what was written is a batch");
    assert_eq!(again, head);
    assert_eq!(flat(rest.map(|record| record.expect("what was written is a record"))), flat(records.into_iter()));
}

/// The records with each peer on its own.
fn flat(records: impl Iterator<Item = Record>) -> Vec<Record> {
    let alone = |record| match record {
        Record::Swarm { hash, peers } => {
            peers.into_iter().map(|peer| Record::Swarm { hash, peers: vec![peer] }).collect()
        }
        other => vec![other],
    };
    records.flat_map(alone).collect()
}
