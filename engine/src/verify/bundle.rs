//! A bundle, opened: nothing of it is interpreted before it is proven.
//!
//! Python's twin is `smallhold.device.trust.verify_bundle`. What a device has run before, and so whether a bundle is
//! older than that, is the host's to know; `Manifest::version` and `digest` tell it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::envelope::Envelope;
use super::keys::PublicKey;
use super::manifest::{parse_version, FileEntry, Manifest, ENVELOPE_NAME, MANIFEST_NAME};
use super::sha2::{hex, Sha256};
use super::zip;
use crate::bytes::Bytes;
use crate::error::Result;
use crate::memory;
use crate::model::Source;
use crate::table::Table;

/// Of the manifest and of its envelope, each.
const MAX_READ_BYTES: usize = 16 << 20;
const MAX_FILES: usize = 10_000;
#[cfg(feature = "std")]
const MAX_BYTES: u64 = 1 << 32;

/// Bytes by their path in the bundle.
pub type Files = Table<Source>;

/// Why a bundle may be used.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// One of these keys has signed it, and every file is as it was signed: all of that is checked on opening.
    Keys(&'a [PublicKey]),
    /// The host says that it has checked all of that. Here the manifest is read and believed, and a file is compared
    /// with it when it is read; envelope and further files need not be there.
    HostHasVerified,
}

/// A bundle that may be used.
pub struct Bundle {
    manifest: Manifest,
    files: Files,
    are_files_checked: bool,
}

impl Bundle {
    /// A bundle of files that are at hand.
    ///
    /// A file is used from the very bytes that were hashed. Where they are a map of the disk, replacing the file
    /// changes nothing; who may write into the file itself could.
    ///
    /// # Arguments
    /// `now`: seconds since 1970; none where a device has no clock, and then expiry is not checked.
    ///
    /// # Errors
    /// `Untrusted`: unsigned, signed by nobody in `trust`, expired, or a file is missing, added or altered.
    /// `Malformed`: no bundle, or its manifest is none. `Unsupported`: it needs a newer engine; see `Manifest::parse`.
    pub fn from_files(files: Files, trust: Trust, now: Option<u64>) -> Result<Self> {
        Self::verified(files, trust, now, Needed::Every)
    }

    fn verified(files: Files, trust: Trust, now: Option<u64>, needed: Needed) -> Result<Self> {
        let Some(manifest_bytes) = files.get(MANIFEST_NAME) else {
            fail!(Malformed, "not a bundle: it has no {MANIFEST_NAME}")
        };
        check_count(files.len())?;
        // (1) A trusted key signed these bytes; nothing of the bundle was interpreted before.
        let manifest_bytes = match trust {
            Trust::Keys(keys) => signed(&files, bytes(manifest_bytes), keys)?,
            Trust::HostHasVerified => memory::copied(at_most(MANIFEST_NAME, bytes(manifest_bytes))?)?,
        };
        // (2) They are a manifest that this engine is new enough to understand.
        let manifest = Manifest::parse(&manifest_bytes)?;
        let ours = env!("CARGO_PKG_VERSION");
        if parse_version(ours)? < parse_version(&manifest.minimum_runtime)? {
            fail!(Unsupported, "needs smallhold {} or newer, this is {ours}", manifest.minimum_runtime);
        }
        // (3) It is still valid.
        let now = now.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
        if let (Some(now), Some(expires)) = (now, manifest.expires_at()?) {
            if now >= expires {
                let when = manifest.expires.unwrap_or_default();
                fail!(Untrusted, "{} {} expired at {when}", manifest.name, manifest.version);
            }
        }
        // (4) Every file is there, no other is, and each is what the manifest says.
        let are_files_checked = matches!(trust, Trust::Keys(_));
        if are_files_checked {
            check_files(&files, &manifest, needed)?;
        }
        Ok(Self { manifest, files, are_files_checked })
    }

    /// A bundle in one file, as `smallhold bundle build` writes it.
    ///
    /// # Errors
    /// `Malformed`: another layout; and see `from_files`.
    pub fn from_zip(archive: Source, trust: Trust, now: Option<u64>) -> Result<Self> {
        let whole = 0..bytes(&archive).len();
        Self::from_files(members(&archive, whole)?, trust, now)
    }

    /// A bundle that is part of a file (see `crate::app`), where files for other runtimes may have been left out.
    ///
    /// # Errors
    /// See `from_zip`.
    pub fn from_part(file: &Source, place: Range<usize>, trust: Trust, now: Option<u64>) -> Result<Self> {
        Self::verified(members(file, place)?, trust, now, Needed::ByThisRuntime)
    }

    /// A bundle on the disk, a folder or one file, by the system's clock.
    ///
    /// # Errors
    /// `System`: there is neither, or a file cannot be read. `Malformed`: a link or special file lies in the folder.
    /// And see `from_files`.
    #[cfg(feature = "std")]
    pub fn open(path: &std::path::Path, trust: Trust) -> Result<Self> {
        Self::open_at(path, trust, clock())
    }

    /// A bundle on the disk at a moment in seconds since 1970.
    ///
    /// # Errors
    /// See `open`.
    #[cfg(feature = "std")]
    pub fn open_at(path: &std::path::Path, trust: Trust, now: u64) -> Result<Self> {
        let opened = || {
            if path.is_dir() {
                Self::from_files(folder::files(path)?, trust, Some(now))
            } else if path.is_file() {
                Self::from_zip(crate::files::open(path)?, trust, Some(now))
            } else {
                fail!(System, "expected a folder or a ZIP file, found neither")
            }
        };
        opened().map_err(|mut error| {
            error.message = alloc::format!("bundle {}: {}", path.display(), error.message);
            error
        })
    }

    /// What the bundle is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The content of a file that the manifest lists, and that is as it lists it.
    ///
    /// # Errors
    /// `Untrusted`: it is not listed, missing or altered.
    pub fn read(&self, name: &str) -> Result<Source> {
        match (self.manifest.files.get(name), self.files.get(name)) {
            (Some(entry), Some(source)) => {
                if !self.are_files_checked {
                    check_file(name, bytes(source), entry)?;
                }
                Ok(source.clone())
            }
            (Some(_), None) => fail!(Untrusted, "file {name:?} is missing"),
            (None, _) => fail!(Untrusted, "file {name:?} is not in the manifest"),
        }
    }
}

/// Seconds since 1970 by the system's clock.
#[cfg(feature = "std")]
pub fn clock() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Which files have to be there.
#[derive(Clone, Copy, PartialEq)]
enum Needed {
    Every,
    ByThisRuntime,
}

/// Files of an archive that lies in a file.
fn members(file: &Source, archive: Range<usize>) -> Result<Files> {
    let found = zip::members(&bytes(file)[archive.clone()])?;
    let part = |place: Range<usize>| -> Source {
        Arc::new(Part { file: file.clone(), place: archive.start + place.start..archive.start + place.end })
    };
    Table::of(memory::collected(found.into_iter().map(|(name, place)| (name, part(place))))?)
}

fn bytes(source: &Source) -> &[u8] {
    (**source).as_ref()
}

/// Part of a file that is kept alive.
struct Part {
    file: Source,
    place: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &bytes(&self.file)[self.place.clone()]
    }
}

impl Bytes for Part {
    fn let_go(&self, place: Range<usize>) {
        self.file.let_go(self.place.start + place.start..self.place.start + place.end);
    }
}

fn at_most<'a>(name: &str, data: &'a [u8]) -> Result<&'a [u8]> {
    if data.len() > MAX_READ_BYTES {
        fail!(Malformed, "file {name:?}: expected at most {MAX_READ_BYTES} bytes, got {}", data.len());
    }
    Ok(data)
}

fn check_count(count: usize) -> Result<()> {
    if count > MAX_FILES {
        fail!(Malformed, "expected at most {MAX_FILES} files, got more");
    }
    Ok(())
}

/// A copy of the manifest, as it was signed.
fn signed(files: &Files, manifest: &[u8], keys: &[PublicKey]) -> Result<Vec<u8>> {
    let Some(envelope) = files.get(ENVELOPE_NAME) else { fail!(Untrusted, "unsigned: it has no {ENVELOPE_NAME}") };
    let envelope = Envelope::parse(at_most(ENVELOPE_NAME, bytes(envelope))?)?;
    let payload = envelope.verified(keys)?;
    if payload != manifest {
        fail!(Untrusted, "{MANIFEST_NAME} is not the manifest that was signed: it was altered or swapped");
    }
    Ok(payload)
}

fn check_files(files: &Files, manifest: &Manifest, needed: Needed) -> Result<()> {
    let is_listed = |name: &str| manifest.files.contains(name) || [MANIFEST_NAME, ENVELOPE_NAME].contains(&name);
    if let Some(extra) = files.names().find(|name| !is_listed(name)) {
        fail!(Untrusted, "file {extra:?} is not in the manifest");
    }
    for (name, entry) in manifest.files.iter() {
        match files.get(name) {
            Some(source) => check_file(name, bytes(source), entry)?,
            None if needed == Needed::ByThisRuntime && is_for_another_runtime(entry) => {}
            None => fail!(Untrusted, "file {name:?} is missing"),
        }
    }
    Ok(())
}

/// `reference` is who names the engine's weights too: both read GGUF.
fn is_for_another_runtime(entry: &FileEntry) -> bool {
    entry.runtime.as_deref().is_some_and(|runtime| !["engine", "reference"].contains(&runtime))
}

fn check_file(name: &str, data: &[u8], entry: &FileEntry) -> Result<()> {
    if data.len() != entry.bytes {
        fail!(Untrusted, "file {name:?}: expected {} bytes, got {}", entry.bytes, data.len());
    }
    let digest = hex(&Sha256::of(data));
    if digest != entry.sha256 {
        let (expected, got) = (&entry.sha256[..16], &digest[..16]);
        fail!(Untrusted, "file {name:?} was altered: expected SHA-256 {expected}..., got {got}...");
    }
    Ok(())
}

#[cfg(feature = "std")]
mod folder {
    use std::path::Path;

    use super::{check_count, Files, MAX_BYTES};
    use crate::error::{Error, Kind, Result};
    use crate::verify::manifest::check_path;

    /// Every file below a folder, mapped.
    ///
    /// A link that takes a file's place after the listing is followed, which gains nothing: what it leads to is hashed.
    pub fn files(root: &Path) -> Result<Files> {
        let mut files = Files::default();
        for name in names(root)? {
            files.insert(name.clone(), crate::files::open(&root.join(&name))?)?;
        }
        Ok(files)
    }

    fn names(root: &Path) -> Result<Vec<String>> {
        let failed = |error: std::io::Error| Error::new(Kind::System, error.to_string());
        let (mut names, mut folders) = (Vec::new(), vec![String::new()]);
        let (mut count, mut size) = (0, 0);
        while let Some(prefix) = folders.pop() {
            for entry in std::fs::read_dir(root.join(&prefix)).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = prefix.clone() + &entry.file_name().to_string_lossy();
                check_path(&name)?;
                let status = entry.metadata().map_err(failed)?; // of the link, where it is one
                if status.is_dir() {
                    folders.push(name + "/");
                } else if status.is_file() {
                    names.push(name);
                    size += status.len();
                } else {
                    let kind = if status.is_symlink() { "symbolic link" } else { "special file" };
                    fail!(Malformed, "expected plain files, {name:?} is a {kind}");
                }
                count += 1;
                check_count(count)?;
                if size > MAX_BYTES {
                    fail!(Malformed, "too large: expected at most {MAX_BYTES} bytes");
                }
            }
        }
        Ok(names)
    }
}
