//! Request and reply types of the inner services. One HTTP/2 call carries a batch: an array of requests, answered by an
//! array of replies in the same order.

pub mod admission;
pub mod certificates;
pub mod keys;

use alloc::vec::Vec;

/// Most requests in one batch (decision D1).
pub const BATCH_MAX: usize = 1_024;

/// Largest body of one call, bytes.
pub const BODY_SIZE_MAX: usize = 16 * 1024 * 1024;

/// A batch of requests or of replies, as it travels.
#[derive(Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Batch<T>(#[n(0)] pub Vec<T>);
