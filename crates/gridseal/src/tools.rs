//! Subcommands that do one thing and end.

pub mod audit;
pub mod ceremony;
pub mod claim;
pub mod consent;
pub mod decode;
pub mod device;
pub mod dlms;
pub mod encode;
pub mod factory;
pub mod firmware;
pub mod group;
pub mod install;
pub mod key;
pub mod lmn;
pub mod mapping;
pub mod order;
pub mod readings;
pub mod receipt;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sts;
pub mod voucher_log;
pub mod witness;

/// Wrong usage or input, of which the message says all: exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
