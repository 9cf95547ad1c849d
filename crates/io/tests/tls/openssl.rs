//! A certificate authority made of the `openssl` command.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use gridseal_crypto::{Key, Signer, SigningKey, role::ServiceTls};
use gridseal_io::rng::OsRng;
use gridseal_trust::csr::{assemble_csr, csr_to_be_signed};

pub(crate) const DAY_S: u64 = 86_400;

pub(crate) struct Authority {
    folder: PathBuf,
}

pub(crate) fn service_key() -> SigningKey<ServiceTls> {
    SigningKey::new(&Key::generate_scalar(&mut OsRng).unwrap()).unwrap()
}

impl Authority {
    /// A root of its own in a folder of its own. All authorities have the same subject.
    pub(crate) fn new(folder: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{folder}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let authority = Self { folder };
        authority.openssl("ecparam -name prime256v1 -genkey -noout -out ca.key");
        authority.openssl("req -x509 -new -key ca.key -subj /CN=Root -days 30 -out ca.pem");
        authority.openssl("x509 -in ca.pem -outform DER -out ca.der");
        authority
    }

    /// The root certificate, DER.
    pub(crate) fn root(&self) -> Vec<u8> {
        fs::read(self.folder.join("ca.der")).unwrap()
    }

    /// The root certificate as a PEM file.
    pub(crate) fn root_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate of one day, DER, for a request that OpenSSL has verified.
    pub(crate) fn issue(&self, key: &SigningKey<ServiceTls>, subject: &str, extensions: &str) -> Vec<u8> {
        self.request(key, subject, extensions);
        self.openssl(
            "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -days 1 -extfile leaf.ext -outform DER -out leaf.der",
        );
        fs::read(self.folder.join("leaf.der")).unwrap()
    }

    /// A certificate that ended long ago, DER.
    pub(crate) fn issue_expired(
        &self,
        key: &SigningKey<ServiceTls>,
        subject: &str,
        extensions: &str,
    ) -> Vec<u8> {
        self.request(key, subject, extensions);
        fs::write(self.folder.join("index.txt"), "").unwrap();
        let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial.txt\nnew_certs_dir=.\npolicy=p\n[p]\ncommonName=supplied\n";
        fs::write(self.folder.join("ca.conf"), config).unwrap();
        self.openssl(
            "ca -batch -config ca.conf -md sha256 -create_serial -startdate 20200101000000Z -enddate 20200102000000Z \
             -cert ca.pem -keyfile ca.key -extfile leaf.ext -in leaf.csr -notext -out leaf.pem",
        );
        self.openssl("x509 -in leaf.pem -outform DER -out leaf.der");
        fs::read(self.folder.join("leaf.der")).unwrap()
    }

    fn request(&self, key: &SigningKey<ServiceTls>, subject: &str, extensions: &str) {
        let body = csr_to_be_signed(subject, &key.public());
        let csr = assemble_csr(&body, &key.sign(&body).unwrap());
        fs::write(self.folder.join("leaf.req"), csr).unwrap();
        fs::write(self.folder.join("leaf.ext"), extensions).unwrap();
        self.openssl("req -verify -inform DER -in leaf.req -out leaf.csr");
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(&self.folder);
        let output = command.output().expect("the openssl command is installed");
        assert!(output.status.success(), "{arguments}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Connects with OpenSSL's client: did it succeed, and what it printed.
pub(crate) fn s_client(port: u16, version: &str, root: &std::path::Path) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), version, "-CAfile"]).arg(root);
    command.args(["-verify_hostname", "init.example", "-verify_return_error"]);
    let output = command.stdin(Stdio::null()).output().expect("the openssl command is installed");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
