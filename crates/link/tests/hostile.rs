//! Peers that do not play by the rules, written with bare quinn.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{Federation, expect_peer, loopback, within};
use exeunt_link::{ConnectError, Identity, Limits, PROTOCOL, Role, Server, connect};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// Believes everybody.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("no TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn chain_and_key(directory: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = fs::read(directory.join("certificates.pem")).expect("stored");
    let chain = pem::parse_many(chain)
        .expect("PEM")
        .into_iter()
        .map(|section| section.into_contents().into())
        .collect();
    let key = fs::read(directory.join("key.pem")).expect("stored");
    let key = pem::parse(key).expect("PEM").into_contents();
    (chain, PrivateKeyDer::Pkcs8(key.into()))
}

async fn intrude(server: &Server, identity: Option<&Identity>) -> quinn::Connection {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider())));
    let mut config = match identity {
        Some(identity) => {
            let (chain, key) = chain_and_key(identity.directory());
            builder.with_client_auth_cert(chain, key).expect("usable")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![PROTOCOL.into()];
    let config = QuicClientConfig::try_from(config).expect("usable");
    let endpoint = quinn::Endpoint::client(loopback()).expect("a socket");
    let connecting = endpoint
        .connect_with(quinn::ClientConfig::new(Arc::new(config)), server.local_addr(), "exeunt")
        .expect("connecting");
    within(connecting).await.expect("a handshake")
}

fn code(error: &quinn::ConnectionError) -> Option<u64> {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

/// The server is alive and has nothing to report but this one member.
async fn still_serves(federation: &Federation, server: &Server) {
    let node = federation.node("honest");
    let list = [server.local_addr().into()];
    let (near, far) = within(async { tokio::join!(connect(&list, &node), expect_peer(server)) }).await;
    near.expect("connected");
    assert_eq!(far.peer().id, node.id());
}

#[tokio::test]
async fn without_a_certificate_only_joining_is_open() {
    let federation = Federation::new();
    let server = federation.serve().await;
    // An ordinary stream, a greeting, a renewal, and a purpose nobody knows.
    for tag in [0u8, 1, 3, 200] {
        let connection = intrude(&server, None).await;
        let (mut send, _recv) = within(connection.open_bi()).await.expect("one stream");
        within(send.write_all(&[tag, 1, 0, 0, 0, 7])).await.expect("written");
        let closed = within(connection.closed()).await;
        assert_eq!(code(&closed), Some(5), "{tag}: {closed}");
        assert!(closed.to_string().contains("can only join"), "{closed}");
    }
    still_serves(&federation, &server).await;
}

#[tokio::test]
async fn without_a_certificate_there_is_one_small_stream() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let connection = intrude(&server, None).await;
    let (mut send, _recv) = within(connection.open_bi()).await.expect("one stream");
    // The beginning of a join request whose end never comes, so that the server waits.
    within(send.write_all(&[2, 0, 16, 0, 0])).await.expect("written");
    let second = tokio::time::timeout(Duration::from_millis(200), connection.open_bi()).await;
    assert!(second.is_err(), "a second stream was granted");
}

#[tokio::test]
async fn malformed_join_requests_are_answered_and_cost_nothing() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let declared = |length: u32| [&[2u8][..], &length.to_le_bytes()].concat();
    let rubbish = [declared(5), vec![0xff; 5]].concat();
    for bytes in [declared(u32::MAX), declared(8193), rubbish] {
        let connection = intrude(&server, None).await;
        let (mut send, mut recv) = within(connection.open_bi()).await.expect("one stream");
        within(send.write_all(&bytes)).await.expect("written");
        let answer = within(recv.read_to_end(10_000)).await.expect("an answer");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("a message of"), "{text}");
        connection.close(0u32.into(), b"");
    }
    still_serves(&federation, &server).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (federation, other) = (Federation::new(), Federation::new());
    let server = federation.serve().await;
    let stranger = other.node("stranger");
    // The client is done before the server has seen its certificate; the alert comes after.
    let connection = intrude(&server, Some(&stranger)).await;
    let closed = within(connection.closed()).await;
    let quinn::ConnectionError::ConnectionClosed(close) = &closed else {
        panic!("expected an alert, found {closed:?}");
    };
    let unknown_ca = quinn::TransportErrorCode::crypto(48);
    let decrypt_error = quinn::TransportErrorCode::crypto(51);
    assert!(close.error_code == unknown_ca || close.error_code == decrypt_error, "{closed}");
    still_serves(&federation, &server).await;
}

#[tokio::test]
async fn a_member_that_does_not_greet_is_closed() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let node = federation.node("rude");
    for tag in [0u8, 2, 3] {
        let connection = intrude(&server, Some(&node)).await;
        let (mut send, _recv) = within(connection.open_bi()).await.expect("one stream");
        within(send.write_all(&[tag])).await.expect("written");
        let closed = within(connection.closed()).await;
        assert_eq!(code(&closed), Some(4), "{tag}: {closed}");
    }
    still_serves(&federation, &server).await;
}

#[tokio::test]
async fn whoever_says_nothing_loses_its_place() {
    let federation = Federation::new();
    let mut limits = Limits::default();
    limits.greeting_timeout = Duration::from_millis(300);
    limits.max_greetings = 1;
    let server = federation.serve_with(limits).await;
    let connection = intrude(&server, None).await;
    // The only place is taken until the silent one is given up.
    still_serves(&federation, &server).await;
    within(connection.closed()).await;
}

#[tokio::test]
async fn a_node_cannot_pose_as_the_coordinator() {
    let federation = Federation::new();
    let (victim, impostor) = (federation.node("victim"), federation.node("impostor"));
    let endpoint = serve_raw(&impostor, PROTOCOL);
    let list = [endpoint.local_addr().expect("bound").into()];
    let error = within(connect(&list, &victim)).await.expect_err("an impostor");
    assert!(matches!(error, ConnectError::NotCoordinator { found: Role::Node, .. }), "{error:?}");
}

#[tokio::test]
async fn another_protocol_version_is_named() {
    let federation = Federation::new();
    let node = federation.node("node");
    let endpoint = serve_raw(&federation.coordinator, "exeunt/2");
    let list = [endpoint.local_addr().expect("bound").into()];
    let error = within(connect(&list, &node)).await.expect_err("too new");
    assert!(matches!(error, ConnectError::Version { expected: PROTOCOL, .. }), "{error:?}");
    assert!(error.to_string().contains("exeunt/1"), "{error}");
}

#[tokio::test]
async fn a_swapped_authority_does_not_help() {
    // The right authority's certificate is shown, but another one signed.
    let (federation, other) = (Federation::new(), Federation::new());
    let node = federation.node("node");
    let forged = other.member_at("forged", Role::Coordinator, SystemTime::now());
    let path = forged.directory().join("certificates.pem");
    let theirs = fs::read_to_string(&path).expect("stored");
    let ours =
        fs::read_to_string(federation.coordinator.directory().join("certificates.pem")).expect("stored");
    let mut swapped = pem::parse_many(theirs).expect("PEM");
    swapped[1] = pem::parse_many(ours).expect("PEM").swap_remove(1);
    fs::write(&path, pem::encode_many(&swapped)).expect("written");
    assert!(Identity::load(forged.directory()).is_err());
    let endpoint = serve_raw(&forged, PROTOCOL);
    let list = [endpoint.local_addr().expect("bound").into()];
    let error = within(connect(&list, &node)).await.expect_err("forged");
    assert!(matches!(error, ConnectError::WrongAuthority { .. }), "{error:?}");
}

/// A server that believes everybody, with this identity and protocol.
fn serve_raw(identity: &Identity, protocol: &str) -> quinn::Endpoint {
    let (chain, key) = chain_and_key(identity.directory());
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("usable");
    config.alpn_protocols = vec![protocol.into()];
    let config = QuicServerConfig::try_from(config).expect("usable");
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let endpoint = quinn::Endpoint::server(config, loopback()).expect("serving");
    let door = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = door.accept().await {
            tokio::spawn(async move {
                if let Ok(connecting) = incoming.accept()
                    && let Ok(connection) = connecting.await
                {
                    connection.closed().await;
                }
            });
        }
    });
    endpoint
}
