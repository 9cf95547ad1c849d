//! Error codes of the onboarding protocol, and the one table that gives each its kind.

use core::fmt;

/// Who has to act on an error. Retry logic reads only this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The peer broke the protocol.
    Peer,
    /// Our configuration or our caller is wrong.
    Local,
    /// Worth trying again later.
    Transient,
    /// An invariant we promised does not hold.
    Bug,
}

macro_rules! codes {
    ($($number:literal $variant:ident $name:literal $kind:ident $text:literal,)*) => {
        /// Error code of the onboarding protocol. On the wire in clear only [`Code::Busy`] and [`Code::Refused`]
        /// appear; the exact code stays in the log of the party that refused.
        ///
        /// # Source
        /// Onboarding specification, section 18.8.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, minicbor::Encode, minicbor::Decode)]
        #[cbor(index_only)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $text] #[n($number)] $variant,)*
        }

        impl Code {
            /// Number on the wire.
            #[must_use]
            pub const fn number(self) -> u8 {
                match self { $(Self::$variant => $number,)* }
            }

            /// Stable name, as in logs: `E_FORMAT`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Who has to act.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    1 Format "E_FORMAT" Peer "message is not in the deterministic form",
    2 Size "E_SIZE" Peer "message is larger than allowed",
    3 Suite "E_SUITE" Peer "suite list was changed or offers nothing we support",
    4 RedirectSig "E_REDIRECT_SIG" Peer "redirect is not signed by whom it must be",
    5 Voucher "E_VOUCHER" Peer "voucher chain is not valid for this device",
    6 Pin "E_PIN" Peer "voucher does not contain the entry this device has accepted",
    7 Fork "E_FORK" Peer "voucher forks from the one on record",
    8 EpochMismatch "E_EPOCH" Peer "ownership epoch does not match",
    9 Grant "E_GRANT" Peer "peer does not hold the device's owner secret",
    10 ConfigChain "E_CONFIG_CHAIN" Peer "message is not signed under the voucher's current owner",
    11 Nonce "E_NONCE" Peer "message belongs to another or a finished session",
    12 Transcript "E_TRANSCRIPT" Peer "message does not continue this session",
    13 Unknown "E_UNKNOWN" Peer "device is not known here",
    14 State "E_STATE" Peer "message is out of turn for the state",
    15 Endorsement "E_EK" Peer "endorsement key does not match the register",
    16 AkAttr "E_AK_ATTR" Peer "attestation key has the wrong type or attributes",
    17 Act "E_ACT" Peer "device could not activate the credential",
    18 Certify "E_CERTIFY" Peer "certification of a device key does not verify",
    19 Quote "E_QUOTE" Peer "quote does not verify",
    20 Policy "E_POLICY" Peer "measured software is not in the policy",
    21 Csr "E_CSR" Peer "certificate request does not match the certified key",
    22 Owned "E_OWNED" Peer "TPM has an owner whose authorisation is not known",
    23 Tpm "E_TPM" Transient "TPM refused or failed a command",
    24 PlatformOpen "E_PLATFORM_OPEN" Peer "platform hierarchy has an empty authorisation",
    25 Object "E_OBJECT" Peer "delivered object is not what was announced",
    26 Rollback "E_ROLLBACK" Peer "older configuration or storage was offered",
    27 Time "E_TIME" Peer "document has expired",
    28 Busy "E_BUSY" Transient "try again later",
    29 Label "E_LABEL" Local "label or delivery record does not match the manifest",
    30 Refused "E_REFUSED" Peer "refused",
    31 Command "E_COMMAND" Peer "TPM command is not on the allow-list",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.text())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Code {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_map_back() {
        for number in 1..=31 {
            let code = Code::from_number(number).expect("dense");
            assert_eq!(u64::from(code.number()), number);
        }
        assert_eq!(Code::from_number(0), None);
        assert_eq!(Code::from_number(32), None);
    }
}
