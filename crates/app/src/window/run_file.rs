//! Starting a run from a run file on this machine.

use std::path::Path;

use exeunt_coordinator::OperatorClient;
use exeunt_network::Network;
use exeunt_node::EngineOptions;
use exeunt_protocol::RunId;
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};

/// Reads the file and its network, sends both.
///
/// # Errors
/// What is wrong with the file, the network or the way to the coordinator.
pub(crate) async fn start(client: &OperatorClient, path: &Path) -> anyhow::Result<RunId> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let mut file = crate::remote::read_run_file(&path)?;
        let beside = path.parent().unwrap_or(Path::new("."));
        let network = Network::load(&beside.join(&file.network))?;
        if let Some(placed) = crate::place::fill_with(&mut file, &network, &EngineOptions::default())? {
            tracing::info!("exits {}", placed.summary());
        }
        Ok((file, network))
    });
    let (file, network) = read.await??;
    let network = client.put_blob(network.bytes()).await?;
    match client.ask(&OperatorRequest::StartRun { file: Box::new(file), network }).await? {
        OperatorResponse::Started { run } => Ok(run),
        _ => anyhow::bail!("the coordinator gave an unexpected answer: is it another version?"),
    }
}
