//! Who is in which swarm, as a core without IO.
