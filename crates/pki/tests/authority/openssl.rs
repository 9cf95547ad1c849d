//! What the `openssl` command says of our certificates.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use super::NOW;

pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pki-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Verifies a chain (leaf, issuing, root) with strict checks at the time of the tests.
    pub(crate) fn verify(&self, chain: &[Vec<u8>], options: &str) {
        let output = self.run_verify(chain, options);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn verifies(&self, chain: &[Vec<u8>], options: &str) -> bool {
        self.run_verify(chain, options).status.success()
    }

    fn run_verify(&self, chain: &[Vec<u8>], options: &str) -> Output {
        let [leaf, issuing, root] = chain else { panic!("chain of {}", chain.len()) };
        for (name, der) in [("leaf", leaf), ("issuing", issuing), ("root", root)] {
            self.write(&format!("{name}.der"), der);
            self.openssl(&format!("x509 -inform DER -in {name}.der -out {name}.pem"));
        }
        let time = NOW.0;
        self.run(&format!(
            "verify -x509_strict -check_ss_sig -attime {time} -CAfile root.pem -untrusted issuing.pem {options} leaf.pem"
        ))
    }

    /// The certificate in words.
    pub(crate) fn text(&self, der: &[u8]) -> String {
        self.write("text.der", der);
        self.openssl("x509 -inform DER -in text.der -noout -text")
    }

    pub(crate) fn verify_request(&self, der: &[u8]) {
        self.write("request.der", der);
        self.openssl("req -verify -inform DER -in request.der -noout");
    }

    /// A request by OpenSSL, DER.
    pub(crate) fn request(&self, options: &str) -> Vec<u8> {
        self.openssl(&format!("req -new {options} -nodes -subj /CN=x -keyout x.key -outform DER -out x.der"));
        fs::read(self.0.join("x.der")).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    fn openssl(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(&self.0);
        command.output().expect("the openssl command is installed")
    }
}
