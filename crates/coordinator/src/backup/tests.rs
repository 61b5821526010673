use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use exeunt_protocol::RunId;
use exeunt_store::{FORMAT, RedbStore, Store as _, StoreError};
use redb::{Database, TableDefinition};

use super::files::{beside_the_store, measure};
use super::*;
use crate::home::{Home, HomeError};

const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");

fn now() -> SystemTime {
    SystemTime::now()
}

/// A coordinator's folder as it is after an orderly stop, with these runs, whose records no coordinator can read.
fn coordinator(root: PathBuf, runs: &[&str]) -> Home {
    let home = Home::new(root);
    home.keys(now()).unwrap();
    fs::write(home.root().join("coordinator.json"), r#"{"local":[],"advertised":[]}"#).unwrap();
    let mut store = RedbStore::open(home.store()).unwrap();
    for run in runs {
        store.save_run(&run.parse().unwrap(), b"record", 1).unwrap();
    }
    home
}

fn runs(home: &Home) -> Vec<RunId> {
    RedbStore::open(home.store()).unwrap().runs().unwrap().into_iter().map(|(run, _)| run).collect()
}

/// Every file below a folder, with its content.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        paths
            .flat_map(|path| {
                if path.is_dir() { content(&path) } else { vec![(path.clone(), fs::read(&path).unwrap())] }
            })
            .collect();
    files.sort_unstable();
    files
}

struct Scene {
    folder: tempfile::TempDir,
    backup: PathBuf,
    empty: Home,
}

/// A backup of a coordinator without runs.
fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let home = coordinator(folder.path().join("home"), &[]);
    let backup = folder.path().join("backup");
    back_up_stopped(&home, &backup, now()).unwrap();
    let empty = Home::new(folder.path().join("empty"));
    Scene { folder, backup, empty }
}

fn manifest(backup: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(backup.join(MANIFEST)).unwrap()).unwrap()
}

fn save(backup: &Path, manifest: &Manifest) {
    fs::write(backup.join(MANIFEST), serde_json::to_vec(manifest).unwrap()).unwrap();
}

/// Makes the store of a backup one of another format, with a manifest that fits.
fn reformat(backup: &Path, format: u32) {
    let database = Database::open(backup.join(STORE)).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(META).unwrap().insert("format", format).unwrap();
    txn.commit().unwrap();
    drop(database);
    let mut manifest = manifest(backup);
    let file = manifest.files.iter_mut().find(|file| file.path == STORE).unwrap();
    *file = measure(backup, STORE).unwrap();
    save(backup, &manifest);
}

#[test]
fn a_backup_holds_everything_and_only_its_owner_may_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = coordinator(folder.path().join("home"), &["r-1"]);
    let backup = home.new_backup(now());
    let made = back_up_stopped(&home, &backup, now()).unwrap();
    assert_eq!(manifest(&backup), made);
    let named: Vec<&str> = made.files.iter().map(|file| file.path.as_str()).collect();
    let keys = beside_the_store(home.root()).unwrap();
    assert!(keys.len() >= 7, "{keys:?}");
    assert_eq!(named[0], STORE);
    assert_eq!(named[1..], keys);
    for path in &keys {
        assert!(fs::read(home.root().join(path)).unwrap() == fs::read(backup.join(path)).unwrap(), "{path}");
    }
    #[cfg(unix)]
    for path in named.iter().copied().chain([MANIFEST, "", "authority"]) {
        use std::os::unix::fs::PermissionsExt as _;
        let found = fs::metadata(backup.join(path)).unwrap();
        let expected = if found.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(found.permissions().mode() & 0o777, expected, "{path}");
    }
    let again = back_up_stopped(&home, &backup, now()).unwrap_err();
    assert!(matches!(again, BackupError::Taken { .. }), "{again}");

    let moved = folder.path().join("elsewhere");
    move_backup(&backup, &moved).unwrap();
    assert!(!backup.exists() && manifest(&moved) == made);
    assert_eq!(runs(&Home::new(&moved)), runs(&home));
}

#[test]
fn where_nothing_is_there_is_nothing_to_copy_and_a_running_one_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (home, to) = (Home::new(folder.path().join("home")), folder.path().join("backup"));
    assert!(matches!(back_up_stopped(&home, &to, now()), Err(BackupError::NoStore { .. })));
    let home = coordinator(folder.path().join("home"), &["r-1"]);
    let open = RedbStore::open(home.store()).unwrap();
    let error = back_up_stopped(&home, &to, now()).unwrap_err();
    assert!(matches!(error, BackupError::Store(StoreError::InUse { .. })), "{error}");
    drop(open);
    assert!(!to.exists());
}

#[test]
fn a_restored_folder_has_the_keys_and_the_store_and_nothing_else() {
    let Scene { folder, backup, empty } = scene();
    let restored = restore(&empty, &backup, false, now()).unwrap();
    assert_eq!((&restored.manifest, &restored.set_aside), (&manifest(&backup), &None));
    let names = |folder: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let found = content(folder).into_iter();
        found.map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes)).collect()
    };
    let mut expected = names(&backup);
    expected.retain(|(path, _)| path != Path::new(MANIFEST));
    assert!(names(empty.root()) == expected);
    let id = |home: &Home| home.keys(now()).unwrap().authority.id();
    assert_eq!(id(&empty), id(&Home::new(folder.path().join("home"))));
}

#[test]
fn what_is_there_is_moved_aside_when_wished_and_never_deleted() {
    let Scene { folder, backup, .. } = scene();
    let other = coordinator(folder.path().join("other"), &["r-2"]);
    let before = content(other.root());
    let refused = restore(&other, &backup, false, now()).unwrap_err();
    assert!(refused.to_string().contains("--replace"), "{refused}");
    assert!(content(other.root()) == before);
    let open = RedbStore::open(other.store()).unwrap();
    let refused = restore(&other, &backup, true, now()).unwrap_err();
    assert!(matches!(refused, RestoreError::Running { .. }), "{refused}");
    drop(open);

    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_796_083_199_999);
    let restored = restore(&other, &backup, true, at).unwrap();
    let aside = other.root().join("replaced-20261130T235959Z");
    assert_eq!(restored.set_aside.as_ref(), Some(&aside));
    assert_eq!(runs(&Home::new(&aside)), ["r-2".parse().unwrap()]);
    assert_eq!(runs(&other), []);
    assert!(aside.join("authority").is_dir() && aside.join("coordinator.json").is_file());
}

#[test]
fn what_is_no_whole_backup_is_refused_and_nothing_is_touched() {
    type Damage = fn(&Path);
    let flip = |path: PathBuf| {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    fn rewrite(backup: &Path, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = manifest(backup);
        change(&mut manifest);
        save(backup, &manifest);
    }
    let cases: [(&str, Damage); 8] = [
        ("no manifest.json", |backup| fs::remove_file(backup.join(MANIFEST)).unwrap()),
        ("manifest.json cannot be read", |backup| fs::write(backup.join(MANIFEST), "{").unwrap()),
        ("has format 2, this version reads up to 1", |backup| {
            fs::write(backup.join(MANIFEST), r#"{"format": 2, "parts": []}"#).unwrap();
        }),
        ("names a file '../out'", |backup| {
            rewrite(backup, |manifest| manifest.files[1].path = "../out".to_owned());
        }),
        ("names no file of 'authority'", |backup| {
            rewrite(backup, |manifest| manifest.files.retain(|file| !file.path.starts_with("authority")));
        }),
        ("store.redb has format", |backup| reformat(backup, FORMAT + 1)),
        ("expected 0 bytes", |backup| rewrite(backup, |manifest| manifest.files[0].bytes = 0)),
        ("coordinator.json: ", |backup| fs::remove_file(backup.join("coordinator.json")).unwrap()),
    ];
    let refused = |expected: &str, damage: &dyn Fn(&Path)| {
        let Scene { folder, backup, empty } = scene();
        damage(&backup);
        let old = coordinator(folder.path().join("old"), &["r-2"]);
        for (home, replace) in [(&empty, false), (&old, true)] {
            let before = content(home.root());
            let error = restore(home, &backup, replace, now()).unwrap_err();
            let text = crate::operator::chain(&error);
            assert!(text.contains(expected), "'{expected}' is missing in: {text}");
            assert!(content(home.root()) == before, "{expected}: the folder was changed");
        }
    };
    for (expected, damage) in cases {
        refused(expected, &damage);
    }
    refused("store.redb is damaged", &|backup| flip(backup.join(STORE)));
    for path in beside_the_store(&scene().backup).unwrap() {
        refused(&format!("{} is damaged", Path::new(&path).display()), &|backup| flip(backup.join(&path)));
    }
    refused("wrong before it was copied: runs, r-3", &|backup| {
        let mut store = RedbStore::open(backup.join(STORE)).unwrap();
        store.save_run(&"r-3".parse().unwrap(), b"no record", 1).unwrap();
        drop(store);
        rewrite(backup, |manifest| manifest.files[0] = measure(backup, STORE).unwrap());
    });
}

#[test]
fn a_store_of_the_first_format_is_put_back_and_rewritten_when_it_is_opened() {
    let Scene { folder: _folder, backup, empty } = scene();
    reformat(&backup, 1);
    restore(&empty, &backup, false, now()).unwrap();
    assert!(matches!(crate::examine(&empty), Err(StoreError::Older { found: 1, .. })));
    drop(RedbStore::open(empty.store()).unwrap());
    assert_eq!(crate::examine(&empty).unwrap().format, FORMAT);
}

#[test]
fn a_coordinator_does_not_start_on_half_a_restore_and_the_next_one_ends_it() {
    let Scene { folder: _folder, backup, empty } = scene();
    restore(&empty, &backup, false, now()).unwrap();
    fs::create_dir(empty.unfinished_restore()).unwrap();
    fs::rename(empty.store(), empty.unfinished_restore().join(STORE)).unwrap();
    let error = empty.keys(now()).unwrap_err();
    assert!(matches!(error, HomeError::Unfinished { .. }), "{error}");
    restore(&empty, &backup, true, now()).unwrap();
    empty.keys(now()).unwrap();
    assert_eq!(runs(&empty), []);
}
