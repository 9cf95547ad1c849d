//! The manufacturer's init server: tells a device where its owner is. It holds one signing key and signed redirects, so a
//! complete take-over yields wrong or missing answers, which devices refuse.

mod challenge;

pub use challenge::{Challenges, PENDING_MAX, PENDING_S};

use alloc::vec::Vec;

use gridseal_crypto::Signer;
use gridseal_trust::{
    audit::{self, Act},
    enrol::{
        cose::{SignedType, sign},
        init::{
            INIT_HELLO_SIZE_MAX, INIT_SIZE_MAX, InitHello, InitRedirect, SignedRedirect, decode_registration,
            encode_registered, is_registration,
        },
        session::{SUITE_P256, SUITE_RSA_2048, encode_error},
        voucher::VoucherKey,
    },
    root::OwnerPin,
};
use gridseal_types::{
    Code, EkName, Nonce, OrderSeq, UtcTime,
    records::{Overlay, Records, RecordsError, Table, Write},
};

/// Redirects by device Name.
const REDIRECTS: Table = "init_redirects";

/// Suites that devices may have.
const SUITES: [u16; 2] = [SUITE_P256, SUITE_RSA_2048];
/// Largest message in bytes.
pub const MESSAGE_SIZE_MAX: usize = INIT_SIZE_MAX;

#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
struct Stored {
    #[n(0)]
    signed: SignedRedirect,
    #[n(1)]
    epoch: u32,
    #[n(2)]
    seq: OrderSeq,
    /// Last element of the voucher: a later voucher must contain it.
    #[n(3)]
    head: OwnerPin,
}

/// What the shell commits, then sends.
#[derive(Debug)]
pub struct Answer {
    /// Changes.
    pub writes: Vec<Write>,
    /// Reply.
    pub reply: Vec<u8>,
    /// What was refused, for the log: the wire does not tell.
    pub refused: Option<Code>,
}

/// A reply or the uniform error.
fn answer_of(writes: Vec<Write>, outcome: Result<Vec<u8>, Code>) -> Answer {
    let (reply, refused) = match outcome {
        Ok(reply) => (reply, None),
        Err(code) => (encode_error(&[0; 16], Code::Refused, 0), Some(code)),
    };
    Answer { writes, reply, refused }
}

/// The init server.
#[derive(Debug)]
pub struct InitServer<S> {
    signer: S,
    voucher_keys: Vec<VoucherKey>,
}

impl<S: Signer> InitServer<S> {
    /// A server that signs with K_init and believes vouchers of these manufacturers.
    #[must_use]
    pub const fn new(signer: S, voucher_keys: Vec<VoucherKey>) -> Self {
        Self { signer, voucher_keys }
    }

    /// Answers one message, I1 or T1.
    ///
    /// # Errors
    /// [`RecordsError`]: no answer.
    pub fn answer<R: Records>(&self, records: &R, now: UtcTime, wire: &[u8]) -> Result<Answer, RecordsError> {
        let mut overlay = Overlay::new(records);
        let outcome = if is_registration(wire) {
            self.register(&mut overlay, now, wire)?
        } else {
            self.redirect(&overlay, wire)?
        };
        Ok(answer_of(overlay.into_writes(), outcome))
    }

    fn redirect<R: Records>(
        &self,
        overlay: &Overlay<'_, R>,
        wire: &[u8],
    ) -> Result<Result<Vec<u8>, Code>, RecordsError> {
        if wire.len() > INIT_HELLO_SIZE_MAX {
            return Ok(Err(Code::Size));
        }
        let Ok(hello) = InitHello::decode(wire) else { return Ok(Err(Code::Format)) };
        let Some(suite) = hello.suites.first().copied().filter(|suite| SUITES.contains(suite)) else {
            return Ok(Err(Code::Suite));
        };
        self.redirect_of(overlay, &hello.ek_name, &hello.m, suite)
    }

    /// I2 for a device, when it is known.
    fn redirect_of<R: Records>(
        &self,
        overlay: &Overlay<'_, R>,
        device: &EkName,
        m: &Nonce,
        suite: u16,
    ) -> Result<Result<Vec<u8>, Code>, RecordsError> {
        let Some(stored) = overlay.load::<Stored>(REDIRECTS, device.as_bytes())? else {
            return Ok(Err(Code::Unknown));
        };
        let payload = InitRedirect { ek_name: *device, m: *m, suite, signed: stored.signed };
        let signed = sign(&self.signer, SignedType::I2, &payload.encode_payload());
        Ok(signed.map(|sign1| InitRedirect::encode_message(m, &sign1)).map_err(|_| Code::Busy))
    }

    /// T1 needs no login: its signatures are the authority. A higher sequence number replaces, and a voucher must
    /// continue the one on record: the first of two forks wins.
    fn register<R: Records>(
        &self,
        overlay: &mut Overlay<'_, R>,
        now: UtcTime,
        wire: &[u8],
    ) -> Result<Result<Vec<u8>, Code>, RecordsError> {
        let Ok(signed) = decode_registration(wire) else { return Ok(Err(Code::Format)) };
        let verified = match signed.verify(&self.voucher_keys) {
            Ok(verified) => verified,
            Err(code) => return Ok(Err(code)),
        };
        let device = verified.redirect.ek_name;
        let (epoch, seq) = (verified.redirect.epoch, verified.redirect.seq);
        if let Some(stored) = overlay.load::<Stored>(REDIRECTS, device.as_bytes())? {
            if verified.voucher.contains(&stored.head).is_err() {
                return Ok(Err(Code::Fork));
            }
            if (epoch, seq) <= (stored.epoch, stored.seq) {
                // Already known or older: the owner learns what is stored.
                return Ok(Ok(encode_registered(stored.seq)));
            }
        }
        let head =
            OwnerPin { index: verified.voucher.index(), generation: 0, entry: verified.voucher.head() };
        overlay.save(REDIRECTS, device.as_bytes(), &Stored { signed, epoch, seq, head });
        let act = Act { actor: "owner", act: "redirect.stored", subject: &device, detail: &seq };
        audit::append(overlay, now, act)?;
        Ok(Ok(encode_registered(seq)))
    }
}
