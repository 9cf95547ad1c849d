//! SQLite (bundled, decision D6): one file for each service and kind of state.

mod connection;
mod records;

pub use connection::{BUSY_TIMEOUT, OpenError};
pub use records::SqliteRecords;
