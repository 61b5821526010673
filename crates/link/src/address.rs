//! Where a coordinator can be reached: `host:port`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A host name or an IP address, and a UDP port. Names are resolved when connecting, so that a
/// coordinator may move.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// No port at the end.
    #[error("{text:?} has no port: write it as host:port, an IPv6 address as [address]:port")]
    NoPort {
        /// The text.
        text: String,
    },
    /// The port is not a number from 1 to 65535.
    #[error("the port of {text:?} is not a number from 1 to 65535")]
    Port {
        /// The text.
        text: String,
    },
    /// The host is empty, too long, or has characters that no host name has.
    #[error("the host of {text:?} is neither a name nor an IP address")]
    Host {
        /// The text.
        text: String,
    },
}

impl Address {
    /// The host: a name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_canonical().to_string(), port: address.port() }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let owned = || text.to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::NoPort { text: owned() })?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(AddressError::NoPort { text: owned() });
        }
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0 && !text.contains('+'))
            .ok_or_else(|| AddressError::Port { text: owned() })?;
        let host = match bracketed {
            Some(inner) => match inner.parse::<IpAddr>() {
                Ok(IpAddr::V6(address)) => address.to_string(),
                _ => return Err(AddressError::Host { text: owned() }),
            },
            None => host.to_owned(),
        };
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(name) {
            return Err(AddressError::Host { text: owned() });
        }
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_addresses_of_both_families() {
        for (text, host) in [
            ("coordinator.lan:7000", "coordinator.lan"),
            ("192.0.2.7:7000", "192.0.2.7"),
            ("[2001:db8::7]:7000", "2001:db8::7"),
        ] {
            let address: Address = text.parse().expect("an address");
            assert_eq!((address.host(), address.port()), (host, 7000));
            assert_eq!(address.to_string(), text);
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:1".parse().expect("a socket address");
        assert_eq!(Address::from(mapped).to_string(), "192.0.2.7:1");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = |text: &str| text.parse::<Address>().expect_err("no address").to_string();
        assert!(error("coordinator").contains("no port"));
        assert!(error("2001:db8::7").contains("no port"));
        assert!(error("host:0").contains("1 to 65535"));
        assert!(error("host:+80").contains("1 to 65535"));
        assert!(error("host:70000").contains("1 to 65535"));
        assert!(error(":7000").contains("neither a name"));
        assert!(error("[host]:7000").contains("neither a name"));
        assert!(error("a host:7000").contains("neither a name"));
    }

    proptest! {
        #[test]
        fn socket_addresses_survive(ip: std::net::IpAddr, port in 1u16..) {
            let address = Address::from(SocketAddr::new(ip, port));
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn any_text_is_an_address_or_an_error(text in ".*") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
