//! The manifest: what a bundle is, and the digest of every file in it.
//!
//! Strict, because it decides what runs: an unknown, missing or wrong-typed member, a path that could leave the bundle,
//! or bytes that are not the one canonical form are refused. Python's twin is `smallhold.device.manifest`; it accepts
//! paths beyond ASCII, which are refused here as `Unsupported`: telling which of them are one file where case or form
//! does not count needs tables of Unicode.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::sha2::{hex, Sha256};
use crate::error::{Error, Result};
use crate::json::Value;
use crate::memory;
use crate::table::{twice, Table};

/// Where a bundle holds its manifest.
pub const MANIFEST_NAME: &str = "manifest.json";
/// Where a bundle holds the envelope that signs it.
pub const ENVELOPE_NAME: &str = "manifest.dsse.json";

const FORMAT_VERSION: usize = 1;

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Exact size.
    pub bytes: usize,
    /// What the file is for: `trunk`, `tokenizer`, `task`, ...
    pub role: String,
    /// Which backend reads it, or none when all do.
    pub runtime: Option<String>,
}

/// Everything a device needs to know before it opens a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What the bundle calls itself.
    pub name: String,
    /// `1.2.3`.
    pub version: String,
    /// UTC, `2025-01-31T12:00:00Z`.
    pub created: String,
    /// From this moment on the bundle is refused; none = never.
    pub expires: Option<String>,
    /// Lowest version of this software that may open the bundle.
    pub minimum_runtime: String,
    /// SHA-256 of the base model that the tasks share.
    pub base_digest: String,
    /// Positions of context that the model was made for.
    pub context_length: usize,
    /// Names of the tasks inside.
    pub tasks: Vec<String>,
    /// Whether the training data came from a simulator.
    pub is_simulated: bool,
    /// Names of the data sets that the weights were trained on.
    pub training_data: Vec<String>,
    /// Every file but the manifest and its envelope.
    pub files: Table<FileEntry>,
    /// SHA-256 of the manifest's bytes: the identity of the bundle.
    pub digest: String,
}

impl Manifest {
    /// Read `manifest.json`.
    ///
    /// # Errors
    /// `Malformed`: not canonical JSON, or a member is unknown, missing, wrong-typed or impossible. `Unsupported`:
    /// another version of the format, or a path beyond ASCII.
    pub fn parse(data: &[u8]) -> Result<Self> {
        Self::read(data).map_err(|error| Error::new(error.kind, alloc::format!("manifest: {error}")))
    }

    fn read(data: &[u8]) -> Result<Self> {
        let value = Value::parse(data)?;
        check_members(&value, &MEMBERS)?;
        if !value.is_written(data) {
            fail!(Malformed, "not in canonical form: sorted keys once each, no white space");
        }
        let format_version = whole(&value, "format_version")?;
        if format_version != FORMAT_VERSION {
            fail!(Unsupported, "format_version: expected {FORMAT_VERSION}, got {format_version}");
        }
        let manifest = Self {
            name: text(&value, "name")?,
            version: text(&value, "version")?,
            created: text(&value, "created")?,
            expires: text_or_none(&value, "expires")?,
            minimum_runtime: text(&value, "minimum_runtime")?,
            base_digest: digest(&value, "base_digest")?,
            context_length: whole(&value, "context_length")?,
            tasks: texts(&value, "tasks")?,
            is_simulated: typed(&value, "is_simulated", "true or false", Value::as_bool)?,
            training_data: texts(&value, "training_data")?,
            files: entries(&value)?,
            digest: hex(&Sha256::of(data)),
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        for name in self.tasks.iter().chain([&self.name]) {
            if !is_bundle_name(name) {
                fail!(Malformed, "name: expected letters, digits, '.', '_' and '-', got {name:?}");
            }
        }
        if let Some(task) = twice(self.tasks.len(), &|at| &self.tasks[at])? {
            fail!(Malformed, "tasks: {task:?} is named twice");
        }
        parse_version(&self.version)?;
        parse_version(&self.minimum_runtime)?;
        let created = parse_time(&self.created)?;
        if self.expires_at()?.is_some_and(|expires| expires <= created) {
            fail!(Malformed, "expires: expected a time after {}, got {:?}", self.created, self.expires);
        }
        if self.context_length == 0 {
            fail!(Malformed, "context_length: expected at least 1, got 0");
        }
        check_paths(&self.files)
    }

    /// When the bundle stops being valid, in seconds since 1970; none = never.
    pub(crate) fn expires_at(&self) -> Result<Option<i64>> {
        self.expires.as_deref().map(parse_time).transpose()
    }
}

/// In the order of the canonical form.
const MEMBERS: [&str; 12] = [
    "base_digest",
    "context_length",
    "created",
    "expires",
    "files",
    "format_version",
    "is_simulated",
    "minimum_runtime",
    "name",
    "tasks",
    "training_data",
    "version",
];

/// Refuse what is not an object of exactly these members, in this order.
pub(super) fn check_members(value: &Value, names: &[&str]) -> Result<()> {
    let is_so = value.as_object().is_some_and(|found| found.iter().map(|(name, _)| name).eq(names));
    if !is_so {
        fail!(Malformed, "expected an object of {}, in this order and no others", names.join(", "));
    }
    Ok(())
}

/// A member as what it has to be.
pub(super) fn typed<'a, T>(
    object: &'a Value,
    member: &str,
    expected: &str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<T> {
    match object.get(member).and_then(read) {
        Some(found) => Ok(found),
        None => fail!(Malformed, "{member}: expected {expected}"),
    }
}

pub(super) fn text(object: &Value, member: &str) -> Result<String> {
    typed(object, member, "text", |value| value.as_text().map(str::to_owned))
}

fn text_or_none(object: &Value, member: &str) -> Result<Option<String>> {
    match object.get(member) {
        Some(Value::Null) => Ok(None),
        _ => text(object, member).map(Some),
    }
}

fn texts(object: &Value, member: &str) -> Result<Vec<String>> {
    let read = |value: &Value| value.as_list()?.iter().map(|item| item.as_text().map(str::to_owned)).collect();
    typed(object, member, "a list of texts", read)
}

fn whole(object: &Value, member: &str) -> Result<usize> {
    // -0 is another spelling of 0.
    let read = |value: &Value| value.as_size().filter(|_| value.as_number().is_some_and(f64::is_sign_positive));
    typed(object, member, "a whole number, not negative, that this machine can count to", read)
}

fn digest(object: &Value, member: &str) -> Result<String> {
    let is_hex = |text: &&str| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let read = |value: &Value| value.as_text().filter(is_hex).map(str::to_owned);
    typed(object, member, "64 lower-case hexadecimal digits", read)
}

fn entries(object: &Value) -> Result<Table<FileEntry>> {
    let Some(files) = object.get("files").and_then(Value::as_object) else {
        fail!(Malformed, "files: expected an object")
    };
    if !files.windows(2).all(|two| two[0].0 < two[1].0) {
        fail!(Malformed, "not in canonical form: expected sorted files");
    }
    let mut found = memory::room(files.len())?;
    for (path, value) in files {
        match entry(value) {
            Ok(entry) => found.push((path.clone(), entry)),
            Err(error) => fail!(Malformed, "files[{path:?}]: {error}"),
        }
    }
    Table::of(found)
}

fn entry(value: &Value) -> Result<FileEntry> {
    check_members(value, &["bytes", "role", "runtime", "sha256"])?;
    let entry = FileEntry {
        sha256: digest(value, "sha256")?,
        bytes: whole(value, "bytes")?,
        role: text(value, "role")?,
        runtime: text_or_none(value, "runtime")?,
    };
    if entry.role.is_empty() {
        fail!(Malformed, "role: expected a role, got an empty text");
    }
    Ok(entry)
}

/// Whether a bundle or a task may be called so: up to 128 letters, digits, `.`, `_` and `-`, no sign first.
fn is_bundle_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// `1.2.3` as numbers that compare; leading zeros, signs and suffixes are refused.
///
/// # Errors
/// `Malformed`: another text.
pub fn parse_version(text: &str) -> Result<[u32; 3]> {
    let part = |part: &str| {
        let is_plain = part.bytes().all(|byte| byte.is_ascii_digit()) && part.len() <= 6;
        let is_short = part == "0" || !part.starts_with('0');
        part.parse().ok().filter(|_| is_plain && is_short)
    };
    let parts: Option<Vec<u32>> = text.split('.').map(part).collect();
    match parts.and_then(|parts| parts.try_into().ok()) {
        Some(version) => Ok(version),
        None => fail!(Malformed, "version: expected three numbers such as 1.2.3, got {text:?}"),
    }
}

/// `2025-01-31T12:00:00Z` in seconds since 1970; no other form is accepted.
fn parse_time(text: &str) -> Result<i64> {
    match seconds(text.as_bytes()) {
        Some(seconds) => Ok(seconds),
        None => fail!(Malformed, "expected a time such as 2025-01-31T12:00:00Z, got {text:?}"),
    }
}

fn seconds(text: &[u8]) -> Option<i64> {
    const FRAME: &[u8; 20] = b"0000-00-00T00:00:00Z";
    let is_framed = |(&got, &frame): (&u8, &u8)| if frame == b'0' { got.is_ascii_digit() } else { got == frame };
    if text.len() != FRAME.len() || !text.iter().zip(FRAME).all(is_framed) {
        return None;
    }
    let number = |place: Range<usize>| text[place].iter().fold(0, |sum, digit| 10 * sum + i64::from(digit - b'0'));
    let [year, month, day] = [0..4, 5..7, 8..10].map(number);
    let [hour, minute, second] = [11..13, 14..16, 17..19].map(number);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_day = year >= 1 && (1..=12).contains(&month) && (1..=days).contains(&day);
    if !is_day || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(((days_before(year, month) + day - 1) * 24 + hour) * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 to the first of a month in the Gregorian calendar.
fn days_before(year: i64, month: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last: months 0 to 11 then have 153 days every five.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 - 719_468
}

/// Refuse a path that is not plainly inside the bundle on every system.
///
/// # Errors
/// `Malformed`: empty, absolute, with `.`, `..` or empty parts, a backslash, a colon or a control character.
/// `Unsupported`: beyond ASCII.
pub fn check_path(path: &str) -> Result<()> {
    if !path.is_ascii() {
        fail!(Unsupported, "path in bundle: expected ASCII, got {path:?}");
    }
    let is_plain = !path.bytes().any(|byte| byte.is_ascii_control() || b"\\:".contains(&byte));
    if !is_plain || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        fail!(Malformed, "unsafe path in bundle: expected a relative path such as onnx/model.onnx, got {path:?}");
    }
    Ok(())
}

fn check_paths(files: &Table<FileEntry>) -> Result<()> {
    let mut seen = Table::default();
    for path in files.names() {
        check_path(path)?;
        let folded = path.to_ascii_lowercase();
        if [MANIFEST_NAME, ENVELOPE_NAME].contains(&folded.as_str()) {
            fail!(Malformed, "files: {path:?} cannot be listed in itself");
        }
        if seen.contains(&folded) {
            fail!(Malformed, "files: {path:?} is there twice where case does not count");
        }
        seen.insert(folded, ())?;
    }
    for path in files.names() {
        let folded = path.to_ascii_lowercase();
        if folded.match_indices('/').any(|(end, _)| seen.contains(&folded[..end])) {
            fail!(Malformed, "files: {path:?} needs a folder where another file is");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use alloc::format;

    fn manifest() -> String {
        let digest = "0".repeat(64);
        let file = format!(r#"{{"bytes":3,"role":"part","runtime":null,"sha256":"{digest}"}}"#);
        format!(
            "{{\"base_digest\":\"{digest}\",\"context_length\":512,\"created\":\"2025-01-01T00:00:00Z\",\
             \"expires\":null,\"files\":{{\"card.md\":{file},\"onnx/model.onnx\":{file}}},\"format_version\":1,\
             \"is_simulated\":true,\"minimum_runtime\":\"0.1.0\",\"name\":\"icu-risk\",\"tasks\":[\"icu-risk\"],\
             \"training_data\":[],\"version\":\"1.2.3\"}}"
        )
    }

    #[test]
    fn a_manifest_has_one_form() {
        let read = Manifest::parse(manifest().as_bytes()).unwrap();
        assert_eq!(
            (read.name.as_str(), read.context_length, read.files.get("card.md").unwrap().bytes),
            ("icu-risk", 512, 3)
        );
        assert_eq!(read.digest, hex(&Sha256::of(manifest().as_bytes())));
        for (from, to, expected) in [
            (":512", ": 512", "canonical form"),
            (":512", ":-0", "context_length: expected a whole number"),
            ("card.md", "z", "canonical form: expected sorted files"),
            ("card.md", "../x", "unsafe path"),
            ("card.md", "onnx", "needs a folder where another file is"),
            ("card.md", "Manifest.json", "cannot be listed in itself"),
            ("\"role\":\"part\"", "\"role\":\"\"", "role: expected a role"),
            ("\"expires\"", "\"extra\":1,\"expires\"", "expected an object of base_digest, context_length"),
        ] {
            let error = Manifest::parse(manifest().replacen(from, to, 1).as_bytes()).unwrap_err();
            assert_eq!(error.kind, Kind::Malformed);
            assert!(error.message.starts_with("manifest: ") && error.message.contains(expected), "{to}: {error}");
        }
        for (from, to) in [("onnx/model.onnx", "\u{e9}"), ("\"format_version\":1", "\"format_version\":2")] {
            assert_eq!(Manifest::parse(manifest().replace(from, to).as_bytes()).unwrap_err().kind, Kind::Unsupported);
        }
    }

    #[test]
    fn every_cut_is_refused_and_no_byte_makes_it_panic() {
        let good = manifest().into_bytes();
        for at in 0..good.len() {
            assert!(Manifest::parse(&good[..at]).is_err());
            for byte in [0, b'"', b'-', b'/', b'9', b'{', 0xff] {
                let mut changed = good.clone();
                changed[at] = byte;
                let _ = Manifest::parse(&changed);
            }
        }
    }

    #[test]
    fn times_are_seconds_since_1970() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2025-01-31T12:00:00Z", 1_738_324_800),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
        ] {
            assert_eq!(parse_time(text), Ok(seconds));
        }
    }
}
