//! key_agreement of the security setup: the ephemeral unified model C(2e,0s), both sides.
//!
//! Each side sends an ephemeral point and its signature over the key's number and that point; the key follows from both
//! ephemeral keys and both titles, so that neither side's static keys, told later, give it away.
//!
//! # Source
//! DLMS fact sheet, sections 6.1 and 6.2; vector `agreement/ephemeral-unified.toml`.

use alloc::vec::Vec;

use gridseal_crypto::{
    Curve, CurveAgreement, CurvePublic, CurveSigner, Key, KeyAlgorithm, KeyError, Rng, SharedSecret,
    role::Role,
};
use gridseal_types::SystemTitle;

/// Number of the master key in class 64: its derivation has the algorithm of key wrap \[check\].
const MASTER: u8 = 3;

/// Who agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parties {
    /// The client: party U.
    pub client: SystemTitle,
    /// The server: party V.
    pub server: SystemTitle,
}

/// Why key data of the other side is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgreementFault {
    /// No point and raw signature of the curve's sizes.
    #[error("key data is no point and raw signature of the suite")]
    KeyData,
    /// The point is not on the curve.
    #[error("point is not on the curve")]
    Point,
    /// The signature is none of the other side's.
    #[error("signature over the point does not verify")]
    Signature,
    /// The own side failed: no random bytes, no signature, or a key of another curve.
    #[error("agreement could not be made")]
    Own,
}

impl From<KeyError> for AgreementFault {
    fn from(_: KeyError) -> Self {
        Self::Own
    }
}

/// The ephemeral point of the other side's key data, which one of `signers` has signed.
///
/// # Errors
/// [`AgreementFault`].
pub fn read_key_data(
    curve: Curve,
    key_id: u8,
    key_data: &[u8],
    signers: &[CurvePublic],
) -> Result<CurvePublic, AgreementFault> {
    let (point, signature) = key_data.split_at_checked(curve.point_size()).ok_or(AgreementFault::KeyData)?;
    if signature.len() != curve.point_size() {
        return Err(AgreementFault::KeyData);
    }
    let ephemeral = CurvePublic::from_point(curve, point).ok_or(AgreementFault::Point)?;
    let signed = signed(key_id, &ephemeral);
    let is_good = signers.iter().any(|signer| signer.verifies(&signed, signature));
    if is_good { Ok(ephemeral) } else { Err(AgreementFault::Signature) }
}

/// What is signed: the key's number, then the point.
fn signed(key_id: u8, ephemeral: &CurvePublic) -> Vec<u8> {
    //= DLMS 6.2: the signature is over the key's number and the point
    [&[key_id], ephemeral.point()].concat()
}

/// Own side of an agreement on one key.
#[derive(Debug)]
pub struct Side {
    key_id: u8,
    ephemeral: CurveAgreement,
}

impl Side {
    /// Draws an ephemeral key.
    ///
    /// # Errors
    /// [`AgreementFault::Own`] as given by the random source.
    pub fn new(key_id: u8, curve: Curve, rng: &mut dyn Rng) -> Result<Self, AgreementFault> {
        Ok(Self { key_id, ephemeral: CurveAgreement::generate(curve, rng)? })
    }

    /// With an ephemeral key that was drawn before: one that is kept until the other side has answered.
    #[must_use]
    pub const fn resume(key_id: u8, ephemeral: CurveAgreement) -> Self {
        Self { key_id, ephemeral }
    }

    /// Number of the key.
    #[must_use]
    pub const fn key_id(&self) -> u8 {
        self.key_id
    }

    /// Own key data: the point, and the signature over it.
    ///
    /// # Errors
    /// [`AgreementFault::Own`] when the signer fails.
    pub fn key_data(&self, signer: &CurveSigner) -> Result<Vec<u8>, AgreementFault> {
        let point = self.ephemeral.public();
        let signature = signer.sign(&signed(self.key_id, &point)).ok_or(AgreementFault::Own)?;
        Ok([point.point(), &signature].concat())
    }

    /// The key, with the other side's point as [`read_key_data`] gave it. N is the suite's: 16 on P-256, 32 on P-384.
    ///
    /// # Errors
    /// [`AgreementFault::Own`] for a point of another curve, or another N.
    pub fn key<R: Role, const N: usize>(
        &self,
        other: &CurvePublic,
        parties: Parties,
    ) -> Result<Key<R, N>, AgreementFault> {
        let shared: SharedSecret = self.ephemeral.agree(other).ok_or(AgreementFault::Own)?;
        let algorithm = if self.key_id == MASTER { KeyAlgorithm::Wrap } else { KeyAlgorithm::Gcm };
        let (client, server) = (parties.client.as_bytes(), parties.server.as_bytes());
        shared.derive(algorithm, client, server).ok_or(AgreementFault::Own)
    }
}

#[cfg(test)]
mod tests {
    use gridseal_crypto::{
        RngError,
        role::{Guek, Kek},
    };

    use super::*;

    struct Counting(u8);

    impl Rng for Counting {
        fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
            for byte in buffer {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
            Ok(())
        }
    }

    struct Scripted(Vec<u8>);

    impl Rng for Scripted {
        fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
            buffer.copy_from_slice(&self.0);
            Ok(())
        }
    }

    const PARTIES: Parties = Parties {
        client: SystemTitle([0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E]),
        server: SystemTitle([0x4D, 0x4D, 0x4D, 0, 0, 0, 0, 1]),
    };

    fn hex(digits: &str) -> Vec<u8> {
        hex::decode(digits).expect("hex")
    }

    //= DLMS 6.1: C(2e,0s): the client is U, the server V
    #[test]
    fn the_green_books_example_is_agreed_upon() {
        let client = "BAAFFDE06A8CB1C9DAE8D94023C601DBBB249254BA22EDD827E820BCA2BCC64362FBB83D86A82B87BB8B7161D2AAB5521911A946B97A284A90F7785CD9047D25";
        let data = "2914D60E10AB705F62ED6CC349D7CB99B9AB3F3978E59278C7AF595B3AF987941372DAB6D5AF1FA867E134167E6F23DE664A6693E05F43414611058D1B48F89406F0607702AA0E2435A183E2F6B1ECD19629712E389A213610C03F77B2590860EA840AF5C3FA1F2BCDF055D4744E9A01CE9A0E55026BCAA4EEBEB764CED64BB3";
        let server = "95F41066009B185B074F5FFFF736B71C325FCADB2BC0CF1A4F4B17BBE7AB81D62946506BC8169C7B539B39A5D8463787F449C9BD2583FA67A1075B0DBFC638BA";
        let ephemeral = "34A8C23A34DBB519D09B245754C85A6CFE05D14A063EFA5AA41545AA8241EFAE";
        let signer = CurvePublic::from_point(Curve::P256, &hex(client)).expect("a point");
        let other =
            read_key_data(Curve::P256, 0, &hex(data), core::slice::from_ref(&signer)).expect("signed");
        let side = Side::new(0, Curve::P256, &mut Scripted(hex(ephemeral))).expect("a scalar");
        assert_eq!(side.ephemeral.public().point(), hex(server));
        let key: Key<Guek, 16> = side.key(&other, PARTIES).expect("of the suite");
        let expected = Key::take_slice(&mut hex("C5F4512846EDE51CFB8CCF59F08A694E")).expect("16 bytes");
        assert!(bool::from(key.ct_eq(&expected)));
        assert_eq!(read_key_data(Curve::P256, 1, &hex(data), &[signer]), Err(AgreementFault::Signature));
    }

    #[test]
    fn both_sides_get_one_key_in_either_suite_and_a_stranger_none() {
        fn run<const N: usize>(curve: Curve) {
            let signer = |seed| {
                CurveSigner::take(curve, &mut alloc::vec![seed; curve.coordinate_size()]).expect("key")
            };
            let (client, server, stranger) = (signer(1), signer(2), signer(3));
            let mut rng = Counting(7);
            let (of_client, of_server) = (
                Side::new(3, curve, &mut rng).expect("drawn"),
                Side::new(3, curve, &mut rng).expect("drawn"),
            );
            let offer = of_client.key_data(&client).expect("signs");
            let answer = of_server.key_data(&server).expect("signs");
            let at_server = read_key_data(curve, 3, &offer, &[client.public()]).expect("signed");
            let at_client = read_key_data(curve, 3, &answer, &[server.public()]).expect("signed");
            let key = of_server.key::<Kek, N>(&at_server, PARTIES).expect("key");
            assert!(bool::from(key.ct_eq(&of_client.key(&at_client, PARTIES).expect("key"))));
            let swapped = Parties { client: PARTIES.server, server: PARTIES.client };
            assert!(!bool::from(key.ct_eq(&of_client.key(&at_client, swapped).expect("key"))));
            let forged = of_client.key_data(&stranger).expect("signs");
            assert_eq!(read_key_data(curve, 3, &forged, &[client.public()]), Err(AgreementFault::Signature));
            let mut off = offer.clone();
            off[curve.point_size() - 1] ^= 1;
            assert_eq!(read_key_data(curve, 3, &off, &[client.public()]), Err(AgreementFault::Point));
            for size in [0, curve.point_size(), offer.len() - 1] {
                assert_eq!(
                    read_key_data(curve, 3, &offer[..size], &[client.public()]),
                    Err(AgreementFault::KeyData),
                    "{size} bytes"
                );
            }
            assert!(of_client.key::<Kek, 24>(&at_client, PARTIES).is_err(), "a size of no suite");
        }
        run::<16>(Curve::P256);
        run::<32>(Curve::P384);
    }
}
