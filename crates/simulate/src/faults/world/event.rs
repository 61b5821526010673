//! What happens, and what travels.

use std::collections::VecDeque;
use std::sync::Arc;

use exeunt_protocol::message::{Ack, Contribution, Desired, FromNode};
use exeunt_stats::Digest;

use crate::faults::site::Asked;

/// Something that happens at a certain time.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Fault(usize),
    FaultOver(usize),
    Wish {
        wish: usize,
        tries: u32,
    },
    Calm,
    Look,
    CoordinatorStarts,
    Desk {
        life: u64,
    },
    Wake {
        life: u64,
    },
    Reaches {
        life: u64,
        asked: Box<Asked>,
    },
    NodeStarts {
        node: usize,
    },
    Joins {
        node: usize,
        life: u64,
    },
    Connects {
        node: usize,
        life: u64,
    },
    GivesUp {
        node: usize,
        life: u64,
        attempt: u64,
    },
    /// The next word of a control stream is due.
    Up {
        connection: u64,
    },
    Down {
        connection: u64,
    },
    Idle {
        connection: u64,
    },
    NodeLoses {
        connection: u64,
    },
    StreamAnswered {
        node: usize,
        connection: u64,
        stream: u64,
        reply: Reply,
    },
    StreamBroken {
        node: usize,
        life: u64,
        stream: u64,
    },
    Computed {
        node: usize,
        life: u64,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Reply {
    Blob { digest: Digest, bytes: Option<Arc<[u8]>> },
    Ack { contribution: Contribution, ack: Ack },
}

/// A control stream, and the connection under it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) node: usize,
    pub(super) up: VecDeque<Word>,
    pub(super) down: VecDeque<Reaction>,
    /// The node's end lives.
    pub(super) alive: bool,
    /// The coordinator, by its life, that has heard the hello and not yet noticed the end.
    pub(super) greeted: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Word {
    Hello,
    Said(FromNode),
}

#[derive(Debug)]
pub(super) enum Reaction {
    Welcome,
    Desired(Desired),
    /// Closed, because the node was shut out.
    Barred,
}
