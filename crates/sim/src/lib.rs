//! Swarms of cores in virtual time.
