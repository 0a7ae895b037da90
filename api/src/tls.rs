//! TLS: the certificate that the service shows, read from two PEM files and read again when they change.
//!
//! Invariants: a certificate is shown with the key that belongs to it, or not at all; files that cannot be used end a
//! start, and later they are told and the certificate before stays. The cryptography is ring's, whatever else is there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::Error;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_mins(1);

/// The one protocol that is spoken, as clients are told it (RFC 7301).
const PROTOCOL: &[u8] = b"http/1.1";

/// A certificate with its key. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Files>);

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    shown: RwLock<Shown>,
}

/// What is shown now, and the texts that it was read from.
struct Shown {
    texts: Texts,
    acceptor: TlsAcceptor,
}

#[derive(PartialEq, Eq)]
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Reads a certificate with those that lead from it to an authority, and its key.
    ///
    /// # Errors
    /// [`Error::Tls`] where a file cannot be read, is not what it should be, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let texts = Texts::read(certificate, key)?;
        let acceptor = texts.acceptor(certificate, key)?;
        let shown = RwLock::new(Shown { texts, acceptor });
        Ok(Self(Arc::new(Files { certificate: certificate.to_owned(), key: key.to_owned(), shown })))
    }

    /// What shakes hands.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.shown.read().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// Reads the files again; whether they show another certificate now.
    fn look(&self) -> Result<bool, Error> {
        let Files { certificate, key, shown } = &*self.0;
        let texts = Texts::read(certificate, key)?;
        if shown.read().unwrap_or_else(PoisonError::into_inner).texts == texts {
            return Ok(false);
        }
        let acceptor = texts.acceptor(certificate, key)?;
        *shown.write().unwrap_or_else(PoisonError::into_inner) = Shown { texts, acceptor };
        Ok(true)
    }

    /// Looks again and again until the service ends.
    pub(crate) async fn follow(&self, ending: &CancellationToken) {
        loop {
            tokio::select! { () = tokio::time::sleep(LOOK) => {}, () = ending.cancelled() => return }
            let tls = self.clone();
            match tokio::task::spawn_blocking(move || tls.look()).await {
                Ok(Ok(true)) => info!("another certificate is shown from now on"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => warn!(%error, "the certificate cannot be read again; the one before is shown"),
                Err(error) => warn!(%error, "a defect of the program: the certificate was not read again"),
            }
        }
    }
}

impl Texts {
    fn read(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let read = |path: &Path| fs::read(path).map_err(|error: io::Error| unusable(path, &error));
        Ok(Self { certificate: read(certificate)?, key: read(key)? })
    }

    /// The paths are for people.
    fn acceptor(&self, certificate: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, pem::Error>>();
        let chain = chain.map_err(|error| unusable(certificate, &error))?;
        if chain.is_empty() {
            return Err(unusable(certificate, &"it has no section BEGIN CERTIFICATE"));
        }
        let secret = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| unusable(key, &error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().map_err(|error| unusable(certificate, &error))?;
        let config = config.with_no_client_auth().with_single_cert(chain, secret);
        let mut config = config.map_err(|error| match error {
            rustls::Error::InvalidCertificate(_) => unusable(certificate, &error),
            _ => unusable(key, &error),
        })?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::Tls { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use domain::ErrorKind;
    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
    use tempfile::TempDir;

    use super::*;

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn holds(&self, certificate: &str, key: &str) {
            fs::write(self.path("cert.pem"), certificate).unwrap();
            fs::write(self.path("key.pem"), key).unwrap();
        }

        fn load(&self) -> Result<Tls, Error> {
            Tls::load(&self.path("cert.pem"), &self.path("key.pem"))
        }
    }

    fn pair() -> (String, String) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_reason() {
        let folder = Folder::new();
        let (certificate, key) = pair();
        let other = KeyPair::generate().unwrap().serialize_pem();
        let refusal = |certificate: &str, key: &str| {
            folder.holds(certificate, key);
            let error = folder.load().err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            error.to_string()
        };
        let missing = folder.load().err().unwrap().to_string();
        assert!(missing.contains("cert.pem") && missing.contains("No such file"), "{missing}");
        for (sentence, file) in [
            (refusal("", &key), "cert.pem"),
            (refusal(&key, &key), "cert.pem"),
            (refusal(&certificate.replace("MII", "!!!"), &key), "cert.pem"),
            (refusal(&certificate, ""), "key.pem"),
            (refusal(&certificate, &certificate), "key.pem"),
            (refusal(&certificate, &other), "key.pem"),
        ] {
            assert!(sentence.contains(file) && sentence.contains("http.tls_key"), "{sentence}");
            assert!(!sentence.contains("BEGIN PRIVATE"), "{sentence}");
        }
        folder.holds(&certificate, &key);
        assert!(folder.load().is_ok());
    }

    #[test]
    fn another_certificate_is_shown_once_both_of_its_files_are_there() {
        let folder = Folder::new();
        let ((certificate, key), (next, next_key)) = (pair(), pair());
        folder.holds(&certificate, &key);
        let tls = folder.load().unwrap();
        assert!(!tls.look().unwrap());
        folder.holds(&next, &key);
        assert!(tls.look().is_err());
        assert_eq!(tls.0.shown.read().unwrap().texts.certificate, certificate.as_bytes());
        folder.holds(&next, &next_key);
        assert!(tls.look().unwrap() && !tls.look().unwrap());
        assert_eq!(tls.0.shown.read().unwrap().texts.certificate, next.as_bytes());
    }
}
