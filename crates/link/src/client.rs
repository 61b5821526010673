//! Connecting: several addresses, one connection.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::certificate::{Facts, Role};
use crate::close::{CloseCode, Closed, Reason, Refusal};
use crate::connection::{self, Connection, Core};
use crate::greeting::{Ready, Tag, Welcome};
use crate::join::{self, JoinError};
use crate::limits::{LINGER, Limits, MAX_GREETING};
use crate::stream::{RecvError, SendError, Sender};
use crate::tls::{self, Coordinator, Disbelief, PROTOCOL, Pin};
use crate::{Address, AuthorityId, Identity, Token};

/// Why one address did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The name has no address.
    #[error("the name cannot be resolved: {0}")]
    Name(String),
    /// Nobody answered.
    #[error("no answer within {} s", .after.as_secs_f32())]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// There is no way there from this machine.
    #[error("{0}")]
    Route(String),
}

/// One address that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The address as given, or the one its name led to.
    pub address: String,
    /// What came of it.
    pub error: AttemptError,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.error)
    }
}

struct Listed<'a>(&'a [Attempt]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{attempt}")?;
        }
        Ok(())
    }
}

/// How an unknown authority is shown.
fn shown(id: &Option<AuthorityId>) -> String {
    id.map_or_else(|| "none".to_owned(), |id| id.short())
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No address to try.
    #[error("there is no address to connect to")]
    NoAddress,
    /// Nobody answered: the coordinator is not running, or a firewall drops UDP on its port.
    #[error("no answer from the coordinator ({})", Listed(.attempts))]
    Unreachable {
        /// What was tried.
        attempts: Vec<Attempt>,
    },
    /// Somebody else answered, or the coordinator was set up again. Joining again with a new
    /// token is the way, after comparing the short ids with the coordinator's operator.
    #[error("the coordinator's certificate at {address} does not come from the authority this node joined: found {found}, expected {expected}", found = shown(.found), expected = shown(.expected))]
    WrongAuthority {
        /// Who answered.
        address: SocketAddr,
        /// The authority it showed, if any.
        found: Option<AuthorityId>,
        /// The authority known from the token or from joining.
        expected: Option<AuthorityId>,
    },
    /// A member of the right federation answered that is not the coordinator.
    #[error("{address} is a {found} of this federation, not its coordinator")]
    NotCoordinator {
        /// Who answered.
        address: SocketAddr,
        /// What it is.
        found: Role,
    },
    /// The coordinator's certificate has run out or is not valid yet, or this machine's clock is
    /// wrong.
    #[error("by this machine's clock the coordinator's certificate at {address} is not valid: {reason}")]
    Dates {
        /// Who answered.
        address: SocketAddr,
        /// The dates.
        reason: String,
    },
    /// The coordinator's certificate cannot be used.
    #[error("the coordinator's certificate at {address} cannot be used: {reason}")]
    Certificate {
        /// Who answered.
        address: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// The coordinator does not accept this member.
    #[error("the coordinator at {address} refuses: {refusal}")]
    Refused {
        /// Who answered.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// No protocol version in common.
    #[error(
        "the coordinator at {address} does not speak {expected}: the two programs' versions differ too much"
    )]
    Version {
        /// Who answered.
        address: SocketAddr,
        /// What this program speaks.
        expected: &'static str,
    },
    /// The connection was closed before it was of use.
    #[error("{address}: {closed}")]
    Closed {
        /// Who answered.
        address: SocketAddr,
        /// Why.
        closed: Closed,
    },
    /// This identity cannot be used for TLS.
    #[error("this identity cannot be used: {0}")]
    Identity(String),
}

impl ConnectError {
    /// Of several addresses' errors, the one that tells most is reported.
    fn weight(&self) -> u8 {
        match self {
            Self::WrongAuthority { .. } => 7,
            Self::NotCoordinator { .. } => 6,
            Self::Refused { .. } => 5,
            Self::Dates { .. } | Self::Certificate { .. } => 4,
            Self::Version { .. } => 3,
            Self::Closed { .. } => 2,
            Self::Unreachable { .. } | Self::NoAddress | Self::Identity(_) => 1,
        }
    }

    pub(crate) fn from_closed(address: SocketAddr, closed: Closed) -> Self {
        match closed {
            Closed::Refused(refusal) => Self::Refused { address, refusal },
            Closed::Version => Self::Version { address, expected: PROTOCOL },
            closed => Self::Closed { address, closed },
        }
    }
}

/// Connects to coordinators. One socket per address family, shared by all connections; they are
/// opened when first needed.
#[derive(Debug, Default)]
pub struct Client {
    limits: Limits,
    v4: Mutex<Option<quinn::Endpoint>>,
    v6: Mutex<Option<quinn::Endpoint>>,
}

/// Connects with the default [`Limits`]; see [`Client::connect`].
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(addresses: &[Address], identity: &Identity) -> Result<Connection, ConnectError> {
    Client::default().connect(addresses, identity).await
}

impl Client {
    /// A client with these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, v4: Mutex::new(None), v6: Mutex::new(None) }
    }

    /// Connects to the coordinator at the first of these addresses that answers. Each gets a
    /// short head start over the next, and names are resolved anew every time.
    ///
    /// # Errors
    /// Of several addresses' errors, the one that tells most.
    pub async fn connect(
        &self,
        addresses: &[Address],
        identity: &Identity,
    ) -> Result<Connection, ConnectError> {
        let pin = Pin::Certificate(identity.authority_certificate());
        let mut greeted = self.race(addresses, &pin, Some(identity)).await?;
        if let Some(hello) = greeted.hello.as_mut() {
            let ready = async {
                hello.send(&Ready).await?;
                hello.finish().await
            };
            if let Err(SendError::Closed(closed)) = ready.await {
                return Err(ConnectError::from_closed(greeted.address, closed));
            }
        }
        Ok(Connection::new(greeted.core, greeted.facts))
    }

    /// Joins the federation that a token leads to: makes a key in `directory` (or takes the one
    /// that is there), proves the token's secret, and stores the certificate beside the key.
    ///
    /// If the answer is lost on the way, the same call may be made again: the key is the same, so
    /// the coordinator can tell the newcomer from somebody who found the token.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join(
        &self,
        token: &Token,
        name: &str,
        directory: impl AsRef<Path>,
    ) -> Result<Identity, JoinError> {
        join::run(self, token, name, directory.as_ref()).await
    }

    /// Closes all connections of this client, tells the other ends why, and waits a moment for
    /// the news to go out.
    pub async fn close(&self, reason: impl Into<Reason>) {
        let reason = reason.into();
        for slot in [&self.v4, &self.v6] {
            let endpoint = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(endpoint) = endpoint {
                endpoint.close(reason.code.to_u32().into(), reason.text.as_bytes());
                // Silence is an answer too: the other end will time out.
                let _ = timeout(LINGER, endpoint.wait_idle()).await;
            }
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn endpoint(&self, towards: IpAddr) -> io::Result<quinn::Endpoint> {
        let (slot, any) = match towards {
            IpAddr::V4(_) => (&self.v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            IpAddr::V6(_) => (&self.v6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(endpoint) => Ok(endpoint.clone()),
            None => {
                let endpoint = quinn::Endpoint::client(SocketAddr::new(any, 0))?;
                *slot = Some(endpoint.clone());
                Ok(endpoint)
            }
        }
    }

    /// The first address that leads to the coordinator. With an identity the connection has been
    /// welcomed; without one nothing was said yet.
    pub(crate) async fn race(
        &self,
        addresses: &[Address],
        pin: &Pin,
        identity: Option<&Identity>,
    ) -> Result<Greeted, ConnectError> {
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        let mut silent = Vec::new();
        let mut told: Option<ConnectError> = None;
        let mut waiting = self.resolve(addresses, &mut silent).await.into_iter();
        let mut running = JoinSet::new();
        loop {
            if running.is_empty() {
                let Some(address) = waiting.next() else { break };
                self.start(&mut running, address, pin, identity)?;
            }
            let failure = tokio::select! {
                Some(ended) = running.join_next() => match ended {
                    Ok(Ok(greeted)) => return Ok(greeted),
                    Ok(Err(failure)) => Some(failure),
                    // A panic in the TLS library concerns this attempt alone.
                    Err(error) => Some(Failure::Silent(Attempt {
                        address: "an address".to_owned(),
                        error: AttemptError::Route(error.to_string()),
                    })),
                },
                () = sleep(self.limits.attempt_delay), if waiting.len() > 0 => None,
            };
            match failure {
                Some(Failure::Silent(attempt)) => silent.push(attempt),
                Some(Failure::Told(error)) => {
                    let best = told.as_ref().map_or(0, ConnectError::weight);
                    told = told.filter(|_| best >= error.weight()).or(Some(error));
                }
                None => {}
            }
            if let Some(address) = waiting.next() {
                self.start(&mut running, address, pin, identity)?;
            }
        }
        Err(told.unwrap_or(ConnectError::Unreachable { attempts: silent }))
    }

    async fn resolve(&self, addresses: &[Address], silent: &mut Vec<Attempt>) -> Vec<SocketAddr> {
        let mut found: Vec<SocketAddr> = Vec::new();
        for address in addresses {
            let looked_up = tokio::net::lookup_host((address.host(), address.port()));
            let error = match timeout(self.limits.connect_timeout, looked_up).await {
                Ok(Ok(list)) => {
                    let before = found.len();
                    for candidate in list {
                        if !found.contains(&candidate) {
                            found.push(candidate);
                        }
                    }
                    if found.len() > before || before > 0 {
                        continue;
                    }
                    AttemptError::Name("it has no address".to_owned())
                }
                Ok(Err(error)) => AttemptError::Name(error.to_string()),
                Err(_elapsed) => AttemptError::Timeout { after: self.limits.connect_timeout },
            };
            silent.push(Attempt { address: address.to_string(), error });
        }
        found
    }

    fn start(
        &self,
        running: &mut JoinSet<Result<Greeted, Failure>>,
        address: SocketAddr,
        pin: &Pin,
        identity: Option<&Identity>,
    ) -> Result<(), ConnectError> {
        let (mut config, verifier) = tls::client(pin.clone(), identity).map_err(ConnectError::Identity)?;
        config.transport_config(Arc::new(self.limits.client_transport()));
        let silent = move |error| Failure::Silent(Attempt { address: address.to_string(), error });
        let endpoint = self.endpoint(address.ip());
        let limits = self.limits.clone();
        let greets = identity.is_some();
        let you = identity.map(Identity::id);
        running.spawn(async move {
            let endpoint = endpoint.map_err(|error| silent(AttemptError::Route(error.to_string())))?;
            let connecting = endpoint
                .connect_with(config, address, "exeunt")
                .map_err(|error| silent(AttemptError::Route(error.to_string())))?;
            let attempt = async {
                let quic = match connecting.await {
                    Ok(quic) => quic,
                    Err(quinn::ConnectionError::TimedOut) => {
                        return Err(silent(AttemptError::Timeout { after: limits.idle_timeout }));
                    }
                    Err(error) => {
                        return Err(Failure::Told(explain(address, error, &verifier, &limits)));
                    }
                };
                let facts = match tls::peer(&quic) {
                    Ok(Some(facts)) => facts,
                    Ok(None) | Err(_) => {
                        return Err(Failure::Told(ConnectError::Certificate {
                            address,
                            reason: "it cannot be read".to_owned(),
                        }));
                    }
                };
                let core = Core::new(quic, &limits);
                let hello = if greets {
                    let hello = greet(&core, you).await;
                    Some(hello.map_err(|closed| Failure::Told(ConnectError::from_closed(address, closed)))?)
                } else {
                    None
                };
                Ok(Greeted { core, facts, address, hello })
            };
            match timeout(limits.connect_timeout, attempt).await {
                Ok(ended) => ended,
                Err(_elapsed) => Err(silent(AttemptError::Timeout { after: limits.connect_timeout })),
            }
        });
        Ok(())
    }
}

/// A connection to the right coordinator.
pub(crate) struct Greeted {
    pub(crate) core: Arc<Core>,
    pub(crate) facts: Facts,
    pub(crate) address: SocketAddr,
    hello: Option<Sender>,
}

enum Failure {
    /// Nobody there.
    Silent(Attempt),
    /// Somebody there, and something wrong.
    Told(ConnectError),
}

/// Says hello and waits to be welcome.
async fn greet(core: &Arc<Core>, you: Option<crate::PeerId>) -> Result<Sender, Closed> {
    let (sender, mut receiver) = connection::open(core, Tag::Hello).await?;
    match receiver.expect::<Welcome>(MAX_GREETING).await {
        Ok(welcome) if Some(welcome.you) == you => Ok(sender),
        Err(RecvError::Closed(closed)) => Err(closed),
        Ok(_) | Err(_) => {
            let reason = Reason::new(CloseCode::Protocol, "the welcome cannot be understood");
            core.close(reason.clone());
            Err(Closed::Here(reason))
        }
    }
}

/// What a failed handshake means.
fn explain(
    address: SocketAddr,
    error: quinn::ConnectionError,
    verifier: &Coordinator,
    limits: &Limits,
) -> ConnectError {
    match verifier.verdict() {
        Some(Err(Disbelief::Authority { found, expected })) => {
            ConnectError::WrongAuthority { address, found, expected }
        }
        Some(Err(Disbelief::Role(found))) => ConnectError::NotCoordinator { address, found },
        Some(Err(Disbelief::Dates(reason))) => ConnectError::Dates { address, reason },
        Some(Err(Disbelief::Certificate(reason))) => ConnectError::Certificate { address, reason },
        Some(Ok(_)) | None => {
            ConnectError::from_closed(address, Closed::from_quic(error, None, limits.idle_timeout))
        }
    }
}
