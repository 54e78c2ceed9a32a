//! TLS of the API: the operator's certificate on the server's side, and on a command's side the
//! knowledge of exactly that one.
//!
//! A command runs beside the server and reads its runtime file, which bears the SHA-256 of the
//! certificate. That says more than any authority could, so nothing else is asked: no name, no time,
//! no chain.
//!
//! Not here: connections (`crate::api`, `crate::client`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::fault::Fault;

/// Where the operator keeps them, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A server's side.
pub struct ServerTls {
    /// Makes connections of it.
    pub acceptor: TlsAcceptor,
    /// The SHA-256 of the certificate, in hex.
    pub fingerprint: String,
}

impl ServerTls {
    /// Reads certificate and key, and checks that they belong together.
    ///
    /// # Errors
    /// When they cannot be read or do not.
    pub fn read(files: &TlsFiles) -> Result<ServerTls> {
        let chain = certificates(&files.certificate)?;
        let fingerprint = fingerprint(&chain[0]);
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| unusable("http.tls_key", &files.key, &error))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| unusable("http.tls_cert", &files.certificate, &error))?;
        Ok(ServerTls { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = read.map_err(|error| unusable("http.tls_cert", path, &error))?;
    if chain.is_empty() {
        return Err(unusable("http.tls_cert", path, &"there is no certificate in it"));
    }
    Ok(chain)
}

fn unusable(key: &str, path: &Path, problem: &dyn std::fmt::Display) -> anyhow::Error {
    Fault::Usage(format!("{key}, {}, cannot be used: {problem}", path.display())).into()
}

/// The SHA-256 of a certificate, in hex.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A command's side, which speaks to the server with this certificate alone.
///
/// # Errors
/// When the TLS library does not go with itself.
pub fn connector(fingerprint: &str) -> Result<TlsConnector> {
    let provider = provider();
    let only = OnlyThis { fingerprint: fingerprint.to_owned(), provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot speak TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(only))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Knows one certificate. That its owner is on the line the signatures of the handshake show.
#[derive(Debug)]
struct OnlyThis {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OnlyThis {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if fingerprint(certificate) == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
