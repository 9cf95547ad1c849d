//! Security suites: protection of APDUs, and the local performer of cryptographic operations.

pub mod agreement;
pub mod local;
pub mod protect;
