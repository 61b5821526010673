//! Renewal: the same key, the same role, the same name, new dates.
//!
//! The handshake of the connection has proved the key, so the request needs no words.

use std::fmt;
use std::time::SystemTime;

use rcgen::SubjectPublicKeyInfo;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::certificate::{self, CertificateError, Peer};
use crate::close::Closed;
use crate::connection::Connection;
use crate::greeting::Tag;
use crate::identity::{Identity, IdentityError};
use crate::join::Rejection;
use crate::limits::MAX_GREETING;
use crate::stream::{Receiver, RecvError, SendError, Sender};
use crate::{AnswerError, Authority};

#[derive(Serialize, Deserialize)]
enum Answer {
    Certificate(Vec<u8>),
    Rejected(Rejection),
}

/// Why a renewal failed. The old certificate stays good until it expires.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RenewError {
    /// The coordinator said no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The connection ended before the answer came.
    #[error("the renewal was interrupted: {0}")]
    Interrupted(Closed),
    /// The answer is not one.
    #[error("the coordinator's answer cannot be used: {0}")]
    Answer(String),
    /// The certificate cannot be stored or used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Asks the coordinator for a new certificate and stores it. The identity returned is for the
/// next connections; this one goes on with the old.
///
/// # Errors
/// See [`RenewError`].
pub async fn renew(connection: &Connection, identity: &Identity) -> Result<Identity, RenewError> {
    let (mut sender, mut receiver) = connection.open(Tag::Renewal).await.map_err(RenewError::Interrupted)?;
    // A refusal shows in the answer.
    if let Err(SendError::Closed(closed)) = sender.finish().await {
        return Err(RenewError::Interrupted(closed));
    }
    let answer = receiver.expect::<Answer>(MAX_GREETING).await.map_err(|error| match error {
        RecvError::Closed(closed) => RenewError::Interrupted(closed),
        other => RenewError::Answer(other.to_string()),
    })?;
    match answer {
        Answer::Certificate(certificate) => Ok(identity.renewed(&certificate)?),
        Answer::Rejected(rejection) => Err(rejection.into()),
    }
}

/// A member asks for a new certificate. Dropping the request refuses it without a reason.
pub struct RenewalRequest {
    sender: Sender,
    _receiver: Receiver,
    connection: Connection,
}

impl RenewalRequest {
    pub(crate) fn new(sender: Sender, receiver: Receiver, connection: Connection) -> Self {
        Self { sender, _receiver: receiver, connection }
    }

    /// Who asks.
    pub fn peer(&self) -> &Peer {
        self.connection.peer()
    }

    /// Issues and sends a certificate with the same key, role and name. Returns when it expires.
    ///
    /// # Errors
    /// When it cannot be made, or did not reach the member.
    pub async fn accept(mut self, authority: &Authority, now: SystemTime) -> Result<SystemTime, AnswerError> {
        let key = SubjectPublicKeyInfo::from_der(self.connection.public_key())
            .map_err(|error| CertificateError::Making(error.to_string()))?;
        let peer = self.connection.peer();
        let certificate = authority.sign(&key, peer.role, &peer.name, now)?;
        let expires = certificate::read(&certificate)?.peer.expires;
        self.answer(&Answer::Certificate(certificate)).await?;
        Ok(expires)
    }

    /// Says no, and why.
    ///
    /// # Errors
    /// When the news did not reach the member.
    pub async fn reject(mut self, rejection: Rejection) -> Result<(), AnswerError> {
        self.answer(&Answer::Rejected(rejection)).await
    }

    async fn answer(&mut self, answer: &Answer) -> Result<(), AnswerError> {
        self.sender.send(answer).await?;
        Ok(self.sender.finish().await?)
    }
}

impl fmt::Debug for RenewalRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewalRequest").field("peer", self.peer()).finish_non_exhaustive()
    }
}
