//! Answering an operator: one request, one response, on a stream of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use exeunt_link::limits::MAX_BLOB;
use exeunt_link::{Blob, PeerId, Receiver, Secret, Sender, Token};
use exeunt_network::Network;
use exeunt_protocol::NodeId;
use exeunt_protocol::coordinator::{Now, Target};
use exeunt_protocol::moment::unix_ms;
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};
use exeunt_protocol::spec::RunFile;
use exeunt_stats::Digest;
use exeunt_store::TokenRecord;

use crate::core::{Core, CoreError};
use crate::desk::Desk;
use crate::members::MemberError;
use crate::peer::StreamError;
use crate::report::audit_line;
use crate::service::Shared;

/// Longest request.
const MAX_REQUEST: usize = 1 << 20;
/// How long a watcher is kept waiting when nothing changes; it then asks again.
const WATCH: Duration = Duration::from_secs(30);
/// Longest time that a token may be valid.
const LONGEST_TOKEN_S: u64 = 365 * 86_400;
/// Lines of the audit log in one answer.
const AUDIT_LINES: usize = 1000;

pub(crate) async fn answer(
    shared: &Arc<Shared>,
    mut sender: Sender,
    mut receiver: Receiver,
) -> Result<(), StreamError> {
    // JSON inside the frame: a run file is written for people and changes from version to version.
    let request: Vec<u8> = receiver.expect(MAX_REQUEST).await?;
    let request: OperatorRequest =
        serde_json::from_slice(&request).map_err(|error| StreamError::Refused(error.to_string()))?;
    let response = match perform(shared, request, &mut receiver).await {
        // The coordinator is about to end; whoever asked is told that nothing was done.
        Err(StreamError::Stopped(stopped)) => OperatorResponse::Refused { why: stopped.to_string() },
        answered => answered?,
    };
    let json = serde_json::to_vec(&response).map_err(|error| StreamError::Refused(error.to_string()))?;
    sender.send(&Blob::of(&json)).await?;
    sender.send_bytes(&json).await?;
    Ok(sender.finish().await?)
}

async fn perform(
    shared: &Arc<Shared>,
    request: OperatorRequest,
    receiver: &mut Receiver,
) -> Result<OperatorResponse, StreamError> {
    Ok(match request {
        OperatorRequest::PutBlob { blob, bytes } => put_blob(shared, blob, bytes, receiver).await?,
        OperatorRequest::Token { valid_s, label, approve } => {
            token(shared, valid_s, label, approve.unwrap_or(shared.approve)).await?
        }
        OperatorRequest::Backup => backup(shared).await?,
        OperatorRequest::StartRun { file, network } => start_run(shared, *file, network).await?,
        OperatorRequest::Watch { seen } => {
            let now = match tokio::time::timeout(WATCH, shared.desk.changed(seen)).await {
                Ok(now) => now?,
                Err(_nothing_changed) => seen,
            };
            OperatorResponse::Changed { now }
        }
        OperatorRequest::Revoke { node } => {
            let revoke = move |desk: &mut Desk| {
                or_refused(done(desk.core.revoke(desk.now, node).map_err(CoreError::from)))
            };
            let response = shared.desk.ask(revoke).await?;
            if response == OperatorResponse::Done {
                shared.server.revoke(PeerId::from_bytes(*node.as_bytes()));
            }
            response
        }
        other => shared.desk.ask(move |desk| or_refused(look(&mut desk.core, desk.now, other))).await?,
    })
}

fn done(result: Result<(), CoreError>) -> Result<OperatorResponse, CoreError> {
    result.map(|()| OperatorResponse::Done)
}

fn or_refused(result: Result<OperatorResponse, CoreError>) -> OperatorResponse {
    result.unwrap_or_else(|error| OperatorResponse::Refused { why: chain(&error) })
}

/// Everything that is answered by the core alone.
fn look(core: &mut Core, now: Now, request: OperatorRequest) -> Result<OperatorResponse, CoreError> {
    Ok(match request {
        OperatorRequest::Nodes => OperatorResponse::Nodes(core.node_rows(short)?),
        OperatorRequest::Node { node, run } => {
            let run = match run {
                Some(run) => Some(core.look_at(now, Some(&run))?),
                None => core.look_at(now, None).ok(),
            };
            core.flush_traffic()?;
            match core.node_detail(now, node, run.as_ref(), short)? {
                Some(detail) => OperatorResponse::Node(Box::new(detail)),
                None => return Err(MemberError::Unknown { node }.into()),
            }
        }
        OperatorRequest::Approve { node } => done(core.approve(now, node).map_err(CoreError::from))?,
        OperatorRequest::Rename { node, name } => {
            done(core.rename(now, node, &name).map_err(CoreError::from))?
        }
        OperatorRequest::Quarantine { node } => done(core.quarantine(now, node).map_err(CoreError::from))?,
        OperatorRequest::Release { node } => done(core.release(now, node).map_err(CoreError::from))?,
        OperatorRequest::HasBlob { blob } => OperatorResponse::HasBlob(core.blob(blob)?.is_some()),
        OperatorRequest::Runs => OperatorResponse::Runs(core.run_rows(now)?),
        OperatorRequest::Show { run } => {
            let run = core.look_at(now, run.as_ref())?;
            core.flush_traffic()?;
            OperatorResponse::Show(Box::new(core.report(now, &run)?))
        }
        OperatorRequest::Stop { run } => {
            core.stop_run(now, &run)?;
            OperatorResponse::Done
        }
        OperatorRequest::Remove { run, node } => {
            let run = core.look_at(now, run.as_ref())?;
            core.remove_contribution(now, &run, node)?;
            OperatorResponse::Done
        }
        OperatorRequest::SetPolicy { run, wish, node } => {
            let run = core.look_at(now, run.as_ref())?;
            let version = core.set_policy(now, &run, &wish, target(node))?;
            OperatorResponse::Policy { run, version }
        }
        OperatorRequest::ClearPolicy { run, node } => {
            let run = core.look_at(now, run.as_ref())?;
            core.clear_policy(&run, node)?;
            OperatorResponse::Done
        }
        OperatorRequest::SavePolicy { run, name, version } => {
            let run = core.look_at(now, run.as_ref())?;
            let version = core.save_policy(now, &run, &name, version)?.version;
            OperatorResponse::Policy { run, version }
        }
        OperatorRequest::ForgetPolicy { run, name } => {
            let run = core.look_at(now, run.as_ref())?;
            core.forget_policy(now, &run, &name)?;
            OperatorResponse::Done
        }
        OperatorRequest::ApplyPolicy { run, name, node } => {
            let run = core.look_at(now, run.as_ref())?;
            let version = core.apply_policy(now, &run, &name, target(node))?;
            OperatorResponse::Policy { run, version }
        }
        OperatorRequest::TryPolicy { run, wish } => {
            let run = core.look_at(now, run.as_ref())?;
            let version = core.set_policy(now, &run, &wish, Target::Nobody)?;
            OperatorResponse::Policy { run, version }
        }
        OperatorRequest::Margins { run } => {
            let run = core.look_at(now, run.as_ref())?;
            OperatorResponse::Margins(core.machine.quantiles(&run).cloned().map(Box::new))
        }
        OperatorRequest::Coverage { run } => {
            let run = core.look_at(now, run.as_ref())?;
            OperatorResponse::Coverage(core.coverage(&run)?.map(Box::new))
        }
        OperatorRequest::Audit { from } => {
            let lines = core.store().audit(from, AUDIT_LINES)?.into_iter();
            OperatorResponse::Audit(lines.map(audit_line).collect())
        }
        OperatorRequest::Snapshot { run } => {
            let run = core.look_at(now, run.as_ref())?;
            match core.snapshot(now, &run)? {
                Some(names) => OperatorResponse::Snapshot(Box::new(names)),
                None => OperatorResponse::Refused { why: format!("'{run}' has no snapshot yet") },
            }
        }
        OperatorRequest::Live { run } => {
            let run = core.look_at(now, run.as_ref())?;
            OperatorResponse::Live(core.machine.live(&run)?)
        }
        OperatorRequest::Snapshots { run } => {
            let run = core.look_at(now, run.as_ref())?;
            OperatorResponse::Snapshots(core.snapshots(&run)?)
        }
        OperatorRequest::SnapshotDiff { run, from, to } => {
            let run = core.look_at(now, run.as_ref())?;
            OperatorResponse::SnapshotDiff(Box::new(core.snapshot_diff(&run, from, to)?))
        }
        OperatorRequest::Token { .. }
        | OperatorRequest::Revoke { .. }
        | OperatorRequest::Watch { .. }
        | OperatorRequest::PutBlob { .. }
        | OperatorRequest::Backup
        | OperatorRequest::StartRun { .. } => {
            OperatorResponse::Refused { why: "misdirected request".to_owned() }
        }
    })
}

fn target(node: Option<NodeId>) -> Target {
    node.map_or(Target::Fleet, Target::Node)
}

fn short(node: NodeId) -> String {
    PeerId::from_bytes(*node.as_bytes()).short()
}

async fn put_blob(
    shared: &Arc<Shared>,
    digest: Digest,
    bytes: u64,
    receiver: &mut Receiver,
) -> Result<OperatorResponse, StreamError> {
    let bytes = receiver.recv_blob(Blob { length: bytes, digest }, MAX_BLOB).await?;
    let put = move |desk: &mut Desk| {
        or_refused(
            desk.core
                .store_mut()
                .put_blob(digest, &bytes)
                .map_err(CoreError::from)
                .map(|()| OperatorResponse::Done),
        )
    };
    Ok(shared.desk.ask(put).await?)
}

async fn token(
    shared: &Arc<Shared>,
    valid_s: u64,
    label: String,
    approve: bool,
) -> Result<OperatorResponse, StreamError> {
    if !(1..=LONGEST_TOKEN_S).contains(&valid_s) {
        let why = format!("a token valid for {valid_s} s, expected 1 to {LONGEST_TOKEN_S} (365 days)");
        return Ok(OperatorResponse::Refused { why });
    }
    let secret = Secret::random();
    let expires = SystemTime::now() + Duration::from_secs(valid_s);
    let expires_ms = unix_ms(expires);
    let record = TokenRecord { label, expires_ms, used_by: None, approve };
    let digest = secret.digest();
    let added = shared
        .desk
        .ask(move |desk| desk.core.store_mut().add_token(digest, &record, desk.now.unix_ms))
        .await?;
    if let Err(error) = added {
        return Ok(OperatorResponse::Refused { why: chain(&error) });
    }
    let addresses = shared.whereabouts.advertised.clone();
    Ok(match Token::new(addresses, shared.authority.id(), secret, expires) {
        Ok(token) => OperatorResponse::Token { token: token.to_string(), expires: expires_ms / 1000 },
        Err(error) => OperatorResponse::Refused { why: error.to_string() },
    })
}

/// The desk only begins to read; the copy is made away from it, of what it held at that moment.
async fn backup(shared: &Arc<Shared>) -> Result<OperatorResponse, StreamError> {
    let snapshots = shared.snapshots.clone();
    let take = move |desk: &mut Desk| {
        desk.core.flush_traffic()?;
        Ok::<_, CoreError>(snapshots.take()?)
    };
    let snapshot = match shared.desk.ask(take).await? {
        Ok(snapshot) => snapshot,
        Err(error) => return Ok(OperatorResponse::Refused { why: chain(&error) }),
    };
    let home = shared.home.clone();
    let copied = tokio::task::spawn_blocking(move || {
        let now = SystemTime::now();
        let folder = home.new_backup(now);
        // Whoever asked works in another folder.
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        crate::backup::back_up(&home, &snapshot, &folder, now).map(|manifest| (folder, manifest))
    });
    let why = match copied.await {
        Ok(Ok((folder, manifest))) => {
            tracing::info!("backup made: {}", folder.display());
            return Ok(OperatorResponse::Backup {
                folder: folder.to_string_lossy().into_owned(),
                bytes: manifest.bytes(),
                files: manifest.files.len() as u64,
                made_ms: manifest.made_ms,
            });
        }
        Ok(Err(error)) => chain(&error),
        Err(error) => error.to_string(),
    };
    Ok(OperatorResponse::Refused { why: format!("the backup was not made: {why}") })
}

/// The network is analysed away from the desk: it may take a second, and others wait there.
async fn start_run(
    shared: &Arc<Shared>,
    file: RunFile,
    network: Digest,
) -> Result<OperatorResponse, StreamError> {
    let bytes = shared.desk.ask(move |desk| desk.core.store().read_blob(network, 0, usize::MAX)).await?;
    let refused = |why: String| Ok(OperatorResponse::Refused { why });
    let bytes = match bytes {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return refused(format!("the network {} was not sent", network.short())),
        Err(error) => return refused(chain(&error)),
    };
    let read = tokio::task::spawn_blocking(move || Network::from_bytes(bytes)).await;
    let network = match read {
        Ok(Ok(network)) => network,
        Ok(Err(error)) => return refused(chain(&error)),
        Err(error) => return refused(error.to_string()),
    };
    let start = move |desk: &mut Desk| {
        or_refused(
            desk.core.start_run(desk.now, &file, &network).map(|run| OperatorResponse::Started { run }),
        )
    };
    Ok(shared.desk.ask(start).await?)
}

/// An error with everything that led to it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
