//! Where each block lies and what is durable, as a core without IO.
