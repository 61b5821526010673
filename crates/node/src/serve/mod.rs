//! Inference for applications: the Open Inference Protocol, version 2, over HTTP.
//!
//! What a client can do wrong ends in a clear error for that client alone:
//!
//! * a header, a body, a batch, and the number of connections have limits ([`Limits`]), so memory has one;
//! * a client that stops half-way, or reads no answer, loses its connection after a while;
//! * inference runs on threads of its own, so that a long batch holds up no other client's bytes.
//!
//! There is no authentication and no TLS: it listens on loopback unless told otherwise.

mod counts;
mod live;
mod routes;
mod tensors;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

pub use live::{Live, LoadError, Ready, follow};
use routes::Desk;

use crate::ledger::Ledger;

/// How long the server waits after a failure to accept, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often what was counted is written down.
const FLUSH: Duration = Duration::from_secs(1);
/// How long connections may go on once the server was asked to stop.
const FAREWELL: Duration = Duration::from_secs(5);

/// What one client, and all together, may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Bytes of a request's headers.
    pub header: usize,
    /// Samples in one request.
    pub batch: usize,
    /// Open connections. Each may hold one body.
    pub connections: usize,
    /// How long a connection may be idle or take to send its headers.
    pub header_time: Duration,
    /// How long a request's body may take.
    pub body_time: Duration,
    /// How long an answer may make no progress.
    pub write_time: Duration,
    /// Inferences at once.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 16 << 20,
            header: 16 << 10,
            batch: 1024,
            connections: 256,
            header_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
            threads: 1,
        }
    }
}

/// A server that listens, and has not answered anybody yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    desk: Arc<Desk>,
}

impl Server {
    /// Listens at `address`. Requests are answered with what is `live` when they arrive; the model is called `model`,
    /// or else after the run.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub async fn bind(
        address: SocketAddr,
        live: Live,
        model: Option<String>,
        limits: Limits,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, desk: Arc::new(Desk::new(live, model, limits)) })
    }

    /// Counts what is decided in `ledger`, which is written when the server ends and now and then before.
    #[must_use]
    pub fn counting(self, ledger: Ledger) -> Self {
        self.desk.count_in(ledger);
        self
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves, then lets requests that have begun be answered.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut flush = tokio::time::interval(FLUSH);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
                Some(_ended) = connections.join_next() => continue,
                _ = flush.tick() => {
                    self.desk.flush().await;
                    continue;
                }
            };
            match (accepted, Arc::clone(self.desk.slots()).try_acquire_owned()) {
                (Ok((stream, _)), Ok(slot)) => {
                    connections.spawn(converse(stream, slot, Arc::clone(&self.desk), stopped.clone()));
                }
                (Ok((stream, _)), Err(_none_free)) => {
                    self.desk.served().refused_connection();
                    tokio::spawn(turn_away(stream, self.desk.limits().write_time));
                }
                (Err(error), _) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        stopping.send_replace(());
        let farewell = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            connections.shutdown().await;
        }
        self.desk.flush().await;
    }
}

/// Answers the requests of one connection.
async fn converse(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    desk: Arc<Desk>,
    mut stopped: watch::Receiver<()>,
) {
    // Answers are small and whole; the last packet must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("no-delay: {error}");
    }
    let limits = desk.limits();
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_time));
    let header = limits.header;
    let header_time = limits.header_time;
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_time)
        .max_header_size(header)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection: {error}");
    }
    drop(slot);
}

/// Says that there are too many connections, and closes.
async fn turn_away(mut stream: TcpStream, time: Duration) {
    let body = r#"{"error":"too many connections, try again later"}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\nretry-after: 1\r\n\r\n{body}",
        body.len()
    );
    let say = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // Whoever is gone already needs no answer.
    let _ = tokio::time::timeout(time, say).await;
}
