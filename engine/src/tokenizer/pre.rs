//! Pre-tokenizers: where a text is cut into words before their bytes are merged.
//!
//! Each is a regular expression written out by hand; its alternatives are tried in the order in which they stand there.

use super::unicode::BOUNDARIES;
use crate::error::Result;

/// How a text is cut into words; the names are llama.cpp's (`tokenizer.ggml.pre`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreTokenizer {
    /// `gpt-2`: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    Gpt2,
    /// `smollm`: every digit is a word, and what lies between digits is cut as by `Gpt2`.
    SmolLm,
    /// `llama-bpe`: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
    /// \s*[\r\n]+|\s+(?!\S)|\s+`; a word that is a token is that token, whatever the merges say.
    Llama3,
    /// `qwen2`: as `Llama3` with single digits, by merges alone. Its models were taught on text in Unicode's normal
    /// form C, which the caller has to bring: nothing is normalized here.
    Qwen2,
}

impl PreTokenizer {
    /// The one that a file names.
    ///
    /// # Errors
    /// `Unsupported`: a name that is not one of the four.
    pub fn of(name: &str) -> Result<Self> {
        Ok(match name {
            "gpt-2" => Self::Gpt2,
            "smollm" => Self::SmolLm,
            "llama-bpe" => Self::Llama3,
            "qwen2" => Self::Qwen2,
            _ => fail!(Unsupported, "tokenizer.ggml.pre: expected gpt-2, smollm, llama-bpe or qwen2, got {name:?}"),
        })
    }

    /// Bytes of the first word of a text that is not empty.
    pub(super) fn first_word(self, text: &str) -> usize {
        match self {
            Self::Gpt2 => gpt2(text, false),
            Self::SmolLm => gpt2(text, true),
            Self::Llama3 => llama3(text, 3),
            Self::Qwen2 => llama3(text, 1),
        }
    }
}

/// What the regular expressions tell apart: \p{L}, \p{N} and \s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Other,
    Letter,
    Number,
    Space,
}

/// Class of a character.
pub(crate) fn class_of(character: char) -> Class {
    match character {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Number,
        ' ' | '\t'..='\r' => Class::Space,
        '\0'..='\x7f' => Class::Other,
        _ => {
            let after = BOUNDARIES.partition_point(|&boundary| boundary >> 2 <= character as u32);
            [Class::Other, Class::Letter, Class::Number, Class::Space][(BOUNDARIES[after - 1] & 3) as usize]
        }
    }
}

fn gpt2(text: &str, digits_stand_apart: bool) -> usize {
    if let Some(length) = contraction(text, false) {
        return length;
    }
    let lead = usize::from(text.starts_with(' '));
    match first_class(&text[lead..]) {
        Some(Class::Number) if digits_stand_apart && lead == 0 => run(text, Class::Number, 1),
        Some(Class::Number) if digits_stand_apart => lead,
        None | Some(Class::Space) => {
            let length = run(text, Class::Space, usize::MAX);
            match first_class(&text[length..]) {
                Some(Class::Number) if digits_stand_apart => length,
                _ => spaces(text, length),
            }
        }
        Some(class) => lead + run(&text[lead..], class, usize::MAX),
    }
}

fn llama3(text: &str, most_digits: usize) -> usize {
    if let Some(length) = contraction(text, true) {
        return length;
    }
    match first_class(text) {
        Some(Class::Letter) => return run(text, Class::Letter, usize::MAX),
        Some(Class::Number) => return run(text, Class::Number, most_digits),
        _ => {}
    }
    if !text.starts_with(['\r', '\n']) {
        let lead = text.chars().next().map_or(0, char::len_utf8);
        let letters = run(&text[lead..], Class::Letter, usize::MAX);
        if letters > 0 {
            return lead + letters;
        }
    }
    let lead = usize::from(text.starts_with(' '));
    let signs = run(&text[lead..], Class::Other, usize::MAX);
    if signs > 0 {
        let end = lead + signs;
        return text.len() - text[end..].trim_start_matches(['\r', '\n']).len();
    }
    let length = run(text, Class::Space, usize::MAX);
    match text[..length].rfind(['\r', '\n']) {
        Some(newline) => newline + 1,
        None => spaces(text, length),
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`: bytes of a contraction's ending that the text begins with.
fn contraction(text: &str, in_any_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    // The long s is the one character beyond ASCII that case folding maps to a letter of these endings.
    if in_any_case && rest.starts_with('ſ') {
        return Some(1 + 'ſ'.len_utf8());
    }
    let ending = ["s", "t", "re", "ve", "m", "ll", "d"].into_iter().find(|ending| {
        let found = rest.get(..ending.len());
        found.is_some_and(|found| found == *ending || (in_any_case && found.eq_ignore_ascii_case(ending)))
    });
    ending.map(|ending| 1 + ending.len())
}

/// `\s+(?!\S)|\s+` on a text that begins with `length` bytes of white space: the last one is left to the next word.
fn spaces(text: &str, length: usize) -> usize {
    match text[..length].char_indices().next_back() {
        Some((last, _)) if last > 0 && length < text.len() => last,
        _ => length,
    }
}

fn first_class(text: &str) -> Option<Class> {
    text.chars().next().map(class_of)
}

/// Bytes of the longest prefix of one class, of `most` characters at most.
fn run(text: &str, class: Class, most: usize) -> usize {
    let stranger = text.char_indices().enumerate().find(|&(count, (_, it))| count == most || class_of(it) != class);
    stranger.map_or(text.len(), |(_, (start, _))| start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn words(pre: PreTokenizer, mut text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        while !text.is_empty() {
            let (word, rest) = text.split_at(pre.first_word(text));
            assert!(!word.is_empty());
            found.push(word);
            text = rest;
        }
        found
    }

    #[test]
    fn gpt2_cuts_as_its_expression_says() {
        let cut = |text| words(PreTokenizer::Gpt2, text);
        assert_eq!(cut("Don't give 1234 mg.\n\nNow"), ["Don", "'t", " give", " 1234", " mg", ".", "\n", "\n", "Now"]);
        assert_eq!(cut("I'LL 'll ''ll"), ["I", "'", "LL", " '", "ll", " ''", "ll"]);
        assert_eq!(cut("  a \t\u{3000}é  "), [" ", " a", " \t", "\u{3000}", "é", "  "]);
        assert_eq!(cut("\u{85}x½Ⅷ٣ e\u{301}"), ["\u{85}", "x", "½Ⅷ٣", " e", "\u{301}"]);
    }

    #[test]
    fn smollm_sets_digits_apart_before_anything_else() {
        let cut = |text| words(PreTokenizer::SmolLm, text);
        assert_eq!(cut("give 1234  5 \n6a"), ["give", " ", "1", "2", "3", "4", "  ", "5", " \n", "6", "a"]);
        assert_eq!(cut("  a"), [" ", " a"]);
    }

    #[test]
    fn llama3_and_qwen2_keep_signs_and_newlines_together() {
        let cut = |text| words(PreTokenizer::Llama3, text);
        assert_eq!(cut("Don'T give 1234 mg.\n\nNow"), ["Don", "'T", " give", " ", "123", "4", " mg", ".\n\n", "Now"]);
        assert_eq!(cut("a(b \n \n  c\tdé\r\n'ſ"), ["a", "(b", " \n \n", " ", " c", "\tdé", "\r\n", "'ſ"]);
        assert_eq!(cut("  \t(("), ["  ", "\t", "(("]);
        assert_eq!(words(PreTokenizer::Qwen2, "x 123"), ["x", " ", "1", "2", "3"]);
    }

    #[test]
    fn boundaries_rise_and_agree_with_ascii() {
        assert!(BOUNDARIES.windows(2).all(|pair| pair[0] >> 2 < pair[1] >> 2 && pair[0] & 3 != pair[1] & 3));
        for byte in 0..128_u8 {
            let after = BOUNDARIES.partition_point(|&boundary| boundary >> 2 <= u32::from(byte));
            assert_eq!(BOUNDARIES[after - 1] & 3, class_of(char::from(byte)) as u32, "{byte}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(PreTokenizer::of("deepseek-llm").unwrap_err().message.contains("got \"deepseek-llm\""));
        assert_eq!(PreTokenizer::of("gpt-2"), Ok(PreTokenizer::Gpt2));
    }
}
