//! Verify a bundle before anything in it is used.
//!
//! Read in this order: `bundle` (its files, and the order in which they are believed), `envelope` (who signed), `keys`,
//! `manifest` (what was signed), `zip` (a bundle in one file). `ed25519` and `sha2` are the arithmetic below.

pub mod bundle;
pub mod ed25519;
pub mod envelope;
pub mod keys;
pub mod manifest;
pub mod sha2;
pub mod zip;

mod base64;
