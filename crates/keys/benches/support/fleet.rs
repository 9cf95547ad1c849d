//! A fleet on record: rows of meters in use as an import would leave them, made when they are asked for.

use gridseal_crypto::{
    EnvelopeContext, InvocationCounter, Key, Origin, Rng, RngError, SealedUnder, SigningKey, Ticket,
    role::{Dek, Gak, Guek, Kek, OwnerSigning},
};
use gridseal_keys::{
    Keystore, KeystoreFile, imported_name,
    lease::CounterLayout,
    record::{self, DEVICES, DeviceEntry, ProbeBudget, SITE, TITLES, VERSIONS, VersionEntry, version_key},
    site::SiteRow,
};
use gridseal_trust::enrol::{
    cose::{SignedType, key_id, sign},
    document::Delegation,
};
use gridseal_types::{
    DeviceState, Digest, EkName, Kid, SystemTitle, UtcTime,
    records::{MemoryRecords, Records, RecordsError, Row, Table, Write},
    service::keys::{Bytes, Carrier, ClaimState, KeyKind, KeyOrigin, VersionState},
};

pub const NOW: UtcTime = UtcTime(1_800_000_000);

/// Numbers that look random and are the same in every run; never for keys that guard anything.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(limit)) as u32
    }
}

impl Rng for Draw {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        buffer.iter_mut().for_each(|byte| *byte = self.below(256) as u8);
        Ok(())
    }
}

pub fn title(meter: u32) -> SystemTitle {
    let [a, b, c, d] = meter.to_be_bytes();
    SystemTitle([b'G', b'S', b'L', 2, a, b, c, d])
}

fn bytes_of(meter: u32, more: u8) -> [u8; 16] {
    let mut bytes = [more; 16];
    bytes[..4].copy_from_slice(&meter.to_be_bytes());
    bytes
}

pub fn guek(meter: u32) -> Key<Guek, 16> {
    Key::take(&mut bytes_of(meter, 1))
}

pub fn gak(meter: u32) -> Key<Gak, 16> {
    Key::take(&mut bytes_of(meter, 2))
}

/// A GET with a list of attributes, of this many bytes: what a head-end may have sealed.
pub fn get(size: usize) -> Vec<u8> {
    let mut apdu = vec![0xC0, 3, 0xC1, 12];
    for attribute in 0..12u8 {
        apdu.extend_from_slice(&[0, 3, 1, 0, 1, 8, attribute, 255, 2, 0]);
    }
    // The last one has a selector, an octet-string that fills the rest.
    let left = size - apdu.len();
    *apdu.last_mut().unwrap() = 1;
    apdu.extend_from_slice(&[1, 9, (left - 3) as u8]);
    apdu.resize(size, 0x55);
    apdu
}

/// Tickets of one counter, as many as are wanted.
pub fn tickets(first: u32) -> impl FnMut() -> Ticket {
    let mut counter = InvocationCounter::resume(u64::from(first));
    counter.extend(counter.reserve(u32::MAX - first).unwrap());
    move || counter.take().unwrap()
}

/// A keystore under a data key, with a delegation of an owner who is nobody.
pub fn keystore(dek: Key<Dek, 32>) -> Keystore {
    let rng = &mut Draw(11);
    let file = KeystoreFile::create(&dek, TENANT, rng).unwrap();
    let owner: SigningKey<OwnerSigning> = SigningKey::new(&Key::generate_scalar(rng).unwrap()).unwrap();
    let delegation = Delegation {
        owner_key: key_id(&gridseal_crypto::Signer::public(&owner)),
        uses: 3,
        key: file.public_keys(&dek).unwrap().config,
        generation: 1,
        not_before: NOW,
        not_after: UtcTime(u64::MAX),
    };
    let signed = sign(&owner, SignedType::Delegation, &delegation.encode()).unwrap();
    Keystore::open(&file, dek, signed, vec![]).unwrap()
}

pub const TENANT: [u8; 16] = *b"tenant of bench\0";

/// The rows of one meter but for its keys: device and title.
pub fn device_rows(meter: u32) -> [(Table, Vec<u8>, Vec<u8>); 2] {
    let title = title(meter);
    let device = imported_name(title);
    let entry = DeviceEntry {
        device,
        epoch: 0,
        kid: Kid([0; 16]),
        secret: Bytes(vec![]),
        system_title: title,
        serial: format!("{meter:08}"),
        state: DeviceState::Operating,
        attested_at: UtcTime(0),
        auth: [None, None],
        auth_confirmed: false,
        channel_version: 1,
        n_commit: Digest([0; 32]),
        active_version: 1,
        slot: meter,
        claim: ClaimState::Claimed,
        attested: false,
        layout: CounterLayout::Epoch24,
        carrier: Carrier::GeneralGlo,
        versions: KeyKind::ALL.map(|kind| (kind, 1)).into(),
        change: None,
        acts: 1,
        heard: None,
        probe: ProbeBudget::default(),
        lockout: 10,
        history: 0,
        doubt: false,
        transfers_failed: 0,
        order_seq: 0,
        orders: Vec::new(),
        closing: None,
        auth_next: [None, None],
        auth_doubt: false,
        auth_number: 0,
        is_recovering: false,
        is_rekeyed_by_order: false,
        owner_key: None,
        suite: 0,
        offered: (0, 0),
    };
    [
        (DEVICES, device.as_bytes().to_vec(), minicbor::to_vec(entry).unwrap()),
        (TITLES, title.as_bytes().to_vec(), device.as_bytes().to_vec()),
    ]
}

/// A version of one of its keys, wrapped.
pub fn version_row(
    meter: u32,
    kind: KeyKind,
    (dek, tenant): (SealedUnder<'_>, &[u8; 16]),
    rng: &mut dyn Rng,
) -> (Vec<u8>, Vec<u8>) {
    let device = imported_name(title(meter));
    let context = record::context(tenant, &device, 1);
    let context = EnvelopeContext { origin: Origin::Operator, ..context };
    let wrapped = match kind {
        KeyKind::Gak => gak(meter).wrap(dek, &context, rng),
        KeyKind::Kek => Key::<Kek, 16>::take(&mut bytes_of(meter, 3)).wrap(dek, &context, rng),
        _ => guek(meter).wrap(dek, &context, rng),
    };
    let entry = VersionEntry {
        kind,
        version: 1,
        state: VersionState::Active,
        origin: KeyOrigin::Operator,
        envelope: Bytes(wrapped.unwrap().0),
        sent: true,
        created_at: NOW,
        proven_at: None,
        deactivated_at: None,
        wrapped_by: None,
        change: None,
        first_epoch: 1,
        sent_order: 0,
        proven_order: 1,
        closed: false,
        bundled: false,
        challenged_order: 0,
        sent_by: 0,
        challenged_by: 0,
        suite: 0,
    };
    (version_key(&device, kind, 1), minicbor::to_vec(entry).unwrap())
}

/// The row of a site that has given so many slots away.
pub fn site_row(slots: u32) -> Write {
    let row = SiteRow { epoch: 1, highest: 1, fenced: false, degraded_until: UtcTime(0), slots };
    Write { table: SITE, key: vec![], value: Some(minicbor::to_vec(row).unwrap()) }
}

/// Records that hold a fleet without its memory: its rows are made anew each time; what is committed is kept beside.
pub struct Fleet {
    dek: Key<Dek, 32>,
    names: Vec<(EkName, u32)>,
    pub written: MemoryRecords,
}

impl Fleet {
    pub fn new(meters: u32, dek: Key<Dek, 32>) -> Self {
        let mut names: Vec<_> = (0..meters).map(|meter| (imported_name(title(meter)), meter)).collect();
        names.sort_unstable();
        Self { dek, names, written: MemoryRecords::default() }
    }

    fn meter(&self, name: &[u8]) -> Option<u32> {
        let at = self.names.binary_search_by(|(known, _)| known.as_bytes().as_slice().cmp(name)).ok()?;
        self.names.get(at).map(|(_, meter)| *meter)
    }
}

impl Records for Fleet {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        let known = self.written.get(table, key)?;
        if known.is_some() || table != VERSIONS {
            return Ok(known);
        }
        let (Some(name), Some(kind)) = (key.get(..EkName::SIZE), key.get(EkName::SIZE)) else {
            return Ok(None);
        };
        let (Some(meter), Some(kind)) = (self.meter(name), KeyKind::from_number(*kind)) else {
            return Ok(None);
        };
        Ok(Some(version_row(meter, kind, ((&self.dek).into(), &TENANT), &mut Draw(u64::from(meter))).1))
    }

    fn range(&self, table: Table, after: &[u8], limit: usize) -> Result<Vec<Row>, RecordsError> {
        if table != DEVICES {
            return self.written.range(table, after, limit);
        }
        let from = self.names.partition_point(|(name, _)| name.as_bytes().as_slice() <= after);
        let rows = self.names[from..].iter().take(limit).map(|(_, meter)| {
            let [(_, key, value), _] = device_rows(*meter);
            (key, value)
        });
        Ok(rows.collect())
    }
}
