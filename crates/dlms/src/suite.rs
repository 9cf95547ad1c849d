//! Security suites.

pub mod protect;
