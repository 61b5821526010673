//! The coordinator's shell: a door, a desk, and a task for every connection.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use exeunt_link::{Address, Authority, CloseCode, Incoming, JoinRequest, Limits, Rejection, Server};
use exeunt_protocol::NodeId;
use exeunt_store::{RedbStore, StoreError, TokenOutcome};

use crate::core::{Core, CoreError};
use crate::desk::{Clock, Handle, Stopped};
use crate::home::{Home, HomeError, Keys, Whereabouts};

/// How a coordinator is to be reached.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Addresses that join tokens carry; this machine's, if none are given.
    pub advertise: Vec<Address>,
    /// Whether nodes that join have to be approved, unless their token says otherwise.
    pub approve: bool,
}

/// Why the coordinator cannot serve, or has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The folder cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in the store cannot be taken up.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The address cannot be served.
    #[error(transparent)]
    Serve(#[from] exeunt_link::ServeError),
    /// The thread that owns the store could not be started.
    #[error("cannot start the coordinator's thread")]
    Thread(#[source] std::io::Error),
    /// It stopped by itself.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What every connection's task needs.
pub(crate) struct Shared {
    pub(crate) desk: Handle,
    pub(crate) authority: Authority,
    pub(crate) server: Server,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) approve: bool,
}

/// A coordinator that listens.
pub struct Service {
    shared: Arc<Shared>,
}

impl Service {
    /// Opens folder and store, and begins to listen.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn start(home: &Home, options: &ServeOptions) -> Result<Self, ServiceError> {
        let Keys { authority, identity } = home.keys(SystemTime::now())?;
        let clock = Clock::start();
        let store = Box::new(RedbStore::open(home.store())?);
        let core = Core::open(store, clock.now())?;
        let revoked: Vec<NodeId> = core
            .store()
            .nodes()?
            .into_iter()
            .filter_map(|(node, record)| record.revoked.then_some(node))
            .collect();
        let server = Server::bind(options.listen, &identity, Limits::default()).await?;
        for node in revoked {
            server.revoke(exeunt_link::PeerId::from_bytes(*node.as_bytes()));
        }
        let whereabouts = whereabouts(server.local_addr(), &options.advertise);
        home.save_whereabouts(&whereabouts)?;
        let desk = Handle::start(core, clock).map_err(ServiceError::Thread)?;
        let approve = options.approve;
        Ok(Self { shared: Arc::new(Shared { desk, authority, server, whereabouts, approve }) })
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.server.local_addr()
    }

    /// Short id of the authority, for a person to compare.
    pub fn authority(&self) -> String {
        self.shared.authority.id().short()
    }

    /// Serves until `stop` resolves or the store fails.
    ///
    /// # Errors
    /// [`ServiceError::Stopped`] when the store failed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServiceError> {
        let shared = self.shared;
        let result = tokio::select! {
            () = accept(&shared) => Ok(()),
            stopped = shared.desk.ended() => Err(ServiceError::Stopped(stopped)),
            () = stop => Ok(()),
        };
        // Connections' tasks hold clones; the server itself is closed when the last of them ends.
        shared.server.shut_down(CloseCode::ShuttingDown).await;
        result
    }
}

async fn accept(shared: &Arc<Shared>) {
    while let Some(incoming) = shared.server.accept().await {
        let shared = Arc::clone(shared);
        match incoming {
            Incoming::Peer(connection) => {
                tokio::spawn(crate::peer::serve(shared, connection));
            }
            Incoming::Joining(request) => {
                tokio::spawn(join(shared, request));
            }
        }
    }
}

/// Lets a newcomer in, if its token is good: spent first, answered afterwards.
async fn join(shared: Arc<Shared>, request: JoinRequest) {
    let node = NodeId::from_bytes(*request.peer_id().as_bytes());
    let (secret, name) = (request.secret().digest(), request.name().to_owned());
    let spent = {
        let name = name.clone();
        shared.desk.ask(move |desk| desk.core.enrol(desk.now, secret, node, &name)).await
    };
    let result = match spent {
        Ok(Ok(TokenOutcome::Enrolled | TokenOutcome::EnrolledBefore)) => {
            // It may have been shut out before this token was made for it.
            shared.server.reinstate(request.peer_id());
            tracing::info!("'{name}' joined as {}", request.peer_id().short());
            request.accept(&shared.authority, &name, SystemTime::now()).await.map(|_| ())
        }
        Ok(Ok(TokenOutcome::Unknown)) => request.reject(Rejection::TokenUnknown).await,
        Ok(Ok(TokenOutcome::Expired)) => request.reject(Rejection::TokenExpired).await,
        Ok(Ok(TokenOutcome::Used | TokenOutcome::Revoked)) => request.reject(Rejection::TokenUsed).await,
        Ok(Err(error)) => {
            tracing::error!("{error}");
            request.reject(Rejection::Unavailable("its store cannot be written".to_owned())).await
        }
        Err(stopped) => {
            tracing::error!("{stopped}");
            request.reject(Rejection::Unavailable("its store cannot be written".to_owned())).await
        }
    };
    if let Err(error) = result {
        tracing::warn!("join request of '{name}': {error}");
    }
}

/// Where to find the coordinator, here and from elsewhere.
fn whereabouts(listening: SocketAddr, advertise: &[Address]) -> Whereabouts {
    let anywhere = listening.ip().is_unspecified();
    let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listening.port());
    let local = if anywhere { loopback } else { listening };
    let advertised = match (advertise, anywhere) {
        ([], true) => vec![Address::from(SocketAddr::new(outward_address(), listening.port()))],
        ([], false) => vec![Address::from(listening)],
        (given, _) => given.to_vec(),
    };
    Whereabouts { local: vec![Address::from(local)], advertised }
}

/// The address this machine would use to reach others; loopback where it has no network. No packet is sent.
fn outward_address() -> IpAddr {
    let probe = || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    probe().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("address", &self.local_addr()).finish_non_exhaustive()
    }
}
