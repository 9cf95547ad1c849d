//! Authority that issues for devices and services.

use gridseal_crypto::PublicKey;

use super::{Draft, DraftError, Profile, Validity, common_name};

/// An issuing certificate authority under a root: path length 0, so it can make no authority; keyCertSign and cRLSign; at
/// most 20 years.
///
/// # Errors
/// [`DraftError::Text`] for a name that does not fit.
pub fn issuing(name: &str, key: &PublicKey, validity: Validity) -> Result<Draft, DraftError> {
    Draft::new(Profile::Issuing, common_name(name)?, &[], key, validity)
}
