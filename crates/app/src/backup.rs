//! `exeunt backup` and `exeunt restore`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use exeunt_coordinator::{
    BackupError, Home, OperatorClient, back_up_stopped, move_backup, restore as put_back,
};
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};
use exeunt_store::StoreError;
use serde_json::json;

use crate::ask::moment;
use crate::failure::BadInput;
use crate::remote::unexpected;
use crate::show::size;

/// A backup that was made.
struct Made {
    folder: PathBuf,
    bytes: u64,
    files: u64,
    made_ms: u64,
}

pub(crate) fn backup(home: &Home, to: Option<&Path>, json: bool) -> anyhow::Result<()> {
    if let Some(to) = to.filter(|to| to.exists()) {
        return Err(BackupError::Taken { path: to.to_owned() }.into());
    }
    let now = SystemTime::now();
    let folder = to.map_or_else(|| home.new_backup(now), Path::to_owned);
    let made = match back_up_stopped(home, &folder, now) {
        Ok(manifest) => {
            let (bytes, files) = (manifest.bytes(), manifest.files.len() as u64);
            Made { folder, bytes, files, made_ms: manifest.made_ms }
        }
        Err(BackupError::Store(StoreError::InUse { .. })) => {
            let mut made = ask(home)?;
            if let Some(to) = to {
                move_backup(&made.folder, to)?;
                to.clone_into(&mut made.folder);
            }
            made
        }
        Err(error) => return Err(error.into()),
    };
    say(&made, false, json);
    Ok(())
}

/// Of a coordinator on another machine, where the backup then lies.
pub(crate) fn backup_elsewhere(home: &Home, to: Option<&Path>, json: bool) -> anyhow::Result<()> {
    if let Some(to) = to {
        let why = format!(
            "{}: with --connect a backup is made on the coordinator's machine, below its own folder; leave the folder out",
            to.display()
        );
        return Err(BadInput(why).into());
    }
    say(&ask(home)?, true, json);
    Ok(())
}

fn ask(home: &Home) -> anyhow::Result<Made> {
    let response = crate::runtime()?.block_on(async {
        let client = OperatorClient::connect(home).await?;
        let response = client.ask(&OperatorRequest::Backup).await;
        client.close().await;
        response
    })?;
    let OperatorResponse::Backup { folder, bytes, files, made_ms } = response else {
        return Err(unexpected());
    };
    Ok(Made { folder: folder.into(), bytes, files, made_ms })
}

fn say(made: &Made, elsewhere: bool, json: bool) {
    let Made { folder, bytes, files, made_ms } = made;
    if json {
        let document = json!({
            "folder": folder, "on_coordinator": elsewhere, "bytes": bytes, "files": files, "made_ms": made_ms,
        });
        crate::out!("{document}");
        return;
    }
    crate::out!("{}", folder.display());
    let place = if elsewhere { " on the coordinator's machine" } else { "" };
    eprintln!(
        "backup made{place}: {files} files, {}; it holds the keys of the federation, keep it as safe as those",
        size(*bytes)
    );
}

pub(crate) fn restore(home: &Home, from: &Path, replace: bool, json: bool) -> anyhow::Result<()> {
    let restored = put_back(home, from, replace, SystemTime::now())?;
    let manifest = &restored.manifest;
    if json {
        let document = json!({
            "home": home.root(), "made_ms": manifest.made_ms, "exeunt": manifest.exeunt,
            "bytes": manifest.bytes(), "files": manifest.files.len(), "set_aside": restored.set_aside,
        });
        crate::out!("{document}");
        return Ok(());
    }
    crate::out!("{} is as it was at {}", home.root().display(), moment(manifest.made_ms));
    if let Some(aside) = &restored.set_aside {
        crate::out!("what was there before is in {}", aside.display());
    }
    eprintln!("`exeunt serve` goes on from there");
    Ok(())
}
