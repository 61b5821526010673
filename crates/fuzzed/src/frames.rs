//! Frames on a stream, and the announcement of bulk bytes.

use exeunt_link::frame::{self, Decoder, HEADER};
use exeunt_link::{Blob, BlobError, Transfer};
use exeunt_stats::Digest;

/// The limit of a frame and the size of pieces (one byte each), then a stream of frames. The body of each may announce
/// the rest of the stream.
///
/// # Panics
/// When pieces make other frames than the whole, or a transfer vouches for bytes that were not announced.
pub fn frames(data: &[u8]) {
    let Some((&[limit, piece], stream)) = data.split_first_chunk() else { return };
    let (limit, piece) = (usize::from(limit) << 3, usize::from(piece).max(1));
    let bodies = expected(stream, limit);
    assert_eq!(decoded(stream, limit, stream.len().max(1)), bodies);
    assert_eq!(decoded(stream, limit, piece), bodies);
    for body in &bodies {
        if let Ok(blob) = frame::decode::<Blob>(body) {
            let again = frame::encode(&blob, usize::MAX).expect("a blob has a form");
            assert_eq!(frame::decode(&again[HEADER..]), Ok(blob));
            announced(blob, stream, piece);
        }
        announced(Blob::of(body), body, piece);
    }
}

/// What is in the stream, by the definition of the format.
fn expected(mut stream: &[u8], limit: usize) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk::<HEADER>() {
        let length = u32::from_le_bytes(*header) as usize;
        let Some((body, rest)) = rest.split_at_checked(length).filter(|_| length <= limit) else { break };
        bodies.push(body.to_vec());
        stream = rest;
    }
    bodies
}

fn decoded(mut stream: &[u8], limit: usize, piece: usize) -> Vec<Vec<u8>> {
    let (mut decoder, mut bodies) = (Decoder::new(), Vec::new());
    loop {
        match decoder.wants(limit) {
            Ok(wanted) => assert!((1..=limit.max(HEADER)).contains(&wanted), "wants {wanted} bytes"),
            Err(_too_long) => return bodies,
        }
        let mut given = &stream[..piece.min(stream.len())];
        if given.is_empty() {
            return bodies;
        }
        stream = &stream[given.len()..];
        while !given.is_empty() {
            let Ok((used, body)) = decoder.push(given, limit) else { return bodies };
            assert!(used > 0, "nothing was taken");
            assert_eq!(body.is_some(), decoder.is_between());
            bodies.extend(body);
            given = &given[used..];
        }
    }
}

fn announced(blob: Blob, bytes: &[u8], piece: usize) {
    let limit = bytes.len() as u64;
    let mut transfer = match Transfer::new(blob, limit) {
        Ok(transfer) => transfer,
        Err(error) => {
            assert_eq!(error, BlobError::TooLong { found: blob.length, limit });
            return;
        }
    };
    let half = bytes.len() / 2;
    let mut taken = 0;
    if transfer.take_up(&mut &bytes[..half]).is_ok() {
        taken = half;
        for piece in bytes[half..].chunks(piece) {
            if transfer.absorb(piece).is_err() {
                break;
            }
            taken += piece.len();
        }
        assert_eq!(transfer.offset(), taken as u64);
    }
    let right = transfer.offset() == blob.length
        && taken as u64 == blob.length
        && Digest::of(&bytes[..taken]) == blob.digest;
    assert!(transfer.verify().is_err() || right, "vouched for bytes that were not announced");
    assert!(!right || transfer.verify().is_ok(), "announced bytes are refused");
}
