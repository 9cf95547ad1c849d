//! The states of an association, and which event leads where. Everything that is not here is illegal and changes
//! nothing.

/// State of the server's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// No association.
    Idle,
    /// An AARQ is being judged.
    Opening,
    /// The challenge was sent: only the reply to it is served.
    Pending,
    /// Requests are served.
    Associated,
}

/// What happens at the server's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerEvent {
    /// An AARQ arrived.
    AssociateRequest,
    /// It was refused.
    Rejected,
    /// It was accepted, and the client is who it must be.
    Accepted,
    /// It was accepted, and the client was sent a challenge.
    Challenged,
    /// The reply to the challenge was right.
    Authenticated,
    /// It was wrong, or something else came in its place.
    AuthenticationFailed,
    /// A service was requested.
    Service,
    /// The association was released.
    Released,
    /// The link was lost.
    Disconnected,
}

/// Where an event leads the server; `None` when it is illegal in that state.
#[must_use]
pub const fn server(state: ServerState, event: ServerEvent) -> Option<ServerState> {
    use ServerEvent as E;
    use ServerState as S;
    Some(match (state, event) {
        //= DLMS 12.4: nothing is served before the last pass, whatever the link says
        (S::Idle | S::Pending, E::AssociateRequest) => S::Opening,
        (S::Opening, E::Rejected) => S::Idle,
        (S::Opening, E::Accepted) => S::Associated,
        (S::Opening, E::Challenged) => S::Pending,
        (S::Pending, E::Authenticated) => S::Associated,
        (S::Pending, E::AuthenticationFailed) => S::Idle,
        (S::Associated, E::Service) => S::Associated,
        (S::Associated, E::Released) => S::Idle,
        (_, E::Disconnected) => S::Idle,
        _ => return None,
    })
}

/// State of the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// No association.
    Idle,
    /// The AARQ is made or on its way.
    Opening,
    /// The reply to the server's challenge is on its way.
    Proving,
    /// Ready for a request.
    Associated,
    /// A request is on its way.
    Requesting,
    /// The release is on its way.
    Releasing,
}

/// What happens at the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientEvent {
    /// The application wants an association.
    Associate,
    /// The server accepted.
    Accepted,
    /// The server accepted and sent a challenge.
    Challenged,
    /// The server's reply to our challenge is right.
    Proved,
    /// Refused by the server, or by us because of what it said.
    Refused,
    /// The application has a request.
    Request,
    /// It is answered, or nobody waits for the answer any more.
    Finished,
    /// The application wants to release.
    Release,
    /// The association is released.
    Released,
    /// The link was lost.
    Disconnected,
}

/// Where an event leads the client; `None` when it is illegal in that state.
#[must_use]
pub const fn client(state: ClientState, event: ClientEvent) -> Option<ClientState> {
    use ClientEvent as E;
    use ClientState as S;
    Some(match (state, event) {
        (S::Idle, E::Associate) => S::Opening,
        (S::Opening, E::Accepted) => S::Associated,
        (S::Opening, E::Challenged) => S::Proving,
        (S::Proving, E::Proved) => S::Associated,
        (S::Opening | S::Proving, E::Refused) => S::Idle,
        (S::Associated, E::Request) => S::Requesting,
        (S::Requesting, E::Finished) => S::Associated,
        (S::Associated, E::Release) => S::Releasing,
        (S::Releasing, E::Released) => S::Idle,
        (_, E::Disconnected) => S::Idle,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    //= DLMS 12.4: nothing is served before the last pass, whatever the link says
    #[test]
    fn only_an_associated_server_serves_and_only_two_ways_lead_there() {
        use ServerEvent as E;
        use ServerState as S;
        let states = [S::Idle, S::Opening, S::Pending, S::Associated];
        let events = [
            E::AssociateRequest,
            E::Rejected,
            E::Accepted,
            E::Challenged,
            E::Authenticated,
            E::AuthenticationFailed,
            E::Service,
            E::Released,
            E::Disconnected,
        ];
        let mut ways = alloc::vec![];
        for state in states {
            for event in events {
                match server(state, event) {
                    Some(S::Associated) if state != S::Associated => ways.push((state, event)),
                    Some(_) if event == E::Service => assert_eq!(state, S::Associated),
                    _ => {}
                }
            }
            assert_eq!(server(state, E::Disconnected), Some(S::Idle));
        }
        assert_eq!(ways, [(S::Opening, E::Accepted), (S::Pending, E::Authenticated)]);
    }
}
