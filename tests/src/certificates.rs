//! Certificates and keys for tests, made by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// An authority that lives in a directory.
pub struct Authority {
    directory: PathBuf,
}

/// A certificate and its key, as files.
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one in a directory that is there.
    pub fn new(directory: &Path) -> Result<Authority> {
        let authority = Authority { directory: directory.to_path_buf() };
        authority.openssl(
            "req -new -x509 -days 9 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=authority \
             -keyout ca.key -out ca.crt",
        )?;
        Ok(authority)
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Makes `NAME.crt` and `NAME.key`, good for localhost and 127.0.0.1, in place of what has these names.
    pub fn issue(&self, name: &str) -> Result<Issued> {
        fs::write(self.directory.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1")?;
        self.openssl(&format!(
            "req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN={name} -keyout {name}.key \
             -out {name}.csr"
        ))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -extfile names -out {name}.crt"
        ))?;
        let place = |extension| self.directory.join(format!("{name}.{extension}"));
        Ok(Issued { certificate: place("crt"), key: place("key") })
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        openssl(&self.directory, arguments)
    }
}

/// Makes an Ed25519 key that signs nothing: `private.pem` in `directory`, and its public half in the file `public`.
pub fn make_ed25519_key(directory: &Path, public: &Path) -> Result<()> {
    openssl(directory, "genpkey -algorithm ed25519 -out private.pem")?;
    openssl(directory, &format!("pkey -in private.pem -pubout -out {}", public.display()))
}

fn openssl(directory: &Path, arguments: &str) -> Result<()> {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let output = output.context("this test needs openssl: apt-get install openssl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
