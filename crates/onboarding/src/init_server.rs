//! The manufacturer's init server: tells a device where its owner is. It holds one signing key and signed redirects, so a
//! complete take-over yields wrong or missing answers, which devices refuse.

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
        session::{SUITE_P256, encode_error},
        voucher::VoucherKey,
    },
    root::OwnerPin,
};
use gridseal_types::{
    Code, OrderSeq, UtcTime,
    records::{Overlay, Records, RecordsError, Table, Write},
};

/// Redirects by device Name.
const REDIRECTS: Table = "init_redirects";

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
        let (reply, refused) = match outcome {
            Ok(reply) => (reply, None),
            Err(code) => (encode_error(&[0; 16], Code::Refused, 0), Some(code)),
        };
        Ok(Answer { writes: overlay.into_writes(), reply, refused })
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
        if hello.suites.first() != Some(&SUITE_P256) {
            return Ok(Err(Code::Suite));
        }
        let Some(stored) = overlay.load::<Stored>(REDIRECTS, hello.ek_name.as_bytes())? else {
            return Ok(Err(Code::Unknown));
        };
        let payload =
            InitRedirect { ek_name: hello.ek_name, m: hello.m, suite: SUITE_P256, signed: stored.signed };
        let signed = sign(&self.signer, SignedType::I2, &payload.encode_payload());
        Ok(signed.map(|sign1| InitRedirect::encode_message(&hello.m, &sign1)).map_err(|_| Code::Busy))
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
