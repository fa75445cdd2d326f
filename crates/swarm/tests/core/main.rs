//! One core alone, told what happens and asked what it does about it.

mod actions;
mod bench;
mod chaos;
mod hostile;
