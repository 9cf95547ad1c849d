//! PostgreSQL 15 and later (decision D7): the same records, for sites that have outgrown one machine.
//!
//! One connection for each store, and a runtime of its own that runs only while a call waits, so that the stores' port
//! stays synchronous. Calls block: an asynchronous program makes them on a thread for blocking work.

mod records;
mod session;
mod tls;

pub use records::PostgresRecords;
pub use session::{ANSWER_TIMEOUT, ConnectError, PostgresSettings, STANDBY_TIMEOUT};
