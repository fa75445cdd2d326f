//! Names, versions, owners and keys: deterministic commands over one SQLite file.
