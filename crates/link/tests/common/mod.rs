//! A federation in a temporary directory, over real sockets on loopback.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use exeunt_link::{
    Address, Authority, Client, Connection, Identity, Incoming, JoinRequest, Limits, Opened, PeerId,
    Rejection, Role, Secret, Server, Token,
};
use exeunt_stats::Digest;
use tempfile::TempDir;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A condition has this long to come true.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("in time")
}

pub(crate) struct Federation {
    place: TempDir,
    pub(crate) authority: Authority,
    pub(crate) coordinator: Identity,
}

impl Federation {
    pub(crate) fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let now = SystemTime::now();
        let authority = Authority::open_or_create(place.path().join("authority"), now).expect("an authority");
        let coordinator = authority
            .issue_to(place.path().join("coordinator"), Role::Coordinator, "coordinator", now)
            .expect("an identity");
        Self { place, authority, coordinator }
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// A member's identity as of `now`, without the journey.
    pub(crate) fn member_at(&self, name: &str, role: Role, now: SystemTime) -> Identity {
        self.authority.issue_to(self.directory(name), role, name, now).expect("an identity")
    }

    pub(crate) fn node(&self, name: &str) -> Identity {
        self.member_at(name, Role::Node, SystemTime::now())
    }

    pub(crate) async fn serve(&self) -> Server {
        self.serve_with(Limits::default()).await
    }

    pub(crate) async fn serve_with(&self, limits: Limits) -> Server {
        Server::bind(loopback(), &self.coordinator, limits).await.expect("serving")
    }

    pub(crate) fn token(&self, server: &Server, secret: Secret) -> Token {
        Token::new(vec![server.local_addr().into()], self.authority.id(), secret, SystemTime::now() + DAY)
            .expect("a token")
    }

    /// A node's connection and the server's end of it.
    pub(crate) async fn pair(&self) -> Pair {
        let server = self.serve().await;
        let client = Client::default();
        let node = self.node("node");
        let addresses = addresses(&server);
        let (near, far) =
            within(async { tokio::join!(client.connect(&addresses, &node), expect_peer(&server)) }).await;
        Pair { near: near.expect("connected"), far, node, client, server }
    }
}

pub(crate) struct Pair {
    pub(crate) near: Connection,
    pub(crate) far: Connection,
    pub(crate) node: Identity,
    pub(crate) client: Client,
    pub(crate) server: Server,
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

pub(crate) fn addresses(server: &Server) -> Vec<Address> {
    vec![server.local_addr().into()]
}

pub(crate) async fn expect_peer(server: &Server) -> Connection {
    match within(server.accept()).await.expect("serving") {
        Incoming::Peer(connection) => connection,
        Incoming::Joining(request) => panic!("expected a member, found {request:?}"),
    }
}

pub(crate) async fn expect_newcomer(server: &Server) -> JoinRequest {
    match within(server.accept()).await.expect("serving") {
        Incoming::Joining(request) => request,
        Incoming::Peer(connection) => panic!("expected a newcomer, found {connection:?}"),
    }
}

pub(crate) async fn expect_stream(connection: &Connection) -> (exeunt_link::Sender, exeunt_link::Receiver) {
    match within(connection.accept()).await.expect("connected") {
        Opened::Stream(sender, receiver) => (sender, receiver),
        Opened::Renewal(request) => panic!("expected a stream, found {request:?}"),
    }
}

/// What a coordinator's store does with secrets.
#[derive(Default)]
pub(crate) struct Secrets(BTreeMap<Digest, Option<PeerId>>);

impl Secrets {
    pub(crate) fn make(&mut self) -> Secret {
        let secret = Secret::random();
        self.0.insert(secret.digest(), None);
        secret
    }

    pub(crate) fn spend(&mut self, secret: &Secret, by: PeerId) -> Result<(), Rejection> {
        match self.0.get_mut(&secret.digest()) {
            None => Err(Rejection::TokenUnknown),
            Some(Some(other)) if *other != by => Err(Rejection::TokenUsed),
            Some(spent) => {
                *spent = Some(by);
                Ok(())
            }
        }
    }
}
