//! What a coordinator keeps on disk.
//!
//! ```text
//! HOME/authority/         the private CA, made on first start
//! HOME/identity/          the coordinator's own key and certificate
//! HOME/operator/          an operator's key and certificate, for the command line here
//! HOME/store.redb         everything that must survive
//! HOME/coordinator.json   where it can be reached
//! HOME/backups/           backups that were made while it ran
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use exeunt_link::{Address, Authority, AuthorityError, Identity, Role};
use serde::{Deserialize, Serialize};

/// Why a coordinator's folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    #[error("{path} cannot be read: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// No coordinator was ever started here.
    #[error(
        "there is no coordinator in {path}: start one with `exeunt serve`, or name its folder with --home"
    )]
    NoCoordinator {
        /// The folder.
        path: PathBuf,
    },
    /// A backup was being put back, and that did not end.
    #[error("a backup was put back in {path} only in part; run `exeunt restore BACKUP --replace` again")]
    Unfinished {
        /// The folder.
        path: PathBuf,
    },
    /// There is something already where a folder was to be made.
    #[error("{path} is there already; name a folder that is not")]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The operator's key or certificate.
    #[error(transparent)]
    Identity(#[from] exeunt_link::IdentityError),
}

/// Where a coordinator can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// Addresses on this machine, for the command line.
    pub local: Vec<Address>,
    /// Addresses that join tokens carry.
    pub advertised: Vec<Address>,
}

/// A coordinator's folder.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

/// The coordinator's keys.
#[derive(Debug)]
pub struct Keys {
    /// The private CA.
    pub authority: Authority,
    /// The coordinator's own identity.
    pub identity: Identity,
}

impl Whereabouts {
    /// Every address to try: on this machine first.
    pub fn addresses(&self) -> Vec<Address> {
        let mut addresses = self.local.clone();
        addresses.extend(self.advertised.iter().filter(|address| !self.local.contains(address)).cloned());
        addresses
    }
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

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.root.join("store.redb")
    }

    /// Where a backup lies that is made now, unless another place is wished.
    pub fn new_backup(&self, now: SystemTime) -> PathBuf {
        self.root.join("backups").join(crate::backup::dated(now))
    }

    /// Where a backup lies while its parts are moved to their places.
    pub(crate) fn unfinished_restore(&self) -> PathBuf {
        self.root.join("restoring")
    }

    /// Makes the authority and the two identities on first start; renews the identities when it is time.
    ///
    /// # Errors
    /// [`HomeError`]; an authority that is there in part is never replaced. [`HomeError::Unfinished`] in the middle of a
    /// restore.
    pub fn keys(&self, now: SystemTime) -> Result<Keys, HomeError> {
        if self.unfinished_restore().exists() {
            return Err(HomeError::Unfinished { path: self.root.clone() });
        }
        fs::create_dir_all(&self.root)
            .map_err(|source| HomeError::File { path: self.root.clone(), source })?;
        let authority = Authority::open_or_create(self.root.join("authority"), now)?;
        let identity = self.identity(&authority, "identity", Role::Coordinator, "coordinator", now)?;
        self.identity(&authority, "operator", Role::Operator, "operator", now)?;
        Ok(Keys { authority, identity })
    }

    fn identity(
        &self,
        authority: &Authority,
        folder: &str,
        role: Role,
        name: &str,
        now: SystemTime,
    ) -> Result<Identity, HomeError> {
        let folder = self.root.join(folder);
        match Identity::load(&folder) {
            Ok(identity) if !identity.renewal_due(now) => Ok(identity),
            _ => Ok(authority.issue_to(&folder, role, name, now)?),
        }
    }

    /// Makes a folder for an operator elsewhere: a key and certificate of its own, and where to find the coordinator.
    /// Copied to another machine, it is what `exeunt --connect` and `--home` take there.
    ///
    /// # Errors
    /// [`HomeError::NoCoordinator`], [`HomeError::Taken`] when the folder is there already.
    pub fn hand_out_operator(&self, name: &str, folder: &Path, now: SystemTime) -> Result<(), HomeError> {
        let whereabouts = self.whereabouts()?;
        if folder.exists() {
            return Err(HomeError::Taken { path: folder.to_owned() });
        }
        let authority = Authority::open(self.root.join("authority"))?;
        let elsewhere = Self::new(folder);
        fs::create_dir_all(folder).map_err(|source| HomeError::File { path: folder.to_owned(), source })?;
        authority.issue_to(folder.join("operator"), Role::Operator, name, now)?;
        // An address on this machine means another one there.
        elsewhere.save_whereabouts(&Whereabouts { local: Vec::new(), ..whereabouts })
    }

    fn whereabouts(&self) -> Result<Whereabouts, HomeError> {
        let path = self.root.join("coordinator.json");
        let bytes = fs::read(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => HomeError::NoCoordinator { path: self.root.clone() },
            _ => HomeError::File { path: path.clone(), source },
        })?;
        serde_json::from_slice(&bytes).map_err(|source| HomeError::Content { path, source })
    }

    /// The operator's identity, and where to find the coordinator.
    ///
    /// # Errors
    /// [`HomeError::NoCoordinator`] when none was ever started here.
    pub fn operator(&self) -> Result<(Identity, Whereabouts), HomeError> {
        let whereabouts = self.whereabouts()?;
        Ok((Identity::load(self.root.join("operator"))?, whereabouts))
    }

    /// Writes where the coordinator can be reached.
    ///
    /// # Errors
    /// [`HomeError::File`].
    pub fn save_whereabouts(&self, whereabouts: &Whereabouts) -> Result<(), HomeError> {
        let path = self.root.join("coordinator.json");
        let wrong = |source| HomeError::File { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(whereabouts).map_err(|error| wrong(error.into()))?;
        let part = self.root.join("coordinator.json.part");
        fs::write(&part, text).and_then(|()| fs::rename(&part, &path)).map_err(wrong)
    }
}
