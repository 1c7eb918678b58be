//! The n-gram path: a linear classifier over hashed word and character n-grams.
//!
//! The head of `smallhold.decide.ngrams` defines the features, in six steps whose numbers stand below.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::npz;
use crate::crc32::crc32;
use crate::decimal;
use crate::error::Result;
use crate::math::{f16_to_f32, ln_f64, sqrt_f64};
use crate::memory;
use crate::model::Source;
use crate::tokenizer::pre::{class_of, Class};

/// Code points of a text that are read.
pub const MOST_CHARACTERS: usize = 32_768;
const ORDERS: core::ops::RangeInclusive<usize> = 3..=5;

/// A fitted classifier with K choices.
pub struct NGramClassifier {
    word_buckets: u32,
    char_buckets: u32,
    word_share: f64,
    keeps_punctuation: bool,
    /// (B).
    idf: Vec<f32>,
    /// (K).
    scale: Vec<f32>,
    /// (K).
    bias: Vec<f32>,
    source: Source,
    /// Where (B, K) weights of a byte each lie in the file.
    values: core::ops::Range<usize>,
}

impl NGramClassifier {
    /// Read a classifier's file.
    ///
    /// # Errors
    /// `Malformed`: not such a file, or parts that do not belong together.
    pub fn load(source: Source) -> Result<Self> {
        let data: &[u8] = (*source).as_ref();
        let arrays = npz::read(data)?;
        let get = |name: &str| match arrays.get(name) {
            Some(array) => Ok(*array),
            None => fail!(Malformed, "n-grams: the file lacks {name:?}"),
        };
        let keeps_punctuation = arrays.contains("buckets_with_punctuation");
        let buckets = get(if keeps_punctuation { "buckets_with_punctuation" } else { "buckets" })?;
        let (word_buckets, char_buckets) = match buckets.of("<i8", i64::from_le_bytes)?[..] {
            [words, chars] if (1..1 << 30).contains(&words) && (1..1 << 30).contains(&chars) => {
                (words as u32, chars as u32)
            }
            _ => fail!(Malformed, "n-grams: expected two numbers of buckets"),
        };
        let word_share = get("word_share")?.of("<f8", f64::from_le_bytes)?;
        let scale = get("scale")?.of("<f4", f32::from_le_bytes)?;
        let bias = get("bias")?.of("<f4", f32::from_le_bytes)?;
        let idf = get("idf")?.of("<f2", |bytes| f16_to_f32(u16::from_le_bytes(bytes)))?;
        let values = get("values")?;
        let count = (word_buckets + char_buckets) as usize;
        if values.kind != "|i1"
            || values.shape != (count, bias.len())
            || idf.len() != count
            || scale.len() != bias.len()
        {
            fail!(Malformed, "n-grams: idf, values, scale and bias do not belong together");
        }
        if [&idf, &scale, &bias].iter().any(|part| part.iter().any(|x| !x.is_finite())) {
            fail!(Malformed, "n-grams: idf, scale and bias must be finite numbers");
        }
        let [word_share] = word_share[..] else { fail!(Malformed, "n-grams: word_share: expected one number") };
        if !(0.0..=1.0).contains(&word_share) {
            fail!(Malformed, "n-grams: word_share: expected a share, got {}", decimal::shown(word_share));
        }
        let start = values.bytes.as_ptr() as usize - data.as_ptr() as usize;
        let values = start..start + values.bytes.len();
        Ok(Self { word_buckets, char_buckets, word_share, keeps_punctuation, idf, scale, bias, source, values })
    }

    /// K.
    pub fn num_choices(&self) -> usize {
        self.bias.len()
    }

    /// Logits (K) of a text; the bias alone for a text without words.
    ///
    /// # Errors
    /// `Memory`: the system has not so much.
    pub fn logits(&self, text: &str) -> Result<Vec<f32>> {
        let words = self.words(text)?;
        let (mut word_hits, mut char_hits) = (Vec::new(), Vec::new());
        for (i, word) in words.iter().enumerate() {
            memory::push(&mut word_hits, crc32(&[b"w", word.as_bytes()]) % self.word_buckets)?;
            if let Some(next) = words.get(i + 1) {
                let pair = crc32(&[b"b", word.as_bytes(), b" ", next.as_bytes()]);
                memory::push(&mut word_hits, pair % self.word_buckets)?;
            }
            let padded = format!(" {word} ");
            let mut starts = memory::room(padded.len() + 1)?;
            starts.extend(padded.char_indices().map(|(start, _)| start).chain([padded.len()]));
            for run in runs(&padded, &starts) {
                memory::push(&mut char_hits, self.word_buckets + crc32(&[b"c", run.as_bytes()]) % self.char_buckets)?;
            }
        }
        let mut sums = memory::filled(0.0_f32, self.bias.len())?;
        self.add(word_hits, self.word_share, &mut sums)?;
        self.add(char_hits, 1.0 - self.word_share, &mut sums)?;
        memory::collected(sums.iter().zip(&self.scale).zip(&self.bias).map(|((sum, scale), bias)| sum * scale + bias))
    }

    /// Steps 5 and 6: what one block of buckets adds to the sums (K).
    fn add(&self, mut hits: Vec<u32>, share: f64, sums: &mut [f32]) -> Result<()> {
        hits.sort_unstable();
        let mut counted: Vec<(usize, f64)> = Vec::new();
        for same in hits.chunk_by(|a, b| a == b) {
            let bucket = same[0] as usize;
            memory::push(&mut counted, (bucket, (1.0 + ln_f64(same.len() as f64)) * f64::from(self.idf[bucket])))?;
        }
        let length = sqrt_f64(counted.iter().map(|(_, value)| value * value).sum());
        if length <= 0.0 {
            return Ok(());
        }
        let scale = sqrt_f64(share) / length;
        let weights = &(*self.source).as_ref()[self.values.clone()];
        for (bucket, value) in counted {
            let row = &weights[bucket * sums.len()..(bucket + 1) * sums.len()];
            let value = (value * scale) as f32;
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += value * f32::from(*weight as i8);
            }
        }
        Ok(())
    }

    /// Steps 1 and 2: the words of a text, lower-cased, in order.
    fn words(&self, text: &str) -> Result<Vec<String>> {
        let read = first_characters(text).to_lowercase();
        let read = if self.keeps_punctuation { without_links(&read) } else { read };
        let (mut words, mut word) = (Vec::new(), String::new());
        for character in read.chars() {
            if matches!(class_of(character), Class::Letter | Class::Number) {
                word.push(character);
                continue;
            }
            if !word.is_empty() {
                memory::push(&mut words, core::mem::take(&mut word))?;
            }
            if self.keeps_punctuation && !is_space(character) {
                memory::push(&mut words, character.into())?;
            }
        }
        if !word.is_empty() {
            memory::push(&mut words, word)?;
        }
        Ok(words)
    }
}

/// What is read of a text.
pub(super) fn first_characters(text: &str) -> &str {
    text.char_indices().nth(MOST_CHARACTERS).map_or(text, |(end, _)| &text[..end])
}

/// White space of step 1.
pub(super) fn is_space(character: char) -> bool {
    matches!(character, '\u{1c}'..='\u{1f}') || class_of(character) == Class::Space
}

/// Every `http://` and `https://`, with all that follows up to white space, as one space.
fn without_links(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("http") {
        let after = &rest[start + "http".len()..];
        let is_link = after.strip_prefix('s').unwrap_or(after).starts_with("://");
        if is_link {
            out.push_str(&rest[..start]);
            out.push(' ');
            rest = after.find(is_space).map_or("", |end| &after[end..]);
        } else {
            out.push_str(&rest[..start + "http".len()]);
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Step 4: every run of 3, 4 and 5 characters of a word between spaces. `starts` says where its characters begin, and
/// where the last one ends.
fn runs<'a>(padded: &'a str, starts: &'a [usize]) -> impl Iterator<Item = &'a str> {
    ORDERS.flat_map(move |order| starts.windows(order + 1).map(move |run| &padded[run[0]..run[order]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_one_space() {
        assert_eq!(without_links("see https://a.b/c?d now http://x"), "see   now  ");
        assert_eq!(without_links("http https:/ x http:// y"), "http https:/ x   y");
    }

    #[test]
    fn runs_are_of_characters() {
        assert_eq!(runs(" é ", &[0, 1, 3, 4]).collect::<Vec<_>>(), [" é "]);
        assert_eq!(runs(" ab ", &[0, 1, 2, 3, 4]).collect::<Vec<_>>(), [" ab", "ab ", " ab "]);
    }
}
