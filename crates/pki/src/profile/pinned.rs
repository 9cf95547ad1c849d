//! TLS server that is believed by its key alone.

use gridseal_crypto::PublicKey;

use super::{Draft, DraftError, Profile, SubjectName, Validity, common_name, general_names};

/// A certificate for a server whose key is pinned, such as a config server's: like [`super::server`], but it may live 20
/// years, because its dates are not what anybody looks at. To be signed by its own key ([`crate::self_signed`]).
///
/// # Errors
/// [`DraftError::ServerName`] without names or for one that is malformed, [`DraftError::Text`] for the service.
pub fn pinned(
    service: &str,
    names: &[SubjectName],
    key: &PublicKey,
    validity: Validity,
) -> Result<Draft, DraftError> {
    Draft::new(Profile::Pinned, common_name(service)?, &general_names(names)?, key, validity)
}
