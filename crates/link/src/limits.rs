//! Every limit of the wire, in one table.
//!
//! | limit | default | bounds |
//! |---|---|---|
//! | [`Limits::max_streams`] | 64 | streams a peer may have open at once |
//! | [`Limits::stream_window`] | 1 MiB | unread bytes held for one stream |
//! | [`Limits::connection_window`] | 4 MiB | unread bytes held for one connection |
//! | [`Limits::send_window`] | 256 KiB | bytes sent and not yet acknowledged, per connection |
//! | [`Limits::max_frame`] | 1 MiB | one message, when sending; a receiver names its own limit |
//! | [`Limits::idle_timeout`] | 15 s | silence after which a peer is gone |
//! | [`Limits::keep_alive`] | 4 s | how often a client breaks the silence (three losses are survived) |
//! | [`Limits::connect_timeout`] | 5 s | one attempt at one address, name resolution included |
//! | [`Limits::attempt_delay`] | 250 ms | head start of one address over the next |
//! | [`Limits::greeting_timeout`] | 10 s | from a client's first packet to its greeting or join request |
//! | [`Limits::max_incoming`] | 4096 | connections waiting for the server to look at them |
//! | [`Limits::max_greetings`] | 1024 | handshakes and greetings under way at once |
//! | [`Limits::backlog`] | 64 | greeted connections waiting for [`Server::accept`](crate::Server::accept) |
//! | [`Limits::reordering`] | 128 | packets that may overtake one before it counts as lost |
//! | [`Limits::overdue_percent`] | 200 | percent of a round trip after which one that was overtaken counts as lost |
//! | [`MAX_BLOB`] | 1 GiB | one transfer, unless the receiver names a smaller limit |
//! | [`GREETING_STREAMS`] | 1 | streams of a client that has not shown who it is |
//! | [`GREETING_WINDOW`] | 16 KiB | unread bytes of a client that has not shown who it is |
//! | [`MAX_GREETING`] | 8 KiB | one frame of the greeting, the join exchange or a renewal |
//! | [`INCOMING_BUFFER`] | 16 KiB | packets kept per connection waiting to be looked at |
//! | [`INCOMING_BUFFER_TOTAL`] | 16 MiB | the same, for all of them |
//! | [`SOCKET_BUFFER`] | 4 MiB | packets that the system keeps for a server, each way, where it allows as much |
//! | [`CRYPTO_BUFFER`] | 16 KiB | out-of-order handshake bytes per connection |
//! | [`RETRY_LIFETIME`] | 15 s | how long an address validation is good |
//! | [`MAX_REASON`] | 256 B | text of a close reason |
//! | [`MAX_NAME`] | 64 characters | name in a certificate (X.509's own bound) |
//! | [`MAX_ADDRESSES`] | 16 | addresses in a join token |
//! | [`MAX_TOKEN`] | 8192 bytes | join token as typed |
//! | [`NODE_VALIDITY`] | 30 days | certificate of a node |
//! | [`OPERATOR_VALIDITY`], [`COORDINATOR_VALIDITY`] | 365 days | the others, issued again at every start |
//! | [`BACKDATE`] | 1 hour | clocks that run behind ours |

use std::sync::Arc;
use std::time::Duration;

/// Most bytes of one transfer, whatever its header says.
pub const MAX_BLOB: u64 = 1 << 30;
/// Streams a client may open before it has shown who it is.
pub const GREETING_STREAMS: u32 = 1;
/// Unread bytes held for a client that has not shown who it is.
pub const GREETING_WINDOW: u32 = 16 << 10;
/// Most bytes of one frame of the greeting, the join exchange or a renewal.
pub const MAX_GREETING: usize = 8 << 10;
/// Bytes buffered for one connection that the server has not looked at yet.
pub const INCOMING_BUFFER: u64 = 16 << 10;
/// Bytes buffered for all connections that the server has not looked at yet.
pub const INCOMING_BUFFER_TOTAL: u64 = 16 << 20;
/// Bytes of packets that the system keeps for a server until they are read, and until they are sent; less where it does
/// not allow as much (`net.core.rmem_max`). With the usual 208 KiB a tenth of the packets of a few thousand nodes that
/// answer at once is dropped, and sent again.
pub const SOCKET_BUFFER: usize = 4 << 20;
/// Out-of-order handshake bytes held per connection.
pub const CRYPTO_BUFFER: usize = 16 << 10;
/// How long the proof of an address, given by a retry, is accepted.
pub const RETRY_LIFETIME: Duration = Duration::from_secs(15);
/// Most bytes of the text of a close reason; longer ones are cut.
pub const MAX_REASON: usize = 256;
/// Most characters of a name in a certificate.
pub const MAX_NAME: usize = 64;
/// Most bytes of the text of a join token, white space included.
pub const MAX_TOKEN: usize = 8192;
/// Most addresses in one join token.
pub const MAX_ADDRESSES: usize = 16;
/// How long a node's certificate is good. A node renews when a third of it is left.
pub const NODE_VALIDITY: Duration = Duration::from_secs(30 * 86_400);
/// How long an operator's certificate is good.
pub const OPERATOR_VALIDITY: Duration = Duration::from_secs(365 * 86_400);
/// How long the coordinator's own certificate is good.
pub const COORDINATOR_VALIDITY: Duration = Duration::from_secs(365 * 86_400);
/// How far back a certificate's first second lies, for peers whose clocks run behind.
pub const BACKDATE: Duration = Duration::from_secs(3_600);
/// How long an answer to a join request, or a last word, may take to be taken in.
pub(crate) const LINGER: Duration = Duration::from_secs(3);

/// How a sender finds out how fast it may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Congestion {
    /// Takes a loss for a sign of congestion; grows again by time (RFC 9438).
    Cubic,
    /// Takes a loss for a sign of congestion; grows again by round trips (RFC 9002).
    NewReno,
    /// Measures rate and round trip, and takes a loss for no sign by itself.
    Bbr,
}

impl Congestion {
    fn factory(self) -> Arc<dyn quinn::congestion::ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => Arc::new(quinn::congestion::CubicConfig::default()),
            Self::NewReno => Arc::new(quinn::congestion::NewRenoConfig::default()),
            Self::Bbr => Arc::new(quinn::congestion::BbrConfig::default()),
        }
    }
}

/// The limits that a deployment may want to change; see the table in [`limits`](self).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bidirectional streams a peer may have open at once.
    pub max_streams: u32,
    /// Unread bytes held for one stream.
    pub stream_window: u32,
    /// Unread bytes held for one connection.
    pub connection_window: u32,
    /// Bytes sent and not yet acknowledged, per connection. Also bounds what is lost with a connection; and a receiver
    /// tells of 64 gaps at most, so that of more packets than this in flight on a link that reorders, some would be
    /// sent again although they arrived.
    pub send_window: u64,
    /// Most bytes of one message when sending.
    pub max_frame: usize,
    /// Silence after which a peer is gone.
    pub idle_timeout: Duration,
    /// How often a client breaks the silence. The server only answers: with ten thousand nodes,
    /// one side pinging is enough.
    pub keep_alive: Duration,
    /// One attempt at one address, name resolution included.
    pub connect_timeout: Duration,
    /// Head start of one address over the next.
    pub attempt_delay: Duration,
    /// From a client's first packet to its greeting or join request.
    pub greeting_timeout: Duration,
    /// Connections waiting for the server to look at them; more are refused at once.
    pub max_incoming: usize,
    /// Handshakes and greetings under way at once; more wait.
    pub max_greetings: usize,
    /// Greeted connections waiting for [`Server::accept`](crate::Server::accept).
    pub backlog: usize,
    /// Packets that may overtake one before it counts as lost. QUIC's own 3, and its 112 percent of a round trip, make a
    /// sender on a link that reorders send again what is on its way.
    pub reordering: u32,
    /// Percent of a round trip after which one that was overtaken counts as lost.
    pub overdue_percent: u32,
    /// How fast to send.
    pub congestion: Congestion,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_streams: 64,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            send_window: 256 << 10,
            max_frame: 1 << 20,
            idle_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(5),
            attempt_delay: Duration::from_millis(250),
            greeting_timeout: Duration::from_secs(10),
            max_incoming: 4096,
            max_greetings: 1024,
            backlog: 64,
            reordering: 128,
            overdue_percent: 200,
            congestion: Congestion::Bbr,
        }
    }
}

impl Limits {
    fn transport(&self) -> quinn::TransportConfig {
        let mut transport = quinn::TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(self.max_streams.into())
            .max_concurrent_uni_streams(0u32.into())
            .stream_receive_window(self.stream_window.into())
            .receive_window(self.connection_window.into())
            .send_window(self.send_window)
            .datagram_receive_buffer_size(None)
            .datagram_send_buffer_size(0)
            .crypto_buffer_size(CRYPTO_BUFFER)
            .congestion_controller_factory(self.congestion.factory())
            .packet_threshold(self.reordering)
            .time_threshold(self.overdue_percent as f32 / 100.0)
            // Beyond a variable-length integer lie a hundred million years: no timeout then.
            .max_idle_timeout(self.idle_timeout.try_into().ok());
        transport
    }

    pub(crate) fn client_transport(&self) -> quinn::TransportConfig {
        let mut transport = self.transport();
        transport.keep_alive_interval(Some(self.keep_alive));
        transport
    }

    pub(crate) fn apply(&self, config: &mut quinn::ServerConfig) {
        let mut transport = self.transport();
        // A client gets the rest once it has shown who it is.
        transport.max_concurrent_bidi_streams(GREETING_STREAMS.into()).receive_window(GREETING_WINDOW.into());
        // Every connection proves its address by a retry: no tokens that spare it the next time.
        let mut validation = quinn::ValidationTokenConfig::default();
        validation.sent(0);
        config
            .transport_config(Arc::new(transport))
            .validation_token_config(validation)
            .retry_token_lifetime(RETRY_LIFETIME)
            .max_incoming(self.max_incoming)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL);
    }
}
