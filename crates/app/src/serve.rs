//! `exeunt serve`.

use std::net::SocketAddr;

use anyhow::Context as _;
use exeunt_coordinator::{Home, ServeOptions, Service};
use exeunt_link::Address;

use crate::failure::BadInput;

pub(crate) fn serve(
    home: &Home,
    listen: SocketAddr,
    advertise: &[String],
    approve: bool,
) -> anyhow::Result<()> {
    let advertise: Vec<Address> = advertise
        .iter()
        .map(|text| text.parse().map_err(|error| BadInput(format!("--advertise {text}: {error}"))))
        .collect::<Result<_, _>>()?;
    crate::runtime()?.block_on(async {
        let service = Service::start(home, &ServeOptions { listen, advertise, approve }).await?;
        eprintln!("coordinator listens on {} (UDP), folder {}", service.local_addr(), home.root().display());
        eprintln!("authority {}; add a node with `exeunt token`", service.authority());
        service.run(stop_signal()).await.context("the coordinator stopped")?;
        eprintln!("stopped; everything acknowledged is on disk");
        Ok(())
    })
}

/// Resolves when the process is asked to stop.
pub(crate) async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without signals the service runs until it is killed, which it survives.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
