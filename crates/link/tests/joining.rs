//! Tokens become members, once.

mod common;

use std::time::SystemTime;

use common::{DAY, Federation, Secrets, addresses, expect_newcomer, expect_peer, expect_stream, within};
use exeunt_link::{
    Client, CloseCode, ConnectError, Identity, IdentityError, JoinError, Opened, Rejection, RenewError, Role,
    Secret, Server, Token, connect, join, renew,
};

/// Answers join requests until the server closes.
async fn coordinate(server: &Server, federation: &Federation, secrets: &mut Secrets, times: usize) {
    for _ in 0..times {
        let request = expect_newcomer(server).await;
        let spent = secrets.spend(request.secret(), request.peer_id());
        let name = request.name().to_owned();
        match spent {
            Ok(()) => {
                let id = request.peer_id();
                let joined = request.accept(&federation.authority, &name, SystemTime::now()).await;
                assert_eq!(joined, Ok(id));
            }
            Err(rejection) => request.reject(rejection).await.expect("told"),
        }
    }
}

#[tokio::test]
async fn joins_then_connects() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let mut secrets = Secrets::default();
    // Through text, as a person carries it.
    let token: Token = federation.token(&server, secrets.make()).to_string().parse().expect("a token");
    let directory = federation.directory("kitchen");
    let (joined, ()) = within(async {
        tokio::join!(join(&token, "kitchen", &directory), coordinate(&server, &federation, &mut secrets, 1))
    })
    .await;
    let node = joined.expect("joined");
    assert_eq!(node.authority(), federation.authority.id());

    // What is on the disk is what was returned.
    let node = Identity::load(node.directory()).expect("stored");
    let (near, far) =
        within(async { tokio::join!(connect(token.addresses(), &node), expect_peer(&server)) }).await;
    let near = near.expect("connected");
    assert_eq!(near.peer().role, Role::Coordinator);
    assert_eq!(far.peer().role, Role::Node);
    assert_eq!(far.peer().name, "kitchen");
    assert_eq!(far.peer().id.short(), node.id().short());
    assert_eq!(near.peer().id, federation.coordinator.id());

    let (mut ask, mut answer) = within(near.open_bi()).await.expect("open");
    within(ask.send("how many?")).await.expect("sent");
    let (mut reply, mut question) = expect_stream(&far).await;
    let asked: Option<String> = within(question.recv(100)).await.expect("received");
    assert_eq!(asked.as_deref(), Some("how many?"));
    within(reply.send(&3u32)).await.expect("sent");
    within(reply.finish()).await.expect("finished");
    assert_eq!(within(answer.recv(100)).await, Ok(Some(3u32)));
    assert_eq!(within(answer.recv::<u32>(100)).await, Ok(None));
    // Four bytes of length, one of postcard's, nine of text, and the stream's first.
    assert_eq!(ask.bytes(), 15);
    assert_eq!(question.bytes(), 15);
    assert_eq!(answer.bytes(), reply.bytes());
    assert!(near.traffic().sent > 15 && far.traffic().received > 15);
}

#[tokio::test]
async fn a_token_works_once_and_rejections_have_names() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let mut secrets = Secrets::default();
    let token = federation.token(&server, secrets.make());
    let unknown = federation.token(&server, Secret::random());
    let (one, two) = (federation.directory("one"), federation.directory("two"));
    let ((first, second, third), ()) = within(async {
        tokio::join!(
            async {
                (
                    join(&token, "one", &one).await,
                    join(&token, "two", &two).await,
                    join(&unknown, "two", &two).await,
                )
            },
            coordinate(&server, &federation, &mut secrets, 3)
        )
    })
    .await;
    let first = first.expect("joined");
    let rejected = |joined: Result<Identity, JoinError>| match joined {
        Err(JoinError::Rejected(rejection)) => rejection,
        other => panic!("expected a rejection, found {other:?}"),
    };
    let used = rejected(second);
    assert_eq!(used.name(), "token_used");
    assert!(used.to_string().contains("used before"));
    assert_eq!(rejected(third), Rejection::TokenUnknown);
    assert!(matches!(Identity::load(&two), Err(IdentityError::Missing { .. })));

    // The answer was lost on the way: the same key asks again and is the same member.
    let (again, ()) = within(async {
        tokio::join!(join(&token, "one", &one), coordinate(&server, &federation, &mut secrets, 1))
    })
    .await;
    assert_eq!(again.expect("joined").id(), first.id());
}

#[tokio::test]
async fn a_token_of_another_authority_leads_nowhere() {
    let (federation, other) = (Federation::new(), Federation::new());
    let server = federation.serve().await;
    let token = other.token(&server, Secret::random());
    let directory = federation.directory("node");
    let error = within(join(&token, "node", &directory)).await.expect_err("another authority");
    let JoinError::Connect(ConnectError::WrongAuthority { found, expected, .. }) = &error else {
        panic!("expected the wrong authority, found {error:?}");
    };
    assert_eq!(*found, Some(federation.authority.id()));
    assert_eq!(*expected, Some(other.authority.id()));
    let text = error.to_string();
    assert!(text.contains("does not come from the authority this node joined"));
    assert!(text.contains(&format!("found {}", federation.authority.id().short())));
    assert!(text.contains(&format!("expected {}", other.authority.id().short())));
    assert!(matches!(Identity::load(&directory), Err(IdentityError::Missing { .. })));
}

#[tokio::test]
async fn names_are_checked_before_the_journey() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let token = federation.token(&server, Secret::random());
    let error = within(join(&token, "a\nb", federation.directory("node"))).await;
    assert!(matches!(error, Err(JoinError::Name(_))));
}

#[tokio::test]
async fn a_turned_away_newcomer_hears_of_it() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let token = federation.token(&server, Secret::random());
    let directory = federation.directory("node");
    let (joined, ()) = within(async {
        tokio::join!(join(&token, "node", &directory), async {
            drop(expect_newcomer(&server).await);
        })
    })
    .await;
    assert!(matches!(joined, Err(JoinError::Interrupted(_) | JoinError::Answer(_))), "{joined:?}");
}

#[tokio::test]
async fn renews_over_its_connection() {
    let federation = Federation::new();
    let server = federation.serve().await;
    let then = SystemTime::now() - 25 * DAY;
    let old = federation.member_at("node", Role::Node, then);
    assert!(old.renewal_due(SystemTime::now()));
    let client = Client::default();
    let addresses = addresses(&server);
    let (near, far) =
        within(async { tokio::join!(client.connect(&addresses, &old), expect_peer(&server)) }).await;
    let near = near.expect("connected");
    let answer = async {
        match far.accept().await.expect("connected") {
            Opened::Renewal(request) => {
                assert_eq!(request.peer().name, "node");
                request.accept(&federation.authority, SystemTime::now()).await.expect("renewed");
            }
            Opened::Stream(..) => panic!("expected a renewal"),
        }
    };
    let (renewed, ()) = within(async { tokio::join!(renew(&near, &old), answer) }).await;
    let new = renewed.expect("renewed");
    assert_eq!(new.id(), old.id());
    assert_eq!((new.peer().role, new.peer().name.as_str()), (Role::Node, "node"));
    assert!(!new.renewal_due(SystemTime::now()));
    assert_eq!(Identity::load(new.directory()).expect("stored").peer(), new.peer());

    let (again, far) =
        within(async { tokio::join!(client.connect(&addresses, &new), expect_peer(&server)) }).await;
    again.expect("connected");
    assert_eq!(far.peer().expires, new.peer().expires);
}

#[tokio::test]
async fn a_renewal_can_be_refused() {
    let federation = Federation::new();
    let pair = federation.pair().await;
    let refuse = async {
        match pair.far.accept().await.expect("connected") {
            Opened::Renewal(request) => {
                request.reject(Rejection::Unavailable("the authority is away".into())).await.expect("told")
            }
            Opened::Stream(..) => panic!("expected a renewal"),
        }
    };
    let (renewed, ()) = within(async { tokio::join!(renew(&pair.near, &pair.node), refuse) }).await;
    let error = renewed.expect_err("refused").to_string();
    assert!(error.contains("the authority is away"), "{error}");

    // A member that is asked for a certificate gives none, and still hears of streams.
    let ordinary = async {
        let (mut sender, _receiver) = pair.far.open_bi().await.expect("open");
        sender.send(&1u8).await.expect("sent");
        sender.finish().await.expect("finished");
        _receiver
    };
    let wrong_way = async { renew(&pair.far, &federation.coordinator).await };
    let (asked, kept, (_sender, mut receiver)) = within(async {
        tokio::join!(wrong_way, ordinary, async { pair.near.accept_bi().await.expect("connected") })
    })
    .await;
    assert!(matches!(asked, Err(RenewError::Answer(_))), "{asked:?}");
    assert_eq!(within(receiver.recv(10)).await, Ok(Some(1u8)));
    drop(kept);
    pair.server.close(CloseCode::ShuttingDown).await;
}
