//! What an epoch yields: keys for broadcasts and for content, each from the group key under a label of its own; and the
//! signature that every broadcast command carries beside them.

use alloc::vec::Vec;

use gridseal_crypto::{
    Key, PublicKey, Signer,
    group::{broadcast_authentication_key, broadcast_key, content_key},
    role::{Gak, Gbek, GroupKey},
    sha256,
};
use gridseal_types::{SystemTitle, UtcTime};

use crate::{
    bytes::{Reader, Short, put_count},
    header::Facts,
    scheme::RekeyError,
};

const SIGNED_AS: &[u8] = b"gridseal group command v1";
/// Largest command, bytes.
const COMMAND_SIZE_MAX: usize = 1 << 16;

/// The keys of one epoch.
#[derive(Debug)]
pub struct EpochKeys {
    /// Group and epoch.
    pub facts: Facts,
    key: Key<GroupKey, 16>,
}

impl EpochKeys {
    /// Keys from a group key.
    #[must_use]
    pub const fn new(facts: Facts, key: Key<GroupKey, 16>) -> Self {
        Self { facts, key }
    }

    fn context(&self) -> [u8; 32] {
        let Facts { group, tree, key_epoch, .. } = &self.facts;
        let mut context = [0; 32];
        let fields = [
            &group.0[..],
            &tree.tree.to_be_bytes(),
            &tree.tree_epoch.to_be_bytes(),
            &key_epoch.to_be_bytes(),
        ];
        context.iter_mut().zip(fields.concat()).for_each(|(to, from)| *to = from);
        context
    }

    /// Encrypts broadcasts (GBEK).
    #[must_use]
    pub fn broadcast_key(&self) -> Key<Gbek, 16> {
        broadcast_key(&self.key, &[&self.context()])
    }

    /// Authenticates broadcasts among members; no unicast authentication key is ever shared.
    #[must_use]
    pub fn broadcast_authentication_key(&self) -> Key<Gak, 16> {
        broadcast_authentication_key(&self.key, &[&self.context()])
    }

    /// Encrypts content of a named purpose.
    #[must_use]
    pub fn content_key(&self, purpose: &str) -> Key<Gbek, 16> {
        content_key(&self.key, purpose, &[&self.context()])
    }

    /// The group key itself, for storage under the member's own key.
    #[must_use]
    pub const fn group_key(&self) -> &Key<GroupKey, 16> {
        &self.key
    }
}

/// A broadcast command with the signature of its sender: who it is from, its number, until when it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Sender.
    pub sender: SystemTitle,
    /// Number of the command, strictly increasing within an epoch, from 1.
    pub number: u64,
    /// After this time it counts no more.
    pub until: UtcTime,
    /// What to do: an APDU.
    pub apdu: Vec<u8>,
}

/// A command that is not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Ends too early, too long, or bytes follow.
    #[error("command is not whole")]
    Format,
    /// Not signed by the group's sender, or for another group or epoch.
    #[error("signature does not verify")]
    Signature,
    /// Its epoch and number are not above the last one.
    #[error("command {0} was seen or overtaken")]
    Replay(u64),
    /// It counted until then.
    #[error("command counted until {}", .0.0)]
    Late(UtcTime),
    /// A record waits to be stored.
    #[error("a record is not stored yet")]
    Busy,
}

impl From<Short> for CommandError {
    fn from(_: Short) -> Self {
        Self::Format
    }
}

impl Command {
    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.apdu.len() + 92);
        out.extend_from_slice(self.sender.as_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.until.0.to_be_bytes());
        put_count(&mut out, self.apdu.len());
        out.extend_from_slice(&self.apdu);
        out
    }

    fn signed(facts: &Facts, encoded: &[u8]) -> Vec<u8> {
        let mut signed = SIGNED_AS.to_vec();
        let epochs = [facts.tree.tree_epoch.to_be_bytes(), facts.key_epoch.to_be_bytes()].concat();
        signed.extend_from_slice(&sha256(&[
            &facts.group.0,
            &facts.tree.tree.to_be_bytes(),
            &epochs,
            encoded,
        ]));
        signed
    }

    /// Signs the command for an epoch of a group. The result is what goes under the broadcast key.
    ///
    /// # Errors
    /// [`RekeyError::Sign`].
    pub fn sign<S: Signer>(&self, facts: &Facts, signer: &S) -> Result<Vec<u8>, RekeyError> {
        let mut out = self.encoded();
        let signature = signer.sign(&Self::signed(facts, &out)).map_err(|_| RekeyError::Sign)?;
        out.extend_from_slice(&signature);
        Ok(out)
    }

    /// Parses what came out of a broadcast and verifies who it is from. Whoever merely knows the group key gets no further
    /// than the signature. Whether its number and time count is the member's to judge.
    ///
    /// # Errors
    /// [`CommandError::Format`], [`CommandError::Signature`].
    pub fn open(bytes: &[u8], facts: &Facts, sender: &PublicKey) -> Result<Self, CommandError> {
        let mut reader = Reader::new(bytes);
        let title = SystemTitle(reader.array()?);
        let number = reader.u64()?;
        let until = UtcTime(reader.u64()?);
        let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        if length > COMMAND_SIZE_MAX {
            return Err(CommandError::Format);
        }
        let apdu = reader.bytes(length)?.to_vec();
        let signature = reader.array()?;
        if reader.left() > 0 {
            return Err(CommandError::Format);
        }
        let command = Self { sender: title, number, until, apdu };
        if !sender.verifies(&Self::signed(facts, &command.encoded()), &signature) {
            return Err(CommandError::Signature);
        }
        Ok(command)
    }
}
