//! Who is who, and how bytes travel: QUIC with mutual TLS 1.3 under a private authority.
//!
//! The crate knows nothing of runs, queries or tables. It gives the coordinator and the nodes
//! four things, and hides quinn, rustls and rcgen behind them:
//!
//! * **Identities.** The coordinator's [`Authority`] is made once. Everybody owns an [`Identity`]:
//!   a key that never leaves its directory and a short-lived certificate that says which [`Role`]
//!   the key plays. A peer is known by its [`PeerId`], a hash of its public key, so that it stays
//!   the same through every renewal.
//! * **Joining.** A [`Token`] carries the coordinator's addresses, the fingerprint of its
//!   authority and a one-time [`Secret`]. [`join`] proves the secret; the server hands the request
//!   to the coordinator as [`Incoming::Joining`], because whether a secret is still good is known
//!   to the coordinator's store, not to the wire.
//! * **Connections.** [`Server`] and [`Client`] speak one ALPN ([`PROTOCOL`]). A [`Connection`]
//!   opens and accepts bidirectional streams; a [`Sender`] and a [`Receiver`] carry
//!   length-prefixed `postcard` frames and bulk bytes, and count what went through them.
//! * **Transfers.** A [`Blob`] announces length and BLAKE3; a [`Transfer`] takes the bytes in
//!   chunks, from any offset, and vouches for the whole at the end.
//!
//! # What is refused, and where
//!
//! Every declared length is compared with a limit before anything is allocated ([`frame`],
//! [`Transfer`]). Addresses are validated by a stateless retry before any state is kept. A client
//! without a certificate has one stream of a few kilobytes, on which only a join request is
//! understood; everything else closes the connection. Session tickets and 0-RTT are off, since
//! a resumed session would skip the check of the certificate's dates. All limits are in one
//! table: [`limits`].
//!
//! # What is deliberately absent
//!
//! No clock in anything that decides: whoever issues a certificate or asks whether one is due
//! passes the time in (the TLS library alone reads the system clock, when it checks dates in a
//! handshake). No retries and no back-off: the caller knows why it wanted a connection. No
//! knowledge of which secrets were spent or which peers were removed beyond the lifetime of a
//! [`Server`]: that is the store's.

mod address;
mod authority;
mod blob;
mod certificate;
mod client;
mod close;
mod connection;
mod discard;
mod files;
pub mod frame;
mod greeting;
mod id;
mod identity;
mod join;
pub mod limits;
pub mod private;
mod renew;
mod reset;
mod server;
mod stream;
mod tls;
mod token;

pub use address::{Address, AddressError};
pub use authority::{Authority, AuthorityError};
pub use blob::{Blob, BlobError, CHUNK, Transfer};
pub use certificate::{CertificateError, NameError, Peer, Role, check_name};
pub use client::{Attempt, AttemptError, Client, ConnectError, connect};
pub use close::{CloseCode, Closed, Reason, Refusal, StreamCode};
pub use connection::{Connection, Opened, Traffic};
pub use discard::Discard;
pub use id::{AuthorityId, IdError, PeerId};
pub use identity::{Identity, IdentityError};
pub use join::{AnswerError, JoinError, JoinRequest, Rejection, join};
pub use limits::{Congestion, Limits};
pub use renew::{RenewError, RenewalRequest, renew};
pub use server::{Incoming, ServeError, Server};
pub use stream::{Receiver, RecvError, SendError, Sender};
pub use tls::PROTOCOL;
pub use token::{Secret, Token, TokenError};
