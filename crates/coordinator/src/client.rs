//! Asking a coordinator as its operator, from the command line or a window.

use std::time::SystemTime;

use exeunt_link::limits::MAX_BLOB;
use exeunt_link::{Blob, Client, CloseCode, Closed, ConnectError, Connection, RecvError, SendError};
use exeunt_protocol::message::{BlobRef, FetchReply, Request};
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};
use exeunt_stats::Digest;

use crate::home::{Home, HomeError};

/// Longest response.
const MAX_RESPONSE: u64 = 256 << 20;
/// Longest header of a response.
const MAX_HEADER: usize = 4096;

/// Why a coordinator could not be asked, or did not grant a wish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no coordinator in the folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// It cannot be reached.
    #[error("{0}; is `exeunt serve` running?")]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The request could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The response did not come.
    #[error(transparent)]
    Receive(#[from] RecvError),
    /// The response cannot be read.
    #[error("the coordinator's answer cannot be read: is it another version? ({0})")]
    Content(#[from] serde_json::Error),
    /// The coordinator says no.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
    },
}

/// A connection to a coordinator with an operator's certificate.
#[derive(Debug)]
pub struct OperatorClient {
    client: Client,
    connection: Connection,
}

impl OperatorClient {
    /// Connects to the coordinator whose folder is here.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connect(home: &Home) -> Result<Self, ClientError> {
        let (identity, whereabouts) = home.operator()?;
        let client = Client::default();
        let connection = client.connect(&whereabouts.addresses(), &identity).await?;
        // The coordinator looks after the folder on its own machine; elsewhere nobody else does.
        if identity.renewal_due(SystemTime::now())
            && let Err(error) = exeunt_link::renew(&connection, &identity).await
        {
            tracing::warn!("the operator's certificate was not renewed: {error}");
        }
        Ok(Self { client, connection })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the coordinator says no.
    pub async fn ask(&self, request: &OperatorRequest) -> Result<OperatorResponse, ClientError> {
        self.exchange(request, &[]).await
    }

    async fn exchange(
        &self,
        request: &OperatorRequest,
        bulk: &[u8],
    ) -> Result<OperatorResponse, ClientError> {
        let (mut sender, mut receiver) = self.connection.open_bi().await?;
        sender.send(&Request::Operator).await?;
        sender.send(&serde_json::to_vec(request)?).await?;
        sender.send_bytes(bulk).await?;
        sender.finish().await?;
        let announced: Blob = receiver.expect(MAX_HEADER).await?;
        let json = receiver.recv_blob(announced, MAX_RESPONSE).await?;
        match serde_json::from_slice(&json)? {
            OperatorResponse::Refused { why } => Err(ClientError::Refused { why }),
            response => Ok(response),
        }
    }

    /// Sends a blob, unless the coordinator has it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put_blob(&self, bytes: &[u8]) -> Result<Digest, ClientError> {
        let blob = BlobRef::of(bytes);
        let known = self.ask(&OperatorRequest::HasBlob { blob: blob.digest }).await?;
        if known != OperatorResponse::HasBlob(true) {
            self.exchange(&OperatorRequest::PutBlob { blob: blob.digest, bytes: blob.bytes }, bytes).await?;
        }
        Ok(blob.digest)
    }

    /// Gets a blob.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn blob(&self, digest: Digest) -> Result<Vec<u8>, ClientError> {
        let (mut sender, mut receiver) = self.connection.open_bi().await?;
        sender.send(&Request::Fetch { blob: digest, offset: 0, purpose: None }).await?;
        sender.finish().await?;
        match receiver.expect::<FetchReply>(MAX_HEADER).await? {
            FetchReply::Begin { bytes } => {
                Ok(receiver.recv_blob(Blob { length: bytes, digest }, MAX_BLOB).await?)
            }
            FetchReply::Unknown => {
                Err(ClientError::Refused { why: format!("the coordinator does not have {}", digest.short()) })
            }
        }
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.client.close(CloseCode::Finished).await;
    }
}
