//! What a certificate says about its owner, and how it is made and read.
//!
//! The subject holds the role as organisational unit and the name as common name. There is no
//! alternative name: peers are pinned by authority and role, never by host name.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{BACKDATE, COORDINATOR_VALIDITY, MAX_NAME, NODE_VALIDITY, OPERATOR_VALIDITY};
use crate::{AuthorityId, PeerId};

const ORGANISATION: &str = "exeunt";

/// What a key may do. It is written in the certificate, so the authority decides it and nobody
/// else can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Serves; the only role a client accepts at the other end.
    Coordinator,
    /// Holds data and answers queries.
    Node,
    /// Gives orders to the coordinator.
    Operator,
}

impl Role {
    /// How long a certificate of this role is good.
    pub const fn validity(self) -> Duration {
        match self {
            Self::Coordinator => COORDINATOR_VALIDITY,
            Self::Node => NODE_VALIDITY,
            Self::Operator => OPERATOR_VALIDITY,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Node => "node",
            Self::Operator => "operator",
        }
    }

    /// A coordinator's key cannot be used to connect and no other key can be used to serve, so
    /// that a node which has a certificate of the same authority cannot pose as the coordinator.
    const fn usage(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Coordinator => ExtendedKeyUsagePurpose::ServerAuth,
            Self::Node | Self::Operator => ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = CertificateError;

    fn from_str(text: &str) -> Result<Self, CertificateError> {
        [Self::Coordinator, Self::Node, Self::Operator]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| CertificateError::Role { found: text.to_owned() })
    }
}

/// Who is at the other end, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The hash of its public key.
    pub id: PeerId,
    /// What it may do.
    pub role: Role,
    /// What it is called, for people.
    pub name: String,
    /// When its certificate stops being accepted.
    pub expires: SystemTime,
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not a certificate, or one with bytes behind it.
    #[error("not an X.509 certificate")]
    Unreadable,
    /// The subject names no role that this version knows.
    #[error("the certificate's role {found:?} is none of coordinator, node, operator")]
    Role {
        /// The role found; empty when there is none.
        found: String,
    },
    /// The certificate is for another key.
    #[error("the certificate is for the key {found}, not for {expected}", found = .found.short(), expected = .expected.short())]
    Key {
        /// The key in the certificate.
        found: PeerId,
        /// The key at hand.
        expected: PeerId,
    },
    /// The certificate comes from another authority.
    #[error("the certificate does not come from the authority {}", .expected.short())]
    Issuer {
        /// The authority at hand.
        expected: AuthorityId,
    },
    /// Making it failed.
    #[error("cannot make a certificate: {0}")]
    Making(String),
}

/// Why a text cannot be a name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Too short or too long.
    #[error("a name has 1 to {MAX_NAME} characters, found {found}")]
    Length {
        /// Characters found.
        found: usize,
    },
    /// Control characters, which could rewrite somebody's terminal.
    #[error("a name has no control characters, found {found:?}")]
    Control {
        /// The first of them.
        found: char,
    },
}

/// Whether `name` may stand in a certificate.
///
/// # Errors
/// When it is empty, longer than [`MAX_NAME`] characters, or has control characters.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let found = name.chars().count();
    if found == 0 || found > MAX_NAME {
        return Err(NameError::Length { found });
    }
    match name.chars().find(|c| c.is_control()) {
        Some(found) => Err(NameError::Control { found }),
        None => Ok(()),
    }
}

/// What is read from a certificate that was (or will be) verified elsewhere.
pub(crate) struct Facts {
    pub(crate) peer: Peer,
    pub(crate) public_key: Vec<u8>,
    pub(crate) not_before: SystemTime,
}

fn parse(der: &[u8]) -> Result<x509_parser::certificate::X509Certificate<'_>, CertificateError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(CertificateError::Unreadable),
    }
}

fn time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

/// The DER of a certificate's `SubjectPublicKeyInfo`.
pub(crate) fn public_key(der: &[u8]) -> Result<Vec<u8>, CertificateError> {
    Ok(parse(der)?.public_key().raw.to_vec())
}

/// Reads a member's certificate; its signature is not looked at.
pub(crate) fn read(der: &[u8]) -> Result<Facts, CertificateError> {
    let certificate = parse(der)?;
    let subject = certificate.subject();
    let text = |mut values: Box<dyn Iterator<Item = &str> + '_>| values.next().unwrap_or_default().to_owned();
    let role = text(Box::new(subject.iter_organizational_unit().filter_map(|value| value.as_str().ok())));
    let name = text(Box::new(subject.iter_common_name().filter_map(|value| value.as_str().ok())));
    let public_key = certificate.public_key().raw.to_vec();
    let validity = certificate.validity();
    Ok(Facts {
        peer: Peer {
            id: PeerId::of_public_key(&public_key),
            role: role.parse()?,
            name,
            expires: time(validity.not_after.timestamp()),
        },
        public_key,
        not_before: time(validity.not_before.timestamp()),
    })
}

/// Reads a member's certificate after checking that `authority` signed it.
pub(crate) fn read_issued_by(der: &[u8], authority: &[u8]) -> Result<Facts, CertificateError> {
    let anchor = parse(authority)?;
    parse(der)?.verify_signature(Some(anchor.public_key())).map_err(|_not_signed_by| {
        CertificateError::Issuer { expected: AuthorityId::of_public_key(anchor.public_key().raw) }
    })?;
    read(der)
}

fn making(error: rcgen::Error) -> CertificateError {
    CertificateError::Making(error.to_string())
}

/// A new Ed25519 key: small certificates, and signing needs no randomness, which small devices
/// lack after a cold start.
pub(crate) fn new_key() -> Result<KeyPair, CertificateError> {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(making)
}

/// 9999-12-31T23:59:59Z in seconds since 1970: the last second that a certificate can name, and
/// by RFC 5280 the way to say that it does not run out.
const LAST: u64 = 253_402_300_799;

/// Whole seconds since 1970, within what a certificate can express.
fn seconds(time: SystemTime) -> Duration {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(since.as_secs().min(LAST))
}

fn parameters(common_name: &str, from: SystemTime, until: SystemTime) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, ORGANISATION);
    subject.push(DnType::CommonName, common_name);
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = subject;
    parameters.serial_number = Some(serial());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + seconds(from);
    parameters.not_after = epoch + seconds(until);
    parameters
}

fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    // A positive number whose first byte is not zero, as DER wants it.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from(bytes.to_vec())
}

/// The parameters of an authority's own certificate. They follow from the key alone, except for
/// the dates. It does not run out: the key is what everybody pins, and changing it means joining
/// again.
pub(crate) fn authority_parameters(id: AuthorityId, now: SystemTime) -> CertificateParams {
    let from = now.checked_sub(BACKDATE).unwrap_or(UNIX_EPOCH);
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(LAST)).unwrap_or(now);
    let mut parameters = parameters(&format!("authority {}", id.short()), from, until);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

/// Signs a member's certificate.
pub(crate) fn sign(
    issuer: &rcgen::Issuer<'_, KeyPair>,
    public_key: &impl PublicKeyData,
    role: Role,
    name: &str,
    now: SystemTime,
) -> Result<Vec<u8>, CertificateError> {
    let from = now.checked_sub(BACKDATE).unwrap_or(UNIX_EPOCH);
    let until = now.checked_add(role.validity()).unwrap_or(now);
    let mut parameters = parameters(name, from, until);
    parameters.distinguished_name.push(DnType::OrganizationalUnitName, role.as_str());
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![role.usage()];
    parameters.use_authority_key_identifier_extension = true;
    let certificate = parameters.signed_by(public_key, issuer).map_err(making)?;
    Ok(certificate.der().to_vec())
}

/// A request for a certificate, which proves that the sender has the key. Nothing in it but the
/// key is looked at: role and name are the authority's to give.
pub(crate) fn request(key: &KeyPair) -> Result<Vec<u8>, CertificateError> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let request = parameters.serialize_request(key).map_err(making)?;
    Ok(request.der().to_vec())
}

/// The key of a request, whose signature is checked.
pub(crate) fn requested_key(request: Vec<u8>) -> Result<rcgen::PublicKey, CertificateError> {
    let request = rcgen::CertificateSigningRequestParams::from_der(&request.into()).map_err(making)?;
    if request.public_key.algorithm() == &rcgen::PKCS_ED25519 {
        Ok(request.public_key)
    } else {
        Err(CertificateError::Making("not an Ed25519 key".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(check_name("kitchen"), Ok(()));
        assert_eq!(check_name("Küche 3"), Ok(()));
        assert_eq!(check_name(""), Err(NameError::Length { found: 0 }));
        assert_eq!(check_name(&"ü".repeat(65)), Err(NameError::Length { found: 65 }));
        assert_eq!(check_name("a\u{1b}[2J"), Err(NameError::Control { found: '\u{1b}' }));
    }

    #[test]
    fn a_request_proves_its_key() {
        let key = new_key().expect("a key");
        let mut der = request(&key).expect("a request");
        let read = requested_key(der.clone()).expect("a proof");
        assert_eq!(read.subject_public_key_info(), key.subject_public_key_info());
        let last = der.len() - 1;
        der[last] ^= 1;
        assert!(requested_key(der).is_err());
        assert!(requested_key(Vec::new()).is_err());
    }

    #[test]
    fn roles_survive_text() {
        for role in [Role::Coordinator, Role::Node, Role::Operator] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("queen".parse::<Role>().is_err());
    }

    #[test]
    fn certificates_that_are_none() {
        assert_eq!(read(b"").err(), Some(CertificateError::Unreadable));
        assert_eq!(read(b"0\x82").err(), Some(CertificateError::Unreadable));
    }
}
