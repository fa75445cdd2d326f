//! The tracker's HTTP side over real sockets: what programs, people and strangers get.

mod catalogue;
mod files;
mod hostile;
mod support;
