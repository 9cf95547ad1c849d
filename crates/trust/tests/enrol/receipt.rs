//! A receipt holds by itself; every other one, forged, spliced or of another sale, is refused with its code.

use gridseal_crypto::{
    Key, Signer, SigningKey,
    role::{
        AuthValue, ConfigSigning, OwnerSecond, OwnerSigning, SoftwareRootKey, TpmSeed, VoucherSecond,
        VoucherSigning,
    },
    sha256,
    tpm::{AuthInForce, Clear, ClearAuth, SessionNonces, clear_audit_digest, clear_command, execute_clear},
};
use gridseal_trust::{
    enrol::{
        cose::{SignedType, key_id, sign},
        document::{Delegation, Entry, EntryKind, Header, Manifest},
        order::{AUDIT_PURPOSE, Order, Task, order_digest},
        receipt::{Ended, Proof, Receipt, ReceiptFault, ReceiptFile, Statement},
        session::qualifying,
        voucher::{Voucher, VoucherKey},
    },
    root::Attest,
    tpm,
};
use gridseal_types::{DeviceType, Digest, EkName, UtcTime};

const AT: UtcTime = UtcTime(1_800_000_000);
const AK_TEMPLATE: &str = "0023000b00050472000000100018000b00030010";

fn signer<R: gridseal_crypto::role::Role>(label: &str) -> SigningKey<R> {
    SigningKey::new(&Key::take(&mut sha256(&[label.as_bytes()]))).unwrap()
}

/// A seller, a buyer, a device, and what the device's TPM says.
struct Sale {
    vendor: SigningKey<VoucherSigning>,
    seller: SigningKey<OwnerSigning>,
    config: SigningKey<ConfigSigning>,
    identity: SigningKey<SoftwareRootKey>,
    device: EkName,
    voucher: Voucher,
    sold: Voucher,
}

fn entry(epoch: u32, owner: &SigningKey<OwnerSigning>) -> Entry {
    Entry {
        index: 0,
        epoch,
        kind: EntryKind::Transfer,
        previous: Digest([0; 32]),
        owner: owner.public(),
        encryption: owner.public(),
        issued: AT,
        second_key: None,
        owner_second: None,
    }
}

impl Sale {
    fn new() -> Self {
        let (vendor, seller, buyer) = (signer("vendor"), signer("seller"), signer("buyer"));
        let device = EkName([7; 34]);
        let header = Header {
            ek_name: device,
            model: "M".into(),
            serial: "S1".into(),
            n_commit: Digest([1; 32]),
            second_key: None,
        };
        let no_vendor = None::<&gridseal_crypto::SecondSigner<VoucherSecond>>;
        let no_owner = None::<&gridseal_crypto::SecondSigner<OwnerSecond>>;
        let mut voucher = Voucher::issue(header, &vendor, no_vendor).unwrap();
        voucher.extend(entry(1, &seller), &vendor, no_vendor).unwrap();
        let mut sold = voucher.clone();
        sold.extend(entry(2, &buyer), &seller, no_owner).unwrap();
        let (config, identity) = (signer("config"), signer("identity"));
        Self { vendor, seller, config, identity, device, voucher, sold }
    }

    fn keys(&self) -> Vec<VoucherKey> {
        vec![self.vendor.public().into()]
    }

    fn identity_public(&self) -> Vec<u8> {
        let mut public = hex::decode(AK_TEMPLATE).unwrap();
        for coordinate in self.identity.public().point().chunks(32) {
            public.extend_from_slice(&[0, 32]);
            public.extend_from_slice(coordinate);
        }
        public
    }

    fn manifest(&self, identity: Option<EkName>) -> Vec<u8> {
        let manifest = Manifest {
            serial: "S1".into(),
            model: "M".into(),
            ek_name: self.device,
            ek_pub: vec![0; 20],
            ek_chain: Vec::new(),
            spki: Digest([0; 32]),
            n_commit: Digest([1; 32]),
            vendor: "V".into(),
            made: AT,
            system_title: None,
            software_root: false,
            device_type: DeviceType::Meter,
            identity,
        };
        sign(&self.vendor, SignedType::Manifest, &manifest.encode()).unwrap()
    }

    fn order(&self, seq: u64, task: Task) -> (Vec<u8>, Digest) {
        let payload = Order { ek_name: self.device, epoch: 1, seq, task, now: AT }.encode();
        (sign(&self.config, SignedType::Order, &payload).unwrap(), order_digest(&payload))
    }

    /// What the identity key signs of a session's digest.
    fn statement(&self, purpose: u8, x: &Digest, (clock, resets): (u64, u32), digest: [u8; 32]) -> Attest {
        let mut attest = hex::decode("ff5443478016").unwrap();
        for part in [&[0x11; 34][..], qualifying(purpose, x).as_bytes()] {
            attest.extend_from_slice(&(part.len() as u16).to_be_bytes());
            attest.extend_from_slice(part);
        }
        attest.extend_from_slice(&clock.to_be_bytes());
        attest.extend_from_slice(&resets.to_be_bytes());
        attest.extend_from_slice(&[0, 0, 0, 0, 1]);
        attest.extend_from_slice(&[0; 8]);
        attest.push(0);
        attest.extend_from_slice(&[0, 32]);
        attest.extend_from_slice(&digest);
        let signed = self.identity.sign(&attest).unwrap();
        let mut signature = hex::decode("0018000b").unwrap();
        for part in signed.chunks(32) {
            signature.extend_from_slice(&[0, 32]);
            signature.extend_from_slice(part);
        }
        Attest { attest, signature }
    }

    fn clear() -> (Vec<u8>, Vec<u8>) {
        let salt: Key<TpmSeed, 32> = Key::take(&mut [1; 32]);
        let session = SessionNonces { caller: [2; 16], tpm: [3; 16] }.session_key(&salt);
        let auth: Key<AuthValue, 32> = Key::take(&mut [4; 32]);
        let command = clear_command(&Clear {
            session_handle: 0x0200_0000,
            session: &session,
            in_force: AuthInForce::Value(&auth),
            nonce_tpm: [3; 16],
            nonce_caller: [5; 16],
        });
        let parsed = ClearAuth::parse(&command).unwrap();
        let response =
            execute_clear(&parsed, &session, AuthInForce::Value(&auth), &[3; 16], &[6; 16]).unwrap();
        (command, response)
    }

    fn release(&self) -> Task {
        Task::Release { entry: self.sold.entries[1].clone(), second: Vec::new() }
    }

    fn receipt_of(&self, order: Digest, commands: Digest, response: &[u8]) -> Vec<u8> {
        let receipt = Receipt {
            ek_name: self.device,
            epoch: 1,
            order,
            commands,
            response: Digest(sha256(&[response])),
            at: AT,
        };
        sign(&self.config, SignedType::Receipt, &receipt.encode()).unwrap()
    }

    fn file(&self, end: Task) -> ReceiptFile {
        let (command, response) = Self::clear();
        let (order, order_digest) = self.order(10, end);
        let (commands, commands_digest) = self.order(12, Task::Commands(vec![command]));
        let delegation = Delegation {
            owner_key: key_id(&self.seller.public()),
            uses: 3,
            key: self.config.public(),
            generation: 1,
            not_before: AT,
            not_after: AT,
        };
        let audit = self.statement(AUDIT_PURPOSE, &commands_digest, (40, 0), clear_audit_digest());
        ReceiptFile {
            receipt: self.receipt_of(order_digest, commands_digest, &response),
            delegation: sign(&self.seller, SignedType::Delegation, &delegation.encode()).unwrap(),
            voucher: self.voucher.encode(),
            order,
            commands,
            response,
            manifest: self.manifest(Some(tpm::name(&self.identity_public()))),
            statement: Some(Statement { identity_public: self.identity_public(), audit }),
        }
    }
}

fn verified(sale: &Sale, file: &ReceiptFile) -> Result<Ended, ReceiptFault> {
    let again = ReceiptFile::decode(&file.encode()).unwrap();
    assert_eq!(&again, file);
    again.verify(&sale.keys())
}

#[test]
fn a_receipt_holds_offline_and_says_who_comes_next() {
    let sale = Sale::new();
    let file = sale.file(sale.release());
    let ended = verified(&sale, &file).unwrap();
    assert_eq!((ended.device, ended.epoch, ended.serial.as_str()), (sale.device, 1, "S1"));
    assert_eq!(ended.proof, Proof::Tpm { after_ms: 40 });
    let next = ended.next.unwrap();
    assert_eq!(next.key, key_id(&signer::<OwnerSigning>("buyer").public()));
    assert_eq!(next.entry, sale.sold.verify(&sale.keys()).unwrap().head());
    let scrapped = sale.file(Task::Decommission);
    assert_eq!(verified(&sale, &scrapped).unwrap().next, None);
    let word = ReceiptFile { statement: None, ..file };
    assert_eq!(verified(&sale, &word).unwrap().proof, Proof::Owner);
    assert_eq!(word.verify(&[signer::<VoucherSigning>("other").public().into()]), Err(ReceiptFault::Voucher));
}

#[test]
fn a34_a_forged_receipt_is_refused() {
    let sale = Sale::new();
    let file = sale.file(sale.release());
    let (_, order_digest) = sale.order(10, sale.release());
    let (command, response) = Sale::clear();
    let refused = |file: ReceiptFile, fault| assert_eq!(verified(&sale, &file), Err(fault));
    let other = Sale { config: signer("thief"), ..Sale::new() };
    refused(
        ReceiptFile { receipt: other.file(sale.release()).receipt, ..file.clone() },
        ReceiptFault::Signature,
    );
    refused(ReceiptFile { delegation: file.order.clone(), ..file.clone() }, ReceiptFault::Delegation);
    let mut failed = response.clone();
    failed[9] = 1;
    refused(ReceiptFile { response: failed.clone(), ..file.clone() }, ReceiptFault::Spliced);
    // Even with the owner's signature a refused Clear is no Clear, nor is another command.
    let (_, commands_digest) = sale.order(12, Task::Commands(vec![command.clone()]));
    let receipt = sale.receipt_of(order_digest, commands_digest, &failed);
    refused(ReceiptFile { receipt, response: failed, ..file.clone() }, ReceiptFault::NoClear);
    let mut other_command = command.clone();
    other_command[9] = 0x29;
    for list in [vec![other_command], vec![command.clone(), command.clone()]] {
        let (commands, digest) = sale.order(12, Task::Commands(list));
        let receipt = sale.receipt_of(order_digest, digest, &response);
        refused(ReceiptFile { receipt, commands, ..file.clone() }, ReceiptFault::NoClear);
    }
    // An entry that somebody else has signed makes nobody the owner.
    let no_second = None::<&gridseal_crypto::SecondSigner<OwnerSecond>>;
    let mut stolen = sale.voucher.clone();
    stolen.extend(entry(2, &signer("buyer")), &signer::<OwnerSigning>("thief"), no_second).unwrap();
    let end = Task::Release { entry: stolen.entries[1].clone(), second: Vec::new() };
    refused(sale.file(end), ReceiptFault::NextOwner);
    refused(sale.file(Task::Suspend), ReceiptFault::NoClear);
}

#[test]
fn a_replayed_or_foreign_statement_is_refused() {
    let sale = Sale::new();
    let file = sale.file(sale.release());
    let (_, digest) = sale.order(12, Task::Commands(vec![Sale::clear().0]));
    let with = |audit, manifest: Option<Vec<u8>>| ReceiptFile {
        statement: Some(Statement { identity_public: sale.identity_public(), audit }),
        manifest: manifest.unwrap_or_else(|| file.manifest.clone()),
        ..file.clone()
    };
    let good = || sale.statement(AUDIT_PURPOSE, &digest, (40, 0), clear_audit_digest());
    assert!(verified(&sale, &with(good(), None)).is_ok());
    for (what, audit) in [
        ("another order", sale.statement(AUDIT_PURPOSE, &Digest([9; 32]), (40, 0), clear_audit_digest())),
        ("another purpose", sale.statement(7, &digest, (40, 0), clear_audit_digest())),
        ("another command", sale.statement(AUDIT_PURPOSE, &digest, (40, 0), [3; 32])),
        ("long after", sale.statement(AUDIT_PURPOSE, &digest, (600_001, 0), clear_audit_digest())),
        ("after a reset", sale.statement(AUDIT_PURPOSE, &digest, (40, 1), clear_audit_digest())),
        (
            "another key",
            Sale { identity: signer("other"), ..Sale::new() }.statement(
                AUDIT_PURPOSE,
                &digest,
                (40, 0),
                clear_audit_digest(),
            ),
        ),
    ] {
        assert_eq!(verified(&sale, &with(audit, None)), Err(ReceiptFault::Statement), "{what}");
    }
    let unnamed = with(good(), Some(sale.manifest(None)));
    assert_eq!(verified(&sale, &unnamed), Err(ReceiptFault::IdentityKey));
    let foreign = Sale { device: EkName([8; 34]), ..Sale::new() };
    let manifest = foreign.manifest(Some(tpm::name(&sale.identity_public())));
    assert_eq!(verified(&sale, &with(good(), Some(manifest))), Err(ReceiptFault::Manifest));
    // A whole receipt of another device says so itself.
    let other = foreign.file(sale.release());
    assert_eq!(verified(&sale, &other), Err(ReceiptFault::Spliced));
}
