//! Settings on disk.

use std::path::{Path, PathBuf};

use exeunt_dashboard::Settings;

/// The folder of this user's configuration.
pub(crate) fn config() -> PathBuf {
    directories::ProjectDirs::from("", "", "exeunt")
        .map_or_else(|| PathBuf::from("exeunt"), |dirs| dirs.config_dir().to_owned())
}

/// The file that holds the window's settings.
pub(crate) fn file() -> PathBuf {
    config().join("window.json")
}

/// Reads them. A file that is not there means the defaults; one that cannot be read means that, too, and why.
pub(crate) fn load(path: &Path) -> (Settings, Option<String>) {
    let wrong = |error: &dyn std::fmt::Display| Some(format!("{}: {error}", path.display()));
    match std::fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(settings) => (settings, None),
            Err(error) => (Settings::default(), wrong(&error)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Settings::default(), None),
        Err(error) => (Settings::default(), wrong(&error)),
    }
}

/// Writes them, whole or not at all.
pub(crate) async fn save(path: &Path, settings: &Settings) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(settings)?;
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let part = path.with_extension("json.part");
    tokio::fs::write(&part, text).await?;
    tokio::fs::rename(&part, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settings_survive_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("window.json");
        assert_eq!(load(&path), (Settings::default(), None));
        let settings = Settings { scale: 1.25, ..Settings::default() };
        save(&path, &settings).await.unwrap();
        assert_eq!(load(&path), (settings, None));
        std::fs::write(&path, "{").unwrap();
        let (settings, why) = load(&path);
        assert_eq!(settings, Settings::default());
        assert!(why.is_some_and(|why| why.contains("window.json")));
    }

    #[test]
    fn keys_of_another_version_are_passed_over() {
        let text = r#"{"scale": 1.5, "invented": true}"#;
        assert_eq!(serde_json::from_str::<Settings>(text).unwrap().scale, 1.5);
    }
}
