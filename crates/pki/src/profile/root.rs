//! Root of a private hierarchy.

use gridseal_crypto::PublicKey;

use super::{Draft, DraftError, Profile, Validity, common_name};

/// A root certificate authority: to be signed by its own key ([`crate::self_signed`]). CA without a path limit, keyCertSign
/// and cRLSign; at most 40 years.
///
/// # Errors
/// [`DraftError::Text`] for a name that does not fit.
pub fn root(name: &str, key: &PublicKey, validity: Validity) -> Result<Draft, DraftError> {
    Draft::new(Profile::Root, common_name(name)?, &[], key, validity)
}
