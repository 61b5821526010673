//! A member's own key, certificate, and the authority it trusts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use crate::authority::{CERTIFICATE, read_key};
use crate::certificate::{self, CertificateError, Peer};
use crate::files::{self, FileError};
use crate::private::private_directory;
use crate::{AuthorityId, PeerId};

const KEY_FILE: &str = "key.pem";
const CHAIN_FILE: &str = "certificates.pem";

/// Who this process is. Cheap to clone.
///
/// The directory holds `key.pem` (made here, it never leaves) and `certificates.pem` (one's own,
/// then the authority's), PEM, mode 0600. The second is replaced as a whole, so that a member
/// never has one authority's certificate and trusts another.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    peer: Peer,
    not_before: SystemTime,
    authority: AuthorityId,
    key: Vec<u8>,
    certificate: Vec<u8>,
    authority_certificate: Vec<u8>,
}

/// Why there is no identity.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Nobody joined from this directory yet.
    #[error("{directory} holds no identity: join first", directory = .directory.display())]
    Missing {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A file or directory cannot be read or written, or holds something else.
    #[error("{0}")]
    File(String),
    /// The certificate does not fit.
    #[error("{path}: {error}", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        error: CertificateError,
    },
}

impl From<FileError> for IdentityError {
    fn from(error: FileError) -> Self {
        Self::File(error.to_string())
    }
}

impl Identity {
    /// The identity of this directory.
    ///
    /// # Errors
    /// [`IdentityError::Missing`] before joining; otherwise the file and what is wrong with it.
    pub fn load(directory: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let directory = directory.as_ref();
        let path = directory.join(CHAIN_FILE);
        if !path.exists() {
            return Err(IdentityError::Missing { directory: directory.to_owned() });
        }
        let key = read_key(&directory.join(KEY_FILE))?;
        let mut chain = files::read_pem(&path, CERTIFICATE, "certificate")?.into_iter();
        let (Some(certificate), Some(authority)) = (chain.next(), chain.next()) else {
            return Err(FileError::Content { path, expected: "certificate and its authority's" }.into());
        };
        Self::assemble(directory, &key, &certificate, &authority)
            .map_err(|error| IdentityError::Certificate { path, error })
    }

    fn assemble(
        directory: &Path,
        key: &KeyPair,
        certificate: &[u8],
        authority: &[u8],
    ) -> Result<Self, CertificateError> {
        let facts = certificate::read_issued_by(certificate, authority)?;
        let public_key = key.subject_public_key_info();
        if facts.public_key != public_key {
            return Err(CertificateError::Key {
                found: facts.peer.id,
                expected: PeerId::of_public_key(&public_key),
            });
        }
        Ok(Self(Arc::new(Inner {
            directory: directory.to_owned(),
            peer: facts.peer,
            not_before: facts.not_before,
            authority: AuthorityId::of_public_key(&certificate::public_key(authority)?),
            key: key.serialize_der(),
            certificate: certificate.to_vec(),
            authority_certificate: authority.to_vec(),
        })))
    }

    /// An identity in no directory.
    pub(crate) fn in_memory(
        key: &KeyPair,
        certificate: &[u8],
        authority: &[u8],
    ) -> Result<Self, CertificateError> {
        Self::assemble(Path::new("(memory)"), key, certificate, authority)
    }

    /// The key of this directory, made if there is none.
    pub(crate) fn key_in(directory: &Path) -> Result<KeyPair, IdentityError> {
        private_directory(directory).map_err(files::io_error(directory))?;
        let path = directory.join(KEY_FILE);
        if path.exists() {
            return Ok(read_key(&path)?);
        }
        let key = certificate::new_key()
            .map_err(|error| IdentityError::Certificate { path: path.clone(), error })?;
        files::write_private(&path, &key.serialize_pem())?;
        Ok(key)
    }

    /// Checks that the certificate is for this key and from this authority, and stores it.
    pub(crate) fn store(
        directory: &Path,
        key: &KeyPair,
        certificate: &[u8],
        authority: &[u8],
    ) -> Result<Self, IdentityError> {
        let path = directory.join(CHAIN_FILE);
        let identity = Self::assemble(directory, key, certificate, authority)
            .map_err(|error| IdentityError::Certificate { path: path.clone(), error })?;
        files::write_private(&path, &files::to_pem(CERTIFICATE, &[certificate, authority]))?;
        Ok(identity)
    }

    /// The same key with a new certificate of the same authority, stored.
    pub(crate) fn renewed(&self, certificate: &[u8]) -> Result<Self, IdentityError> {
        let key = read_key(&self.0.directory.join(KEY_FILE))?;
        Self::store(&self.0.directory, &key, certificate, &self.0.authority_certificate)
    }

    /// One's own id.
    pub fn id(&self) -> PeerId {
        self.0.peer.id
    }

    /// Oneself, as others see it.
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// The authority that this identity belongs to.
    pub fn authority(&self) -> AuthorityId {
        self.0.authority
    }

    /// Where the identity lives.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// Whether it is time to renew: a third of the certificate's life is left, or less.
    pub fn renewal_due(&self, now: SystemTime) -> bool {
        now >= self.renew_at()
    }

    /// The moment from which [`renewal_due`](Self::renewal_due) holds.
    pub fn renew_at(&self) -> SystemTime {
        let expires = self.0.peer.expires;
        let life = expires.duration_since(self.0.not_before).unwrap_or_default();
        expires.checked_sub(life / 3).unwrap_or(expires)
    }

    /// From when on the certificate is accepted.
    pub fn valid_from(&self) -> SystemTime {
        self.0.not_before
    }

    /// Whether the certificate is no longer accepted at `now`. The way back is a new token.
    pub fn expired(&self, now: SystemTime) -> bool {
        now >= self.0.peer.expires
    }

    pub(crate) fn authority_certificate(&self) -> CertificateDer<'static> {
        self.0.authority_certificate.clone().into()
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.0.certificate.clone().into(), self.0.authority_certificate.clone().into()]
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.key.clone()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("directory", &self.0.directory)
            .field("peer", &self.0.peer)
            .field("authority", &self.0.authority)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Role};
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn is_due_when_a_third_is_left() {
        let place = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(place.path().join("a"), now()).expect("made");
        let node = authority.issue_to(place.path().join("n"), Role::Node, "n", now()).expect("issued");
        let day = Duration::from_secs(86_400);
        assert!(!node.renewal_due(now()));
        assert!(!node.renewal_due(now() + 19 * day));
        assert!(node.renewal_due(now() + 20 * day));
        assert!(!node.expired(now() + 29 * day));
        assert!(node.expired(now() + 30 * day));
    }

    #[test]
    fn loading_names_what_is_missing_or_foreign() {
        let place = tempfile::tempdir().expect("a directory");
        assert!(matches!(Identity::load(place.path()), Err(IdentityError::Missing { .. })));
        let authority = Authority::open_or_create(place.path().join("a"), now()).expect("made");
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        for directory in [&one, &two] {
            authority.issue_to(directory, Role::Node, "n", now()).expect("issued");
        }
        fs::copy(one.join(CHAIN_FILE), two.join(CHAIN_FILE)).expect("copied");
        assert!(matches!(
            Identity::load(&two),
            Err(IdentityError::Certificate { error: CertificateError::Key { .. }, .. })
        ));
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let place = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(place.path().join("a"), now()).expect("made");
        let node = authority.issue_to(place.path().join("n"), Role::Node, "n", now()).expect("issued");
        let shown = format!("{node:?}{authority:?}");
        assert!(!shown.contains("key"), "{shown}");
    }
}
