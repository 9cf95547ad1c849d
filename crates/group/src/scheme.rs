//! What the schemes have in common.

use alloc::vec::Vec;

use gridseal_crypto::{Key, Rng, RngError, role::GroupKey};

/// Which scheme a message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Subset difference, stateless.
    SubsetDifference,
    /// Logical key hierarchy of degree 4, stateful.
    KeyHierarchy,
    /// A wrap for each member.
    Flat,
}

impl Scheme {
    /// Its number in a header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::SubsetDifference => 1,
            Self::KeyHierarchy => 2,
            Self::Flat => 3,
        }
    }

    pub(crate) const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::SubsetDifference),
            2 => Some(Self::KeyHierarchy),
            3 => Some(Self::Flat),
            _ => None,
        }
    }
}

/// A change that cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RekeyError {
    /// The random source failed.
    #[error(transparent)]
    Rng(#[from] RngError),
    /// A seat that nobody has.
    #[error("seat {0} is not assigned")]
    Seat(u32),
    /// Every seat of the tree was given out once.
    #[error("tree has no free seat left: re-seat the group")]
    Full,
    /// The last epoch was used.
    #[error("epochs of this tree are used up: re-seat the group")]
    Epochs,
    /// The signing key failed.
    #[error("signing failed")]
    Sign,
}

/// The sender's half of a scheme: evicts seats and tells the rest a new key.
pub trait Rekey {
    /// Which scheme.
    fn scheme(&self) -> Scheme;

    /// Evicts `evicted` for good and returns the body after which everybody else has `key`.
    ///
    /// # Errors
    /// [`RekeyError`]; nothing changed.
    fn rekey(
        &mut self,
        epoch: u32,
        evicted: &[u32],
        key: &Key<GroupKey, 16>,
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>, RekeyError>;
}

/// The member's half.
pub trait Receive {
    /// The key in a body, or `None` when there is none for this member. Whether it is the right one is told by the
    /// header's key check value.
    fn receive(&mut self, epoch: u32, body: &[u8]) -> Option<Key<GroupKey, 16>>;

    /// Whether the epoch of the last [`Receive::receive`] is in force, or is forgotten. A stateless scheme has nothing to do.
    fn settle(&mut self, _is_durable: bool) {}

    /// Bytes of keys that the member keeps.
    fn storage_size(&self) -> usize;

    /// AES blocks that the last [`Receive::receive`] took.
    fn block_count(&self) -> u32;
}
