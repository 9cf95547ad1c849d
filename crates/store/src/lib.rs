//! Storage adapters behind the ports that the services declare: nothing here decides anything.
//!
//! [`SqliteRecords`] keeps the records of a service. Its main entrance is [`Transact::transact`]: the decision reads, and
//! its changes are committed, inside one transaction, so that no other process changes in between what the decision
//! rests on. [`PostgresRecords`] does the same in PostgreSQL. A service that rests on what it holds in memory claims its
//! database first ([`SoleWriter::claim`]). [`certificates`] is the authority's port on such records.
//!
//! [`SqliteReadings`] keeps the readings and the admissions of the head-end, sealed at rest, and who looked at them.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod certificates;
mod fence;
mod group;
mod postgres;
mod sqlite;
mod standby;
mod tags;
mod transact;

pub use fence::{Claim, ClaimError};
pub use group::{GROUP_QUEUE_MAX, GROUP_WRITES_MAX, GroupCommit, Receipt};
pub use postgres::{ANSWER_TIMEOUT, ConnectError, PostgresRecords, PostgresSettings, STANDBY_TIMEOUT};
pub use sqlite::{
    ACCESS_TEXT_SIZE_MAX, Access, AccessRecord, BUSY_TIMEOUT, OpenError, ReadingsError, SqliteReadings,
    SqliteRecords,
};
pub use standby::{Standby, StandbyRecords};
pub use tags::record_tag_key;
pub use transact::{SoleWriter, Transact};
