//! Subcommands that do one thing and end.

pub mod audit;
pub mod ceremony;
pub mod device;
pub mod factory;
pub mod readings;
