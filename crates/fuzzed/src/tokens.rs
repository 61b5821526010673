//! What people type: join tokens, addresses, names of things.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::Specification;
use exeunt_exits::{Pool, Rule};
use exeunt_link::{Address, AuthorityId, PeerId, Role, Token, check_name};
use exeunt_protocol::{NodeId, RunId};
use exeunt_stats::Digest;

/// A choice (one byte), then text; or, for one choice in two, the content of a token whose length and checksum are
/// right, which chance would not find.
///
/// # Panics
/// When what was read is written in a way that is read otherwise.
pub fn tokens(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    if choice % 2 == 1 {
        return token(&sealed(body));
    }
    let text = String::from_utf8_lossy(body);
    token(&text);
    round::<Address>(&text);
    round::<AuthorityId>(&text);
    round::<PeerId>(&text);
    round::<Role>(&text);
    round::<NodeId>(&text);
    round::<RunId>(&text);
    round::<Digest>(&text);
    round::<Pool>(&text);
    round::<Rule>(&text);
    let _ = check_name(&text);
}

fn token(text: &str) {
    let Ok(token) = text.parse::<Token>() else { return };
    assert_eq!(token.to_string().parse::<Token>(), Ok(token.clone()));
    assert!(!token.addresses().is_empty());
    let _ = token.check_expiry(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let _ = token.check_expiry(token.expires());
}

fn round<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        assert_eq!(read.to_string().parse::<T>().expect("what was written can be read"), read);
    }
}

/// A token with this content, whatever it is.
fn sealed(payload: &[u8]) -> String {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.push(blake3::hash(&length).as_bytes()[0]);
    bytes.extend_from_slice(payload);
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(&checksum.as_bytes()[..4]);
    let mut specification = Specification::new();
    specification.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    let encoding = specification.encoding().expect("Crockford's base 32");
    format!("exeunt1{}", encoding.encode(&bytes))
}
