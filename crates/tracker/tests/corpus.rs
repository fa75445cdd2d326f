//! Replays the fuzzing corpus of the exchange, on a stable compiler.
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "it is all test code, and the corpus is files")]
#![allow(unreachable_pub, reason = "the property is a library elsewhere")]

#[path = "../../../fuzz/src/exchange.rs"]
mod exchange;

use std::path::Path;

#[test]
fn tracker_exchange() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/tracker_exchange");
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is in the repository") {
        let input = std::fs::read(entry.expect("a readable entry").path()).expect("a readable input");
        for length in 0..=input.len() {
            exchange::tracker_exchange(&input[..length]);
        }
        let (_, records) = obt_tracker::exchange::wire::read(&input).expect("it is a batch");
        inputs += usize::from(records.collect::<Result<Vec<_>, _>>().is_ok());
    }
    assert_eq!(inputs, 4, "every seed is a whole batch");
}
