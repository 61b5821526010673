//! What lets a restarted server tell its peers that it has forgotten them.
//!
//! QUIC's stateless reset (RFC 9000, section 10.3): whoever receives a packet of a connection it does not know answers
//! with a token that only the owner of a secret can make. The secret is derived from the server's private key, so it
//! survives a restart; peers then learn of it with their next packet instead of after the idle timeout.

use std::sync::Arc;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use rand::RngCore as _;

use crate::Identity;

/// Bytes of a connection id; with 8, a collision among 10,000 connections is a matter of 10^11 tries.
const ID_BYTES: usize = 8;

/// An endpoint of this identity, whose resets are believed across restarts.
pub(crate) fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let key = blake3::derive_key("exeunt 1 stateless reset", identity.private_key().secret_der());
    let mut config = EndpointConfig::new(Arc::new(Key(key)));
    // The library's default ids carry a tag under a key of the process, and packets with another tag are dropped
    // before a reset is thought of.
    config.cid_generator(|| Box::new(RandomIds));
    config
}

struct Key([u8; 32]);

impl HmacKey for Key {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Compares in constant time.
        let signature: &[u8; blake3::OUT_LEN] = signature.try_into().map_err(|_length| CryptoError)?;
        if blake3::keyed_hash(&self.0, data) == *signature { Ok(()) } else { Err(CryptoError) }
    }
}

struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; ID_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
