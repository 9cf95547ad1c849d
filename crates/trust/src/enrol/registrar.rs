//! The owner's half of the protocol.
