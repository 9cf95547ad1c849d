//! Admitted meters: what the endpoint manager says about each, and what follows for its link.

use gridseal_types::{DeviceState, Digest, Kind, SystemTitle, service::admission::Admission};

/// Admissions, one for each meter, by meter and by TLS key.
pub trait AdmissionStore {
    /// Why the store failed.
    type Error: core::error::Error;

    /// The admission of a meter.
    ///
    /// # Errors
    /// Whatever the store fails with.
    fn by_meter(&self, meter: SystemTitle) -> Result<Option<Admission>, Self::Error>;

    /// The admission whose meter has this TLS key.
    ///
    /// # Errors
    /// Whatever the store fails with.
    fn by_tls_key(&self, tls_key: &Digest) -> Result<Option<Admission>, Self::Error>;

    /// Puts an admission in place of the meter's former one, durably before it returns.
    ///
    /// # Errors
    /// Whatever the store fails with: then nothing changed.
    fn put(&mut self, admission: &Admission) -> Result<(), Self::Error>;
}

/// What an admission changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It is the newest: give it to [`crate::Ingest`] too.
    Applied,
    /// This or a newer revision is on record already.
    Unchanged,
}

/// An admission was not recorded; nothing changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError<E: core::error::Error> {
    /// The same revision of this meter is on record with other content.
    #[error("revision {revision} of meter {meter} is on record with other content")]
    Conflict {
        /// Meter.
        meter: SystemTitle,
        /// Revision.
        revision: u64,
    },
    /// The TLS key belongs to another meter.
    #[error("tls key of meter {meter} belongs to meter {holder}")]
    KeyTaken {
        /// Meter that was to be admitted.
        meter: SystemTitle,
        /// Meter that has the key.
        holder: SystemTitle,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] E),
}

impl<E: core::error::Error> AdmissionError<E> {
    /// The store may recover; the rest is the endpoint manager's fault.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Store(_) => Kind::Transient,
            _ => Kind::Peer,
        }
    }
}

/// Records an admission when it is newer than the one on record. Idempotent.
///
/// # Errors
/// [`AdmissionError`]; nothing changed then.
pub fn record<S: AdmissionStore>(
    store: &mut S,
    admission: &Admission,
) -> Result<Change, AdmissionError<S::Error>> {
    let Admission { meter, revision, .. } = *admission;
    if let Some(known) = store.by_meter(meter)? {
        if known.revision > revision || known == *admission {
            return Ok(Change::Unchanged);
        }
        if known.revision == revision {
            return Err(AdmissionError::Conflict { meter, revision });
        }
    }
    match store.by_tls_key(&admission.tls_key)? {
        Some(Admission { meter: holder, .. }) if holder != meter => {
            Err(AdmissionError::KeyTaken { meter, holder })
        }
        _ => {
            store.put(admission)?;
            Ok(Change::Applied)
        }
    }
}

/// A meter whose link is served: it authenticated with this key, and it operates. Made by [`lookup`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    meter: SystemTitle,
    tls_key: Digest,
}

impl Served {
    /// The meter.
    #[must_use]
    pub const fn meter(&self) -> SystemTitle {
        self.meter
    }

    /// Whether the link may go on after this admission.
    pub(crate) fn may_go_on(&self, admission: &Admission) -> bool {
        admission.meter != self.meter || (admission.state.may_exchange() && admission.tls_key == self.tls_key)
    }
}

/// What a TLS key means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// An operating meter.
    Served(Served),
    /// A known meter in a state in which nothing is taken from it: close the link.
    Held {
        /// Meter.
        meter: SystemTitle,
        /// Its state.
        state: DeviceState,
    },
    /// Nobody's key: close the link.
    Unknown,
}

/// What the peer with this TLS key is to the head-end. The handshake must have proved that it holds the key.
///
/// # Errors
/// Whatever the store fails with: close the link then.
pub fn lookup<S: AdmissionStore>(store: &S, tls_key: &Digest) -> Result<Standing, S::Error> {
    Ok(match store.by_tls_key(tls_key)? {
        None => Standing::Unknown,
        Some(Admission { meter, tls_key, state, .. }) if state.may_exchange() => {
            Standing::Served(Served { meter, tls_key })
        }
        Some(Admission { meter, state, .. }) => Standing::Held { meter, state },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryAdmissions;

    const METER: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\x01");
    const OTHER: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\x02");

    fn admission(key: u8, state: DeviceState, revision: u64) -> Admission {
        Admission { meter: METER, tls_key: Digest([key; 32]), state, revision }
    }

    #[test]
    fn the_newest_revision_counts_whatever_the_order_of_arrival() {
        let mut store = MemoryAdmissions::default();
        let suspended = admission(1, DeviceState::Suspended, 3);
        assert_eq!(record(&mut store, &suspended), Ok(Change::Applied));
        assert_eq!(record(&mut store, &suspended), Ok(Change::Unchanged));
        assert_eq!(record(&mut store, &admission(1, DeviceState::Operating, 2)), Ok(Change::Unchanged));
        let conflict = record(&mut store, &admission(1, DeviceState::Operating, 3));
        assert_eq!(conflict, Err(AdmissionError::Conflict { meter: METER, revision: 3 }));
        let standing = lookup(&store, &Digest([1; 32]));
        assert_eq!(standing, Ok(Standing::Held { meter: METER, state: DeviceState::Suspended }));
    }

    #[test]
    fn only_an_operating_meter_is_served_and_only_under_its_present_key() {
        let mut store = MemoryAdmissions::default();
        assert_eq!(lookup(&store, &Digest([1; 32])), Ok(Standing::Unknown));
        record(&mut store, &admission(1, DeviceState::Operating, 1)).unwrap();
        let Ok(Standing::Served(served)) = lookup(&store, &Digest([1; 32])) else { panic!("not served") };
        assert_eq!(served.meter(), METER);
        record(&mut store, &admission(2, DeviceState::Operating, 2)).unwrap();
        assert_eq!(lookup(&store, &Digest([1; 32])), Ok(Standing::Unknown), "the former key is nobody's");
        let stolen = Admission { meter: OTHER, ..admission(2, DeviceState::Operating, 1) };
        assert_eq!(
            record(&mut store, &stolen),
            Err(AdmissionError::KeyTaken { meter: OTHER, holder: METER })
        );
    }
}
