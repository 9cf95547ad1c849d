//! How our processes serve and call each other, and how meters call us: POST of one CBOR message over HTTP and TLS 1.3.
//!
//! [`Server`] answers the routes of a [`Router`]; [`Client`] keeps one HTTP/2 connection to an inner service;
//! [`KeysClient`] asks the key service through one, many questions in one call; [`FieldClient`] is the small HTTP/1.1
//! client of a meter. A [`batch`] is how inner services are asked. There are no
//! redirects, cookies, compression or version banners, every size and every wait has a limit.
//!
//! # Source
//! Onboarding specification, section 18.7 (transport); design decisions D1 and D5.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod batch;
pub mod client;
mod error;
mod reply;
pub mod router;
pub mod server;

pub use client::{Answer, Client, FieldClient, KeysCallError, KeysClient};
pub use error::ApiError;
pub use reply::{MEDIA_TYPE, Refusal, Reply};
pub use router::{Access, Peer, Router};
pub use server::{Limits, Server, ServerEvent};
