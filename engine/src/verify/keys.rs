//! Whom a device trusts: public keys of ed25519.

use alloc::string::String;
use alloc::vec::Vec;

use super::base64;
use super::ed25519;
use super::sha2::{hex, Sha256};
use crate::error::Result;

/// What precedes the 32 bytes in a SubjectPublicKeyInfo of ed25519 (RFC 8410, section 4).
const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Letters of those 44 bytes.
const MOST_LETTERS: usize = 60;

/// A key that signs bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    raw: [u8; 32],
    id: String,
}

impl PublicKey {
    /// The key of 32 bytes; bytes that are no point of the curve make a key that has signed nothing.
    pub fn from_raw(raw: [u8; 32]) -> Self {
        Self { raw, id: hex(&Sha256::of(&raw)) }
    }

    /// The key of a PEM text (RFC 7468), as `smallhold` and OpenSSL write it.
    ///
    /// # Errors
    /// `Malformed`: anything but one ed25519 public key.
    pub fn from_pem(text: &str) -> Result<Self> {
        let body = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----");
        let body = body.and_then(|body| body.strip_suffix("-----END PUBLIC KEY-----"));
        let mut data = Vec::new();
        let body = body.map(str::trim).filter(|body| body.len() <= MOST_LETTERS);
        let is_read = body.is_some_and(|body| base64::decode(body, &mut data).is_some());
        match data.strip_prefix(&PREFIX).filter(|_| is_read).and_then(|raw| raw.try_into().ok()) {
            Some(raw) => Ok(Self::from_raw(raw)),
            None => fail!(Malformed, "expected an ed25519 public key in PEM form"),
        }
    }

    /// The keys of PEM texts one behind the other.
    ///
    /// # Errors
    /// See `from_pem`.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>> {
        const END: &str = "-----END PUBLIC KEY-----";
        text.split_inclusive(END).filter(|text| !text.trim().is_empty()).map(Self::from_pem).collect()
    }

    /// SHA-256 of the 32 bytes, in hexadecimal: what an envelope calls the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether `signature` is this key's of `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        ed25519::verify(&self.raw, message, signature)
    }
}

/// Every `*.pem` of a folder.
///
/// # Errors
/// `System`: the folder or a file cannot be read. `Malformed`: one of the files is no ed25519 public key.
#[cfg(feature = "std")]
pub fn load_trusted_keys(folder: &std::path::Path) -> Result<Vec<PublicKey>> {
    use crate::error::{Error, Kind};

    let failed = |path: &std::path::Path, error: &dyn core::fmt::Display, kind| {
        Error::new(kind, alloc::format!("trusted key {}: {error}", path.display()))
    };
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, &error, Kind::System))? {
        let path = entry.map_err(|error| failed(folder, &error, Kind::System))?.path();
        if path.extension().is_some_and(|end| end == "pem") {
            let text = std::fs::read(&path).map_err(|error| failed(&path, &error, Kind::System))?;
            let text = String::from_utf8_lossy(&text);
            keys.push(PublicKey::from_pem(&text).map_err(|error| failed(&path, &error, error.kind))?);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    const PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn a_key_is_read_and_named_by_its_digest() {
        let key = PublicKey::from_pem(PEM).unwrap();
        assert_eq!(hex(&key.raw), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(key.id(), hex(&Sha256::of(&key.raw)));
        assert_eq!(PublicKey::from_pem(&PEM.replace('\n', "\r\n")), Ok(key));
    }

    #[test]
    fn what_is_not_one_ed25519_key_is_refused() {
        for text in [
            "",
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY----------END PUBLIC KEY-----",
            &PEM.replace("MCow", "MCox"),
            &PEM.replace("PUBLIC", "PRIVATE"),
            &PEM.replace("URo=", "UQ=="),
            &format!("{PEM}{PEM}"),
        ] {
            assert!(PublicKey::from_pem(text).is_err(), "{text}");
        }
    }
}
