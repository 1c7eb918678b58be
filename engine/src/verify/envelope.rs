//! The signed envelope of a manifest.
//!
//! Source: DSSE 1.0 protocol and envelope, github.com/secure-systems-lab/dsse. Our profile is stricter: canonical JSON,
//! canonical base64, `keyid` required and used, no other members, so that no byte can change unseen.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::base64;
use super::keys::PublicKey;
use super::manifest::{check_members, text, typed};
use crate::error::{Error, Kind, Result};
use crate::json::Value;
use crate::memory;

/// What is signed here, and nothing else.
const PAYLOAD_TYPE: &str = "application/vnd.smallhold.manifest+json";

/// An envelope, opened; nobody has looked at its signatures yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload: Vec<u8>,
    /// Ids of keys and what they signed with.
    signatures: Vec<(String, Vec<u8>)>,
}

impl Envelope {
    /// Read `manifest.dsse.json`.
    ///
    /// # Errors
    /// `Untrusted`: it is not an envelope of a manifest in the one form. `Memory`: the system has not so much.
    pub fn parse(data: &[u8]) -> Result<Self> {
        Self::read(data).map_err(|error| match error.kind {
            Kind::Memory => error,
            _ => Error::new(Kind::Untrusted, alloc::format!("manifest.dsse.json is not a signed envelope: {error}")),
        })
    }

    fn read(data: &[u8]) -> Result<Self> {
        let value = Value::parse(data)?;
        check_members(&value, &["payload", "payloadType", "signatures"])?;
        if !value.is_written(data) {
            fail!(Malformed, "not in canonical form: no white space, no escape that need not be");
        }
        let payload_type = text(&value, "payloadType")?;
        if payload_type != PAYLOAD_TYPE {
            fail!(Malformed, "payloadType: expected {PAYLOAD_TYPE}, got {payload_type:?}");
        }
        let items = typed(&value, "signatures", "a list", Value::as_list)?;
        let mut signatures = memory::room(items.len())?;
        for item in items {
            signatures.push(signature(item)?);
        }
        Ok(Self { payload: bytes(&value, "payload")?, signatures })
    }

    /// The bytes that were signed, once a trusted key has signed them.
    ///
    /// # Errors
    /// `Untrusted`: no key of `keys` is named, or one that is named did not sign this.
    pub fn verified(self, keys: &[PublicKey]) -> Result<Vec<u8>> {
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, &self.payload)?;
        let mut verified: Vec<&(String, Vec<u8>)> = Vec::new();
        for named in &self.signatures {
            let (id, signature) = named;
            let Some(key) = keys.iter().find(|key| key.id() == id) else { continue };
            // One that is there a hundred thousand times is verified once: that costs the sender nothing, but us seconds.
            if verified.contains(&named) {
                continue;
            }
            if !key.verify(&signed, signature) {
                fail!(Untrusted, "the signature by key {} does not match the manifest", short(id));
            }
            memory::push(&mut verified, named)?;
        }
        if verified.is_empty() {
            let named = listed(self.signatures.iter().map(|(id, _)| id.as_str()));
            let trusted = listed(keys.iter().map(PublicKey::id));
            fail!(Untrusted, "signed by nobody this device trusts: signed by {named}, trusted are {trusted}");
        }
        Ok(self.payload)
    }
}

/// What a signature covers (PAE of the protocol).
///
/// # Errors
/// `Memory`: the system has not so much.
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Result<Vec<u8>> {
    let head = alloc::format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    let mut encoded = memory::room(head.len() + payload.len())?;
    encoded.extend_from_slice(head.as_bytes());
    encoded.extend_from_slice(payload);
    Ok(encoded)
}

fn signature(item: &Value) -> Result<(String, Vec<u8>)> {
    check_members(item, &["keyid", "sig"])?;
    Ok((text(item, "keyid")?, bytes(item, "sig")?))
}

fn bytes(object: &Value, member: &str) -> Result<Vec<u8>> {
    const WHAT: &str = "base64 in its one canonical form";
    let text = typed(object, member, WHAT, Value::as_text)?;
    let mut data = memory::room(base64::most_bytes(text))?;
    match base64::decode(text, &mut data) {
        Some(()) => Ok(data),
        None => fail!(Malformed, "{member}: expected {WHAT}"),
    }
}

fn short(id: &str) -> String {
    id.chars().take(16).flat_map(char::escape_default).collect()
}

fn listed<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    let ids: Vec<String> = ids.map(short).collect();
    if ids.is_empty() {
        "none".to_owned()
    } else {
        ids.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn the_encoding_is_the_one_of_the_protocol() {
        let encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world").unwrap();
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn an_envelope_has_one_form() {
        let good = format!(
            r#"{{"payload":"e30=","payloadType":"{PAYLOAD_TYPE}","signatures":[{{"keyid":"a","sig":"Zg=="}}]}}"#
        );
        let opened = Envelope::parse(good.as_bytes()).unwrap();
        assert_eq!(opened, Envelope { payload: b"{}".to_vec(), signatures: [("a".into(), b"f".to_vec())].into() });
        for (from, to, expected) in [
            (":[", ": [", "canonical form"),
            ("manifest+", "manifest\\u002b", "canonical form"),
            ("manifest+json", "other", "payloadType: expected"),
            ("e30=", "e31=", "payload: expected base64"),
            ("\"e30=\"", "1", "payload: expected base64"),
            ("Zg==", "Zg", "sig: expected base64"),
            ("\"a\"", "5", "keyid: expected text"),
            ("keyid", "key", "expected an object of keyid, sig"),
            ("\"sig\"", "\"x\":1,\"sig\"", "expected an object of keyid, sig"),
            ("[{", "{\"x\":[{", "JSON: byte"),
        ] {
            let error = Envelope::parse(good.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(error.kind, Kind::Untrusted);
            assert!(error.message.contains(expected), "{to}: {error}");
        }
        for text in ["", "{}", "[]", "null", "1e999", &"[".repeat(99_999)] {
            assert!(Envelope::parse(text.as_bytes()).is_err());
        }
    }

    #[test]
    fn every_cut_is_refused_and_no_byte_makes_it_panic() {
        let good = br#"{"payload":"","payloadType":"application/vnd.smallhold.manifest+json","signatures":[]}"#;
        assert!(Envelope::parse(good).is_ok_and(|opened| opened.verified(&[]).is_err()));
        for at in 0..good.len() {
            assert!(Envelope::parse(&good[..at]).is_err());
            for bit in 0..8 {
                let mut changed = good.to_vec();
                changed[at] ^= 1 << bit;
                let _ = Envelope::parse(&changed);
            }
        }
    }
}
