//! The byte-level alphabet: each byte as one printable character.
//!
//! Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.2, and the
//! `bytes_to_unicode` of its code: bytes that Latin-1 prints are themselves, the others are U+0100, U+0101, ... in order.

const UNPRINTABLE: usize = 68;
const CHARS: [char; 256] = chars();
const SHIFTED: [u8; UNPRINTABLE] = shifted();

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

const fn shifted() -> [u8; UNPRINTABLE] {
    let mut found = [0; UNPRINTABLE];
    let (mut byte, mut count) = (0, 0);
    while byte < 256 {
        if !is_printable(byte as u8) {
            found[count] = byte as u8;
            count += 1;
        }
        byte += 1;
    }
    found
}

const fn chars() -> [char; 256] {
    let mut found = ['\0'; 256];
    let mut byte = 0;
    while byte < 256 {
        found[byte] = byte as u8 as char;
        byte += 1;
    }
    let mut count = 0;
    while count < UNPRINTABLE {
        if let Some(character) = char::from_u32(256 + count as u32) {
            found[SHIFTED[count] as usize] = character;
        }
        count += 1;
    }
    found
}

/// The character that stands for a byte.
pub(super) fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// The byte that a character stands for, where it stands for one.
pub(super) fn byte_of(character: char) -> Option<u8> {
    match u8::try_from(character) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => SHIFTED.get((character as usize).checked_sub(256)?).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
            assert!(!char_of(byte).is_whitespace() && !char_of(byte).is_control());
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0), char_of(0xad)), ('Ġ', 'Ċ', 'Ā', 'Ń'));
        for stranger in [' ', '\u{ad}', '\u{144}', '€', '\u{10ffff}'] {
            assert_eq!(byte_of(stranger), None);
        }
    }
}
