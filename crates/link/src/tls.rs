//! TLS 1.3 in both directions: who is believed, and on what grounds.

use std::sync::{Arc, Mutex, PoisonError};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};

use crate::certificate::{self, Peer, Role};
use crate::{AuthorityId, Identity};

/// The protocol this version of the link speaks (ALPN).
pub const PROTOCOL: &str = "exeunt/1";

/// What a client knows of its coordinator before it connects.
#[derive(Debug, Clone)]
pub(crate) enum Pin {
    /// A token's word: the fingerprint of the authority's key.
    Fingerprint(AuthorityId),
    /// What was learnt when joining: the authority's certificate.
    Certificate(CertificateDer<'static>),
}

impl Pin {
    fn id(&self) -> Option<AuthorityId> {
        match self {
            Self::Fingerprint(id) => Some(*id),
            Self::Certificate(der) => fingerprint(der),
        }
    }
}

fn fingerprint(der: &[u8]) -> Option<AuthorityId> {
    let key = certificate::public_key(der).ok()?;
    Some(AuthorityId::of_public_key(&key))
}

/// Why a client does not believe a server. Kept beside the TLS error, which cannot carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Disbelief {
    Authority { found: Option<AuthorityId>, expected: Option<AuthorityId> },
    Role(Role),
    Dates(String),
    Certificate(String),
}

/// Verifies a coordinator's certificate: signed by the pinned authority, within its dates, made
/// for serving, and of the coordinator's role. Host names play no part.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pin: Pin,
    algorithms: WebPkiSupportedAlgorithms,
    verdict: Mutex<Option<Result<Peer, Disbelief>>>,
}

impl Coordinator {
    fn new(pin: Pin) -> Arc<Self> {
        Arc::new(Self {
            pin,
            algorithms: provider().signature_verification_algorithms,
            verdict: Mutex::new(None),
        })
    }

    /// What came of the handshake, if it came as far as the certificate.
    pub(crate) fn verdict(&self) -> Option<Result<Peer, Disbelief>> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, Disbelief> {
        let foreign = || Disbelief::Authority {
            found: others.last().and_then(|der| fingerprint(der)),
            expected: self.pin.id(),
        };
        let anchor = match &self.pin {
            Pin::Certificate(der) => der.clone(),
            Pin::Fingerprint(id) => others
                .iter()
                .find(|der| fingerprint(der) == Some(*id))
                .ok_or_else(foreign)?
                .clone()
                .into_owned(),
        };
        let unusable = |error: Error| Disbelief::Certificate(error.to_string());
        let mut roots = RootCertStore::empty();
        roots.add(anchor).map_err(unusable)?;
        let parsed = ParsedCertificate::try_from(leaf).map_err(unusable)?;
        // The authority signs members directly: no certificate in between is believed.
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, self.algorithms.all).map_err(
            |error| match error {
                Error::InvalidCertificate(
                    TlsCertificateError::UnknownIssuer | TlsCertificateError::BadSignature,
                ) => foreign(),
                Error::InvalidCertificate(
                    ref dates @ (TlsCertificateError::ExpiredContext { .. }
                    | TlsCertificateError::NotValidYetContext { .. }),
                ) => Disbelief::Dates(dates.to_string()),
                // A member of the right authority, and not made for serving.
                Error::InvalidCertificate(
                    TlsCertificateError::InvalidPurpose | TlsCertificateError::InvalidPurposeContext { .. },
                ) => role_of(leaf).map_or_else(unusable_certificate, Disbelief::Role),
                other => Disbelief::Certificate(other.to_string()),
            },
        )?;
        let peer = certificate::read(leaf).map_err(unusable_certificate)?.peer;
        match peer.role {
            Role::Coordinator => Ok(peer),
            other => Err(Disbelief::Role(other)),
        }
    }
}

fn unusable_certificate(error: certificate::CertificateError) -> Disbelief {
    Disbelief::Certificate(error.to_string())
}

fn role_of(leaf: &[u8]) -> Result<Role, certificate::CertificateError> {
    Ok(certificate::read(leaf)?.peer.role)
}

impl ServerCertVerifier for Coordinator {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.judge(leaf, others, now);
        let answer = match &verdict {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(Disbelief::Authority { .. }) => Err(TlsCertificateError::UnknownIssuer.into()),
            Err(Disbelief::Dates(_)) => Err(TlsCertificateError::Expired.into()),
            Err(Disbelief::Role(_)) => Err(TlsCertificateError::InvalidPurpose.into()),
            Err(Disbelief::Certificate(_)) => Err(TlsCertificateError::ApplicationVerificationFailure.into()),
        };
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        answer
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // QUIC has no TLS 1.2.
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn configuration(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A client's side: with an identity for ordinary connections, without one for joining.
pub(crate) fn client(
    pin: Pin,
    identity: Option<&Identity>,
) -> Result<(quinn::ClientConfig, Arc<Coordinator>), String> {
    let verifier = Coordinator::new(pin);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(configuration)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone());
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain(), identity.private_key()).map_err(configuration)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![PROTOCOL.into()];
    // A resumed session would skip the verification above.
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // The name is a constant that nobody looks at.
    config.enable_sni = false;
    let quic = QuicClientConfig::try_from(config).map_err(configuration)?;
    Ok((quinn::ClientConfig::new(Arc::new(quic)), verifier))
}

/// The server's side: a client's certificate must come from the same authority, be within its
/// dates and made for connecting; a client without one is let in as far as the greeting.
pub(crate) fn server(identity: &Identity) -> Result<quinn::ServerConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority_certificate()).map_err(configuration)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(configuration)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(configuration)?
        .with_client_cert_verifier(clients)
        .with_single_cert(identity.chain(), identity.private_key())
        .map_err(configuration)?;
    config.alpn_protocols = vec![PROTOCOL.into()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    let quic = QuicServerConfig::try_from(config).map_err(configuration)?;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(quic)))
}

/// Who a verified connection's other end is, if it showed a certificate.
///
/// # Errors
/// When the certificate, though signed by the authority, says nothing we understand.
pub(crate) fn peer(
    connection: &quinn::Connection,
) -> Result<Option<certificate::Facts>, certificate::CertificateError> {
    connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|chain| chain.into_iter().next())
        .map(|leaf| certificate::read(&leaf))
        .transpose()
}
