//! A node's connection: its control stream, the blobs it fetches, and who takes in the tables it delivers.

use std::sync::Arc;
use std::time::SystemTime;

use exeunt_link::{CloseCode, Connection, Opened, Reason, Receiver, RecvError, Role, SendError, Sender};
use exeunt_protocol::coordinator::Input;
use exeunt_protocol::message::{FetchReply, FromNode, OLDEST_VERSION, Request, ToNode, VERSION};
use exeunt_protocol::{NodeId, QueryId, RunId};
use exeunt_stats::Digest;

use crate::desk::{Handle, Outbox, Stopped};
use crate::service::Shared;
use crate::uploads::{self, UploadError};

/// Longest message of a node.
const MAX_WORD: usize = 64 << 10;
/// Bytes read from the store at a time.
const PIECE: usize = 1 << 20;

/// Why a stream ended early. The connection goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Receive(#[from] RecvError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error("{0}")]
    Refused(String),
}

/// Serves a connection until it is gone.
pub(crate) async fn serve(shared: Arc<Shared>, connection: Connection) {
    let name = connection.peer().name.clone();
    while let Ok(opened) = connection.accept().await {
        match opened {
            Opened::Renewal(request) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let (node, role) =
                        (NodeId::from_bytes(*request.peer().id.as_bytes()), request.peer().role);
                    match request.accept(&shared.authority, SystemTime::now()).await {
                        Ok(expires) if role == Role::Node => {
                            shared.desk.tell(move |desk| desk.certified(node, expires));
                        }
                        Ok(_) => {}
                        Err(error) => tracing::warn!("certificate not renewed: {error}"),
                    }
                });
            }
            Opened::Stream(sender, receiver) => {
                let (shared, connection, name) = (Arc::clone(&shared), connection.clone(), name.clone());
                tokio::spawn(async move {
                    if let Err(error) = stream(&shared, &connection, sender, receiver).await {
                        tracing::debug!(peer = name, "stream: {error}");
                    }
                });
            }
        }
    }
}

async fn stream(
    shared: &Arc<Shared>,
    connection: &Connection,
    mut sender: Sender,
    mut receiver: Receiver,
) -> Result<(), StreamError> {
    let peer = connection.peer();
    let request: Request = receiver.expect(MAX_WORD).await?;
    let node = NodeId::from_bytes(*peer.id.as_bytes());
    // A control stream lasts as long as its node: it has no room for what the others need while they last.
    match (request, peer.role) {
        (Request::Control, Role::Node) => control(&shared.desk, connection, node, sender, receiver).await,
        (Request::Contribute(contribution), Role::Node) => {
            let (uploads, desk) = (&shared.uploads, &shared.desk);
            // Most streams are of this kind, and wait: what they hold lies in one piece.
            Box::pin(uploads::contribute(uploads, desk, connection, contribution, sender, receiver)).await
        }
        (Request::Fetch { blob, offset, purpose }, role) => {
            let charge = (role == Role::Node).then_some(node);
            Box::pin(fetch(&shared.desk, charge, blob, offset, purpose, &mut sender)).await
        }
        (Request::Operator, Role::Operator) => {
            Box::pin(crate::operator::answer(shared, sender, receiver)).await
        }
        (request, role) => {
            let name = match request {
                Request::Operator => "an operator's request",
                _ => "a node's request",
            };
            Err(StreamError::Refused(format!("{name} from a {role}")))
        }
    }
}

async fn control(
    desk: &Handle,
    connection: &Connection,
    node: NodeId,
    mut sender: Sender,
    mut receiver: Receiver,
) -> Result<(), StreamError> {
    let FromNode::Hello(hello) = receiver.expect(MAX_WORD).await? else {
        connection.close(Reason::new(CloseCode::Protocol, "the first word must be a hello"));
        return Ok(());
    };
    if hello.oldest > VERSION || hello.newest < OLDEST_VERSION {
        let (from, to) = (hello.oldest, hello.newest);
        let text = format!("node speaks versions {from} to {to}, coordinator {OLDEST_VERSION} to {VERSION}");
        connection.close(Reason::new(CloseCode::Incompatible, text));
        return Ok(());
    }
    let version = hello.newest.min(VERSION);
    sender.send(&ToNode::Welcome { version }).await?;
    let expires = connection.peer().expires;
    let (number, mut outbox) = desk.ask(move |desk| desk.connected(node, hello, expires)).await?;
    let mut said = None;
    let result = async {
        loop {
            tokio::select! {
                changed = outbox.changed() => {
                    if changed.is_err() {
                        connection.close(CloseCode::Superseded);
                        return Ok(());
                    }
                    let Outbox { membership, desired } = outbox.borrow_and_update().clone();
                    if version >= 2 && said.replace(membership) != Some(membership) {
                        sender.send(&ToNode::Membership(membership)).await?;
                    }
                    sender.send(&ToNode::Desired(desired)).await?;
                }
                word = receiver.recv::<FromNode>(MAX_WORD) => match word? {
                    Some(word) => desk.tell(move |desk| desk.core.handle(desk.now, Input::Said { node, word })),
                    None => return Ok(()),
                },
            }
        }
    }
    .await;
    desk.tell(move |desk| desk.disconnected(node, number));
    result
}

async fn fetch(
    desk: &Handle,
    charge: Option<NodeId>,
    blob: Digest,
    offset: u64,
    purpose: Option<(RunId, QueryId)>,
    sender: &mut Sender,
) -> Result<(), StreamError> {
    let refused = |error: crate::core::CoreError| StreamError::Refused(error.to_string());
    let found = desk.ask(move |desk| desk.core.blob(blob)).await?.map_err(refused)?;
    let Some(found) = found else {
        sender.send(&FetchReply::Unknown).await?;
        return Ok(sender.finish().await?);
    };
    let result = send_blob(desk, blob, offset, found.bytes, sender).await;
    // Whatever became of it: it was sent.
    if let (Some(node), Some((run, query))) = (charge, purpose) {
        let down = sender.bytes();
        desk.tell(move |desk| desk.core.charge(run, query, node, 0, down));
    }
    result
}

async fn send_blob(
    desk: &Handle,
    blob: Digest,
    offset: u64,
    bytes: u64,
    sender: &mut Sender,
) -> Result<(), StreamError> {
    sender.send(&FetchReply::Begin { bytes }).await?;
    let mut at = offset;
    while at < bytes {
        let piece = desk.ask(move |desk| desk.core.store().read_blob(blob, at, PIECE)).await?;
        let piece = piece.map_err(|error| StreamError::Refused(error.to_string()))?.unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        at += piece.len() as u64;
        sender.send_bytes(&piece).await?;
    }
    Ok(sender.finish().await?)
}
