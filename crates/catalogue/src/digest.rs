//! One hash over everything that replicas must agree on: equal entry, equal hash.

use rusqlite::types::ValueRef;
use sha2::{Digest, Sha256};

use crate::error::CatalogueError;
use crate::query::Reader;
use crate::schema::REPLICATED;

impl Reader {
    /// SHA-256 over all replicated tables, row by row in key order. It reads the whole catalogue.
    ///
    /// # Errors
    /// Those of the file.
    pub fn digest(&self) -> Result<[u8; 32], CatalogueError> {
        self.snapshot(|reader| {
            let mut hasher = Sha256::new();
            for (table, order) in REPLICATED {
                absorb(&mut hasher, b't', table.as_bytes());
                let mut select = reader.connection.prepare(&format!("SELECT * FROM {table} ORDER BY {order}"))?;
                let columns = select.column_count();
                let mut rows = select.query([])?;
                while let Some(row) = rows.next()? {
                    for column in 0..columns {
                        match row.get_ref(column)? {
                            ValueRef::Null => absorb(&mut hasher, b'n', b""),
                            ValueRef::Integer(number) => absorb(&mut hasher, b'i', &number.to_be_bytes()),
                            ValueRef::Real(number) => absorb(&mut hasher, b'r', &number.to_be_bytes()),
                            ValueRef::Text(text) => absorb(&mut hasher, b's', text),
                            ValueRef::Blob(bytes) => absorb(&mut hasher, b'b', bytes),
                        }
                    }
                }
            }
            Ok(hasher.finalize().into())
        })
    }
}

/// The kind and the length come first, so that no two sequences of values look the same.
fn absorb(hasher: &mut Sha256, kind: u8, bytes: &[u8]) {
    hasher.update([kind]);
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}
