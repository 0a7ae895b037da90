//! Encryption of the connections that this program makes: whom it trusts.
//!
//! The provider of the cryptography is named, because more than one is built in and rustls refuses to choose.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Trusts whom this machine trusts; its certificates are read anew so that mended ones count.
///
/// # Errors
/// Why there is no encryption, and what to do about it.
pub async fn by_machine() -> Result<ClientConfig, String> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
    let loaded = loaded.await.map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(loaded.certs).0 == 0 {
        let reason = loaded.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(format!("this machine has no root certificates{reason}: install ca-certificates"));
    }
    trusting(roots)
}

/// Trusts nobody: for clients that make no encrypted connection and want such settings all the same.
///
/// # Errors
/// As [`by_machine`].
pub fn by_nobody() -> Result<ClientConfig, String> {
    trusting(RootCertStore::empty())
}

fn trusting(roots: RootCertStore) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
