//! A server that throws away what it receives.

use std::fmt;
use std::net::SocketAddr;

use crate::greeting::{Tag, Welcome};
use crate::limits::{Limits, MAX_GREETING};
use crate::server::{self, ServeError};
use crate::{Identity, PeerId, frame, tls};

/// The floor of a measurement: the QUIC of a [`Server`](crate::Server), with the same TLS, transport and validation of
/// addresses, and nothing above it. Members connect as they do there. Every stream that they open is read to its end,
/// forgotten, and answered with one frame, a `bool`.
pub struct Discard {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    limits: Limits,
}

impl Discard {
    /// Begins to listen.
    ///
    /// # Errors
    /// As [`Server::bind`](crate::Server::bind).
    // Not `async` for waiting: the socket needs the runtime it is polled in.
    pub async fn bind(address: SocketAddr, identity: &Identity, limits: Limits) -> Result<Self, ServeError> {
        let (endpoint, _) = server::endpoint(address, identity, &limits)?;
        let address = server::local_address(&endpoint, address)?;
        Ok(Self { endpoint, address, limits })
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves for ever.
    pub async fn run(self) {
        while let Some(incoming) = self.endpoint.accept().await {
            if !incoming.remote_address_validated() {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
                continue;
            }
            let limits = self.limits.clone();
            tokio::spawn(async move {
                let remote = incoming.remote_address();
                if let Err(error) = serve(incoming, &limits).await {
                    tracing::debug!(%remote, %error, "a connection ended");
                }
            });
        }
    }
}

async fn serve(incoming: quinn::Incoming, limits: &Limits) -> Result<(), quinn::ConnectionError> {
    let quic = incoming.accept()?.await?;
    let Ok(Some(facts)) = tls::peer(&quic) else { return Ok(()) };
    quic.set_max_concurrent_bi_streams(limits.max_streams.into());
    quic.set_receive_window(limits.connection_window.into());
    loop {
        let (sender, receiver) = quic.accept_bi().await?;
        tokio::spawn(stream(sender, receiver, facts.peer.id));
    }
}

/// Reads a stream to its end, and says so. Whoever gave it up needs no answer.
async fn stream(mut sender: quinn::SendStream, mut receiver: quinn::RecvStream, you: PeerId) -> Option<()> {
    let mut tag = [0];
    receiver.read_exact(&mut tag).await.ok()?;
    let greets = Tag::from_byte(tag[0]) == Some(Tag::Hello);
    if greets {
        let welcome = frame::encode(&Welcome { you }, MAX_GREETING).ok()?;
        sender.write_all(&welcome).await.ok()?;
        sender.finish().ok()?;
    }
    while receiver.read_chunk(usize::MAX, false).await.ok()?.is_some() {}
    if !greets {
        sender.write_all(&frame::encode(&true, MAX_GREETING).ok()?).await.ok()?;
        sender.finish().ok()?;
    }
    Some(())
}

impl fmt::Debug for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discard").field("address", &self.address).finish_non_exhaustive()
    }
}
