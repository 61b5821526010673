//! Serving: the door, and who has come through it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::certificate::{Facts, Role};
use crate::close::{CloseCode, Reason};
use crate::connection::{Connection, Core};
use crate::greeting::{Ready, Tag, Welcome};
use crate::join::JoinRequest;
use crate::limits::{LINGER, Limits, MAX_GREETING, SOCKET_BUFFER};
use crate::stream::{Receiver, Sender};
use crate::{Identity, PeerId, reset, tls};

/// How long a closing server waits for its socket to be let go of.
const FREED: Duration = Duration::from_millis(500);

/// Who came.
#[derive(Debug)]
pub enum Incoming {
    /// A member, with a connection ready for use.
    Peer(Connection),
    /// A newcomer who waits for an answer.
    Joining(JoinRequest),
}

/// Why a server cannot serve.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Another program has the address, perhaps another coordinator.
    #[error("the address {address} (UDP) is in use: stop the program that has it, or serve on another port")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address belongs to no interface of this machine.
    #[error("{address} is not an address of this machine: serve on one that is, or on 0.0.0.0 for all")]
    AddressNotHere {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be used for another reason.
    #[error("cannot serve on {address}: {error}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// Only a coordinator's identity can serve.
    #[error("a {found}'s identity cannot serve, a coordinator's is needed")]
    Role {
        /// The role of the identity given.
        found: Role,
    },
    /// The identity cannot be used for TLS.
    #[error("this identity cannot be used: {0}")]
    Identity(String),
}

/// Serves one address. Handshakes, greetings and the reading of join requests go on in the
/// background, within limits; [`accept`](Self::accept) gives what came of them. Dropping the
/// server closes every connection.
pub struct Server {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    socket: Weak<dyn quinn::AsyncUdpSocket>,
    arrived: tokio::sync::Mutex<mpsc::Receiver<Incoming>>,
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    members: Arc<Members>,
    places: Arc<Semaphore>,
}

impl Server {
    /// Begins to serve.
    ///
    /// # Errors
    /// When the address cannot be used or the identity is not a coordinator's.
    // Not `async` for waiting: the socket needs the runtime it is polled in.
    pub async fn bind(address: SocketAddr, identity: &Identity, limits: Limits) -> Result<Self, ServeError> {
        let (endpoint, freed) = endpoint(address, identity, &limits)?;
        let address = local_address(&endpoint, address)?;
        let shared = Arc::new(Shared {
            members: Arc::default(),
            places: Arc::new(Semaphore::new(limits.max_greetings)),
            limits,
        });
        let (arrivals, arrived) = mpsc::channel(shared.limits.backlog.max(1));
        tokio::spawn(open_door(endpoint.clone(), shared.clone(), arrivals));
        Ok(Self { endpoint, address, socket: freed, arrived: tokio::sync::Mutex::new(arrived), shared })
    }

    /// The address served, with the port that the system chose if none was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next member or newcomer; `None` once the server is closed. Cancel safe.
    pub async fn accept(&self) -> Option<Incoming> {
        self.arrived.lock().await.recv().await
    }

    /// Serves with a renewed identity from now on. Connections that exist are left alone.
    ///
    /// # Errors
    /// When the identity is not a coordinator's.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), ServeError> {
        let config = configuration(identity, &self.shared.limits)?;
        self.endpoint.set_server_config(Some(config));
        Ok(())
    }

    /// Closes this member's connections and lets it in no more, for as long as this server
    /// lives: tell it again after a restart, from the store.
    pub fn revoke(&self, member: PeerId) {
        self.shared.members.revoke(member);
    }

    /// Takes a revocation back.
    pub fn reinstate(&self, member: PeerId) {
        self.shared.members.lock().revoked.remove(&member);
    }

    /// Connections open now, greeted or not.
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Closes every connection, tells the other ends why, and waits a moment for the news to go
    /// out. The server accepts nobody any more.
    pub async fn shut_down(&self, reason: impl Into<Reason>) {
        let reason = reason.into();
        self.endpoint.close(reason.code.to_u32().into(), reason.text.as_bytes());
        // Silence is an answer too: the other ends will time out.
        let _ = timeout(LINGER, self.endpoint.wait_idle()).await;
    }

    /// [Shuts down](Self::shut_down). Afterwards the address is free, unless somebody still holds a
    /// connection or a stream.
    pub async fn close(self, reason: impl Into<Reason>) {
        self.shut_down(reason).await;
        let socket = self.socket.clone();
        drop(self);
        // The background tasks of the QUIC library let go of the socket when they are next
        // polled, and cannot be waited for.
        let freed = async {
            while socket.strong_count() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(FREED, freed).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let reason = Reason::from(CloseCode::ShuttingDown);
        self.endpoint.close(reason.code.to_u32().into(), b"");
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A QUIC endpoint that serves `address`, and its socket, to see when it is let go of.
pub(crate) fn endpoint(
    address: SocketAddr,
    identity: &Identity,
    limits: &Limits,
) -> Result<(quinn::Endpoint, Weak<dyn quinn::AsyncUdpSocket>), ServeError> {
    let config = configuration(identity, limits)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let socket = UdpSocket::bind(address)
        .inspect(widen)
        .and_then(|socket| quinn::Runtime::wrap_udp_socket(&*runtime, socket))
        .map_err(|error| cannot_serve(address, error))?;
    let freed = Arc::downgrade(&socket);
    let endpoint = quinn::Endpoint::new_with_abstract_socket(
        reset::endpoint_config(identity),
        Some(config),
        socket,
        runtime,
    )
    .map_err(|error| cannot_serve(address, error))?;
    Ok((endpoint, freed))
}

/// Gives a socket room for the packets of many peers at once, as far as the system lets it.
fn widen(socket: &UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    let widened =
        socket.set_recv_buffer_size(SOCKET_BUFFER).and_then(|()| socket.set_send_buffer_size(SOCKET_BUFFER));
    if let Err(error) = widened {
        tracing::debug!("the socket keeps the buffers it has: {error}");
    }
}

/// The address that an endpoint got which was to serve `asked`.
pub(crate) fn local_address(endpoint: &quinn::Endpoint, asked: SocketAddr) -> Result<SocketAddr, ServeError> {
    endpoint.local_addr().map_err(|error| cannot_serve(asked, error))
}

fn cannot_serve(address: SocketAddr, error: io::Error) -> ServeError {
    match error.kind() {
        io::ErrorKind::AddrInUse => ServeError::AddressInUse { address },
        io::ErrorKind::AddrNotAvailable => ServeError::AddressNotHere { address },
        _ => ServeError::Socket { address, error },
    }
}

fn configuration(identity: &Identity, limits: &Limits) -> Result<quinn::ServerConfig, ServeError> {
    let found = identity.peer().role;
    if found != Role::Coordinator {
        return Err(ServeError::Role { found });
    }
    let mut config = tls::server(identity).map_err(ServeError::Identity)?;
    limits.apply(&mut config);
    Ok(config)
}

async fn open_door(endpoint: quinn::Endpoint, shared: Arc<Shared>, arrivals: mpsc::Sender<Incoming>) {
    while let Some(incoming) = endpoint.accept().await {
        if !incoming.remote_address_validated() {
            // No state is kept for an address that may be forged.
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            continue;
        }
        let Ok(place) = shared.places.clone().acquire_owned().await else {
            return;
        };
        let shared = shared.clone();
        let arrivals = arrivals.clone();
        tokio::spawn(async move {
            let remote = incoming.remote_address();
            let patience = shared.limits.greeting_timeout;
            let Ok(arrived) = timeout(patience, receive(incoming, &shared, place)).await else {
                tracing::debug!(%remote, "a client said nothing");
                return;
            };
            if let Some((incoming, _place)) = arrived {
                // Fails when the server is gone.
                let _ = arrivals.send(incoming).await;
            }
        });
    }
}

/// From the first packet to a member or a join request. A place among those being greeted is
/// held until the coordinator takes the member over, or the newcomer has been answered.
async fn receive(
    incoming: quinn::Incoming,
    shared: &Shared,
    place: OwnedSemaphorePermit,
) -> Option<(Incoming, Option<OwnedSemaphorePermit>)> {
    let remote = incoming.remote_address();
    let quic = match incoming.accept() {
        Ok(connecting) => connecting.await,
        Err(error) => Err(error),
    };
    let quic = match quic {
        Ok(quic) => quic,
        Err(error) => {
            tracing::debug!(%remote, %error, "a handshake failed");
            return None;
        }
    };
    let facts = tls::peer(&quic);
    let core = Core::new(quic, &shared.limits);
    let refuse = |code, text: &str| {
        tracing::debug!(%remote, text, "a client was turned away");
        core.close(Reason::new(code, text));
    };
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => {
            refuse(CloseCode::Protocol, &error.to_string());
            return None;
        }
    };
    let (sender, mut receiver) = core.quic().accept_bi().await.ok()?;
    let mut tag = [0];
    let tag = match receiver.read(&mut tag).await {
        Ok(Some(1)) => Tag::from_byte(tag[0]),
        Ok(_) => None,
        Err(_gone) => return None,
    };
    let sender = Sender::new(sender, core.clone(), &[]);
    let receiver = Receiver::new(receiver, core.clone(), 1);
    match (tag, facts) {
        (Some(Tag::Hello), Some(facts)) => {
            let connection = welcome(&core, sender, receiver, facts, shared).await?;
            Some((Incoming::Peer(connection), Some(place)))
        }
        (Some(Tag::Join), None) => {
            let request = JoinRequest::read(core, sender, receiver, place).await?;
            Some((Incoming::Joining(request), None))
        }
        (_, None) => {
            refuse(CloseCode::Unauthenticated, "a client without a certificate can only join");
            None
        }
        (_, Some(_)) => {
            refuse(CloseCode::Protocol, "a member greets first");
            None
        }
    }
}

async fn welcome(
    core: &Arc<Core>,
    mut sender: Sender,
    mut receiver: Receiver,
    facts: Facts,
    shared: &Shared,
) -> Option<Connection> {
    let you = facts.peer.id;
    if !shared.members.admit(core, you) {
        core.close(Reason::new(CloseCode::Revoked, "this member was removed from the federation"));
        return None;
    }
    // Until here the client had room for one stream and a few kilobytes.
    core.quic().set_max_concurrent_bi_streams(shared.limits.max_streams.into());
    core.quic().set_receive_window(shared.limits.connection_window.into());
    sender.send(&Welcome { you }).await.ok()?;
    sender.finish().await.ok()?;
    // A client that found the coordinator at two addresses leaves one connection here.
    let Ready = receiver.expect(MAX_GREETING).await.ok()?;
    Some(Connection::new(core.clone(), facts))
}

/// Who is connected and who is not welcome.
#[derive(Default)]
struct Members(Mutex<State>);

#[derive(Default)]
struct State {
    live: BTreeMap<(PeerId, u64), Weak<Core>>,
    revoked: BTreeSet<PeerId>,
    next: u64,
}

/// Removes a connection from the list when it is gone.
pub(crate) struct Registration {
    members: Weak<Members>,
    key: (PeerId, u64),
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(members) = self.members.upgrade() {
            members.lock().live.remove(&self.key);
        }
    }
}

impl Members {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete when it is visible: a panic leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, core: &Arc<Core>, id: PeerId) -> bool {
        let mut state = self.lock();
        if state.revoked.contains(&id) {
            return false;
        }
        let key = (id, state.next);
        state.next += 1;
        state.live.insert(key, Arc::downgrade(core));
        drop(state);
        core.register(Registration { members: Arc::downgrade(self), key });
        true
    }

    fn revoke(&self, id: PeerId) {
        let mut state = self.lock();
        state.revoked.insert(id);
        let found: Vec<_> =
            state.live.range((id, 0)..=(id, u64::MAX)).filter_map(|(_, core)| core.upgrade()).collect();
        // Dropping the last handle of a connection takes the lock.
        drop(state);
        for core in found {
            core.close(Reason::new(CloseCode::Revoked, "this member was removed from the federation"));
        }
    }
}
