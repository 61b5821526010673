//! Uploads over real sockets: cut, taken over, lied about, and too many at once.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is how they say what went wrong")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::wire::{Weather, Wire};
use common::{
    OPEN, Prepared, begin, connect, contribution, deliver, id, open, prepare, reply, serve, table, within,
};
use exeunt_coordinator::OperatorClient;
use exeunt_link::{CHUNK, CloseCode, Connection, Identity};
use exeunt_protocol::message::{Ack, ContributeReply, Contribution, Rejection};
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Bytes that the coordinator says it had from a node for the open query.
async fn charged(prepared: &Prepared, node: &Identity) -> u64 {
    let client = OperatorClient::connect(&prepared.home).await.unwrap();
    let response =
        within(client.ask(&OperatorRequest::Show { run: Some(prepared.run.clone()) })).await.unwrap();
    let OperatorResponse::Show(report) = response else { panic!("{response:?}") };
    let row = report.nodes.iter().find(|row| row.node == id(node)).unwrap();
    row.traffic.iter().filter(|traffic| traffic.query == OPEN).map(|traffic| traffic.up).sum()
}

/// Sends the first bytes of an answer, until the coordinator says that it has them.
async fn send_part(connection: &Connection, contribution: &Contribution, bytes: &[u8]) {
    let mut before = None;
    loop {
        // A stream that takes over learns what came by the one before.
        let (mut sender, mut receiver) = open(connection, contribution).await.unwrap();
        let offset = begin(&mut receiver).await;
        drop(before);
        if offset == bytes.len() {
            return;
        }
        sender.send_bytes(&bytes[offset..]).await.unwrap();
        before = Some((sender, receiver));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_cut_anywhere_goes_on_there() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepare(folder.path(), 2);
    let server = serve(&prepared.home, loopback()).await;
    let node = &prepared.nodes[0];
    let bytes = table(prepared.cells, 5_000_000, 1);
    let contribution = contribution(&prepared.run, OPEN, 1, &bytes);
    let mut chance = StdRng::seed_from_u64(7);
    let (mut sent, mut offsets) = (0, Vec::new());
    // The wire goes dark without a word: the coordinator holds the old connection for alive when the next comes.
    for _cut in 0..8 {
        let wire = Wire::lay(loopback(), server, Weather::default(), 1).await;
        let (client, connection) = connect(node, wire.address).await;
        wire.dark_after(wire.up.sent() + chance.random_range(50_000..650_000));
        let mut offset = None;
        tokio::select! {
            done = deliver(&connection, &contribution, &bytes, &mut offset) => panic!("{done:?}"),
            () = within(async { while !wire.is_dark() { tokio::time::sleep(Duration::from_millis(5)).await } }) => {}
        }
        sent += wire.up.sent() - wire.up.lost();
        offsets.push(offset.unwrap());
        drop((client, connection));
    }
    let wire = Wire::lay(loopback(), server, Weather::default(), 1).await;
    let (_client, connection) = connect(node, wire.address).await;
    let mut offset = None;
    let ack = within(deliver(&connection, &contribution, &bytes, &mut offset)).await.unwrap();
    assert_eq!(ack, Ack::Stored);
    sent += wire.up.sent();
    offsets.push(offset.unwrap());
    assert!(offsets.is_sorted() && offsets[8] > offsets[1] && offsets[1] > 0, "{offsets:?}");
    // Headers of packets, handshakes and acknowledgements are less than a tenth.
    let most = bytes.len() as u64 * 11 / 10 + 8 * CHUNK as u64;
    assert!(sent <= most, "{sent} bytes arrived for {}, expected at most {most}", bytes.len());
    let charged = charged(&prepared, node).await;
    assert!(charged >= bytes.len() as u64 && charged <= most, "{charged} bytes were charged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_megabytes_arrive_and_need_not_come_twice() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepare(folder.path(), 2);
    let server = serve(&prepared.home, loopback()).await;
    let bytes = table(prepared.cells, 50_000_000, 2);
    let contribution = contribution(&prepared.run, OPEN, 1, &bytes);
    let (_client, connection) = connect(&prepared.nodes[0], server).await;
    let (mut sender, mut receiver) = open(&connection, &contribution).await.unwrap();
    assert_eq!(begin(&mut receiver).await, 0);
    within(sender.send_bytes(&bytes)).await.unwrap();
    within(sender.finish()).await.unwrap();
    assert_eq!(within(reply(&mut receiver)).await.unwrap(), ContributeReply::Done(Ack::Stored));
    // As if that word had been lost.
    let mut again = None;
    let ack = within(deliver(&connection, &contribution, &bytes, &mut again)).await.unwrap();
    assert_eq!((ack, again), (Ack::Stored, None), "what is in the store is acknowledged without its bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lies_about_bytes_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepare(folder.path(), 2);
    let server = serve(&prepared.home, loopback()).await;
    let (_a, liar) = connect(&prepared.nodes[0], server).await;
    let (_b, honest) = connect(&prepared.nodes[1], server).await;
    let [mine, other, theirs] = [3, 4, 5].map(|seed| table(prepared.cells, 300_000, seed));
    let of = |bytes: &[u8]| contribution(&prepared.run, OPEN, 1, bytes);

    within(send_part(&liar, &of(&mine), &mine[..150_000])).await;
    within(send_part(&honest, &of(&theirs), &theirs[..150_000])).await;
    // Another answer at the same place begins from nothing.
    let (sender, mut receiver) = open(&liar, &of(&other)).await.unwrap();
    assert_eq!(begin(&mut receiver).await, 0);
    drop((sender, receiver));
    within(send_part(&liar, &of(&other), &other[..100_000])).await;
    // Going on with bytes of yet another one: the stream fails, and the next begins from nothing.
    let (mut sender, mut receiver) = open(&liar, &of(&other)).await.unwrap();
    assert_eq!(begin(&mut receiver).await, 100_000);
    within(sender.send_bytes(&mine[..other.len() - 100_000])).await.unwrap();
    within(sender.finish()).await.unwrap();
    assert!(within(reply(&mut receiver)).await.is_err());
    let (mut sender, mut receiver) = open(&liar, &of(&other)).await.unwrap();
    assert_eq!(begin(&mut receiver).await, 0);
    // In one stream it is its own fault, and the end of it.
    within(sender.send_bytes(&mine[..other.len()])).await.unwrap();
    within(sender.finish()).await.unwrap();
    let refused = within(reply(&mut receiver)).await.unwrap();
    assert!(
        matches!(refused, ContributeReply::Done(Ack::Rejected(Rejection::Malformed { .. }))),
        "{refused:?}"
    );
    // Nor may it claim memory for more than the answer can be.
    let mut huge = of(&mine);
    huge.table.bytes = 200 << 20;
    let (_sender, mut receiver) = open(&liar, &huge).await.unwrap();
    let refused = within(reply(&mut receiver)).await.unwrap();
    assert!(
        matches!(refused, ContributeReply::Done(Ack::Rejected(Rejection::Malformed { .. }))),
        "{refused:?}"
    );

    let mut offset = None;
    assert_eq!(within(deliver(&honest, &of(&theirs), &theirs, &mut offset)).await.unwrap(), Ack::Stored);
    assert_eq!(offset, Some(150_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_would_exceed_the_memory_waits_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    // Of a long table a little more than 1 MiB is in memory: 60 fit into 64 MiB, and one more does not.
    const FIT: usize = 60;
    let prepared = prepare(folder.path(), FIT + 2);
    let server = serve(&prepared.home, loopback()).await;
    let mut large = contribution(&prepared.run, OPEN, 1, b"never sent");
    large.table.bytes = 30_000_000;
    let mut under_way = Vec::new();
    for node in &prepared.nodes[..FIT] {
        let (client, connection) = connect(node, server).await;
        let (sender, mut receiver) = open(&connection, &large).await.unwrap();
        assert_eq!(begin(&mut receiver).await, 0);
        under_way.push((client, connection, sender, receiver));
    }
    let (_client, late) = connect(&prepared.nodes[FIT], server).await;
    let (_sender, mut receiver) = open(&late, &large).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(500), reply(&mut receiver)).await;
    assert!(early.is_err(), "{early:?}");
    // Nobody waits with a short one because long ones do.
    let (_client, short) = connect(&prepared.nodes[FIT + 1], server).await;
    let small = contribution(&prepared.run, OPEN, 1, b"never sent either");
    let (_sender, mut of_small) = open(&short, &small).await.unwrap();
    assert_eq!(begin(&mut of_small).await, 0);
    // One goes; the next has its memory.
    let (_client, connection, ..) = under_way.remove(0);
    connection.close(CloseCode::Finished);
    assert_eq!(begin(&mut receiver).await, 0);
}
