//! Identity of an inner service.

use gridseal_crypto::PublicKey;

use super::{Draft, DraftError, Profile, SubjectName, Validity, common_name, general_names};

/// The identity with which an inner service, such as `endpoint-manager`, calls and answers others: common name and only DNS
/// name = name of the service, digitalSignature, clientAuth and serverAuth; at most a year.
///
/// # Errors
/// [`DraftError::ServerName`] for a name that is none.
pub fn service(name: &str, key: &PublicKey, validity: Validity) -> Result<Draft, DraftError> {
    let names = general_names(&[SubjectName::Dns(name.to_owned())])?;
    Draft::new(Profile::Service, common_name(name)?, &names, key, validity)
}
