//! The coordinator's shell: a door, a desk, and a task for every connection.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use exeunt_link::{Address, Authority, CloseCode, Incoming, JoinRequest, Limits, Rejection, Server};
use exeunt_protocol::NodeId;
use exeunt_store::{RedbStore, Snapshots, StoreError, TokenOutcome};

use crate::core::{Core, CoreError};
use crate::desk::{Clock, Handle, Stopped};
use crate::home::{Home, HomeError, Keys, Whereabouts};
use crate::uploads::Uploads;

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
    pub(crate) home: Home,
    pub(crate) snapshots: Snapshots,
    pub(crate) uploads: Uploads,
}

/// How often certificates are looked at. They live for months, and are renewed with a third of that left.
const RENEWAL: Duration = Duration::from_secs(3600);

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
        let store = RedbStore::open(home.store())?;
        let snapshots = store.snapshots();
        let core = Core::open(Box::new(store), clock.now())?;
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
        let (approve, home, uploads) = (options.approve, home.clone(), Uploads::new(clock));
        let shared = Shared { desk, authority, server, whereabouts, approve, home, snapshots, uploads };
        Ok(Self { shared: Arc::new(shared) })
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
        let Self { shared } = self;
        let result = tokio::select! {
            () = accept(&shared) => Ok(()),
            () = renew_certificates(&shared) => Ok(()),
            () = shared.uploads.tend(&shared.desk) => Err(ServiceError::Stopped(shared.desk.ended().await)),
            stopped = shared.desk.ended() => Err(ServiceError::Stopped(stopped)),
            () = stop => Ok(()),
        };
        // Connections' tasks hold clones; the server itself is closed when the last of them ends.
        shared.server.shut_down(CloseCode::ShuttingDown).await;
        // A store that is not closed in order has to be repaired before it can be looked at.
        shared.desk.close().await;
        result
    }
}

/// Renews the coordinator's and the local operator's certificates when it is time, for as long as it runs.
async fn renew_certificates(shared: &Shared) {
    let mut ticks = tokio::time::interval(RENEWAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first is at once, and they were looked at just before.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        renew(shared, SystemTime::now());
    }
}

/// Renews what is due, and presents it to whoever connects from now on.
fn renew(shared: &Shared, now: SystemTime) {
    let renewed = shared
        .home
        .keys(now)
        .map_err(ServiceError::from)
        .and_then(|keys| Ok(shared.server.set_identity(&keys.identity)?));
    if let Err(error) = renewed {
        tracing::error!("certificates not renewed: {}", crate::operator::chain(&error));
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use exeunt_link::{Client, Identity, JoinError, Token};
    use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};

    use super::*;
    use crate::client::OperatorClient;

    /// A coordinator on loopback, and its folder.
    async fn serving(folder: &Path, approve: bool) -> (Home, Arc<Shared>) {
        let home = Home::new(folder);
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = ServeOptions { listen, advertise: Vec::new(), approve };
        let service = Service::start(&home, &options).await.unwrap();
        let shared = Arc::clone(&service.shared);
        tokio::spawn(service.run(std::future::pending()));
        (home, shared)
    }

    async fn token(client: &OperatorClient, approve: Option<bool>) -> Token {
        let request = OperatorRequest::Token { valid_s: 60, label: String::new(), approve };
        match client.ask(&request).await.unwrap() {
            OperatorResponse::Token { token, .. } => token.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn nodes(client: &OperatorClient) -> Vec<exeunt_protocol::operator::NodeRow> {
        match client.ask(&OperatorRequest::Nodes).await.unwrap() {
            OperatorResponse::Nodes(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_revoked_node_comes_back_with_a_new_token_and_not_with_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let (home, _shared) = serving(&folder.path().join("home"), false).await;
        let client = OperatorClient::connect(&home).await.unwrap();
        let at = folder.path().join("node");
        let old = token(&client, None).await;
        let identity = exeunt_link::join(&old, "porch", &at).await.unwrap();
        let node = NodeId::from_bytes(*identity.id().as_bytes());
        client.ask(&OperatorRequest::Revoke { node }).await.unwrap();
        let refused = exeunt_link::join(&old, "porch", &at).await.unwrap_err();
        assert!(matches!(refused, JoinError::Rejected(Rejection::TokenUsed)), "{refused}");

        let new = token(&client, Some(true)).await;
        let identity = exeunt_link::join(&new, "porch", &at).await.unwrap();
        let addresses = home.operator().unwrap().1.local;
        Client::default().connect(&addresses, &identity).await.unwrap();
        let rows = nodes(&client).await;
        assert_eq!((rows.len(), rows[0].status.node, rows[0].revoked), (1, node, false));
        assert_eq!(rows[0].status.membership, exeunt_protocol::message::Membership::Pending);
        assert_eq!(rows[0].short, identity.id().short(), "both ends show the same");
        client.ask(&OperatorRequest::Approve { node }).await.unwrap();
        assert_eq!(nodes(&client).await[0].status.membership, Default::default());
    }

    #[tokio::test]
    async fn an_operator_on_another_machine_connects_with_what_was_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let (home, _shared) = serving(&folder.path().join("home"), true).await;
        let there = folder.path().join("laptop");
        home.hand_out_operator("anna", &there, SystemTime::now()).unwrap();
        let elsewhere = Home::new(&there);
        let (identity, whereabouts) = elsewhere.operator().unwrap();
        assert_eq!((identity.peer().name.as_str(), whereabouts.local.len()), ("anna", 0));
        assert_ne!(identity.id(), home.operator().unwrap().0.id(), "it has a key of its own");
        let client = OperatorClient::connect(&elsewhere).await.unwrap();
        assert!(nodes(&client).await.is_empty());
        // As this coordinator was started, whoever joins has to be approved.
        let token = token(&client, None).await;
        exeunt_link::join(&token, "porch", folder.path().join("node")).await.unwrap();
        assert_eq!(nodes(&client).await[0].status.membership.name(), "waits for approval");
        let again = home.hand_out_operator("anna", &there, SystemTime::now()).unwrap_err();
        assert!(again.to_string().ends_with("is there already; name a folder that is not"), "{again}");
        let nowhere = Home::new(folder.path().join("nowhere"));
        let none = nowhere.hand_out_operator("anna", &there, SystemTime::now()).unwrap_err();
        assert!(matches!(none, HomeError::NoCoordinator { .. }), "{none}");
    }

    #[tokio::test]
    async fn certificates_are_renewed_while_the_coordinator_runs() {
        let folder = tempfile::tempdir().unwrap();
        let (_home, shared) = serving(folder.path(), false).await;
        let operator = || Identity::load(folder.path().join("operator")).unwrap();
        let before = operator().peer().expires;
        renew(&shared, SystemTime::now());
        assert_eq!(operator().peer().expires, before, "not due yet");
        renew(&shared, operator().renew_at() + Duration::from_secs(1));
        assert!(operator().peer().expires > before);
    }

    #[tokio::test]
    async fn a_token_cannot_be_valid_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let (home, _shared) = serving(folder.path(), false).await;
        let client = OperatorClient::connect(&home).await.unwrap();
        for valid_s in [0, u64::MAX] {
            let request = OperatorRequest::Token { valid_s, label: String::new(), approve: None };
            let refused = client.ask(&request).await.unwrap_err().to_string();
            assert!(refused.contains("expected 1 to 31536000"), "{refused}");
        }
    }
}
