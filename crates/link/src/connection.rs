//! One connection and its streams.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::{ConnectionError, VarInt};
use tokio::sync::Mutex;

use crate::certificate::{Facts, Peer};
use crate::close::{Closed, Reason, StreamCode};
use crate::greeting::Tag;
use crate::limits::Limits;
use crate::renew::RenewalRequest;
use crate::server::Registration;
use crate::stream::{Receiver, Sender};

/// What connections and their streams share.
pub(crate) struct Core {
    quic: quinn::Connection,
    here: OnceLock<Reason>,
    idle_timeout: Duration,
    max_frame: usize,
    // Here and not in `Connection`: streams may outlive it, and a revocation must end them too.
    registration: OnceLock<Registration>,
}

impl Core {
    pub(crate) fn new(quic: quinn::Connection, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            quic,
            here: OnceLock::new(),
            idle_timeout: limits.idle_timeout,
            max_frame: limits.max_frame,
            registration: OnceLock::new(),
        })
    }

    pub(crate) fn quic(&self) -> &quinn::Connection {
        &self.quic
    }

    pub(crate) fn max_frame(&self) -> usize {
        self.max_frame
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        let address = self.quic.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    pub(crate) fn close(&self, reason: Reason) {
        let code = VarInt::from_u32(reason.code.to_u32());
        self.quic.close(code, reason.text.as_bytes());
        // A second reason changes nothing: the first is what the other end was told.
        let _ = self.here.set(reason);
    }

    pub(crate) fn closed_by(&self, error: ConnectionError) -> Closed {
        Closed::from_quic(error, self.here.get(), self.idle_timeout)
    }

    pub(crate) fn register(&self, registration: Registration) {
        // A connection is registered once, when it has been greeted.
        let _ = self.registration.set(registration);
    }
}

/// Bytes of a connection on the wire: UDP payloads, so with QUIC's headers, acknowledgements and
/// whatever had to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent that this end takes for lost, and has sent again where they mattered.
    pub lost: u64,
}

/// A connection between a coordinator and a member who know each other. Cheap to clone; when the
/// last clone and the last stream are gone, it closes.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    facts: Facts,
    // A stream whose first byte, which says what it is for, has not come yet. It waits here so
    // that `accept` can be cancelled without losing it.
    arriving: Mutex<Option<(quinn::SendStream, quinn::RecvStream)>>,
}

/// What the other end opened.
#[derive(Debug)]
pub enum Opened {
    /// A stream for the caller's own protocol.
    Stream(Sender, Receiver),
    /// The other end asks for a new certificate.
    Renewal(RenewalRequest),
}

impl Connection {
    pub(crate) fn new(core: Arc<Core>, facts: Facts) -> Self {
        Self(Arc::new(Inner { core, facts, arriving: Mutex::new(None) }))
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.0.facts.peer
    }

    /// Where the other end is now. It may change: QUIC survives a new address.
    pub fn remote(&self) -> SocketAddr {
        self.0.core.remote()
    }

    /// Opens a stream; the other end's [`accept`](Self::accept) sees it at once. Waits while the
    /// other end allows no more streams.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn open_bi(&self) -> Result<(Sender, Receiver), Closed> {
        self.open(Tag::Stream).await
    }

    pub(crate) async fn open(&self, tag: Tag) -> Result<(Sender, Receiver), Closed> {
        open(&self.0.core, tag).await
    }

    /// Waits for the other end to open something. Cancel safe. A stream for a purpose that this
    /// version does not know is refused and passed over.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn accept(&self) -> Result<Opened, Closed> {
        let core = &self.0.core;
        let mut arriving = self.0.arriving.lock().await;
        loop {
            if arriving.is_none() {
                let pair = core.quic.accept_bi().await;
                *arriving = Some(pair.map_err(|error| core.closed_by(error))?);
            }
            let Some((_, receiver)) = arriving.as_mut() else {
                continue;
            };
            let mut tag = [0];
            let read = receiver.read(&mut tag).await;
            let Some((sender, receiver)) = arriving.take() else {
                continue;
            };
            // The bytes of a stream are counted from its tag on, at both ends.
            let mut sender = Sender::new(sender, core.clone(), &[]);
            let receiver = Receiver::new(receiver, core.clone(), 1);
            match read {
                Ok(Some(1)) => match Tag::from_byte(tag[0]) {
                    Some(Tag::Stream) => return Ok(Opened::Stream(sender, receiver)),
                    Some(Tag::Renewal) => {
                        return Ok(Opened::Renewal(RenewalRequest::new(sender, receiver, self.clone())));
                    }
                    Some(Tag::Hello | Tag::Join) | None => {
                        sender.reset(StreamCode::Refused);
                        receiver.stop(StreamCode::Refused);
                    }
                },
                // Ended or given up before it began.
                Ok(_) | Err(quinn::ReadError::Reset(_)) => {
                    // Nobody is interested in how this ends.
                    let _ = sender.finish().await;
                }
                Err(quinn::ReadError::ConnectionLost(error)) => return Err(core.closed_by(error)),
                Err(_already_over) => {}
            }
        }
    }

    /// Waits for a stream of the caller's own protocol; requests for a new certificate, which
    /// only a coordinator can answer, are refused. Cancel safe.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn accept_bi(&self) -> Result<(Sender, Receiver), Closed> {
        loop {
            match self.accept().await? {
                Opened::Stream(sender, receiver) => return Ok((sender, receiver)),
                Opened::Renewal(_dropped_is_refused) => {}
            }
        }
    }

    /// Closes the connection and tells the other end why. Streams end at once; what was not
    /// delivered is lost.
    pub fn close(&self, reason: impl Into<Reason>) {
        self.0.core.close(reason.into());
    }

    /// Waits until the connection is closed, by whomever.
    pub async fn closed(&self) -> Closed {
        let error = self.0.core.quic.closed().await;
        self.0.core.closed_by(error)
    }

    /// Why the connection is closed, if it is.
    pub fn close_reason(&self) -> Option<Closed> {
        let error = self.0.core.quic.close_reason()?;
        Some(self.0.core.closed_by(error))
    }

    /// Bytes on the wire so far.
    pub fn traffic(&self) -> Traffic {
        let stats = self.0.core.quic.stats();
        Traffic { sent: stats.udp_tx.bytes, received: stats.udp_rx.bytes, lost: stats.path.lost_bytes }
    }

    /// The current estimate of a round trip.
    pub fn round_trip(&self) -> Duration {
        self.0.core.quic.rtt()
    }

    pub(crate) fn public_key(&self) -> &[u8] {
        &self.0.facts.public_key
    }
}

/// Opens a stream for this purpose and lets the other end know.
pub(crate) async fn open(core: &Arc<Core>, tag: Tag) -> Result<(Sender, Receiver), Closed> {
    let (sender, receiver) = core.quic.open_bi().await.map_err(|error| core.closed_by(error))?;
    let mut sender = Sender::new(sender, core.clone(), &[tag.to_byte()]);
    let receiver = Receiver::new(receiver, core.clone(), 0);
    match sender.flush().await {
        Err(crate::SendError::Closed(closed)) => Err(closed),
        // Refused already; whoever uses the stream will find out.
        Ok(()) | Err(_) => Ok((sender, receiver)),
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", self.peer())
            .field("remote", &self.remote())
            .finish_non_exhaustive()
    }
}
