//! Joining: a newcomer's key becomes a member's.
//!
//! The newcomer believes the server because its authority's fingerprint is in the token; the
//! server believes the newcomer because it knows the token's secret. Whether a secret is good, and
//! that it is good once, is decided by the coordinator, which keeps the secrets in its store.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::PublicKeyData as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::certificate::{self, CertificateError, NameError, Role, check_name};
use crate::client::{Client, ConnectError};
use crate::close::{CloseCode, Closed, Reason};
use crate::connection::{self, Core};
use crate::greeting::Tag;
use crate::identity::{Identity, IdentityError};
use crate::limits::{LINGER, MAX_GREETING};
use crate::stream::{Receiver, RecvError, SendError, Sender};
use crate::tls::Pin;
use crate::{Authority, AuthorityId, PeerId, Secret, Token};

/// What a newcomer says.
#[derive(Serialize, Deserialize)]
pub(crate) struct JoinHello {
    secret: Secret,
    name: String,
    request: Vec<u8>,
}

/// What it is told.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Certificate { certificate: Vec<u8>, authority: Vec<u8> },
    Rejected(Rejection),
}

/// Why a coordinator does not issue a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Rejection {
    /// No token with this secret was made, or it was withdrawn.
    #[error("the coordinator does not know this token: ask for a new one")]
    TokenUnknown,
    /// Somebody joined with it already.
    #[error("this token was used before: ask for a new one")]
    TokenUsed,
    /// Its time is over.
    #[error("this token has expired: ask for a new one")]
    TokenExpired,
    /// The name cannot be used, and why.
    #[error("the name cannot be used: {0}")]
    Name(String),
    /// The request cannot be understood or its proof is wrong.
    #[error("the coordinator does not understand the request: {0}")]
    Malformed(String),
    /// The coordinator cannot now; try again.
    #[error("the coordinator cannot issue a certificate now: {0}")]
    Unavailable(String),
}

impl Rejection {
    /// The name of the rejection, for logs and programs: `token_used` and the like.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TokenUnknown => "token_unknown",
            Self::TokenUsed => "token_used",
            Self::TokenExpired => "token_expired",
            Self::Name(_) => "name",
            Self::Malformed(_) => "malformed",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Why joining failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The name cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No connection to the coordinator.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The coordinator said no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The connection ended before the answer came. The same call may be made again.
    #[error("joining was interrupted: {0}")]
    Interrupted(Closed),
    /// The answer is not one.
    #[error("the coordinator's answer cannot be used: {0}")]
    Answer(String),
    /// The key or the certificate cannot be stored or used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Joins with the default [`Limits`](crate::Limits); see [`Client::join`].
///
/// # Errors
/// See [`JoinError`].
pub async fn join(token: &Token, name: &str, directory: impl AsRef<Path>) -> Result<Identity, JoinError> {
    let client = Client::default();
    let joined = client.join(token, name, directory).await;
    client.close(CloseCode::Finished).await;
    joined
}

pub(crate) async fn run(
    client: &Client,
    token: &Token,
    name: &str,
    directory: &Path,
) -> Result<Identity, JoinError> {
    check_name(name)?;
    let key = Identity::key_in(directory)?;
    let unusable = |source: CertificateError| JoinError::Answer(source.to_string());
    let request = certificate::request(&key).map_err(unusable)?;
    let pin = Pin::Fingerprint(token.authority());
    let found = client.race(token.addresses(), &pin, None).await?;
    let core = found.core;
    let exchange = async {
        let (mut sender, mut receiver) =
            connection::open(&core, Tag::Join).await.map_err(JoinError::Interrupted)?;
        let hello = JoinHello { secret: token.secret().clone(), name: name.to_owned(), request };
        sender.send(&hello).await.map_err(sending)?;
        sender.finish().await.map_err(sending)?;
        receiver.expect::<Answer>(MAX_GREETING).await.map_err(|error| match error {
            RecvError::Closed(closed) => JoinError::Interrupted(closed),
            other => JoinError::Answer(other.to_string()),
        })
    };
    // The coordinator writes the spent secret to disk before it answers.
    let patience = client.limits().greeting_timeout;
    let answer = match timeout(patience, exchange).await {
        Ok(answer) => answer?,
        Err(_elapsed) => return Err(JoinError::Interrupted(Closed::TimedOut { after: patience })),
    };
    core.close(CloseCode::Finished.into());
    match answer {
        Answer::Rejected(rejection) => Err(rejection.into()),
        Answer::Certificate { certificate, authority } => {
            let shown = certificate::public_key(&authority).map_err(unusable)?;
            let found = AuthorityId::of_public_key(&shown);
            if found != token.authority() {
                return Err(JoinError::Answer(format!(
                    "it comes from the authority {}, expected {}",
                    found.short(),
                    token.authority().short()
                )));
            }
            Ok(Identity::store(directory, &key, &certificate, &authority)?)
        }
    }
}

fn sending(error: SendError) -> JoinError {
    match error {
        SendError::Closed(closed) => JoinError::Interrupted(closed),
        other => JoinError::Answer(other.to_string()),
    }
}

/// Why an answer did not reach the newcomer. Its certificate is not lost: the newcomer asks
/// again with the same key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The certificate could not be made; nothing was sent.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The name given cannot stand in a certificate; nothing was sent.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The other end was gone or deaf.
    #[error("the answer was not delivered: {0}")]
    Send(#[from] SendError),
    /// The other end did not take the answer in.
    #[error("the answer was not acknowledged")]
    Timeout,
}

/// A newcomer at the door. It has proved that it owns the key of [`peer_id`](Self::peer_id); it
/// claims a secret and a name. Dropping the request turns the newcomer away without a reason.
///
/// The coordinator looks the secret's digest up in its store and, in one transaction, marks it
/// as spent *by this key* before it calls [`accept`](Self::accept). A secret that was spent by
/// the same key is accepted again: then the answer had been lost on the way.
pub struct JoinRequest(Box<Request>);

struct Request {
    core: Arc<Core>,
    sender: Sender,
    hello: JoinHello,
    key: rcgen::PublicKey,
    peer_id: PeerId,
    _place: OwnedSemaphorePermit,
}

impl JoinRequest {
    /// Reads the request on a fresh stream and checks its proof. Whoever cannot is told so.
    pub(crate) async fn read(
        core: Arc<Core>,
        sender: Sender,
        mut receiver: Receiver,
        place: OwnedSemaphorePermit,
    ) -> Option<Self> {
        let mut sender = sender;
        let read = receiver.expect::<JoinHello>(MAX_GREETING).await;
        let malformed = match read {
            Ok(hello) => match check(&hello) {
                Ok(key) => {
                    let peer_id = PeerId::of_public_key(&key.subject_public_key_info());
                    return Some(Self(Box::new(Request {
                        core,
                        sender,
                        hello,
                        key,
                        peer_id,
                        _place: place,
                    })));
                }
                Err(rejection) => rejection,
            },
            Err(RecvError::Closed(_)) => return None,
            Err(error) => Rejection::Malformed(error.to_string()),
        };
        tracing::debug!(remote = %core.remote(), error = %malformed, "join request refused");
        // The newcomer may be gone; it was told what could be told.
        let _ = answer(&core, &mut sender, &Answer::Rejected(malformed)).await;
        None
    }

    /// The one-time secret shown.
    pub fn secret(&self) -> &Secret {
        &self.0.hello.secret
    }

    /// What the newcomer wants to be called.
    pub fn name(&self) -> &str {
        &self.0.hello.name
    }

    /// Who the newcomer will be.
    pub fn peer_id(&self) -> PeerId {
        self.0.peer_id
    }

    /// Where it asks from.
    pub fn remote(&self) -> SocketAddr {
        self.0.core.remote()
    }

    /// Issues a node's certificate under `name` and sends it. The secret must have been marked as
    /// spent before. Waits until the newcomer has the answer, for a few seconds at most.
    ///
    /// # Errors
    /// When the certificate cannot be made, or did not reach the newcomer.
    pub async fn accept(
        mut self,
        authority: &Authority,
        name: &str,
        now: SystemTime,
    ) -> Result<PeerId, AnswerError> {
        check_name(name)?;
        let certificate = authority.sign(&self.0.key, Role::Node, name, now)?;
        let message = Answer::Certificate { certificate, authority: authority.certificate().to_vec() };
        answer(&self.0.core, &mut self.0.sender, &message).await?;
        Ok(self.0.peer_id)
    }

    /// Turns the newcomer away and says why.
    ///
    /// # Errors
    /// When the news did not reach it.
    pub async fn reject(mut self, rejection: Rejection) -> Result<(), AnswerError> {
        answer(&self.0.core, &mut self.0.sender, &Answer::Rejected(rejection)).await
    }
}

fn check(hello: &JoinHello) -> Result<rcgen::PublicKey, Rejection> {
    check_name(&hello.name).map_err(|error| Rejection::Name(error.to_string()))?;
    certificate::requested_key(hello.request.clone()).map_err(|error| Rejection::Malformed(error.to_string()))
}

/// Sends the one answer of an exchange and waits until it has arrived.
async fn answer(core: &Core, sender: &mut Sender, message: &Answer) -> Result<(), AnswerError> {
    let told = async {
        sender.send(message).await?;
        sender.delivered().await
    };
    match timeout(LINGER, told).await {
        // The newcomer closes once it has read the answer, which may overtake its last
        // acknowledgement.
        Ok(Ok(()) | Err(SendError::Closed(Closed::ByPeer(Reason { code: CloseCode::Finished, .. })))) => {
            Ok(())
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_elapsed) => {
            core.close(Reason::new(CloseCode::Protocol, "the answer was not taken in"));
            Err(AnswerError::Timeout)
        }
    }
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest")
            .field("peer_id", &self.0.peer_id)
            .field("name", &self.0.hello.name)
            .field("remote", &self.remote())
            .finish_non_exhaustive()
    }
}
