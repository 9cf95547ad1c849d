//! What happens once, before anything runs: keys are made where they stay, certificates and delegations signed.

pub mod configure;
pub mod factory;
pub mod labels;
pub mod owner;
pub mod sale;
