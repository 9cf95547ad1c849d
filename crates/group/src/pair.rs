//! Keys between two devices, for example meter and concentrator or meter and sub-meter: handed out and revoked by the key
//! service, symmetric only.
//!
//! The key of a pair is derived from a secret of the one device, which both the key service and that device have, and the
//! name and generation of the other. So the first device needs no message at all; the other one gets the key wrapped by
//! the key service over its own channel. Revoking a pair raises its generation, which the first device is told by a ticket
//! that the key service authenticates; it never goes back to a lower one.

use alloc::collections::BTreeMap;

use gridseal_crypto::{
    Key,
    role::{GroupMaster, PairKey},
};
use gridseal_types::SystemTitle;

/// Size of a ticket: other device (8), generation (4), whether it is allowed (1), HMAC (32).
pub const TICKET_SIZE: usize = 45;

/// What a device may do with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Generation of the pair's key.
    pub generation: u32,
    /// Whether the pair may talk.
    pub is_allowed: bool,
}

/// A change that cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// The ticket is not one of the key service for this device.
    #[error("ticket does not verify")]
    Ticket,
    /// Its generation is not above the one in force.
    #[error("generation {found} is not above {present}")]
    Rollback {
        /// Generation of the ticket.
        found: u32,
        /// Generation in force.
        present: u32,
    },
    /// The pair was never allowed, or was revoked.
    #[error("this pair may not talk")]
    Revoked,
    /// Generations are used up: the device needs a new secret.
    #[error("generations are used up")]
    Exhausted,
}

fn fields(other: SystemTitle, grant: Grant) -> [u8; 13] {
    let mut fields = [0; 13];
    let parts = [other.as_bytes().as_slice(), &grant.generation.to_be_bytes(), &[u8::from(grant.is_allowed)]];
    fields.iter_mut().zip(parts.concat()).for_each(|(to, from)| *to = from);
    fields
}

fn pair_key(secret: &Key<GroupMaster, 32>, other: SystemTitle, generation: u32) -> Key<PairKey, 32> {
    secret.derive(&[b"gsg-pair-v1", other.as_bytes(), &generation.to_be_bytes()])
}

fn ticket_mac(secret: &Key<GroupMaster, 32>, fields: &[u8; 13]) -> [u8; 32] {
    secret.mac(&[b"gsg-ticket-v1", fields])
}

/// The key service's register of one device's pairs. Make the change durable before its ticket leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairRegister(BTreeMap<SystemTitle, Grant>);

impl FromIterator<(SystemTitle, Grant)> for PairRegister {
    fn from_iter<I: IntoIterator<Item = (SystemTitle, Grant)>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}

impl PairRegister {
    /// All pairs and their state, as they are stored; collected they make the register again.
    pub fn grants(&self) -> impl Iterator<Item = (SystemTitle, Grant)> + '_ {
        self.0.iter().map(|(other, grant)| (*other, *grant))
    }

    /// Allows a pair, or renews its key.
    ///
    /// # Errors
    /// [`PairError::Exhausted`].
    pub fn allow(&mut self, other: SystemTitle) -> Result<Grant, PairError> {
        self.change(other, true)
    }

    /// Revokes a pair.
    ///
    /// # Errors
    /// [`PairError::Exhausted`], [`PairError::Revoked`] for a pair that is none.
    pub fn revoke(&mut self, other: SystemTitle) -> Result<Grant, PairError> {
        match self.0.get(&other) {
            Some(grant) if grant.is_allowed => self.change(other, false),
            _ => Err(PairError::Revoked),
        }
    }

    fn change(&mut self, other: SystemTitle, is_allowed: bool) -> Result<Grant, PairError> {
        let present = self.0.get(&other).map_or(0, |grant| grant.generation);
        let generation = present.checked_add(1).ok_or(PairError::Exhausted)?;
        let grant = Grant { generation, is_allowed };
        self.0.insert(other, grant);
        Ok(grant)
    }

    /// The key for the other device, to be wrapped for it.
    ///
    /// # Errors
    /// [`PairError::Revoked`].
    pub fn key_for(
        &self,
        secret: &Key<GroupMaster, 32>,
        other: SystemTitle,
    ) -> Result<Key<PairKey, 32>, PairError> {
        match self.0.get(&other) {
            Some(grant) if grant.is_allowed => Ok(pair_key(secret, other, grant.generation)),
            _ => Err(PairError::Revoked),
        }
    }

    /// The ticket that tells the device of the pair's present state.
    ///
    /// # Errors
    /// [`PairError::Revoked`] for a pair that never was.
    pub fn ticket(
        &self,
        secret: &Key<GroupMaster, 32>,
        other: SystemTitle,
    ) -> Result<[u8; TICKET_SIZE], PairError> {
        let grant = self.0.get(&other).ok_or(PairError::Revoked)?;
        let fields = fields(other, *grant);
        let mut ticket = [0; TICKET_SIZE];
        let parts = [fields.as_slice(), &ticket_mac(secret, &fields)].concat();
        ticket.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        Ok(ticket)
    }
}

/// The device's side: what it was told of others. Durable before a key is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairBook(BTreeMap<SystemTitle, Grant>);

impl FromIterator<(SystemTitle, Grant)> for PairBook {
    fn from_iter<I: IntoIterator<Item = (SystemTitle, Grant)>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}

impl PairBook {
    /// All pairs and their state, as they are stored; collected they make the book again.
    pub fn grants(&self) -> impl Iterator<Item = (SystemTitle, Grant)> + '_ {
        self.0.iter().map(|(other, grant)| (*other, *grant))
    }

    /// Takes a ticket. A repeated one changes nothing.
    ///
    /// # Errors
    /// [`PairError::Ticket`], [`PairError::Rollback`].
    pub fn take(&mut self, secret: &Key<GroupMaster, 32>, ticket: &[u8]) -> Result<Grant, PairError> {
        let ticket: &[u8; TICKET_SIZE] = ticket.try_into().map_err(|_| PairError::Ticket)?;
        let (fields, mac) = ticket.split_first_chunk::<13>().ok_or(PairError::Ticket)?;
        if !gridseal_crypto::ct_eq(mac, &ticket_mac(secret, fields)) {
            return Err(PairError::Ticket);
        }
        let [a, b, c, d, e, f, g, h, generation @ .., allowed] = *fields;
        let other = SystemTitle([a, b, c, d, e, f, g, h]);
        let grant = Grant { generation: u32::from_be_bytes(generation), is_allowed: allowed == 1 };
        let present = self.0.get(&other).copied();
        if let Some(present) = present.filter(|present| grant.generation <= present.generation) {
            let rollback = PairError::Rollback { found: grant.generation, present: present.generation };
            return if present == grant { Ok(grant) } else { Err(rollback) };
        }
        self.0.insert(other, grant);
        Ok(grant)
    }

    /// The key with another device.
    ///
    /// # Errors
    /// [`PairError::Revoked`].
    pub fn key_with(
        &self,
        secret: &Key<GroupMaster, 32>,
        other: SystemTitle,
    ) -> Result<Key<PairKey, 32>, PairError> {
        match self.0.get(&other) {
            Some(grant) if grant.is_allowed => Ok(pair_key(secret, other, grant.generation)),
            _ => Err(PairError::Revoked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: SystemTitle = SystemTitle(*b"CONC\0\0\0\x01");

    #[test]
    fn both_sides_have_one_key_until_it_is_revoked_and_old_tickets_are_refused() {
        let secret = Key::take(&mut [7; 32]);
        let (mut register, mut book) = (PairRegister::default(), PairBook::default());
        assert_eq!(book.key_with(&secret, OTHER).unwrap_err(), PairError::Revoked);
        register.allow(OTHER).unwrap();
        let first = register.ticket(&secret, OTHER).unwrap();
        book.take(&secret, &first).unwrap();
        let service = register.key_for(&secret, OTHER).unwrap();
        assert!(bool::from(service.ct_eq(&book.key_with(&secret, OTHER).unwrap())));

        register.revoke(OTHER).unwrap();
        let second = register.ticket(&secret, OTHER).unwrap();
        book.take(&secret, &second).unwrap();
        assert_eq!(book.key_with(&secret, OTHER).unwrap_err(), PairError::Revoked);
        assert_eq!(register.key_for(&secret, OTHER).unwrap_err(), PairError::Revoked);
        assert_eq!(book.take(&secret, &first), Err(PairError::Rollback { found: 1, present: 2 }));
        book.take(&secret, &second).unwrap();

        // Both come out of storage as they went in, and know what was revoked.
        let mut register: PairRegister = register.grants().collect();
        let mut book: PairBook = book.grants().collect();
        assert_eq!(book.take(&secret, &first), Err(PairError::Rollback { found: 1, present: 2 }));
        register.allow(OTHER).unwrap();
        book.take(&secret, &register.ticket(&secret, OTHER).unwrap()).unwrap();
        let third = book.key_with(&secret, OTHER).unwrap();
        assert!(!bool::from(service.ct_eq(&third)), "a revoked key never comes back");
    }

    #[test]
    fn no_changed_bit_of_a_ticket_is_taken_nor_one_of_another_device() {
        let secret = Key::take(&mut [7; 32]);
        let mut register = PairRegister::default();
        register.allow(OTHER).unwrap();
        let ticket = register.ticket(&secret, OTHER).unwrap();
        for bit in 0..TICKET_SIZE * 8 {
            let mut changed = ticket;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(PairBook::default().take(&secret, &changed), Err(PairError::Ticket), "bit {bit}");
        }
        assert_eq!(PairBook::default().take(&Key::take(&mut [8; 32]), &ticket), Err(PairError::Ticket));
        assert_eq!(PairBook::default().take(&secret, &ticket[1..]), Err(PairError::Ticket));
    }
}
