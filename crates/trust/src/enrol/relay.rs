//! Messages between config server and endpoint manager: what is relayed stays opaque.

use alloc::vec::Vec;

use gridseal_types::N16;

use super::wire::{Read, Reader, encode};

/// Most messages in one pull or one piece of work.
pub const RELAY_BATCH_MAX: usize = 64;
/// Largest relay body in bytes.
pub const RELAY_SIZE_MAX: usize = 16 * 1024 * 1024;

const PULL: u64 = 40;
const WORK: u64 = 41;
const MESSAGE_SIZE_MAX: usize = super::session::EVIDENCE_SIZE_MAX;

/// The endpoint manager hands back replies and asks for more work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RelayPull {
    /// Replies by work id; `None` drops the message, the config server then answers with the uniform error.
    pub replies: Vec<(u64, Option<Vec<u8>>)>,
    /// Most messages wanted, 1..=64.
    pub most: u32,
}

impl RelayPull {
    /// Encoded message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(4).uint(1u8).uint(PULL);
            w.list(&self.replies, |w, (id, reply)| {
                w.array(2).uint(*id);
                match reply {
                    Some(bytes) => w.bytes(bytes),
                    None => w.null(),
                };
            });
            w.uint(self.most);
        })
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            r.array(4..=4, |r, _| {
                r.constant(1)?;
                r.constant(PULL)?;
                let replies = r.list(0..=RELAY_BATCH_MAX, |r| {
                    r.array(2..=2, |r, _| {
                        let id = r.uint(0..=u64::MAX)?;
                        let reply =
                            if r.null() { None } else { Some(r.bytes(0..=MESSAGE_SIZE_MAX)?.to_vec()) };
                        Ok((id, reply))
                    })
                })?;
                let most = u32::try_from(r.uint(1..=64)?).unwrap_or(1);
                Ok(Self { replies, most })
            })
        })
    }
}

/// One message that a device sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayItem {
    /// Work id, to be named in the reply.
    pub id: u64,
    /// Keyed hash of the peer's address.
    pub source: N16,
    /// The message, unread by the config server.
    pub message: Vec<u8>,
}

/// Work for the endpoint manager.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RelayWork(pub Vec<RelayItem>);

impl RelayWork {
    /// Encoded message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(3).uint(1u8).uint(WORK);
            w.list(&self.0, |w, item| {
                w.array(3).uint(item.id).bytes(item.source.as_bytes()).bytes(&item.message);
            });
        })
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            r.array(3..=3, |r, _| {
                r.constant(1)?;
                r.constant(WORK)?;
                r.list(0..=RELAY_BATCH_MAX, |r| {
                    r.array(3..=3, |r, _| {
                        Ok(RelayItem {
                            id: r.uint(0..=u64::MAX)?,
                            source: N16(r.fixed()?),
                            message: r.bytes(0..=MESSAGE_SIZE_MAX)?.to_vec(),
                        })
                    })
                })
                .map(Self)
            })
        })
    }
}
