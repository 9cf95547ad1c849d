//! Associations: the machines of client and server.
//!
//! Both have the same shape: feed an input with `handle`, then drain `poll` until `None`, then wait until `deadline`.
//! The states of both are one table each in [`table`]; cryptography is an effect ([`Operation`]).

pub mod client;
mod objects;
mod operation;
pub mod server;
pub mod table;

pub use objects::{AccessContext, ActionReply, AttributeRequest, MethodRequest, Objects, Value, ValueSource};
pub use operation::{
    AssociationHandle, CryptoFault, CryptoId, CryptoResult, Done, Operation, PeerChallenge, Protection,
};
