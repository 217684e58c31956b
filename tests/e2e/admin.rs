//! The program with nothing but an admin API, which the clouds' SDKs ask.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::guard::{listening, serve, write};
use crate::process::Process;

pub struct Admin {
    pub address: SocketAddr,
    /// What its certificate comes from, if it has one.
    pub ca: Option<PathBuf>,
    process: Process,
}

pub const OPERATOR: (&str, &str) = ("AKIDoperator", "secret-of-the-operator");
pub const READER: (&str, &str) = ("AKIDreader", "secret-of-the-reader--");

impl Admin {
    /// With so many tenants, from `z-0` on.
    pub fn start(tls: bool, tenants: usize, limits: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the files");
        let mut ca = None;
        if tls {
            let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
            let made = made.expect("a certificate");
            write(directory.path(), "tls.crt", &made.cert.pem());
            write(directory.path(), "tls.key", &made.signing_key.serialize_pem());
            ca = Some(directory.path().join("tls.crt"));
        }
        let names: Vec<_> = (0..tenants).map(|number| format!("z-{number}")).collect();
        write(directory.path(), "operator.secret", OPERATOR.1);
        write(directory.path(), "reader.secret", READER.1);
        let pair = "{ certificate: tls.crt, private_key: tls.key }";
        let tls = if tls { format!("  tls: {pair}\n") } else { String::new() };
        let config = format!(
            "\
credentials: {{ source: embedded }}
admin:
  listen: 127.0.0.1:0
{tls}  store: sqlite:admin.db
  tenants: [{}]
  limits: {{ {limits} }}
  access_keys:
    - {{ id: {}, secret: file:operator.secret, role: operator }}
    - {{ id: {}, secret: file:reader.secret, role: reader }}
",
            names.join(", "),
            OPERATOR.0,
            READER.0
        );
        write(directory.path(), "proxy.yaml", &config);
        let mut command = serve(directory.path());
        let mut process = Process::start(directory, &mut command);
        let address = listening(&mut process, "admin");
        Self { address, ca, process }
    }

    pub fn scheme(&self) -> &'static str {
        if self.ca.is_some() { "https" } else { "http" }
    }

    /// Everything that the program has written.
    pub fn written(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }
}
