//! EST (RFC 7030) with strangers: OpenSSL makes keys and requests and reads the answers, curl speaks.

use std::{path::Path, process::Command};

use crate::{
    machine::{gridseal, gridseal_ok},
    site::{Plan, Site, text},
};

/// Runs a stranger in a directory; its standard output.
fn run(dir: &Path, line: &str) -> Vec<u8> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn openssl(dir: &Path, line: &str) -> String {
    String::from_utf8_lossy(&run(dir, &format!("openssl {line}"))).into_owned()
}

fn have_strangers() -> bool {
    let is_there = |name: &str, version: &str| Command::new(name).arg(version).output().is_ok();
    let have = is_there("openssl", "version") && is_there("curl", "--version");
    if !have {
        println!("NOT PROVEN: openssl or curl is not installed, so no stranger has enrolled");
    }
    have
}

#[test]
fn a_server_of_the_inner_network_enrols_with_openssl_and_curl_and_nobody_else_does() {
    if !have_strangers() {
        return;
    }
    let mut site = Site::new("est", Plan::default());
    let (dir, owner) = (site.scratch.path().to_path_buf(), text(&site.owner("")));
    let make = |name: &str, subject: &str| {
        openssl(&dir, &format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"));
        openssl(&dir, &format!("req -new -key {name}.key -subj {subject} -out {name}.csr"));
        openssl(&dir, &format!("req -in {name}.csr -outform DER -out {name}.der"));
        openssl(&dir, &format!("base64 -in {name}.der -out {name}.b64"));
    };
    let identity = |name: &str| {
        let at = |suffix: &str| text(&dir.join(format!("{name}{suffix}")));
        let (csr, to) = (at(".csr"), at(".pem"));
        gridseal(&["ceremony", "identity", "--out", &owner, "--name", name, "--csr", &csr, "--to", &to])
    };
    for name in ["proxy", "visitor", "keys"] {
        make(name, &format!("/CN={name}"));
    }
    assert!(identity("proxy").status.success() && identity("visitor").status.success());
    assert!(!identity("keys").status.success(), "nobody gets the name of a service of ours");

    // The port is chosen by the system.
    let listener = std::net::TcpListener::bind((site.addresses.pki.ip(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = site.owner("pki/config.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    let est = format!(
        "\n[est]\nlisten = \"{address}\"\nservers = {{ proxy = [\"10.9.8.7\", \"proxy.example\"] }}\n"
    );
    std::fs::write(&config, before.clone() + &est).unwrap();
    site.kill("pki");
    site.start("pki");
    site.expect("the port for EST", |told| told.is("pki", "listening") && told.field("side") == "est");

    // curl; its status. The name in the certificate of `pki` is `pki`.
    let port = address.port();
    let curl = |who: Option<&str>, more: &str, path: &str| {
        let certificate = who.map_or_else(String::new, |who| format!("--cert {who}.pem --key {who}.key"));
        let output = Command::new("curl")
            .args(format!(
                "-s -o answer -w %{{http_code}} --cacert proxy.pem.root --connect-to pki:{port}:{}:{port} {certificate} {more}",
                address.ip()
            ).split_whitespace())
            .arg(format!("https://pki:{port}/.well-known/est/{path}"))
            .current_dir(&dir)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let certificates = |to: &str| {
        openssl(&dir, "base64 -d -in answer -out answer.p7");
        openssl(&dir, &format!("pkcs7 -inform DER -in answer.p7 -print_certs -out {to}"));
    };
    let post = |file: &str| format!("-H Content-Type:application/pkcs10 --data-binary @{file}");

    assert_eq!(curl(Some("proxy"), "", "cacerts"), "200");
    certificates("chain.pem");
    assert_eq!(curl(Some("proxy"), &post("proxy.b64"), "simpleenroll"), "200");
    certificates("server.pem");
    // The chain has issuer and root: both are in the file, the root is who has signed itself.
    openssl(&dir, "verify -x509_strict -partial_chain -CAfile chain.pem -purpose sslserver server.pem");
    let shown = openssl(&dir, "x509 -in server.pem -noout -text");
    for what in ["IP Address:10.9.8.7", "DNS:proxy.example", "CN = proxy", "TLS Web Server Authentication"] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
    openssl(&dir, "x509 -in server.pem -noout -checkend 3600");
    let lasts_longer = Command::new("openssl")
        .args("x509 -in server.pem -noout -checkend 90000".split(' '))
        .current_dir(&dir)
        .status()
        .unwrap();
    assert!(!lasts_longer.success(), "a day at most");
    // A renewal may have another key; the subject stays.
    openssl(&dir, "ecparam -name prime256v1 -genkey -noout -out next.key");
    openssl(&dir, "req -new -key next.key -subj /CN=proxy -outform DER -out next.der");
    openssl(&dir, "base64 -in next.der -out next.b64");
    assert_eq!(curl(Some("proxy"), &post("next.b64"), "simplereenroll"), "200");
    certificates("renewed.pem");
    let key = |file: &str, kind: &str| openssl(&dir, &format!("{kind} -in {file} -pubkey -noout"));
    assert_eq!(key("renewed.pem", "x509"), openssl(&dir, "pkey -in next.key -pubout"));

    // Who may not, and what is none.
    assert_eq!(curl(Some("proxy"), &post("visitor.b64"), "simplereenroll"), "400", "another subject");
    assert_eq!(curl(Some("visitor"), &post("visitor.b64"), "simpleenroll"), "403");
    assert_eq!(curl(None, &post("proxy.b64"), "simpleenroll"), "000", "without an identity");
    assert_eq!(curl(Some("proxy"), "", "simpleenroll"), "405");
    assert_eq!(
        curl(Some("proxy"), "-H Content-Type:text/plain --data-binary @proxy.b64", "simpleenroll"),
        "415"
    );
    assert_eq!(curl(Some("proxy"), &post("proxy.der"), "simpleenroll"), "400");
    let mut forged = std::fs::read(dir.join("proxy.der")).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    std::fs::write(dir.join("forged.der"), forged).unwrap();
    openssl(&dir, "base64 -in forged.der -out forged.b64");
    assert_eq!(curl(Some("proxy"), &post("forged.b64"), "simpleenroll"), "400", "no proof of possession");
    std::fs::write(dir.join("long.b64"), vec![b'A'; 8_192]).unwrap();
    assert_eq!(curl(Some("proxy"), &post("long.b64"), "simpleenroll"), "413");
    for path in ["serverkeygen", "fullcmc"] {
        assert_eq!(curl(Some("proxy"), &post("proxy.b64"), path), "404", "no key is made for anybody");
    }
    // A meter's certificate is of another authority: it gets through no handshake here.
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    let meter = crate::peer::StolenMeter::take(&site.factory(&serial));
    let roots = crate::peer::certificates(&site.owner("pki/inner-root.pem"));
    let refused = crate::peer::post(
        (address, "pki"),
        &roots,
        Some(&meter.identity),
        ("/.well-known/est/cacerts", Vec::new()),
    );
    assert!(refused.is_err(), "{refused:?}");
    let gridseal_says = gridseal_ok(&["audit", "--db", &text(&site.owner("pki/pki.db"))]);
    assert!(gridseal_says.contains("proxy"), "{gridseal_says}");

    // No name of ours in the configuration.
    std::fs::write(&config, before + &est.replace("proxy =", "keys =")).unwrap();
    site.kill("pki");
    site.start("pki");
    site.expect("its end", |told| told.is("pki", "ended"));
}
