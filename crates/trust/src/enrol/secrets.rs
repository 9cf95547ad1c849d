//! What both ends derive from the owner secret N_e and the credential K_act.
//!
//! # Source
//! Onboarding specification, section 7.4.

use gridseal_crypto::{
    Key,
    role::{ActivationSecret, DeviceRootSecret, OwnerSecret, Seal, SessionSecret},
    sha256,
};
use gridseal_types::{Digest, Epoch, Kid, Nonce, OrderSeq};

/// `N_e` of an epoch from the device's root secret: what a TPM computes with TPM2_HMAC.
#[must_use]
pub fn owner_secret(root: &Key<DeviceRootSecret, 32>, epoch: Epoch) -> Key<OwnerSecret, 32> {
    root.derive(&[&owner_secret_input(epoch)])
}

/// Input of the HMAC that gives `N_e`: `"gs-ndev-v1" || u64(epoch)`, 18 bytes.
#[must_use]
pub fn owner_secret_input(epoch: Epoch) -> [u8; 18] {
    let mut input = *b"gs-ndev-v1\0\0\0\0\0\0\0\0";
    input.iter_mut().skip(10).zip(u64::from(epoch).to_be_bytes()).for_each(|(to, from)| *to = from);
    input
}

/// The derivations of one owner secret.
pub trait OwnerSecretExt {
    /// Pseudonym of (device, epoch).
    fn kid(&self) -> Kid;
    /// Key that seals C1.
    fn seal_c1(&self, m: &Nonce) -> Key<Seal, 32>;
    /// Key that seals C2.
    fn seal_c2(&self, m: &Nonce, m_em: &Nonce) -> Key<Seal, 32>;
    /// Grant: proof that the sender of C2 holds N_e.
    fn grant(&self, th1: &Digest, c2_payload: &[u8]) -> Digest;
    /// Whether a grant is the right one, in constant time.
    fn grant_verifies(&self, th1: &Digest, c2_payload: &[u8], grant: &Digest) -> bool;
    /// K_s, from which C3 to C8 are sealed: a reader needs N_e *and* the TPM's credential.
    fn session(&self, th2: &Digest, activation: &Key<ActivationSecret, 32>) -> Key<SessionSecret, 32>;
    /// Key that seals an order.
    fn seal_order(&self, seq: OrderSeq, r: &Nonce) -> Key<Seal, 32>;
    /// Key that seals the answer `r2` to the order `seq` that came with `r`.
    fn seal_result(&self, seq: OrderSeq, r: &Nonce, r2: &Nonce) -> Key<Seal, 32>;
    /// Key that seals a question for orders.
    fn seal_poll(&self, r3: &Nonce) -> Key<Seal, 32>;
    /// Commitment to N_1 in manifest and voucher header: `SHA-256("gs-ndev-commit-v1" || N_1)`.
    fn commitment(&self) -> Digest;
}

const GRANT: &[u8] = b"gs-grant-v1";

impl OwnerSecretExt for Key<OwnerSecret, 32> {
    fn kid(&self) -> Kid {
        let mac = self.mac(&[b"gs-kid-v1"]);
        Kid(*mac.first_chunk().expect("a MAC has 32 bytes"))
    }

    fn seal_c1(&self, m: &Nonce) -> Key<Seal, 32> {
        self.derive(&[b"gs-seal-c1", m.as_bytes()])
    }

    fn seal_c2(&self, m: &Nonce, m_em: &Nonce) -> Key<Seal, 32> {
        self.derive(&[b"gs-seal-c2", m.as_bytes(), m_em.as_bytes()])
    }

    fn grant(&self, th1: &Digest, c2_payload: &[u8]) -> Digest {
        Digest(self.mac(&[GRANT, th1.as_bytes(), &sha256(&[c2_payload])]))
    }

    fn grant_verifies(&self, th1: &Digest, c2_payload: &[u8], grant: &Digest) -> bool {
        self.mac_verifies(&[GRANT, th1.as_bytes(), &sha256(&[c2_payload])], grant.as_bytes())
    }

    fn session(&self, th2: &Digest, activation: &Key<ActivationSecret, 32>) -> Key<SessionSecret, 32> {
        self.derive_with(&[b"gs-sess-v1", th2.as_bytes()], activation)
    }

    fn seal_order(&self, seq: OrderSeq, r: &Nonce) -> Key<Seal, 32> {
        self.derive(&[b"gs-order-v1", &seq.to_be_bytes(), r.as_bytes()])
    }

    fn seal_result(&self, seq: OrderSeq, r: &Nonce, r2: &Nonce) -> Key<Seal, 32> {
        self.derive(&[b"gs-ores-v1", &seq.to_be_bytes(), r.as_bytes(), r2.as_bytes()])
    }

    fn seal_poll(&self, r3: &Nonce) -> Key<Seal, 32> {
        self.derive(&[b"gs-poll-v1", r3.as_bytes()])
    }

    fn commitment(&self) -> Digest {
        Digest(self.hashed(b"gs-ndev-commit-v1"))
    }
}

/// The derivations of one session's secret.
pub trait SessionSecretExt {
    /// Key of the messages from the device: C3, C5, C7.
    fn device_to_owner(&self) -> Key<Seal, 32>;
    /// Key of the messages to the device: C4, C6, C8.
    fn owner_to_device(&self) -> Key<Seal, 32>;
}

impl SessionSecretExt for Key<SessionSecret, 32> {
    fn device_to_owner(&self) -> Key<Seal, 32> {
        self.derive(&[b"gs-m2e-v1"])
    }

    fn owner_to_device(&self) -> Key<Seal, 32> {
        self.derive(&[b"gs-e2m-v1"])
    }
}

/// The proofs that the device makes with the recovered credential.
pub trait ActivationSecretExt {
    /// `act` of C3: the TPM recovered the credential in this session.
    fn act(&self, th2: &Digest) -> Digest;
    /// Whether `act` is the right one, in constant time.
    fn act_verifies(&self, th2: &Digest, act: &Digest) -> bool;
    /// `receipt` of C7: the configuration is installed.
    fn receipt(&self, th6: &Digest) -> Digest;
    /// Whether a receipt is the right one, in constant time.
    fn receipt_verifies(&self, th6: &Digest, receipt: &Digest) -> bool;
}

const ACT: &[u8] = b"gs-act-v1";
const RECEIPT: &[u8] = b"gs-done-v1";

impl ActivationSecretExt for Key<ActivationSecret, 32> {
    fn act(&self, th2: &Digest) -> Digest {
        Digest(self.mac(&[ACT, th2.as_bytes()]))
    }

    fn act_verifies(&self, th2: &Digest, act: &Digest) -> bool {
        self.mac_verifies(&[ACT, th2.as_bytes()], act.as_bytes())
    }

    fn receipt(&self, th6: &Digest) -> Digest {
        Digest(self.mac(&[RECEIPT, th6.as_bytes()]))
    }

    fn receipt_verifies(&self, th6: &Digest, receipt: &Digest) -> bool {
        self.mac_verifies(&[RECEIPT, th6.as_bytes()], receipt.as_bytes())
    }
}
