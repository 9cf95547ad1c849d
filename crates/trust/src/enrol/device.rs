//! The device's half of the protocol.
