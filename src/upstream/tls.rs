//! TLS to endpoints trusts the built-in authorities, those of `SSL_CERT_FILE`, and the endpoint's `caFile`.

use crate::config::{Base, CaFile, system_authorities};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// `None` for an endpoint without TLS.
pub(super) fn client(
    base: &Base,
    own: Option<&CaFile>,
) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>, String> {
    if !base.tls {
        return Ok(None);
    }
    let name =
        ServerName::try_from(base.host.clone()).map_err(|_| "its host is no name that a certificate can have")?;
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let more = own.iter().flat_map(|own| own.certificates.iter()).chain(system_authorities());
    // Unusable certificates are skipped.
    let (_, unusable) = roots.add_parsable_certificates(more.map(|der| CertificateDer::from(der.as_slice())));
    if unusable > 0 {
        log::warn!("{unusable} certificates of authorities for {} cannot be used", base.host);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some((Arc::new(config), name)))
}
