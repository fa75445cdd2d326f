//! The few system calls that the rest of obt needs beyond std.
