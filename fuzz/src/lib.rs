//! What must hold for every input, as plain functions: the fuzz targets call them with new inputs, the tests of the
//! crates with the corpus.

pub mod exchange;
pub mod messages;
pub mod trackers;
pub mod wire;
