//! TLS to endpoints, which trusts the built-in authorities, those of `SSL_CERT_FILE`, and the endpoint's `caFile`.

use super::call::Call;
use crate::config::{Base, CaFile, system_authorities};
use crate::util::cancel::{PollFlags, ready};
use crate::util::time;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// What TLS to one endpoint needs.
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// `None` for an endpoint without TLS.
    pub(super) fn new(base: &Base, own: Option<&CaFile>) -> Result<Option<Self>, String> {
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
        Ok(Some(Self { config: Arc::new(config), name }))
    }

    /// Makes an encrypted connection of a socket that does not block.
    pub(super) fn handshake(&self, socket: &TcpStream, call: &Call) -> io::Result<ClientConnection> {
        let mut client =
            ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(io::Error::other)?;
        while client.is_handshaking() {
            client.complete_io(&mut Blocking { socket, call })?;
        }
        Ok(client)
    }
}

/// A socket that waits, for the handshake of TLS.
struct Blocking<'a> {
    socket: &'a TcpStream,
    call: &'a Call,
}

impl Blocking<'_> {
    fn wait(&self, wanted: PollFlags) -> io::Result<()> {
        let patience = self.call.patience(time::now()).ok_or(io::ErrorKind::TimedOut)?;
        ready(self.socket, wanted, self.call.cancel.as_deref(), patience)?;
        if self.call.is_cancelled() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl Read for Blocking<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                done => return done,
            }
        }
    }
}

impl Write for Blocking<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
