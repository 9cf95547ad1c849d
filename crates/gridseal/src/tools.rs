//! Subcommands that do one thing and end.

pub mod audit;
pub mod ceremony;
pub mod decode;
pub mod device;
pub mod factory;
pub mod group;
pub mod readings;
pub mod sim;
pub mod sts;
