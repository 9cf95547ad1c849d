//! The process `keys`: who may ask for what. It holds no key and no state.

use gridseal_types::service::keys::KeyRequest;

/// Service name of the endpoint manager.
pub const ENDPOINT_MANAGER: &str = "endpoint-manager";
/// Service name of the head-end.
pub const HEADEND: &str = "headend";

/// Whether the authenticated caller may make this request. Default deny: a taken-over head-end can have APDUs opened that
/// meters sent to it, and nothing else.
#[must_use]
pub fn allows(caller: &str, request: &KeyRequest) -> bool {
    match request {
        KeyRequest::OpenApdu { .. } => caller == HEADEND,
        KeyRequest::Deliver { .. }
        | KeyRequest::DeliverLabel { .. }
        | KeyRequest::SignRedirect { .. }
        | KeyRequest::OpenHello { .. }
        | KeyRequest::Challenge(_)
        | KeyRequest::OpenMessage { .. }
        | KeyRequest::Own { .. }
        | KeyRequest::ConfirmOwnership { .. }
        | KeyRequest::Provision(_)
        | KeyRequest::Finish { .. }
        | KeyRequest::SetState { .. } => caller == ENDPOINT_MANAGER,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_types::{Digest, Sid, UtcTime};

    #[test]
    fn the_head_end_may_open_apdus_and_nothing_else() {
        let open = KeyRequest::OpenApdu { apdu: alloc::vec![] };
        let finish = KeyRequest::Finish {
            sid: Sid([0; 16]),
            receipt: Digest([0; 32]),
            th6: Digest([0; 32]),
            th7: Digest([0; 32]),
            now: UtcTime(0),
            attested_at: UtcTime(0),
        };
        assert!(allows(HEADEND, &open) && !allows(HEADEND, &finish));
        assert!(allows(ENDPOINT_MANAGER, &finish) && !allows(ENDPOINT_MANAGER, &open));
        assert!(!allows("config-server", &open) && !allows("config-server", &finish));
    }
}
