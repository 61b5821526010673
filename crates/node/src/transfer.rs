//! Getting blobs and delivering contributions, each on a stream of its own.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;

use exeunt_link::limits::MAX_BLOB;
use exeunt_link::{Blob, CHUNK, Closed, Connection, RecvError, SendError, Transfer};
use exeunt_protocol::message::{Ack, BlobRef, ContributeReply, Contribution, FetchReply, Request};
use exeunt_protocol::{QueryId, RunId};

use crate::home::Home;

/// Longest reply before the bulk.
const MAX_REPLY: usize = 4096;

/// Why a transfer ended early. It can be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The connection is no more.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// Something could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// What came is not what was expected.
    #[error(transparent)]
    Receive(#[from] RecvError),
    /// A blob was asked for that is not there.
    #[error("the coordinator does not have it")]
    Unknown,
    /// Two lengths of the same thing.
    #[error("found {found} bytes, expected {expected}")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// A blob could not be kept.
    #[error("the cache cannot be written: {0}")]
    Cache(#[from] std::io::Error),
    /// A blob is not what was announced.
    #[error(transparent)]
    Blob(#[from] exeunt_link::BlobError),
}

/// Gets a blob into the cache; goes on where an earlier attempt ended.
pub(crate) async fn fetch(
    connection: &Connection,
    home: &Home,
    blob: BlobRef,
    purpose: Option<(RunId, QueryId)>,
) -> Result<(), TransferError> {
    let part = home.part_path(blob.digest);
    let announced = Blob { length: blob.bytes, digest: blob.digest };
    let mut transfer = Transfer::new(announced, MAX_BLOB)?;
    if let Ok(mut held) = File::open(&part)
        && transfer.take_up(&mut held).is_err()
    {
        transfer = Transfer::new(announced, MAX_BLOB)?;
    }
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&part)?;
    file.set_len(transfer.offset())?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;

    let (mut sender, mut receiver) = connection.open_bi().await?;
    sender.send(&Request::Fetch { blob: blob.digest, offset: transfer.offset(), purpose }).await?;
    sender.finish().await?;
    match receiver.expect::<FetchReply>(MAX_REPLY).await? {
        FetchReply::Begin { bytes } if bytes == blob.bytes => {}
        FetchReply::Begin { bytes } => {
            return Err(TransferError::Length { found: bytes, expected: blob.bytes });
        }
        FetchReply::Unknown => return Err(TransferError::Unknown),
    }
    let mut buffer = vec![0; CHUNK];
    loop {
        match receiver.recv_chunk(&mut transfer, &mut buffer).await {
            Ok(0) => break,
            Ok(read) => file.write_all(&buffer[..read])?,
            Err(error) => {
                if matches!(error, RecvError::Blob(exeunt_link::BlobError::Corrupt { .. })) {
                    // What was kept of an earlier attempt may be to blame: begin again from nothing.
                    file.set_len(0)?;
                }
                return Err(error.into());
            }
        }
    }
    file.sync_all()?;
    fs::rename(&part, home.blob_path(blob.digest))?;
    Ok(())
}

/// Delivers a contribution and waits until it is on the coordinator's disk, or refused.
///
/// # Errors
/// [`TransferError`]; the same delivery can then be tried again, on this connection or another.
pub async fn deliver(
    connection: &Connection,
    contribution: &Contribution,
    bytes: &[u8],
) -> Result<Ack, TransferError> {
    let (mut sender, mut receiver) = connection.open_bi().await?;
    sender.send(&Request::Contribute(contribution.clone())).await?;
    let offset = match receiver.expect::<ContributeReply>(MAX_REPLY).await? {
        ContributeReply::Done(ack) => return Ok(ack),
        ContributeReply::Begin { offset } => usize::try_from(offset).unwrap_or(usize::MAX),
    };
    let rest = bytes
        .get(offset..)
        .ok_or(TransferError::Length { found: bytes.len() as u64, expected: contribution.table.bytes })?;
    sender.send_bytes(rest).await?;
    sender.finish().await?;
    match receiver.expect::<ContributeReply>(MAX_REPLY).await? {
        ContributeReply::Done(ack) => Ok(ack),
        ContributeReply::Begin { .. } => Err(TransferError::Receive(RecvError::Truncated)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use exeunt_coordinator::{Home as Coordinator, OperatorClient, ServeOptions, Service};
    use exeunt_link::BlobError;
    use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};

    use super::*;

    /// What a process leaves that was killed while it fetched: the first bytes, in a file of their own.
    #[tokio::test]
    async fn a_download_goes_on_after_a_kill_and_a_spoilt_one_begins_again() {
        let folder = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::new(folder.path().join("coordinator"));
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = ServeOptions { listen, advertise: Vec::new(), approve: false };
        let service = Service::start(&coordinator, &options).await.unwrap();
        let address = service.local_addr();
        tokio::spawn(service.run(std::future::pending()));
        let operator = OperatorClient::connect(&coordinator).await.unwrap();
        let request = OperatorRequest::Token { valid_s: 60, label: String::new(), approve: None };
        let OperatorResponse::Token { token, .. } = operator.ask(&request).await.unwrap() else { panic!() };
        let home = Home::new(folder.path().join("node"));
        let identity =
            exeunt_link::join(&token.parse().unwrap(), "porch", home.root().join("identity")).await.unwrap();
        let client = exeunt_link::Client::default();
        let connection = client.connect(&[address.into()], &identity).await.unwrap();

        let bytes: Vec<u8> =
            (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let blob = BlobRef::of(&bytes);
        operator.put_blob(&bytes).await.unwrap();
        fs::create_dir_all(home.root().join("blobs")).unwrap();
        fs::write(home.part_path(blob.digest), &bytes[..2_500_000]).unwrap();
        let before = connection.traffic().received;
        fetch(&connection, &home, blob, None).await.unwrap();
        assert_eq!(fs::read(home.blob_path(blob.digest)).unwrap(), bytes);
        let came = connection.traffic().received - before;
        assert!((500_000..700_000).contains(&came), "{came} bytes came for the 500000 that were missing");

        fs::write(home.part_path(blob.digest), &bytes[1..2_500_001]).unwrap();
        let spoilt = fetch(&connection, &home, blob, None).await.unwrap_err();
        assert!(
            matches!(spoilt, TransferError::Receive(RecvError::Blob(BlobError::Corrupt { .. }))),
            "{spoilt}"
        );
        fetch(&connection, &home, blob, None).await.unwrap();
        assert_eq!(fs::read(home.blob_path(blob.digest)).unwrap(), bytes);
    }
}
