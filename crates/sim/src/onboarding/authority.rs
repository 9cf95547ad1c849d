//! The certificate authority's shell.

use std::collections::VecDeque;

use gridseal_pki::{Call, CertificateRecord, CertificateRecords, ENDPOINT_MANAGER, RecordsError};
use gridseal_types::Digest;

use super::{
    network::Content,
    report::Point,
    world::{Actor, Step, World},
};
use crate::{HashRng, works::owner};

/// What was issued.
#[derive(Debug, Default)]
struct Issued(Vec<CertificateRecord>);

impl CertificateRecords for Issued {
    fn newest_for_key(&self, key: &Digest) -> Result<Option<CertificateRecord>, RecordsError> {
        Ok(self.0.iter().rev().find(|record| record.key == *key).cloned())
    }
}

/// The process.
#[derive(Debug)]
pub(super) struct AuthorityProcess {
    issued: Issued,
    inbox: VecDeque<(Actor, Content)>,
    rng: HashRng,
}

impl AuthorityProcess {
    pub(super) fn new(seed: u64) -> Self {
        Self { issued: Issued::default(), inbox: VecDeque::new(), rng: HashRng::new(seed, "authority", 0) }
    }

    pub(super) fn lose_memory(&mut self) {
        self.inbox.clear();
    }

    pub(super) fn receive(&mut self, from: Actor, content: Content) {
        self.inbox.push_back((from, content));
    }
}

impl World {
    pub(super) fn authority_acts(&mut self) -> Step {
        let now = self.utc();
        let Some((from, content)) = self.authority.inbox.pop_front() else { return Ok(()) };
        self.stir(Actor::Authority);
        let Content::CertificateCall { call, request } = content else { return Ok(()) };
        let AuthorityProcess { issued, rng, .. } = &mut self.authority;
        let asked = Call { request: &request, caller: ENDPOINT_MANAGER, now };
        let (reply, record) = owner(0).authorities[0].decide(asked, rng, issued);
        if self.crashes(Actor::Authority, Point::BeforeCommit) {
            return Ok(());
        }
        self.authority.issued.0.extend(record);
        if self.crashes(Actor::Authority, Point::AfterCommit) {
            return Ok(());
        }
        self.send(Actor::Authority, from, Content::CertificateAnswer { call, reply: Box::new(reply) });
        Ok(())
    }
}
