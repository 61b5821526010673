//! What a node keeps on disk: who it is, where its data lies, and a cache of everything it fetched.
//!
//! ```text
//! HOME/node.json      settings, written by `join`
//! HOME/identity/      key and certificate
//! HOME/blobs/         networks, queries, snapshots, named by their BLAKE3; `.part` while they arrive
//! HOME/datasets.json  which edition of its data a node last answered from, per run
//! HOME/times.json     what was measured for each run, as it was sent
//! HOME/policy.json    the policy in force, for `classify`
//! HOME/live.json      what inference did, see [`crate::Ledger`]
//! HOME/status.json    what the service is doing, for `status`
//! HOME/lock           held by the service, so that a folder has one
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use exeunt_link::private::sync_directory;
use exeunt_protocol::message::{Activity, DesiredPolicy, DesiredRun, Membership};
use exeunt_protocol::{DatasetVersion, QueryId, RunId};
use exeunt_stats::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ledger::LiveSettings;

const TIMES: &str = "times.json";

/// Why a node's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} cannot be read as {expected}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// Another process runs from this folder. Two with one identity would push each other off the coordinator.
    #[error("{path} is in use: another exeunt-node{} runs from this folder, stop it first", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other process, if it has said so.
        pid: Option<u32>,
    },
    /// There is no node here.
    #[error("{path} does not exist: join a federation first with `exeunt-node join TOKEN --data DIR`")]
    NotJoined {
        /// The file looked for.
        path: PathBuf,
    },
}

/// A node's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeSettings {
    /// What its operator calls it.
    pub name: String,
    /// Where the coordinator can be reached, best first.
    pub coordinator: Vec<String>,
    /// Folder that holds the samples.
    pub data: PathBuf,
    /// The part of them that is this node's, when several share a folder.
    #[serde(default)]
    pub share: Option<String>,
    /// Threads to compute with; all cores if not said.
    #[serde(default)]
    pub threads: Option<usize>,
    /// What it tells of its inference.
    #[serde(default)]
    pub live: LiveSettings,
}

/// The policy in force, with what belongs to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyInForce {
    /// The run it belongs to.
    pub run: RunId,
    /// Its version.
    pub version: u32,
    /// The run's specification.
    pub spec: Digest,
    /// The network.
    pub network: Digest,
    /// The policy.
    pub policy: Digest,
    /// The snapshot it decides with.
    pub heads: Digest,
}

impl PolicyInForce {
    /// What the coordinator wants of inference.
    pub fn new(run: &DesiredRun, policy: &DesiredPolicy) -> Self {
        Self {
            run: run.run.clone(),
            version: policy.version.0,
            spec: run.spec.digest,
            network: run.network.digest,
            policy: policy.body.digest,
            heads: policy.heads.digest,
        }
    }

    pub(crate) fn blobs(&self) -> [Digest; 4] {
        [self.spec, self.network, self.policy, self.heads]
    }
}

/// What the service is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// What its operator calls it.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its short id, to compare with the coordinator's.
    pub short: String,
    /// Process of the service; none once it has ended in order.
    pub pid: Option<u32>,
    /// Whether it is connected.
    pub connected: bool,
    /// Where the coordinator is.
    pub coordinator: Vec<String>,
    /// Whether the coordinator lets it take part, as it last said.
    #[serde(default)]
    pub membership: Membership,
    /// Version of the messages that the coordinator speaks with it; none before the first connection.
    #[serde(default)]
    pub version: Option<u16>,
    /// What it does for each run.
    pub runs: BTreeMap<RunId, Activity>,
    /// The policy in force.
    pub policy: Option<PolicyInForce>,
    /// The last thing that went wrong.
    pub problem: Option<String>,
    /// When this was written, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Which edition of its data a node answered a run from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Edition {
    version: u64,
    digest: Digest,
}

/// The answer to a query for times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptTimes {
    query: QueryId,
    /// The run's specification: a coordinator that begins anew may use the run's id again.
    spec: Digest,
    /// The packed table.
    table: Vec<u8>,
}

/// A node's folder.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The folder at `root`; it need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the node's key and certificate.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// Takes the folder for this process, for as long as the value lives.
    ///
    /// # Errors
    /// [`HomeError::InUse`] when another process has it.
    pub(crate) fn lock(&self) -> Result<fs::File, HomeError> {
        let path = self.root.join("lock");
        let wrong = |source| HomeError::File { path: path.clone(), source };
        let file = fs::File::create(&path).map_err(wrong)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                let pid = self.report().ok().flatten().and_then(|report| report.pid);
                Err(HomeError::InUse { path: self.root.clone(), pid })
            }
            Err(fs::TryLockError::Error(source)) => Err(wrong(source)),
        }
    }

    /// Whether another process has the folder.
    ///
    /// # Errors
    /// [`HomeError::File`].
    pub(crate) fn is_in_use(&self) -> Result<bool, HomeError> {
        let path = self.root.join("lock");
        let wrong = |source| HomeError::File { path: path.clone(), source };
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(wrong(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(source)) => Err(wrong(source)),
        }
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// [`HomeError::NotJoined`] when there are none.
    pub fn settings(&self) -> Result<NodeSettings, HomeError> {
        let path = self.root.join("node.json");
        read_json(&path, "a node's settings")?.ok_or(HomeError::NotJoined { path })
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// [`HomeError::File`].
    pub fn save_settings(&self, settings: &NodeSettings) -> Result<(), HomeError> {
        self.write_json("node.json", settings)
    }

    /// The policy in force, if one was received.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn policy(&self) -> Result<Option<PolicyInForce>, HomeError> {
        read_json(&self.root.join("policy.json"), "a policy in force")
    }

    /// Remembers the policy in force.
    ///
    /// # Errors
    /// [`HomeError::File`].
    pub fn save_policy(&self, policy: &PolicyInForce) -> Result<(), HomeError> {
        self.write_json("policy.json", policy)
    }

    /// What the service last wrote of itself.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn report(&self) -> Result<Option<NodeReport>, HomeError> {
        read_json(&self.root.join("status.json"), "a node's status")
    }

    /// Writes what the service is doing.
    ///
    /// # Errors
    /// [`HomeError::File`].
    pub fn save_report(&self, report: &NodeReport) -> Result<(), HomeError> {
        self.write_json("status.json", report)
    }

    /// The version of what a run is answered from: one higher than the last whenever its digest changed.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn dataset_version(&self, run: &RunId, digest: Digest) -> Result<DatasetVersion, HomeError> {
        let path = self.root.join("datasets.json");
        let mut editions: BTreeMap<RunId, Edition> =
            read_json(&path, "dataset versions")?.unwrap_or_default();
        let version = match editions.get(run) {
            Some(known) if known.digest == digest => return Ok(DatasetVersion(known.version)),
            Some(known) => known.version + 1,
            None => 1,
        };
        editions.insert(run.clone(), Edition { version, digest });
        self.write_json("datasets.json", &editions)?;
        Ok(DatasetVersion(version))
    }

    /// The packed answer that was kept for a query for times.
    ///
    /// # Errors
    /// [`HomeError`].
    pub(crate) fn times(
        &self,
        run: &RunId,
        query: QueryId,
        spec: Digest,
    ) -> Result<Option<Vec<u8>>, HomeError> {
        let kept = self.all_times()?.remove(run);
        Ok(kept.filter(|kept| kept.query == query && kept.spec == spec).map(|kept| kept.table))
    }

    /// Keeps the packed answer to a query for times. It is on disk when this returns.
    ///
    /// # Errors
    /// [`HomeError`].
    pub(crate) fn keep_times(
        &self,
        run: &RunId,
        query: QueryId,
        spec: Digest,
        table: &[u8],
    ) -> Result<(), HomeError> {
        let mut all = self.all_times()?;
        all.insert(run.clone(), KeptTimes { query, spec, table: table.to_vec() });
        self.write_json(TIMES, &all)?;
        // A name may still be lost with the power when the file it names is safe.
        sync_directory(&self.root).map_err(|source| HomeError::File { path: self.root.clone(), source })
    }

    fn all_times(&self) -> Result<BTreeMap<RunId, KeptTimes>, HomeError> {
        Ok(read_json(&self.root.join(TIMES), "measured times")?.unwrap_or_default())
    }

    /// Hashes of the blobs in the cache. A file whose name is no hash is not ours and left alone.
    ///
    /// # Errors
    /// [`HomeError::File`].
    pub fn blobs(&self) -> Result<BTreeSet<Digest>, HomeError> {
        let folder = self.root.join("blobs");
        fs::create_dir_all(&folder).map_err(|source| HomeError::File { path: folder.clone(), source })?;
        let entries = fs::read_dir(&folder).map_err(|source| HomeError::File { path: folder, source })?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Reads a blob and checks that it still is what its name says.
    ///
    /// # Errors
    /// [`HomeError::File`], also when its content has changed; then it is removed, to be fetched again.
    pub fn blob(&self, digest: Digest) -> Result<Vec<u8>, HomeError> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).map_err(|source| HomeError::File { path: path.clone(), source })?;
        if Digest::of(&bytes) == digest {
            return Ok(bytes);
        }
        // Whatever comes of it, the error below is what the caller must know.
        let _ = fs::remove_file(&path);
        let source =
            std::io::Error::new(std::io::ErrorKind::InvalidData, "its content does not match its name");
        Err(HomeError::File { path, source })
    }

    /// Where a blob arrives, until it is whole.
    pub(crate) fn part_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs").join(format!("{digest}.part"))
    }

    /// Where a blob lies.
    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs").join(digest.to_string())
    }

    /// Removes blobs, but for those of the policy in force. Returns which are gone.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn drop_blobs(&self, stale: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>, HomeError> {
        let in_force: BTreeSet<Digest> = self.policy()?.iter().flat_map(PolicyInForce::blobs).collect();
        let mut dropped = BTreeSet::new();
        for digest in stale.difference(&in_force) {
            let path = self.blob_path(*digest);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(HomeError::File { path, source });
                }
                _ => dropped.insert(*digest),
            };
        }
        Ok(dropped)
    }

    /// Reads a file of the folder; `None` where there is none.
    pub(crate) fn read_json<T: DeserializeOwned>(
        &self,
        name: &str,
        expected: &'static str,
    ) -> Result<Option<T>, HomeError> {
        read_json(&self.root.join(name), expected)
    }

    pub(crate) fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), HomeError> {
        let path = self.root.join(name);
        let wrong = |source| HomeError::File { path: path.clone(), source };
        fs::create_dir_all(&self.root).map_err(wrong)?;
        let text = serde_json::to_vec_pretty(value).map_err(|error| wrong(error.into()))?;
        let part = self.root.join(format!("{name}.part"));
        let mut file = fs::File::create(&part).map_err(wrong)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(wrong)?;
        fs::rename(&part, &path).map_err(wrong)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path, expected: &'static str) -> Result<Option<T>, HomeError> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HomeError::File { path: path.to_owned(), source }),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| HomeError::Content {
            path: path.to_owned(),
            expected,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_version_grows_only_when_the_data_changes() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let run: RunId = "r-1".parse().unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let versions = [a, a, b, b, a].map(|digest| home.dataset_version(&run, digest).unwrap().0);
        assert_eq!(versions, [1, 1, 2, 2, 3]);
    }

    #[test]
    fn times_are_kept_for_the_query_they_answer() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let (run, other): (RunId, RunId) = ("r-1".parse().unwrap(), "r-2".parse().unwrap());
        let (spec, query) = (Digest::of(b"spec"), QueryId(7));
        assert_eq!(home.times(&run, query, spec).unwrap(), None);
        home.keep_times(&run, query, spec, &[1, 2, 3]).unwrap();
        home.keep_times(&other, query, spec, &[4]).unwrap();
        let again = Home::new(folder.path());
        assert_eq!(again.times(&run, query, spec).unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(again.times(&run, QueryId(8), spec).unwrap(), None);
        assert_eq!(again.times(&run, query, Digest::of(b"another run of that name")).unwrap(), None);
    }

    #[test]
    fn a_folder_has_one_service() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        assert!(!home.is_in_use().unwrap());
        let held = home.lock().unwrap();
        assert!(home.is_in_use().unwrap());
        assert!(home.lock().unwrap_err().to_string().contains("another exeunt-node runs from this folder"));
        drop(held);
        home.lock().unwrap();
    }

    #[test]
    fn a_blob_that_changed_on_disk_is_refused_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        assert!(home.blobs().unwrap().is_empty());
        let digest = Digest::of(b"good");
        fs::write(home.blob_path(digest), b"evil").unwrap();
        assert!(home.blob(digest).unwrap_err().to_string().contains("does not match its name"));
        assert!(home.blobs().unwrap().is_empty());
    }

    #[test]
    fn blobs_are_dropped_but_for_those_of_the_policy_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        assert!(home.blobs().unwrap().is_empty());
        let names = [b"spec", b"netw", b"poli", b"head", b"old!"].map(|bytes| {
            let digest = Digest::of(bytes);
            fs::write(home.blob_path(digest), bytes).unwrap();
            digest
        });
        let [spec, network, policy, heads, old] = names;
        let run = "r-1".parse().unwrap();
        home.save_policy(&PolicyInForce { run, version: 1, spec, network, policy, heads }).unwrap();
        let gone = Digest::of(b"gone");
        let stale = names.into_iter().chain([gone]).collect();
        assert_eq!(home.drop_blobs(&stale).unwrap(), [old, gone].into());
        assert_eq!(home.blobs().unwrap(), [spec, network, policy, heads].into());
    }

    #[test]
    fn a_folder_without_settings_says_how_to_join() {
        let folder = tempfile::tempdir().unwrap();
        let error = Home::new(folder.path()).settings().unwrap_err();
        assert!(error.to_string().contains("exeunt-node join"), "{error}");
    }
}
