//! An app in one file: the program, and behind it a bundle and the keys that it is verified by.
//!
//! ```text
//! program | bundle (ZIP) | keys (PEM, one behind the other) | bytes of the bundle | bytes of the keys | MAGIC
//! ```
//!
//! Both counts are u64, little endian. `smallhold bundle app` writes it. Files for other runtimes are left out of the
//! bundle; what is there is what was signed.

use alloc::vec::Vec;
use core::ops::Range;

use crate::error::Result;
use crate::model::Source;
use crate::verify::bundle::{Bundle, Trust};
use crate::verify::keys::PublicKey;

/// The last bytes of an app.
pub const MAGIC: &[u8; 16] = b"smallhold.app/1\n";

/// A program's file that holds a bundle.
pub struct App {
    file: Source,
    bundle: Range<usize>,
    keys: Vec<PublicKey>,
}

impl App {
    /// The app that a program's file is; `None` where it is none.
    ///
    /// # Errors
    /// `Malformed`: a damaged app.
    pub fn of(file: Source) -> Result<Option<Self>> {
        let Some((bundle, keys)) = parts((*file).as_ref())? else { return Ok(None) };
        let keys = PublicKey::all_from_pem(keys)?;
        Ok(Some(Self { file, bundle, keys }))
    }

    /// The bundle, verified; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// See `Bundle::from_zip`.
    pub fn open(&self, now: Option<u64>) -> Result<Bundle> {
        Bundle::from_part(&self.file, self.bundle.clone(), Trust::Keys(&self.keys), now)
    }
}

/// Where a program's file holds its bundle and the keys; `None` where it is no app.
fn parts(file: &[u8]) -> Result<Option<(Range<usize>, &str)>> {
    let Some(head) = file.strip_suffix(MAGIC) else { return Ok(None) };
    let found = (|| {
        let (head, keys_len) = count(head)?;
        let (head, bundle_len) = count(head)?;
        let keys = head.len().checked_sub(keys_len)?;
        let start = keys.checked_sub(bundle_len)?;
        Some((start..keys, core::str::from_utf8(&head[keys..]).ok()?))
    })();
    match found {
        Some(parts) => Ok(Some(parts)),
        None => fail!(Malformed, "this app is damaged: the bundle inside it was not found"),
    }
}

/// A count at the end of bytes, and what stands before it.
fn count(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, count) = bytes.split_at(bytes.len().checked_sub(8)?);
    Some((head, usize::try_from(u64::from_le_bytes(count.try_into().ok()?)).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn app(bundle: u64, keys: u64) -> Vec<u8> {
        let mut file = b"ELFzipPEM".to_vec();
        file.extend(bundle.to_le_bytes());
        file.extend(keys.to_le_bytes());
        file.extend(MAGIC);
        file
    }

    #[test]
    fn parts_lie_behind_the_program() {
        assert_eq!(parts(&app(3, 3)).unwrap(), Some((3..6, "PEM")));
        assert_eq!(parts(b"ELF").unwrap(), None);
        assert_eq!(parts(&app(6, 3)).unwrap(), Some((0..6, "PEM")));
        for (bundle, keys) in [(7, 3), (3, 10), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(parts(&app(bundle, keys)).is_err());
        }
        assert!(parts(MAGIC).is_err());
    }
}
