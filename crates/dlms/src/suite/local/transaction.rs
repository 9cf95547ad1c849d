//! Transaction-ids: drawn and judged as counters are, but bound to the parties and not to a key.

use alloc::collections::BTreeMap;

use gridseal_types::SystemTitle;

use super::{LocalCrypto, PEERS_MAX, Ports};
use crate::assoc::{AssociationHandle, CryptoFault};

/// Ids that are reserved at once.
const RESERVE: u64 = 256;

/// A number of 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TransactionId(pub(super) u64);

impl TransactionId {
    /// As on the wire.
    pub(super) const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

/// Own ids, and the highest one of each peer.
#[derive(Debug)]
pub(super) struct Transactions {
    next: u64,
    /// Below it ids may be used.
    end: u64,
    received: BTreeMap<SystemTitle, u64>,
}

impl Transactions {
    pub(super) const fn new() -> Self {
        Self { next: 0, end: 0, received: BTreeMap::new() }
    }

    pub(super) const fn resume(&mut self, sending_end: u64) {
        (self.next, self.end) = (sending_end, sending_end);
    }

    pub(super) fn resume_of(&mut self, peer: SystemTitle, id: u64) {
        let entry = self.received.entry(peer).or_insert(id);
        *entry = (*entry).max(id);
    }
}

impl<const N: usize> LocalCrypto<N> {
    /// The next own id; a new block is durable before its first one is used.
    pub(super) fn draw_transaction(&mut self, ports: &mut Ports<'_>) -> Result<TransactionId, CryptoFault> {
        //= DLMS 5.5: a transaction-id is never used twice
        let transactions = &mut self.transactions;
        if transactions.next >= transactions.end {
            let end = transactions.next.checked_add(RESERVE).ok_or(CryptoFault::Exhausted)?;
            ports.counters.reserve_transactions(end).map_err(|_| CryptoFault::Unavailable)?;
            transactions.end = end;
        }
        let id = TransactionId(transactions.next);
        transactions.next = transactions.next.saturating_add(1);
        Ok(id)
    }

    /// Judges the id of what a peer sent: that of a request is above all of that peer, that of a response is the one that
    /// was asked with. A response to a request without one, signed because the server's policy wants it, has any.
    pub(super) fn judge_transaction(
        &self,
        handle: AssociationHandle,
        title: SystemTitle,
        id: &[u8],
    ) -> Result<TransactionId, CryptoFault> {
        //= DLMS 5.5: a reused transaction-id is refused, and a response has that of its request
        let id = TransactionId(u64::from_be_bytes(id.try_into().map_err(|_| CryptoFault::Transaction)?));
        let is_right = if self.settings.is_server {
            self.transactions.received.get(&title).is_none_or(|last| id.0 > *last)
        } else {
            let asked = self.associations.get(&handle).and_then(|secrets| secrets.transaction);
            asked.is_none_or(|asked| asked == id)
        };
        if is_right { Ok(id) } else { Err(CryptoFault::Transaction) }
    }

    /// Whether a response with a transaction-id is waited for.
    pub(super) fn is_asking(&self, handle: AssociationHandle) -> bool {
        self.associations.get(&handle).is_some_and(|secrets| secrets.transaction.is_some())
    }

    /// After everything else was found right.
    pub(super) fn remember_transaction(
        &mut self,
        handle: AssociationHandle,
        title: SystemTitle,
        id: TransactionId,
        ports: &mut Ports<'_>,
    ) -> Result<(), CryptoFault> {
        if !self.settings.is_server {
            // What was asked is answered: a second answer is none.
            self.secrets(handle).transaction = None;
            return Ok(());
        }
        let received = &mut self.transactions.received;
        if !received.contains_key(&title) && received.len() >= PEERS_MAX {
            return Err(CryptoFault::Unavailable);
        }
        ports.counters.accepted_transaction(title, id.0).map_err(|_| CryptoFault::Unavailable)?;
        received.insert(title, id.0);
        self.secrets(handle).transaction = Some(id);
        Ok(())
    }
}
