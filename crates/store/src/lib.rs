//! Storage adapters behind the ports that the services declare: nothing here decides anything.
//!
//! [`SqliteRecords`] keeps the records of a service. Its main entrance is [`Transact::transact`]: the decision reads, and
//! its changes are committed, inside one transaction, so that no other process changes in between what the decision
//! rests on.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod sqlite;
mod transact;

pub use sqlite::{BUSY_TIMEOUT, OpenError, SqliteRecords};
pub use transact::Transact;
