//! `gridseal pki`: the certificate authority.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result};
use gridseal_api::{
    Refusal,
    router::{Access, Router},
    server::Limits,
};
use gridseal_crypto::{SigningKey, role::CaSigning};
use gridseal_io::{
    clock::utc_now,
    rng::OsRng,
    tls::{Alpn, server_for_clients},
};
use gridseal_pki::{Authority, Call, Certificate, Issuer, Settings, SubjectName};
use gridseal_store::{SqliteRecords, certificates::issue_batch};
use gridseal_types::{
    records::RecordsError,
    service::certificates::{CertificateReply, CertificateRequest},
};

use crate::{
    config,
    files::{Zone, read_certificates},
    observe::Observer,
    process::{bind, inner_roots, serve, service_identity},
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
    let names = config.headend_names.iter().map(|name| subject_name(name)).collect();
    let settings =
        Settings { servers: BTreeMap::from([("headend".to_owned(), names)]), ..Settings::default() };
    let authority: Arc<Ca> = Arc::new(Authority::new(issuer, parse(certificates.last())?, settings)?);
    let records = SqliteRecords::open(dir.join("pki.db")).context("cannot open the certificate store")?;
    let records = Arc::new(Mutex::new(records));
    let tls = server_for_clients(&service_identity(&zone)?, &inner_roots(&dir)?, Alpn::Http2)?;
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
    serve(&observer, "inner", server).await
}

fn subject_name(name: &str) -> SubjectName {
    name.parse().map_or_else(|_| SubjectName::Dns(name.to_owned()), SubjectName::Ip)
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
