//! Staying in touch with a coordinator: connect, look when something changed, connect again when it is gone.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exeunt_coordinator::{ClientError, Home, OperatorClient};
use exeunt_exits::Quantiles;
use exeunt_protocol::RunId;
use exeunt_protocol::operator::{
    AuditLine, Coverage, NodeLive, NodeRow, OperatorRequest, OperatorResponse, RunReport, RunRow, SnapshotRow,
};
use tokio::sync::{Notify, mpsc, watch};

/// Pause between two looks, so that a busy fleet cannot keep two processes busy with looking.
const PAUSE: Duration = Duration::from_millis(150);
/// And at least this many times as long as the look took.
const PAUSE_FACTOR: u32 = 3;
/// First and longest wait before a coordinator that does not answer is called again.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// How often a coordinator must give a sign of life while nothing happens.
const SIGN: Duration = Duration::from_secs(5);
/// After which a person is told that an answer is overdue, and after which the coordinator counts as hung: a slow link
/// must have time for everything that a large fleet has to say.
const OVERDUE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(120)];
/// Lines of the audit log that are kept.
const LINES: usize = 5000;

/// Everything a coordinator was seen to say. Parts that did not change are the same allocations as before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) nodes: Arc<[NodeRow]>,
    pub(crate) runs: Arc<[RunRow]>,
    pub(crate) report: Option<Arc<RunReport>>,
    pub(crate) margins: Option<Arc<Quantiles>>,
    pub(crate) coverage: Option<Arc<Coverage>>,
    pub(crate) live: Arc<[NodeLive]>,
    pub(crate) snapshots: Arc<[SnapshotRow]>,
    pub(crate) audit: Arc<[AuditLine]>,
}

/// News of the connection.
#[derive(Debug)]
pub(crate) enum News {
    /// It is up.
    Up(Arc<OperatorClient>),
    /// Something may have changed.
    Seen(Box<Seen>),
    /// It is connected, and takes its time to answer.
    Slow,
    /// It is gone, and why.
    Down(String),
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("connected, but without an answer for {} s", .after.as_secs())]
    Hung { after: Duration },
}

/// Attends to the coordinator of a folder until the receiver of the news is gone. `look_at` names the run to look at,
/// the newest if none; `again` cuts a wait short.
pub(crate) async fn attend(
    home: Home,
    mut look_at: watch::Receiver<Option<RunId>>,
    again: Arc<Notify>,
    news: mpsc::Sender<News>,
) {
    let mut wait = AGAIN[0];
    loop {
        let why = match OperatorClient::connect(&home).await {
            Ok(client) => {
                let client = Arc::new(client);
                wait = AGAIN[0];
                if news.send(News::Up(Arc::clone(&client))).await.is_err() {
                    return;
                }
                match look_on(&client, &mut look_at, &news).await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        if news.send(News::Down(why)).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(AGAIN[1]),
            () = again.notified() => wait = AGAIN[0],
        }
    }
}

/// Looks whenever something changed; returns when nobody wants the news any more.
async fn look_on(
    client: &OperatorClient,
    look_at: &mut watch::Receiver<Option<RunId>>,
    news: &mpsc::Sender<News>,
) -> Result<(), LookError> {
    let mut seen = Seen::default();
    let mut revision = 0;
    loop {
        let start = Instant::now();
        let wanted = look_at.borrow_and_update().clone();
        let _slow = in_time(look(client, wanted, &mut seen), OVERDUE, news).await?;
        if news.send(News::Seen(Box::new(seen.clone()))).await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE.max(start.elapsed() * PAUSE_FACTOR)).await;
        let watch = OperatorRequest::Watch { seen: revision };
        let mut changed = pin!(client.ask(&watch));
        loop {
            tokio::select! {
                changed = &mut changed => {
                    if let OperatorResponse::Changed { now } = changed? {
                        revision = now;
                    }
                    break;
                }
                changed = look_at.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    break;
                }
                () = news.closed() => return Ok(()),
                () = tokio::time::sleep(SIGN) => {
                    let sign = async { client.ask(&OperatorRequest::Runs).await.map(drop) };
                    // What was seen is as good as new again.
                    if in_time(sign, OVERDUE, news).await?
                        && news.send(News::Seen(Box::new(seen.clone()))).await.is_err()
                    {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Waits for answers; says when they are overdue, and gives up when they do not come. Whether they were overdue.
async fn in_time(
    answers: impl Future<Output = Result<(), ClientError>>,
    [slow, hung]: [Duration; 2],
    news: &mpsc::Sender<News>,
) -> Result<bool, LookError> {
    let mut answers = pin!(answers);
    tokio::select! {
        done = &mut answers => return Ok(done.map(|()| false)?),
        () = tokio::time::sleep(slow) => {}
    }
    // Whether anybody still wants the news is seen after the answers.
    let _ = news.send(News::Slow).await;
    let done = tokio::time::timeout(hung.saturating_sub(slow), answers).await;
    done.map_err(|_elapsed| LookError::Hung { after: hung })??;
    Ok(true)
}

/// One look at everything.
async fn look(client: &OperatorClient, run: Option<RunId>, seen: &mut Seen) -> Result<(), ClientError> {
    if let OperatorResponse::Nodes(mut nodes) = client.ask(&OperatorRequest::Nodes).await? {
        // They come by name; the views look them up by id.
        nodes.sort_unstable_by_key(|row| row.status.node);
        replace(&mut seen.nodes, nodes);
    }
    if let OperatorResponse::Runs(runs) = client.ask(&OperatorRequest::Runs).await? {
        replace(&mut seen.runs, runs);
    }
    let from = seen.audit.last().map_or(0, |line| line.number + 1);
    if let OperatorResponse::Audit(lines) = client.ask(&OperatorRequest::Audit { from }).await?
        && !lines.is_empty()
    {
        let surplus = (seen.audit.len() + lines.len()).saturating_sub(LINES);
        let known = seen.audit.iter().cloned();
        seen.audit = known.chain(lines).skip(surplus).collect();
    }
    let named = run.filter(|run| seen.runs.iter().any(|row| row.run == *run));
    let Some(run) = named.or_else(|| seen.runs.last().map(|row| row.run.clone())) else { return Ok(()) };
    if seen.report.as_ref().is_none_or(|report| report.status.run != run) {
        let Seen { nodes, runs, audit, .. } = std::mem::take(seen);
        *seen = Seen { nodes, runs, audit, ..Seen::default() };
    }
    if let OperatorResponse::Show(report) =
        client.ask(&OperatorRequest::Show { run: Some(run.clone()) }).await?
    {
        // Another snapshot, or another try at it: what was counted and measured is asked for again.
        let basis = |report: &RunReport| {
            let moments = report.status.queries.iter().filter(|q| q.name == "moments").count();
            (moments, report.status.snapshot, report.status.removed.len())
        };
        if seen.report.as_ref().is_none_or(|known| basis(known) != basis(&report)) {
            seen.coverage = None;
            seen.margins = None;
        }
        if seen.report.as_deref() != Some(&*report) {
            seen.report = Some(Arc::from(report));
        }
    }
    let status = seen.report.as_ref().map(|report| &report.status);
    let counted = status.is_some_and(|status| status.snapshot.is_some());
    let measured = status.is_some_and(|status| status.result.is_some());
    if counted && seen.coverage.is_none() {
        let request = OperatorRequest::Coverage { run: Some(run.clone()) };
        if let OperatorResponse::Coverage(Some(coverage)) = client.ask(&request).await? {
            seen.coverage = Some(Arc::from(coverage));
        }
    }
    if counted {
        let request = OperatorRequest::Snapshots { run: Some(run.clone()) };
        if let Some(OperatorResponse::Snapshots(snapshots)) = ask_if_known(client, &request).await? {
            replace(&mut seen.snapshots, snapshots);
        }
    }
    if status.is_some_and(|status| status.in_force().is_some()) {
        let request = OperatorRequest::Live { run: Some(run.clone()) };
        if let Some(OperatorResponse::Live(live)) = ask_if_known(client, &request).await? {
            replace(&mut seen.live, live);
        }
    }
    if measured && seen.margins.is_none() {
        let request = OperatorRequest::Margins { run: Some(run) };
        if let OperatorResponse::Margins(Some(margins)) = client.ask(&request).await? {
            seen.margins = Some(Arc::from(margins));
        }
    }
    Ok(())
}

/// What a coordinator says that may refuse to: what it cannot tell is not shown, and the rest is.
async fn ask_if_known(
    client: &OperatorClient,
    request: &OperatorRequest,
) -> Result<Option<OperatorResponse>, ClientError> {
    match client.ask(request).await {
        Ok(response) => Ok(Some(response)),
        Err(ClientError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn replace<T: PartialEq>(known: &mut Arc<[T]>, found: Vec<T>) {
    if **known != *found {
        *known = found.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_coordinator_that_hangs_is_slow_first_and_then_given_up() {
        let (sender, mut news) = mpsc::channel(8);
        let times = [5, 10].map(Duration::from_millis);
        let hung = in_time(std::future::pending(), times, &sender).await;
        assert!(matches!(hung, Err(LookError::Hung { after }) if after == times[1]), "{hung:?}");
        assert!(matches!(news.try_recv(), Ok(News::Slow)));
        let slow = in_time(std::future::ready(Ok(())), times, &sender).await.unwrap();
        assert!(!slow);
        assert!(news.try_recv().is_err(), "an answer in time is no news");
    }
}
