//! TLS server that meters and others outside believe by name.

use gridseal_crypto::PublicKey;

use super::{Draft, DraftError, Profile, SubjectName, Validity, common_name, general_names};

/// A TLS server certificate: common name = name of the service, alternative names = where it is reached,
/// digitalSignature, serverAuth; at most 24 hours (rule S4).
///
/// # Errors
/// [`DraftError::ServerName`] without names or for one that is malformed, [`DraftError::Text`] for the service.
pub fn server(
    service: &str,
    names: &[SubjectName],
    key: &PublicKey,
    validity: Validity,
) -> Result<Draft, DraftError> {
    Draft::new(Profile::Server, common_name(service)?, &general_names(names)?, key, validity)
}
