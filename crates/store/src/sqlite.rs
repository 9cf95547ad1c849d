//! SQLite (bundled, decision D6): one file for each service and kind of state.

mod access;
mod admissions;
mod connection;
mod readings;
mod records;
mod sealing;

pub use access::{ACCESS_TEXT_SIZE_MAX, Access, AccessRecord};
pub use connection::{BUSY_TIMEOUT, OpenError};
pub use readings::{ReadingsError, SqliteReadings};
pub use records::SqliteRecords;
