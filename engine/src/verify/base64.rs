//! Base64, RFC 4648 section 4: padded, and in the one form that encoding gives.

use alloc::vec::Vec;

/// The most bytes that a text stands for.
pub fn most_bytes(text: &str) -> usize {
    text.len() / 4 * 3
}

/// Put the bytes of a text behind others; none where another text, or no bytes, would be meant by it.
pub fn decode(text: &str, data: &mut Vec<u8>) -> Option<()> {
    let text = text.as_bytes();
    let padding = text.iter().rev().take(2).take_while(|&&letter| letter == b'=').count();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    for four in text[..text.len() - padding].chunks(4) {
        let mut bits = four.iter().try_fold(0, |bits, &letter| Some(bits << 6 | value(letter)?))?;
        bits <<= 6 * (4 - four.len());
        let [_, bytes @ ..] = bits.to_be_bytes();
        let (kept, dropped) = bytes.split_at(four.len() - 1);
        if dropped.iter().any(|&byte| byte != 0) {
            return None;
        }
        data.extend_from_slice(kept);
    }
    Some(())
}

fn value(letter: u8) -> Option<u32> {
    Some(u32::from(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Option<Vec<u8>> {
        let mut data = Vec::new();
        super::decode(text, &mut data)?;
        assert!(data.len() <= most_bytes(text));
        Some(data)
    }

    #[test]
    fn the_examples_of_the_standard() {
        for (text, data) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(data.as_bytes()));
        }
        assert_eq!(decode("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
    }

    #[test]
    fn another_form_of_the_same_bytes_is_refused() {
        for text in
            ["Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Zm9v\n", " Zm9v", "Zm-_", "====", "A===", "Zg==Zg==", "Zm9v="]
        {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
