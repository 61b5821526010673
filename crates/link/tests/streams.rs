//! Frames and transfers over real streams.

mod common;

use common::{Federation, Pair, expect_stream, within};
use exeunt_link::{
    Blob, BlobError, CHUNK, Receiver, RecvError, SendError, Sender, StreamCode, Transfer, frame::FrameError,
};
use exeunt_stats::Digest;

/// Bytes that do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A stream from the node to the coordinator: the node's sender, the coordinator's receiver, and
/// the halves that are not used.
async fn one_way(pair: &Pair) -> (Sender, Receiver, (Receiver, Sender)) {
    let (sender, unread) = within(pair.near.open_bi()).await.expect("open");
    let (unsent, receiver) = expect_stream(&pair.far).await;
    (sender, receiver, (unread, unsent))
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_by_both_ends() {
    let federation = Federation::new();
    let pair = federation.pair().await;
    let (mut sender, mut receiver, _rest) = one_way(&pair).await;
    let huge = vec![1u8; (1 << 20) + 1];
    assert!(matches!(
        within(sender.send(&huge)).await,
        Err(SendError::Frame(FrameError::TooLong { limit, .. })) if limit == 1 << 20
    ));
    within(sender.send(&vec![1u8; 1000])).await.expect("sent");
    assert_eq!(
        within(receiver.recv::<Vec<u8>>(1001)).await,
        Err(FrameError::TooLong { found: 1002, limit: 1001 }.into())
    );

    // A length that no honest sender writes.
    let (mut sender, mut receiver, _rest) = one_way(&pair).await;
    within(sender.send_bytes(&u32::MAX.to_le_bytes())).await.expect("sent");
    assert_eq!(
        within(receiver.recv::<Vec<u8>>(1 << 20)).await,
        Err(FrameError::TooLong { found: u32::MAX as usize, limit: 1 << 20 }.into())
    );
}

#[tokio::test]
async fn ends_of_streams_are_told_apart() {
    let federation = Federation::new();
    let pair = federation.pair().await;

    let (mut sender, mut receiver, _rest) = one_way(&pair).await;
    within(sender.send_bytes(&[9, 0, 0, 0, 1])).await.expect("sent");
    within(sender.finish()).await.expect("finished");
    assert_eq!(within(receiver.recv::<Vec<u8>>(100)).await, Err(RecvError::Truncated));

    let (sender, mut receiver, _rest) = one_way(&pair).await;
    drop(sender);
    assert_eq!(within(receiver.recv::<u8>(100)).await, Err(RecvError::Reset(StreamCode::Abandoned)));

    let (mut sender, receiver, _rest) = one_way(&pair).await;
    receiver.stop(StreamCode::Other(9));
    assert_eq!(within(sender.delivered()).await, Err(SendError::Stopped(StreamCode::Other(9))));

    // A message that is none costs the message, not the stream.
    let (mut sender, mut receiver, _rest) = one_way(&pair).await;
    within(sender.send(&[1u8, 2, 3])).await.expect("sent");
    within(sender.send(&4u8)).await.expect("sent");
    assert!(matches!(
        within(receiver.recv::<u8>(100)).await,
        Err(RecvError::Frame(FrameError::Trailing { .. }))
    ));
    assert_eq!(within(receiver.recv(100)).await, Ok(Some(4u8)));
}

#[tokio::test]
async fn cancelled_receives_and_sends_lose_nothing() {
    let federation = Federation::new();
    let pair = federation.pair().await;
    let (mut sender, mut receiver, _rest) = one_way(&pair).await;
    let messages: Vec<Vec<u8>> = (0u8..40).map(|index| vec![index; usize::from(index) * 5_000]).collect();
    let sending = async {
        for message in &messages {
            tokio::select! {
                biased;
                sent = sender.send(message) => sent.expect("sent"),
                () = tokio::task::yield_now() => {}
            }
        }
        sender.finish().await.expect("finished");
    };
    let receiving = async {
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut cancelled = 0;
        loop {
            tokio::select! {
                biased;
                received = receiver.recv(1 << 20) => match received.expect("received") {
                    Some(message) => found.push(message),
                    None => break,
                },
                () = tokio::task::yield_now() => cancelled += 1,
            }
        }
        assert!(cancelled > 0);
        found
    };
    let ((), found) = within(async { tokio::join!(sending, receiving) }).await;
    assert_eq!(found, messages);
}

async fn send_all(sender: &mut Sender, blob: Blob, bytes: &[u8]) {
    sender.send(&blob).await.expect("announced");
    sender.send_bytes(bytes).await.expect("sent");
    sender.finish().await.expect("finished");
}

#[tokio::test]
async fn one_and_twenty_megabytes_arrive() {
    let federation = Federation::new();
    let pair = federation.pair().await;
    for length in [0, 1, 1_000_000, 20_000_000] {
        let bytes = noise(length);
        let blob = Blob::of(&bytes);
        let (mut sender, mut receiver, _rest) = one_way(&pair).await;
        let (received, ()) = within(async {
            tokio::join!(
                async {
                    let announced: Blob = receiver.expect(100).await.expect("announced");
                    receiver.recv_blob(announced, 1 << 30).await
                },
                send_all(&mut sender, blob, &bytes)
            )
        })
        .await;
        assert_eq!(received.expect("received"), bytes);
        assert_eq!(within(receiver.recv::<u8>(1)).await, Ok(None));
        assert_eq!(sender.bytes(), receiver.bytes());
        assert!(sender.bytes() > length as u64);
    }
    // Twenty-one megabytes went up, and next to nothing came down.
    let traffic = pair.near.traffic();
    assert!(traffic.sent > 21_000_000, "{traffic:?}");
    assert!(traffic.received < traffic.sent / 10, "{traffic:?}");
}

#[tokio::test]
async fn corruption_and_false_lengths_are_noticed() {
    let federation = Federation::new();
    let pair = federation.pair().await;
    let bytes = noise(300_000);
    let blob = Blob::of(&bytes);

    let mut wrong = bytes.clone();
    wrong[123_456] ^= 1;
    let (mut sender, mut receiver, _rest) = one_way(&pair).await;
    let (received, sent) =
        within(async { tokio::join!(receiver.recv_blob(blob, 1 << 20), sender.send_bytes(&wrong)) }).await;
    sent.expect("sent");
    assert_eq!(received, Err(BlobError::Corrupt { found: Digest::of(&wrong), expected: blob.digest }.into()));

    let (mut sender, mut receiver, _rest) = one_way(&pair).await;
    let (received, ()) = within(async {
        tokio::join!(receiver.recv_blob(blob, 1 << 20), async {
            sender.send_bytes(&bytes[..1000]).await.expect("sent");
            sender.finish().await.expect("finished");
        })
    })
    .await;
    assert_eq!(received, Err(BlobError::Incomplete { found: 1000, expected: 300_000 }.into()));

    assert_eq!(
        within(receiver.recv_blob(blob, 299_999)).await,
        Err(BlobError::TooLong { found: 300_000, limit: 299_999 }.into())
    );
}

#[tokio::test]
async fn an_interrupted_transfer_goes_on_where_it_stopped() {
    let federation = Federation::new();
    let pair = federation.pair().await;
    let bytes = noise(1_000_000);
    let blob = Blob::of(&bytes);
    let mut held = Vec::new();
    let mut buffer = vec![0; CHUNK];

    // The sender gives up after 400,000 bytes.
    let (mut sender, mut receiver, _rest) = one_way(&pair).await;
    let mut transfer = Transfer::new(blob, 1 << 20).expect("within the limit");
    let first = async {
        sender.send_bytes(&bytes[..400_000]).await.expect("sent");
        sender
    };
    let take = async {
        while transfer.offset() < 400_000 {
            let read = receiver.recv_chunk(&mut transfer, &mut buffer).await?;
            held.extend_from_slice(&buffer[..read]);
        }
        Ok::<_, RecvError>(())
    };
    let (sender, taken) = within(async { tokio::join!(first, take) }).await;
    taken.expect("taken");
    sender.reset(StreamCode::Other(5));
    assert_eq!(
        within(receiver.recv_chunk(&mut transfer, &mut buffer)).await,
        Err(RecvError::Reset(StreamCode::Other(5)))
    );

    // The receiver restarts: all it has is what it held.
    drop(transfer);
    let mut transfer = Transfer::new(blob, 1 << 20).expect("within the limit");
    transfer.take_up(&mut held.as_slice()).expect("readable");
    assert_eq!(transfer.offset(), 400_000);
    let (mut sender, mut receiver, (mut answers, mut asks)) = one_way(&pair).await;
    within(asks.send(&transfer.offset())).await.expect("asked");
    let second = async {
        let offset: u64 = answers.expect(100).await.expect("an offset");
        let from = usize::try_from(offset).expect("small");
        sender.send_bytes(&bytes[from..]).await.expect("sent");
        sender.finish().await.expect("finished");
        sender.bytes()
    };
    let take = async {
        loop {
            match receiver.recv_chunk(&mut transfer, &mut buffer).await? {
                0 => return Ok::<_, RecvError>(()),
                read => held.extend_from_slice(&buffer[..read]),
            }
        }
    };
    let (sent, taken) = within(async { tokio::join!(second, take) }).await;
    taken.expect("verified");
    assert_eq!(held, bytes);
    assert_eq!(sent, 600_001);

    // A held file that is not the beginning of the blob is found out at the end.
    held[7] ^= 1;
    held.truncate(400_000);
    let mut transfer = Transfer::new(blob, 1 << 20).expect("within the limit");
    transfer.take_up(&mut held.as_slice()).expect("readable");
    transfer.absorb(&bytes[400_000..]).expect("fits");
    assert!(matches!(transfer.verify(), Err(BlobError::Corrupt { .. })));
}

#[tokio::test]
async fn many_streams_at_once() {
    let federation = Federation::new();
    let pair = federation.pair().await;
    // More than a peer may have open at once: the rest wait their turn.
    let count = 200u32;
    let far = pair.far.clone();
    let echo = tokio::spawn(async move {
        for _ in 0..count {
            let (mut sender, mut receiver) = far.accept_bi().await.expect("connected");
            tokio::spawn(async move {
                let message: Vec<u8> = receiver.expect(1 << 20).await.expect("received");
                assert_eq!(receiver.recv::<u8>(1).await, Ok(None));
                sender.send(&message).await.expect("sent");
                sender.finish().await.expect("finished");
            });
        }
    });
    let mut asked = tokio::task::JoinSet::new();
    for index in 0..count {
        let near = pair.near.clone();
        asked.spawn(async move {
            let message = vec![index as u8; 1000 + index as usize];
            let (mut sender, mut receiver) = near.open_bi().await.expect("open");
            sender.send(&message).await.expect("sent");
            sender.finish().await.expect("finished");
            let answer: Vec<u8> = receiver.expect(1 << 20).await.expect("received");
            assert_eq!(answer, message);
        });
    }
    within(async {
        while let Some(ended) = asked.join_next().await {
            ended.expect("echoed");
        }
        echo.await.expect("echoed");
    })
    .await;
}
