//! Everything that travels: words on the control stream, requests and replies, what operators ask, and what is fetched as
//! a blob.

use std::fmt::Debug;

use exeunt_exits::{Heads, Policy, Query};
use exeunt_link::{Blob, frame};
use exeunt_protocol::coordinator::PolicyRecord;
use exeunt_protocol::live::LiveReporter;
use exeunt_protocol::message::{Ack, ContributeReply, FetchReply, FromNode, Request, ToNode};
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};
use exeunt_protocol::spec::RunSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::honest;

/// Which message (one byte), then its bytes.
///
/// # Panics
/// When what was read is another message after it was written and read again.
pub fn messages(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    match which % 14 {
        0 => from_node(body),
        1 => framed::<ToNode>(body),
        2 => framed::<Request>(body),
        3 => framed::<FetchReply>(body),
        4 => framed::<ContributeReply>(body),
        5 => framed::<Ack>(body),
        6 => framed::<Blob>(body),
        7 => framed::<exeunt_link::Rejection>(body),
        8 => json::<OperatorRequest>(body),
        9 => json::<OperatorResponse>(body),
        10 => json::<RunSpec>(body),
        11 => policy(body),
        12 => query(body),
        _ => heads(body),
    }
}

fn framed<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    let Ok(message) = frame::decode::<T>(body) else { return };
    let again = frame::encode(&message, usize::MAX).expect("what was read can be written");
    assert_eq!(frame::decode(&again[frame::HEADER..]).as_ref(), Ok(&message));
}

fn from_node(body: &[u8]) {
    framed::<FromNode>(body);
    match frame::decode(body) {
        Ok(FromNode::Live(counts)) => {
            // Whatever was counted, and whether or not it can be.
            let exits = counts.margins.len();
            let _ = (counts.check(exits), counts.cost(), counts.agreement(), counts.mean_ms());
            let _ = (counts.joules(), counts.joules_saved());
            let mut sum = (*counts).clone();
            assert!(sum.add(&counts));
            let mut reporter = LiveReporter::default();
            if let Some(said) = reporter.next(&counts, 10) {
                assert!(said.samples() >= 10 && (said.sampled == 0 || said.sampled >= 10));
                assert!(counts.check(exits).is_err() || said.check(exits).is_ok());
            }
        }
        Ok(FromNode::Decline { refusal, .. }) => {
            let clipped = refusal.clone().clipped();
            assert_eq!(clipped.name(), refusal.name());
            assert!(clipped.to_string().chars().count() <= 600);
        }
        _ => {}
    }
}

fn json<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(body) else { return };
    let again = serde_json::to_vec(&message).expect("what was read can be written");
    match serde_json::from_slice::<T>(&again) {
        Ok(read) => assert_eq!(read, message),
        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&again)),
    }
}

fn policy(body: &[u8]) {
    json::<Policy>(body);
    json::<PolicyRecord>(body);
    let Ok(policy) = serde_json::from_slice::<Policy>(body) else { return };
    let rules = honest::context().rules();
    if policy.check(&rules).is_ok() {
        assert_eq!(policy.exits.len(), rules.len());
        assert!(policy.leaves_at(|_, _| 0.0) <= rules.len());
        let _ = (policy.is_off(), policy.as_static_cut());
    }
}

fn query(body: &[u8]) {
    let Ok(query) = Query::decode(body) else { return };
    assert_eq!(Query::decode(&query.encode()).map(|read| read.encode()), Ok(query.encode()));
    let context = honest::context();
    let valid = query.validate(&context.rules());
    let cells = query.layout(&context).cells();
    // What a node sums over is as long as what it was sent, but for the two that the run's own size decides.
    let own = [Query::Census, Query::Range { one_in: 1 }].iter().all(|q| q.name() != query.name());
    assert!(valid.is_err() || !own || cells <= 64 * (body.len() + 64), "{cells} cells of {}", query.name());
}

fn heads(body: &[u8]) {
    if let Ok(heads) = Heads::decode(body) {
        assert_eq!(heads.encode(), body);
    }
}
