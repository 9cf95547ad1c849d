//! What the ingest machine asks for and tells.

use gridseal_dlms::wire::DecodeError;
use gridseal_types::{Reading, ReadingKey, SystemTitle};

use super::{BatchId, ConnectionId};
use crate::{plausibility::Implausible, push::FormError};

/// What the shell must do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Ask the key service to open these APDUs, each a general-glo-ciphering; answer [`super::Input::Opened`] or
    /// [`super::Input::OpenFailed`].
    Open {
        /// To be repeated in the answer.
        batch: BatchId,
        /// 1 to [`super::OPEN_BATCH_MAX`] APDUs.
        apdus: Vec<Vec<u8>>,
    },
    /// Give the readings to [`crate::ReadingStore::store`]; answer [`super::Input::Stored`] or
    /// [`super::Input::StoreFailed`]. There may be none, when a meter sent rows without a value.
    Store {
        /// To be repeated in the answer.
        batch: BatchId,
        /// The readings.
        readings: Vec<Reading>,
    },
    /// Send the bytes (one wrapper frame) over a link: its readings are durable.
    Acknowledge {
        /// Which link.
        connection: ConnectionId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// The meter has answered a request. The key service has opened the answer and drawn its conclusions.
    Response {
        /// Which link.
        connection: ConnectionId,
        /// The sealed APDU, as it came.
        apdu: Vec<u8>,
        /// What was opened: a get-response, set-response or action-response.
        plain: Vec<u8>,
    },
    /// Close a link. Nothing more is taken from it.
    Close {
        /// Which link.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
    /// Log, count, tell.
    Event(Event),
}

/// Why a link is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The meter sent what it must not; the event before says what.
    Protocol,
    /// The meter is not served any more, or has another key now.
    NotServed,
}

/// What happened. No value of a reading is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A frame was not taken, and not acknowledged.
    Refused {
        /// Meter of the link.
        meter: SystemTitle,
        /// Why.
        reason: Refusal,
    },
    /// A commit is durable.
    Stored {
        /// New readings.
        stored: usize,
        /// Readings that were there already.
        duplicates: usize,
    },
    /// A second value came for a key; both are kept.
    Conflict {
        /// The key.
        key: ReadingKey,
    },
    /// A fresh reading is older than one before it on the same link: the meter's clock was set back. It is stored.
    OutOfOrder {
        /// Its key.
        key: ReadingKey,
    },
    /// The key service did not answer; frames wait.
    KeyServiceFailed,
    /// The store failed; readings wait.
    StoreFailed,
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The stream has no frame here. The link is closed.
    #[error("wrapper frame")]
    Frame(#[source] DecodeError),
    /// The APDU is not ciphered, or its header is broken. The link is closed.
    #[error("ciphered apdu")]
    Apdu(#[source] DecodeError),
    /// The APDU is not of the link's meter: by its header (then the link is closed), or by the key that opened it.
    #[error("apdu is of another meter than its link")]
    SystemTitle,
    /// Too many frames wait. The meter repeats it.
    #[error("too many frames wait")]
    QueueFull,
    /// The key service knows its counter with other bytes, or as too old.
    #[error("replay")]
    Replay,
    /// The key service did not open it, and gives no finer reason.
    #[error("rejected")]
    Rejected,
    /// What was opened is no DataNotification.
    #[error("data-notification")]
    Notification(#[source] DecodeError),
    /// The notification is not what the model sends.
    #[error("push")]
    Form(#[source] FormError),
    /// Its time cannot be true.
    #[error("reading")]
    Implausible(#[source] Implausible),
}

impl Refusal {
    /// Stable name for logs and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Frame(_) => "headend.frame",
            Self::Apdu(_) => "headend.apdu",
            Self::SystemTitle => "headend.system_title",
            Self::QueueFull => "headend.queue_full",
            Self::Replay => "headend.replay",
            Self::Rejected => "headend.rejected",
            Self::Notification(_) => "headend.notification",
            Self::Form(_) => "headend.form",
            Self::Implausible(_) => "headend.implausible",
        }
    }
}
