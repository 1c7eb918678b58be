//! The one ZIP layout of a single-file bundle: members stored, sorted by name, nothing between, before or after.
//!
//! Every byte outside the members' content follows from their names, sizes and checksums, so it is computed and
//! compared: an altered byte anywhere is refused. Python's twin is `smallhold.device.zip_layout`.
//!
//! Source: PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (end record).

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::manifest::check_path;
use crate::crc32::crc32;
use crate::error::{Error, Kind, Result};
use crate::memory;

/// 2.0: folders in names, nothing newer.
const VERSION: u16 = 20;
/// 1980-01-01, the first day that the format knows.
const EPOCH: u16 = 1 << 5 | 1;
const UNIX: u16 = 3 << 8;
const PLAIN_FILE: u32 = 0o100_644 << 16;
const LOCAL: &[u8; 4] = b"PK\x03\x04";

/// A member of an archive.
struct Member {
    name: String,
    content: Range<usize>,
    checksum: u32,
}

/// Names and places of an archive's members.
///
/// # Errors
/// `Malformed`: a byte outside the content is not what the layout prescribes, or content differs from its checksum.
/// `Unsupported`: a name beyond ASCII.
pub fn members(archive: &[u8]) -> Result<Vec<(String, Range<usize>)>> {
    let mut members: Vec<Member> = Vec::new();
    let mut at = 0;
    while archive[at..].starts_with(LOCAL) {
        let member = member(archive, at)?;
        if members.last().is_some_and(|last| last.name >= member.name) {
            return Err(wrong(at));
        }
        at = member.content.end;
        memory::push(&mut members, member)?;
    }
    if index(&members)?.as_deref() != Some(&archive[at..]) {
        return Err(wrong(at));
    }
    memory::collected(members.into_iter().map(|member| (member.name, member.content)))
}

/// The member whose header begins at `at`.
fn member(archive: &[u8], at: usize) -> Result<Member> {
    let number = |from: usize| {
        let bytes = archive.get(at + from..at + from + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let found = || {
        let (checksum, size) = (number(14)?, usize::try_from(number(22)?).ok()?);
        let name = archive.get(at + 30..at + 30 + (number(26)? & 0xffff) as usize)?;
        let start = at + 30 + name.len();
        let content = start..start.checked_add(size).filter(|&end| end <= archive.len())?;
        Some(Member { name: core::str::from_utf8(name).ok()?.to_owned(), content, checksum })
    };
    let Some(member) = found() else { return Err(wrong(at)) };
    check_path(&member.name)?;
    let header = local_header(&member).unwrap_or_default();
    if archive[at..member.content.start] != header || crc32(&[&archive[member.content.clone()]]) != member.checksum {
        return Err(wrong(at));
    }
    Ok(member)
}

fn wrong(at: usize) -> Error {
    let words = "not laid out as a single-file bundle: expected stored, sorted members and nothing else";
    Error::new(Kind::Malformed, alloc::format!("ZIP: byte {at}: {words}"))
}

/// The fields that both headers share; none where the layout has no room for the member.
fn shared(member: &Member) -> Option<Vec<u8>> {
    let size = u32::try_from(member.content.len()).ok()?;
    let name_length = u16::try_from(member.name.len()).ok()?;
    // Flags, method (stored), time, date; checksum, stored size, size; lengths of the name and the extra field.
    let mut out = Vec::new();
    [VERSION, 0, 0, 0, EPOCH].iter().for_each(|field| out.extend(field.to_le_bytes()));
    [member.checksum, size, size].iter().for_each(|field| out.extend(field.to_le_bytes()));
    [name_length, 0].iter().for_each(|field| out.extend(field.to_le_bytes()));
    Some(out)
}

fn local_header(member: &Member) -> Option<Vec<u8>> {
    Some([LOCAL, shared(member)?.as_slice(), member.name.as_bytes()].concat())
}

/// The central directory and the end record; none where the layout has no room for them.
fn index(members: &[Member]) -> Result<Option<Vec<u8>>> {
    let size = members.iter().map(|member| 46 + member.name.len()).sum::<usize>() + 22;
    let mut out = memory::room(size)?;
    Ok(write_index(members, &mut out).map(|()| out))
}

fn write_index(members: &[Member], out: &mut Vec<u8>) -> Option<()> {
    for member in members {
        let header = member.content.start - 30 - member.name.len();
        out.extend(b"PK\x01\x02");
        out.extend((VERSION | UNIX).to_le_bytes());
        out.extend(shared(member)?);
        // Length of the comment, disk, internal attributes; external attributes, offset of the local header.
        out.extend([0; 6]);
        out.extend(PLAIN_FILE.to_le_bytes());
        out.extend(u32::try_from(header).ok()?.to_le_bytes());
        out.extend(member.name.as_bytes());
    }
    let (count, length) = (u16::try_from(members.len()).ok()?, u32::try_from(out.len()).ok()?);
    let start = u32::try_from(members.last().map_or(0, |last| last.content.end)).ok()?;
    out.extend(b"PK\x05\x06");
    [0, 0, count, count].iter().for_each(|field| out.extend(field.to_le_bytes()));
    [length, start].iter().for_each(|field| out.extend(field.to_le_bytes()));
    out.extend([0; 2]);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut out, mut members) = (Vec::new(), Vec::new());
        for (name, content) in files {
            let start = out.len() + 30 + name.len();
            members.push(Member {
                name: (*name).to_owned(),
                content: start..start + content.len(),
                checksum: crc32(&[content]),
            });
            out.extend(local_header(&members[members.len() - 1]).unwrap());
            out.extend(*content);
        }
        out.extend(index(&members).unwrap().unwrap());
        out
    }

    #[test]
    fn members_are_found_and_another_order_is_refused() {
        let data = archive(&[("a", b"one"), ("b/c.txt", b""), ("d", b"PK\x03\x04")]);
        let found = members(&data).unwrap();
        let contents: Vec<_> = found.iter().map(|(name, place)| (name.as_str(), &data[place.clone()])).collect();
        assert_eq!(contents, [("a", &b"one"[..]), ("b/c.txt", b""), ("d", b"PK\x03\x04")]);
        assert_eq!(members(&archive(&[])).unwrap(), vec![]);
        for names in [["b", "a"], ["a", "a"], ["../a", "b"], ["a\\b", "c"]] {
            assert!(members(&archive(&names.map(|name| (name, &b"x"[..])))).is_err());
        }
        assert_eq!(members(&archive(&[("\u{e9}", b"")])).unwrap_err().kind, Kind::Unsupported);
    }

    #[test]
    fn every_cut_and_every_changed_bit_is_refused() {
        let data = archive(&[("a", b"one"), ("b/c.txt", b"PK\x01\x02"), ("d", b"")]);
        assert!(members(&[&data[..], b"\0"].concat()).is_err());
        for at in 0..data.len() {
            assert!(members(&data[..at]).is_err());
            for bit in 0..8 {
                let mut changed = data.clone();
                changed[at] ^= 1 << bit;
                assert!(members(&changed).is_err(), "byte {at}, bit {bit}");
            }
        }
    }
}
