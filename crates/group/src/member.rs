//! The member's side: which headers and commands it takes, and for how long the key before still opens.
//!
//! A header is judged by [`Member::receive`], a command by [`Member::command`]. Each gives the [`EpochRecord`] that has to
//! be durable before anything comes of it; [`Member::stored`] then puts it in force.

use gridseal_crypto::{Key, PublicKey, role::GroupKey};
use gridseal_types::UtcTime;

use crate::{
    epoch::{Command, CommandError, EpochKeys},
    header::{Facts, Header, HeaderError},
    scheme::Receive,
    storage::{CommandMark, EpochRecord, Seating},
};

/// Why a header changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// Not a header of this group's sender.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// For another group or tree.
    #[error("header is for another group or tree")]
    Other,
    /// Not above the epoch in force.
    #[error("epoch {found} is not above {present}")]
    Epoch {
        /// Epoch of the header.
        found: u32,
        /// Epoch in force, or the floor that the member was seated with.
        present: u32,
    },
    /// No key for this member: it was evicted, or joined later, or the body is damaged.
    #[error("header has no key for this member")]
    NoKey,
    /// A record waits to be stored.
    #[error("a record is not stored yet")]
    Busy,
}

/// What is judged and waits for its record.
#[derive(Debug)]
enum Waiting {
    Epoch(EpochKeys),
    Command(CommandMark),
}

/// A member of a group.
#[derive(Debug)]
pub struct Member<R> {
    seating: Seating,
    receiver: R,
    present: Option<EpochKeys>,
    before: Option<EpochKeys>,
    command: CommandMark,
    waiting: Option<Waiting>,
}

impl<R: Receive> Member<R> {
    /// A member in its seat, before its first epoch.
    #[must_use]
    pub fn new(seating: Seating, receiver: R) -> Self {
        Self {
            seating,
            receiver,
            present: None,
            before: None,
            command: CommandMark::default(),
            waiting: None,
        }
    }

    /// A member as its last stored record left it; `None` for a record of another tree epoch. What the epoch before had
    /// sealed is not opened any more.
    #[must_use]
    pub fn restore(
        seating: Seating,
        receiver: R,
        record: &EpochRecord,
        key: Key<GroupKey, 16>,
    ) -> Option<Self> {
        let Seating { group, tree, .. } = seating;
        let EpochRecord { scheme, tree_epoch, key_epoch, deadline, command } = *record;
        let facts = Facts { scheme, group, tree, key_epoch, deadline };
        let present = Some(EpochKeys::new(facts, key));
        let is_same = tree_epoch == tree.tree_epoch;
        is_same.then_some(Self { present, command, ..Self::new(seating, receiver) })
    }

    /// The epoch in force; the floor before the first.
    #[must_use]
    pub fn key_epoch(&self) -> u32 {
        let present = self.present.as_ref().map_or(0, |keys| keys.facts.key_epoch);
        present.max(self.seating.floor)
    }

    /// Takes a header. The record must be stored, with the key of [`Self::key_to_store`], before [`Self::stored`].
    ///
    /// # Errors
    /// [`ReceiveError`]; nothing changed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<EpochRecord, ReceiveError> {
        if self.waiting.is_some() {
            return Err(ReceiveError::Busy);
        }
        let header = Header::open(bytes, &self.seating.sender)?;
        let facts = header.facts;
        if facts.group != self.seating.group || facts.tree != self.seating.tree {
            return Err(ReceiveError::Other);
        }
        let present = self.key_epoch();
        if facts.key_epoch <= present {
            return Err(ReceiveError::Epoch { found: facts.key_epoch, present });
        }
        let key = self.receiver.receive(facts.key_epoch, header.body).filter(|key| header.is_key(key));
        let Some(key) = key else {
            self.receiver.settle(false);
            return Err(ReceiveError::NoKey);
        };
        self.waiting = Some(Waiting::Epoch(EpochKeys::new(facts, key)));
        Ok(self.record(&facts, self.command))
    }

    const fn record(&self, facts: &Facts, command: CommandMark) -> EpochRecord {
        let Facts { scheme, tree, key_epoch, deadline, .. } = *facts;
        EpochRecord { scheme, tree_epoch: tree.tree_epoch, key_epoch, deadline, command }
    }

    /// The key to be stored with the record that waits; `None` while none does.
    #[must_use]
    pub fn key_to_store(&self) -> Option<&Key<GroupKey, 16>> {
        match self.waiting.as_ref()? {
            Waiting::Epoch(keys) => Some(keys.group_key()),
            Waiting::Command(_) => self.present.as_ref().map(EpochKeys::group_key),
        }
    }

    /// The record is durable: the new epoch is in force, or the command may be obeyed. A record that could not be stored
    /// is forgotten with `false`, and header or command may come again.
    pub fn stored(&mut self, is_durable: bool) {
        match self.waiting.take() {
            Some(Waiting::Epoch(keys)) => {
                self.receiver.settle(is_durable);
                if is_durable {
                    self.before = self.present.replace(keys);
                }
            }
            Some(Waiting::Command(mark)) if is_durable => self.command = mark,
            _ => {}
        }
    }

    /// The keys in force.
    #[must_use]
    pub const fn keys(&self) -> Option<&EpochKeys> {
        self.present.as_ref()
    }

    /// The keys of the epoch before, for receiving only, until the deadline that the present header announced (rule S8).
    #[must_use]
    pub fn keys_before(&self, now: UtcTime) -> Option<&EpochKeys> {
        let deadline = self.present.as_ref()?.facts.deadline;
        self.before.as_ref().filter(|_| now < deadline)
    }

    /// Judges a broadcast command that came out of a broadcast of the epoch in force, or until its deadline of the one
    /// before. Obey it only after its record is durable and [`Self::stored`] was told so: a power cut in between costs the
    /// command, and never lets it be played back.
    ///
    /// # Errors
    /// [`CommandError`]; nothing changed.
    pub fn command(&mut self, bytes: &[u8], now: UtcTime) -> Result<(Command, EpochRecord), CommandError> {
        if self.waiting.is_some() {
            return Err(CommandError::Busy);
        }
        let present = self.present.as_ref().ok_or(CommandError::Signature)?.facts;
        let before = self.keys_before(now).map(|keys| keys.facts);
        let sender: &PublicKey = &self.seating.sender;
        let (command, of) = match (Command::open(bytes, &present, sender), before) {
            (Err(CommandError::Signature), Some(before)) => (Command::open(bytes, &before, sender)?, before),
            (opened, _) => (opened?, present),
        };
        let mark = CommandMark { key_epoch: of.key_epoch, number: command.number };
        if mark <= self.command {
            return Err(CommandError::Replay(command.number));
        }
        if now > command.until {
            return Err(CommandError::Late(command.until));
        }
        self.waiting = Some(Waiting::Command(mark));
        Ok((command, self.record(&present, mark)))
    }

    /// Where the member sits.
    #[must_use]
    pub const fn seating(&self) -> &Seating {
        &self.seating
    }

    /// The scheme's half, for measurements.
    #[must_use]
    pub const fn receiver(&self) -> &R {
        &self.receiver
    }
}
