//! The policy in force, ready to classify, and what replaces it while requests are answered.

use std::sync::Arc;
use std::time::Duration;

use exeunt_exits::{Heads, Policy};
use exeunt_network::{EngineChoice, Network};
use exeunt_protocol::spec::RunSpec;
use tokio::sync::watch;

use crate::home::{Home, HomeError, PolicyInForce};
use crate::infer::{InferError, Inference};

/// How often the node's folder is looked at for another policy.
const LOOK: Duration = Duration::from_millis(500);

/// Why the policy in force cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The node's folder cannot be read.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A blob is not what it should be.
    #[error("{what} cannot be read")]
    Content {
        /// Which.
        what: &'static str,
        /// What the reader said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The network cannot be read.
    #[error(transparent)]
    Network(#[from] exeunt_network::LoadError),
    /// The parts do not belong together, or the network cannot run here.
    #[error(transparent)]
    Infer(#[from] InferError),
}

/// A policy with everything it needs, ready to classify.
#[derive(Debug)]
pub struct Ready {
    /// The policy's name and version, and the blobs it came from.
    pub policy: PolicyInForce,
    /// The network, cut, with exits and policy.
    pub inference: Inference,
}

impl Ready {
    /// Loads `policy` from the node's cache. What it shares with `before` is not loaded again.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(
        home: &Home,
        policy: PolicyInForce,
        engine: &EngineChoice,
        before: Option<&Self>,
    ) -> Result<Self, LoadError> {
        let chosen: Policy = read(&home.blob(policy.policy)?, "the policy")?;
        let same =
            |before: &&Self| before.policy.spec == policy.spec && before.policy.network == policy.network;
        let heads = match before.filter(same) {
            Some(before) if before.policy.heads == policy.heads => Arc::clone(before.inference.heads()),
            _ => {
                let heads = Heads::decode(&home.blob(policy.heads)?);
                let what = "the snapshot";
                Arc::new(heads.map_err(|error| LoadError::Content { what, source: error.into() })?)
            }
        };
        let kept = match before.filter(same) {
            Some(before) => before.inference.with_policy(Arc::clone(&heads), chosen.clone())?,
            None => None,
        };
        let inference = match kept {
            Some(inference) => inference,
            None => {
                let spec: RunSpec = read(&home.blob(policy.spec)?, "the run's specification")?;
                let network = Network::from_bytes_to_run(home.blob(policy.network)?)?;
                Inference::new(spec, network, engine.engine(), heads, chosen)?
            }
        };
        Ok(Self { policy, inference })
    }
}

fn read<T: serde::de::DeserializeOwned>(json: &[u8], what: &'static str) -> Result<T, LoadError> {
    serde_json::from_slice(json).map_err(|error| LoadError::Content { what, source: error.into() })
}

/// What requests are answered with at the moment; nothing before the first policy has come.
pub type Live = watch::Receiver<Option<Arc<Ready>>>;

/// Keeps `live` at the policy that the node's folder names, until nobody reads it any more. A request that has begun
/// is answered by the policy it began with. What `threads` threads need to answer is made before they are let at it.
///
/// The folder is where a policy arrives, whichever process received it: the service writes `policy.json` last, when
/// everything it names is there.
pub async fn follow(
    home: Home,
    engine: Arc<EngineChoice>,
    threads: usize,
    live: watch::Sender<Option<Arc<Ready>>>,
) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = live.closed() => return,
        }
        let current = live.borrow().clone();
        let (home, engine) = (home.clone(), Arc::clone(&engine));
        let look = move || look(&home, &engine, threads, current.as_deref());
        let looked = tokio::task::spawn_blocking(look).await;
        let problem = match looked {
            Ok(Ok(None)) => continue,
            Ok(Ok(Some(ready))) => {
                tracing::info!("policy {} of {} answers requests", ready.policy.version, ready.policy.run);
                live.send_replace(Some(Arc::new(ready)));
                told.clear();
                continue;
            }
            Ok(Err(error)) => crate::session::chain(&error),
            Err(panicked) => panicked.to_string(),
        };
        // The old policy goes on answering; the new one is tried again, but said to be wrong once.
        if problem != told {
            tracing::error!("the policy in force cannot be used: {problem}");
            told = problem;
        }
    }
}

/// The policy that the folder names, if it is another than `current`, with what so many threads need to run it.
fn look(
    home: &Home,
    engine: &EngineChoice,
    threads: usize,
    current: Option<&Ready>,
) -> Result<Option<Ready>, LoadError> {
    match home.policy()? {
        Some(policy) if current.is_none_or(|current| current.policy != policy) => {
            let ready = Ready::load(home, policy, engine, current)?;
            ready.inference.warm(threads)?;
            Ok(Some(ready))
        }
        _ => Ok(None),
    }
}
