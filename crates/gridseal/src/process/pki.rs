//! `gridseal pki`: the certificate authority.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use gridseal_api::{
    Refusal, Reply,
    router::{Access, Media, Peer, Router},
    server::Limits,
};
use gridseal_crypto::{SigningKey, role::CaSigning};
use gridseal_io::{
    clock::utc_now,
    rng::OsRng,
    tls::{Alpn, server_for_clients},
};
use gridseal_pki::{
    Authority, Call, Certificate, Issuer, PartyAuthority, Settings, SubjectName, est, is_for_common_name,
};
use gridseal_store::{SqliteRecords, certificates::issue_batch};
use gridseal_trust::party;
use gridseal_types::{
    Code,
    records::RecordsError,
    service::certificates::{CertificateReply, CertificateRequest},
};

use crate::{
    config,
    files::{Zone, read_certificates, read_if_there},
    observe::Observer,
    process::{bind, inner_roots, serve, service_identity},
    setup::owner::{PARTY_SUITES, SERVICES, party_signer},
};

/// Path of the service.
pub const PATH: &str = "/pki/v1";
/// Services that may ask.
const CALLERS: &[&str] = &["endpoint-manager", "headend"];

type Ca = Authority<SigningKey<CaSigning>>;

/// Runs the certificate authority.
pub async fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::Pki, _) = config::load(path)?;
    let observer = Observer::new("pki").with_journal(&dir)?;
    let zone = Zone::open(&dir)?;
    let certificates = read_certificates(&dir.join("issuing.pem"))?;
    let parse =
        |der: Option<&Vec<u8>>| der.and_then(|der| Certificate::parse(der)).context("issuing.pem is broken");
    let issuer = Issuer::new(SigningKey::new(&zone.load("issuing")?)?, parse(certificates.first())?)?;
    let mut servers = BTreeMap::from([("headend".to_owned(), subject_names(&config.headend_names))]);
    for (name, names) in config.est.iter().flat_map(|est| &est.servers) {
        if SERVICES.contains(&name.as_str()) {
            bail!("est.servers: {name} is one of our own services");
        }
        servers.insert(name.clone(), subject_names(names));
    }
    let settings = Settings { servers, ..Settings::default() };
    let authority = Authority::new(issuer, parse(certificates.last())?, settings)?;
    let authority: Arc<Ca> = Arc::new(authority.with_parties(parties(&dir)?));
    let records = SqliteRecords::open(dir.join("pki.db")).context("cannot open the certificate store")?;
    let records = Arc::new(Mutex::new(records));
    let (identity, roots) = (service_identity(&zone)?, inner_roots(&dir)?);
    let tls = server_for_clients(&identity, &roots, Alpn::Http2)?;
    let strangers = match config.est {
        Some(est) => {
            let tls = server_for_clients(&identity, &roots, Alpn::Http1)?;
            let desk = Desk {
                authority: Arc::clone(&authority),
                records: Arc::clone(&records),
                observer: observer.clone(),
            };
            Some(bind(est.listen, tls, desk.router(), Limits::INNER).await?)
        }
        None => None,
    };
    let events = observer.clone();
    let router = Router::new().serve_batch(
        PATH,
        Access::Services(CALLERS),
        move |peer, requests: Vec<CertificateRequest>| {
            let (authority, records) = (Arc::clone(&authority), Arc::clone(&records));
            let (observer, caller) = (events.clone(), peer.service().unwrap_or_default().to_owned());
            async move {
                let events = observer.clone();
                let work = move || issue(&authority, &records, &observer, &caller, &requests);
                let issued = tokio::task::spawn_blocking(work).await;
                if let Ok(Err(error)) = &issued {
                    events.event("store-failed", &[("code", &error.code())]);
                }
                match issued {
                    Ok(Ok(replies)) => Ok(replies),
                    _ => Err(Refusal::Busy(Duration::from_secs(1))),
                }
            }
        },
    );
    let server = bind(config.listen, tls, router, Limits::INNER).await?;
    let est = async {
        match strangers {
            Some(server) => serve(&observer, "est", server).await,
            None => std::future::pending().await,
        }
    };
    tokio::try_join!(serve(&observer, "inner", server), est).map(|_| ())
}

/// The authorities of DLMS parties that the directory has.
fn parties(dir: &Path) -> Result<Vec<PartyAuthority>> {
    let mut parties = Vec::new();
    for suite in PARTY_SUITES {
        let Some(der) = read_if_there(&dir.join(format!("party-{suite}.der")))? else { continue };
        let certificate =
            party::Certificate::parse(&der).with_context(|| format!("party-{suite}.der is broken"))?;
        let clients = match read_if_there(&dir.join(format!("client-{suite}.der")))? {
            Some(der) => vec![
                party::Certificate::parse(&der).with_context(|| format!("client-{suite}.der is broken"))?,
            ],
            None => Vec::new(),
        };
        let authority = PartyAuthority::new(party_signer(dir, suite)?, certificate, clients);
        parties.push(authority.with_context(|| format!("party-{suite}.der is not that of its key"))?);
    }
    Ok(parties)
}

fn subject_names(names: &[String]) -> Vec<SubjectName> {
    let named = |name: &String| name.parse().map_or_else(|_| SubjectName::Dns(name.clone()), SubjectName::Ip);
    names.iter().map(named).collect()
}

/// EST (RFC 7030) for servers of the inner network that are none of our services: certificates of at most a day, under the
/// names that the configuration gives them. Everybody who gets here has an identity of the inner network; meters have none.
#[derive(Clone)]
struct Desk {
    authority: Arc<Ca>,
    records: Arc<Mutex<SqliteRecords>>,
    observer: Observer,
}

impl Desk {
    fn router(&self) -> Router {
        const PKCS7: &str = "application/pkcs7-mime";
        const CERTIFICATES: &str = "application/pkcs7-mime; smime-type=certs-only";
        let chain = est::certificates_only(&self.authority.chain());
        let asked = Media { asks: None, answers: PKCS7 };
        let mut router =
            Router::new().route_as("/.well-known/est/cacerts", Access::Anyone, (asked, 0), move |_, _| {
                std::future::ready(Reply::Body(chain.clone()))
            });
        let media = Media { asks: Some("application/pkcs10"), answers: CERTIFICATES };
        for (path, renews) in
            [("/.well-known/est/simpleenroll", false), ("/.well-known/est/simplereenroll", true)]
        {
            let desk = self.clone();
            router = router.route_as(path, Access::Anyone, (media, est::BODY_SIZE_MAX), move |peer, body| {
                let desk = desk.clone();
                async move {
                    let work = move || desk.enrol(&peer, &body, renews);
                    tokio::task::spawn_blocking(work).await.unwrap_or(Reply::Refused(Refusal::Failed))
                }
            });
        }
        router
    }

    fn enrol(&self, peer: &Peer, body: &[u8], renews: bool) -> Reply {
        let Some(caller) = peer.service() else { return Reply::Refused(Refusal::Forbidden) };
        let Some(csr) = est::decode(body) else { return Reply::Refused(Refusal::Malformed) };
        // RFC 7030 section 4.2.2: a renewal asks for the subject that it has.
        if renews && !is_for_common_name(&csr, caller) {
            return Reply::Refused(Refusal::Malformed);
        }
        let requests = [CertificateRequest::Server { csr }];
        let reply = issue(&self.authority, &self.records, &self.observer, caller, &requests);
        match reply.ok().and_then(|mut replies| replies.pop()) {
            Some(CertificateReply::Issued { chain, .. }) => Reply::Body(est::certificates_only(
                &chain.first().map_or_else(Vec::new, |leaf| vec![leaf.0.as_slice()]),
            )),
            Some(CertificateReply::Refused { code: Code::Refused }) => Reply::Refused(Refusal::Forbidden),
            Some(CertificateReply::Refused { code: Code::Busy }) | None => {
                Reply::Refused(Refusal::Busy(Duration::from_secs(1)))
            }
            Some(_) => Reply::Refused(Refusal::Malformed),
        }
    }
}

/// Issues a batch: every certificate is on record before its reply leaves.
fn issue(
    authority: &Ca,
    records: &Mutex<SqliteRecords>,
    observer: &Observer,
    caller: &str,
    requests: &[CertificateRequest],
) -> Result<Vec<CertificateReply>, RecordsError> {
    let mut records = records.lock().map_err(|_| RecordsError::Failed)?;
    let replies = records.transact(|view| {
        issue_batch(view, |certificates| {
            let mut replies = Vec::with_capacity(requests.len());
            for request in requests {
                let call = Call { request, caller, now: utc_now() };
                let (reply, record) = authority.decide(call, &mut OsRng, certificates);
                certificates.remember(record);
                replies.push(reply);
            }
            replies
        })
    })?;
    for (request, reply) in requests.iter().zip(&replies) {
        let kind = match request {
            CertificateRequest::LDevId { .. } => "ldevid",
            CertificateRequest::Party(_) => "party",
            _ => "server",
        };
        match reply {
            CertificateReply::Issued { .. } => {
                observer.event("issued", &[("kind", &kind), ("caller", &caller)])
            }
            CertificateReply::Refused { code } => {
                observer.event("refused", &[("kind", &kind), ("caller", &caller), ("code", &code.name())]);
            }
            _ => {}
        }
    }
    Ok(replies)
}
