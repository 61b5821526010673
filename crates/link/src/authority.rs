//! The private authority: made once, never again.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{Issuer, KeyPair, PublicKeyData};
use thiserror::Error;

use crate::AuthorityId;
use crate::certificate::{self, CertificateError, NameError, Role};
use crate::files::{self, FileError};
use crate::identity::{Identity, IdentityError};
use crate::private::{private_directory, sync_directory};

pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY";
const KEY_FILE: &str = "authority.key";
const CERTIFICATE_FILE: &str = "authority.crt";

/// The private certificate authority of one federation. Its key signs the certificate of every
/// member; its fingerprint is what nodes pin.
///
/// The directory holds `authority.key` and `authority.crt` (PEM, mode 0600). Losing the key means
/// that every node has to join again, so it belongs into a backup.
pub struct Authority {
    directory: PathBuf,
    id: AuthorityId,
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

/// Why there is no authority.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// One of the two files is gone. A new authority is not made in its place, because it would
    /// lock out every node: restore the directory from a backup, or remove it on purpose.
    #[error("{found} is there and {missing} is not: restore it from a backup", found = .found.display(), missing = .missing.display())]
    Incomplete {
        /// The file that exists.
        found: PathBuf,
        /// The file that does not.
        missing: PathBuf,
    },
    /// The certificate is for another key.
    #[error("the key and the certificate in {directory} do not belong together", directory = .directory.display())]
    Mismatch {
        /// Where they lie.
        directory: PathBuf,
    },
    /// No authority in this directory.
    #[error("there is no authority in {directory}", directory = .directory.display())]
    Missing {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A file or directory cannot be read or written, or holds something else.
    #[error("{0}")]
    File(String),
    /// Making or reading the certificate failed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The name given cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The identity issued cannot be stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<FileError> for AuthorityError {
    fn from(error: FileError) -> Self {
        Self::File(error.to_string())
    }
}

impl Authority {
    /// The authority of this directory, made on the first call.
    ///
    /// # Errors
    /// When it is there and cannot be used, or is not there and cannot be made.
    pub fn open_or_create(directory: impl AsRef<Path>, now: SystemTime) -> Result<Self, AuthorityError> {
        match Self::open(&directory) {
            Err(AuthorityError::Missing { .. }) => Self::create(directory.as_ref(), now),
            opened => opened,
        }
    }

    /// The authority of this directory.
    ///
    /// # Errors
    /// [`AuthorityError::Missing`] when there is none, [`AuthorityError::Incomplete`] when a part
    /// of it is gone, and the others when it cannot be used.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, AuthorityError> {
        let directory = directory.as_ref();
        let key_path = directory.join(KEY_FILE);
        let certificate_path = directory.join(CERTIFICATE_FILE);
        match (key_path.exists(), certificate_path.exists()) {
            (true, true) => {}
            (false, false) => {
                return Err(AuthorityError::Missing { directory: directory.to_owned() });
            }
            (true, false) => {
                return Err(AuthorityError::Incomplete { found: key_path, missing: certificate_path });
            }
            (false, true) => {
                return Err(AuthorityError::Incomplete { found: certificate_path, missing: key_path });
            }
        }
        let key = read_key(&key_path)?;
        let certificate = files::read_pem(&certificate_path, CERTIFICATE, "certificate")?.swap_remove(0);
        let public_key = certificate::public_key(&certificate)?;
        if public_key != key.subject_public_key_info() {
            return Err(AuthorityError::Mismatch { directory: directory.to_owned() });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate.as_slice().into(), key)
            .map_err(|error| CertificateError::Making(error.to_string()))?;
        Ok(Self {
            directory: directory.to_owned(),
            id: AuthorityId::of_public_key(&public_key),
            issuer,
            certificate,
        })
    }

    /// Both files appear at once, by renaming a finished directory: a crash leaves either no
    /// authority or a whole one, and of two starts at the same time one loses.
    fn create(directory: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = certificate::new_key()?;
        let id = AuthorityId::of_public_key(&key.subject_public_key_info());
        let signed = certificate::authority_parameters(id, now)
            .self_signed(&key)
            .map_err(|error| CertificateError::Making(error.to_string()))?;
        let mut name = directory.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{:08x}.new", rand::random::<u32>()));
        let fresh = directory.with_file_name(name);
        private_directory(&fresh).map_err(files::io_error(&fresh))?;
        files::write_private(&fresh.join(KEY_FILE), &key.serialize_pem())?;
        files::write_private(&fresh.join(CERTIFICATE_FILE), &files::to_pem(CERTIFICATE, &[signed.der()]))?;
        // Removes an empty directory only; one with anything in it stays, and the rename fails.
        let _ = fs::remove_dir(directory);
        if let Err(source) = fs::rename(&fresh, directory) {
            let _ = fs::remove_dir_all(&fresh);
            // Another process may have been faster.
            return match Self::open(directory) {
                Err(AuthorityError::Missing { .. }) => Err(files::io_error(directory)(source).into()),
                opened => opened,
            };
        }
        if let Some(parent) = directory.parent() {
            sync_directory(parent).map_err(files::io_error(parent))?;
        }
        Self::open(directory)
    }

    /// The fingerprint that tokens carry and nodes pin: SHA-256 of the public key.
    pub fn id(&self) -> AuthorityId {
        self.id
    }

    /// Where the authority lives.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives the key in `directory` (made if there is none) a fresh certificate: for the
    /// coordinator itself and for operators, who share a file system with the authority.
    /// Calling it again renews the certificate and keeps the key.
    ///
    /// # Errors
    /// When the name cannot stand in a certificate or the directory cannot be written.
    pub fn issue_to(
        &self,
        directory: impl AsRef<Path>,
        role: Role,
        name: &str,
        now: SystemTime,
    ) -> Result<Identity, AuthorityError> {
        certificate::check_name(name)?;
        let directory = directory.as_ref();
        let key = Identity::key_in(directory)?;
        let certificate = certificate::sign(&self.issuer, &key, role, name, now)?;
        Ok(Identity::store(directory, &key, &certificate, &self.certificate)?)
    }

    /// Makes an identity that lies in no directory: for members by the thousand that last as long as a measurement.
    /// It cannot be renewed.
    ///
    /// # Errors
    /// When the name cannot stand in a certificate.
    pub fn issue(&self, role: Role, name: &str, now: SystemTime) -> Result<Identity, AuthorityError> {
        certificate::check_name(name)?;
        let key = certificate::new_key()?;
        let certificate = certificate::sign(&self.issuer, &key, role, name, now)?;
        Ok(Identity::in_memory(&key, &certificate, &self.certificate)?)
    }

    pub(crate) fn sign(
        &self,
        public_key: &impl PublicKeyData,
        role: Role,
        name: &str,
        now: SystemTime,
    ) -> Result<Vec<u8>, CertificateError> {
        certificate::sign(&self.issuer, public_key, role, name, now)
    }

    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("directory", &self.directory)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Reads a private key of the kind that [`certificate::new_key`] makes.
pub(crate) fn read_key(path: &Path) -> Result<KeyPair, FileError> {
    files::warn_if_readable(path);
    let content = || FileError::Content { path: path.to_owned(), expected: "private key" };
    let der = files::read_pem(path, PRIVATE_KEY, "private key")?.swap_remove(0);
    let key = KeyPair::try_from(der).map_err(|_no_key| content())?;
    if key.algorithm() == &rcgen::PKCS_ED25519 { Ok(key) } else { Err(content()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn now() -> SystemTime {
        UNIX_EPOCH + NOW
    }

    #[test]
    fn is_made_once() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("state/authority");
        let made = Authority::open_or_create(&directory, now()).expect("made");
        let opened = Authority::open_or_create(&directory, now()).expect("opened");
        assert_eq!(made.id(), opened.id());
        assert_eq!(made.certificate(), opened.certificate());
        let left: Vec<_> = fs::read_dir(place.path().join("state")).expect("readable").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn an_empty_directory_may_be_there() {
        let place = tempfile::tempdir().expect("a directory");
        let made = Authority::open_or_create(place.path(), now()).expect("made");
        assert_eq!(Authority::open(place.path()).expect("opened").id(), made.id());
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("authority");
        Authority::open_or_create(&directory, now()).expect("made");
        for name in [KEY_FILE, CERTIFICATE_FILE] {
            let found = fs::metadata(directory.join(name)).expect("there");
            assert_eq!(found.permissions().mode() & 0o777, 0o600, "{name}");
        }
        let found = fs::metadata(&directory).expect("there");
        assert_eq!(found.permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_lost_part_is_not_replaced() {
        for lost in [KEY_FILE, CERTIFICATE_FILE] {
            let place = tempfile::tempdir().expect("a directory");
            Authority::open_or_create(place.path(), now()).expect("made");
            fs::remove_file(place.path().join(lost)).expect("removed");
            let error = Authority::open_or_create(place.path(), now()).expect_err("incomplete");
            assert!(matches!(error, AuthorityError::Incomplete { .. }), "{error}");
            assert!(!place.path().join(lost).exists());
        }
    }

    #[test]
    fn somebody_elses_key_or_rubbish_is_noticed() {
        let place = tempfile::tempdir().expect("a directory");
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        Authority::open_or_create(&one, now()).expect("made");
        Authority::open_or_create(&two, now()).expect("made");
        fs::copy(one.join(KEY_FILE), two.join(KEY_FILE)).expect("copied");
        assert!(matches!(Authority::open(&two), Err(AuthorityError::Mismatch { .. })));
        fs::write(one.join(KEY_FILE), "nonsense").expect("written");
        let error = Authority::open(&one).expect_err("unreadable").to_string();
        assert!(error.contains("expected a private key"), "{error}");
        assert!(error.contains(KEY_FILE), "{error}");
    }

    #[test]
    fn issues_identities_that_keep_their_key() {
        let place = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(place.path().join("authority"), now()).expect("made");
        let directory = place.path().join("operator");
        let first = authority.issue_to(&directory, Role::Operator, "Ada", now()).expect("issued");
        assert_eq!(first.peer().role, Role::Operator);
        assert_eq!(first.peer().name, "Ada");
        assert_eq!(first.peer().expires, now() + Role::Operator.validity());
        assert_eq!(first.authority(), authority.id());
        let later = now() + Duration::from_secs(86_400);
        let second = authority.issue_to(&directory, Role::Operator, "Ada", later).expect("issued");
        assert_eq!(first.id(), second.id());
        assert_eq!(second.peer().expires, later + Role::Operator.validity());
        let loaded = Identity::load(&directory).expect("loaded");
        assert_eq!(loaded.peer(), second.peer());
        assert!(authority.issue_to(&directory, Role::Operator, "", now()).is_err());
    }
}
