//! Who is let in, who is not, and what they are told.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, SystemTime};

use common::{DAY, Federation, addresses, expect_peer, loopback, within};
use exeunt_link::{
    Address, AttemptError, Client, CloseCode, Closed, ConnectError, Limits, Reason, RecvError, Refusal, Role,
    ServeError, Server, connect,
};

#[tokio::test]
async fn a_member_of_another_federation_believes_nobody_here() {
    let (federation, other) = (Federation::new(), Federation::new());
    let server = federation.serve().await;
    let stranger = other.node("stranger");
    let error = within(connect(&addresses(&server), &stranger)).await.expect_err("another authority");
    assert!(
        matches!(
            &error,
            ConnectError::WrongAuthority { found, expected, .. }
                if *found == Some(federation.authority.id())
                    && *expected == Some(other.authority.id())
        ),
        "{error}"
    );
}

#[tokio::test]
async fn an_expired_member_is_told_so() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let late = federation.member_at("late", Role::Node, SystemTime::now() - 31 * DAY);
    let error = within(connect(&addresses(&server), &late)).await.expect_err("expired");
    assert!(matches!(&error, ConnectError::Refused { refusal: Refusal::Expired, .. }), "{error:?}");
    assert!(error.to_string().contains("join again"), "{error}");
}

#[tokio::test]
async fn a_coordinator_out_of_its_dates_is_not_believed() {
    let federation = Federation::new();
    let node = federation.node("node");
    for (start, word) in
        [(SystemTime::now() - 400 * DAY, "expired"), (SystemTime::now() + 2 * DAY, "not valid yet")]
    {
        let odd = federation.member_at("odd", Role::Coordinator, start);
        let server = Server::bind(loopback(), &odd, Limits::default()).await.expect("serving");
        let error = within(connect(&addresses(&server), &node)).await.expect_err("out of its dates");
        assert!(matches!(error, ConnectError::Dates { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("this machine's clock"), "{text}");
        assert!(text.contains(word), "{text}");

        // A renewed identity takes effect without a restart.
        server.set_identity(&federation.coordinator).expect("a coordinator");
        let addresses = addresses(&server);
        let (near, _far) =
            within(async { tokio::join!(connect(&addresses, &node), expect_peer(&server)) }).await;
        near.expect("connected");
    }
}

#[tokio::test]
async fn only_coordinators_serve() {
    let federation = Federation::new();
    let node = federation.node("node");
    let error = Server::bind(loopback(), &node, Limits::default()).await.expect_err("a node");
    assert!(matches!(error, ServeError::Role { found: Role::Node }));
}

#[tokio::test]
async fn a_coordinators_key_does_not_connect() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let error =
        within(connect(&addresses(&server), &federation.coordinator)).await.expect_err("a coordinator");
    assert!(matches!(error, ConnectError::Refused { refusal: Refusal::Role, .. }), "{error:?}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let taken = server.local_addr();
    let error = Server::bind(taken, &federation.coordinator, Limits::default()).await.expect_err("taken");
    assert!(matches!(error, ServeError::AddressInUse { address } if address == taken));
    let text = error.to_string();
    assert!(text.contains(&taken.to_string()), "{text}");
    assert!(text.contains("another port"), "{text}");

    let elsewhere = "192.0.2.1:0".parse().expect("an address");
    let error =
        Server::bind(elsewhere, &federation.coordinator, Limits::default()).await.expect_err("not ours");
    assert!(matches!(error, ServeError::AddressNotHere { .. }), "{error}");

    // A closed server gives its address back.
    server.close(CloseCode::ShuttingDown).await;
    Server::bind(taken, &federation.coordinator, Limits::default()).await.expect("free again");
}

fn impatient() -> Client {
    let mut limits = Limits::default();
    limits.connect_timeout = Duration::from_millis(300);
    limits.attempt_delay = Duration::from_millis(10);
    Client::new(limits)
}

#[tokio::test]
async fn silence_is_reported_with_every_address_tried() {
    let federation = Federation::new();
    let node = federation.node("node");
    let (deaf, mute) =
        (UdpSocket::bind(loopback()).expect("a socket"), UdpSocket::bind(loopback()).expect("a socket"));
    let mut list: Vec<Address> =
        [&deaf, &mute].iter().map(|socket| socket.local_addr().expect("bound").into()).collect();
    list.push("nobody.invalid:7000".parse().expect("an address"));
    let error = within(impatient().connect(&list, &node)).await.expect_err("nobody there");
    let ConnectError::Unreachable { attempts } = &error else {
        panic!("expected silence, found {error:?}");
    };
    assert_eq!(attempts.len(), 3);
    assert!(attempts.iter().any(|attempt| matches!(attempt.error, AttemptError::Timeout { .. })));
    for address in &list {
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
    assert!(matches!(within(impatient().connect(&[], &node)).await, Err(ConnectError::NoAddress)));
}

#[tokio::test]
async fn one_good_address_is_enough() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let node = federation.node("node");
    let deaf = UdpSocket::bind(loopback()).expect("a socket");
    let port = server.local_addr().port();
    let list = [
        deaf.local_addr().expect("bound").into(),
        // A name may have an IPv6 address first, where nobody serves.
        format!("localhost:{port}").parse().expect("an address"),
        server.local_addr().into(),
    ];
    let client = impatient();
    let (near, far) =
        within(async { tokio::join!(client.connect(&list, &node), expect_peer(&server)) }).await;
    let near = near.expect("connected");
    assert_eq!(near.remote().port(), port);
    // The one that stayed is the one the server was given.
    let (mut sender, _receiver) = within(near.open_bi()).await.expect("open");
    within(sender.send(&7u8)).await.expect("sent");
    let (_, mut receiver) = within(far.accept_bi()).await.expect("connected");
    assert_eq!(within(receiver.recv(10)).await, Ok(Some(7u8)));
}

#[tokio::test]
async fn both_address_families_work() {
    let federation = Federation::new();
    let six = "[::1]:0".parse().expect("an address");
    let server = match Server::bind(six, &federation.coordinator, Limits::default()).await {
        Ok(server) => server,
        Err(error) => {
            println!("skipped, this machine has no IPv6 loopback: {error}");
            return;
        }
    };
    let node = federation.node("node");
    let addresses = addresses(&server);
    let (near, far) = within(async { tokio::join!(connect(&addresses, &node), expect_peer(&server)) }).await;
    near.expect("connected");
    assert_eq!(far.peer().id, node.id());
}

#[tokio::test]
async fn the_reason_of_an_end_arrives() {
    let federation = Federation::new();
    let pair = federation.pair().await;
    assert_eq!(pair.far.close_reason(), None);
    let reason = Reason::new(CloseCode::Superseded, "connected again from elsewhere");
    pair.far.close(reason.clone());
    assert_eq!(within(pair.near.closed()).await, Closed::ByPeer(reason.clone()));
    assert_eq!(pair.far.close_reason(), Some(Closed::Here(reason.clone())));
    assert_eq!(within(pair.near.open_bi()).await.err(), Some(Closed::ByPeer(reason)));

    let pair = federation.pair().await;
    let (_sender, mut receiver) = within(pair.far.open_bi()).await.expect("open");
    let own = Reason::new(CloseCode::Other(77), "my own reason");
    within(pair.client.close(own.clone())).await;
    assert_eq!(within(receiver.recv::<u8>(10)).await, Err(RecvError::Closed(Closed::ByPeer(own))));

    let pair = federation.pair().await;
    within(pair.server.close(CloseCode::ShuttingDown)).await;
    assert_eq!(within(pair.near.closed()).await, Closed::ByPeer(CloseCode::ShuttingDown.into()));
}

#[tokio::test]
async fn a_revoked_member_is_out_at_once_and_stays_out() {
    let federation = Federation::new();
    let pair = federation.pair().await;
    let operator = federation.member_at("Ada", Role::Operator, SystemTime::now());
    let list = addresses(&pair.server);
    let (bystander, _far) =
        within(async { tokio::join!(pair.client.connect(&list, &operator), expect_peer(&pair.server)) })
            .await;
    let bystander = bystander.expect("connected");
    assert_eq!(_far.peer().role, Role::Operator);

    // Streams are ended too, when nobody holds the connection itself any more.
    let (_sender, mut receiver) = within(pair.near.open_bi()).await.expect("open");
    let (kept, _unread) = within(pair.far.accept_bi()).await.expect("connected");
    drop(pair.far);
    pair.server.revoke(pair.node.id());
    let revoked =
        |closed: &Closed| matches!(closed, Closed::ByPeer(reason) if reason.code == CloseCode::Revoked);
    assert!(revoked(&within(pair.near.closed()).await));
    assert!(matches!(
        within(receiver.recv::<u8>(10)).await,
        Err(RecvError::Closed(closed)) if revoked(&closed)
    ));
    drop(kept);
    let error = within(pair.client.connect(&list, &pair.node)).await.expect_err("revoked");
    assert!(matches!(&error, ConnectError::Closed { closed, .. } if revoked(closed)), "{error:?}");
    assert_eq!(bystander.close_reason(), None);

    pair.server.reinstate(pair.node.id());
    let (back, _far) =
        within(async { tokio::join!(pair.client.connect(&list, &pair.node), expect_peer(&pair.server)) })
            .await;
    back.expect("back");
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    let federation = Federation::new();
    let mut limits = Limits::default();
    limits.idle_timeout = Duration::from_millis(300);
    // The client forgets to keep the connection alive.
    limits.keep_alive = Duration::from_secs(60);
    let server = federation.serve_with(limits.clone()).await;
    let client = Client::new(limits.clone());
    let node = federation.node("node");
    let list = addresses(&server);
    let (near, far) =
        within(async { tokio::join!(client.connect(&list, &node), expect_peer(&server)) }).await;
    near.expect("connected");
    let closed = within(far.closed()).await;
    assert!(
        matches!(closed, Closed::TimedOut { after } if after == limits.idle_timeout)
            || matches!(closed, Closed::ByPeer(_)),
        "{closed}"
    );
}
