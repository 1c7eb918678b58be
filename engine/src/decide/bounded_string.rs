//! A short text that the trunk writes, greedily, in a closed alphabet and to a bound: a dose as a note has it.
//!
//! No decision: nothing is compared, nothing was calibrated, and what is written may be wrong or made up. It raises no
//! alert and is no choice. At each step the largest logit of the tokens that are allowed is taken: those whose bytes are
//! in the alphabet and fit within what is left of the bound, and always the end mark. Python's twin is
//! `smallhold.decide.bounded_string`.

use alloc::string::String;
use alloc::vec::Vec;

use super::plan::{end_mark, log_sum_exp};
use super::Trunk;
use crate::error::Result;
use crate::memory;
use crate::session::{Inputs, Session};
use crate::tokenizer::Special;

/// Longest bound of a string: each byte may take a pass of the trunk at every decision.
const MOST_BYTES: usize = 256;

/// What is to be written.
#[derive(Debug, Clone)]
pub struct StringField {
    /// For example `dose_mg`.
    pub name: String,
    /// Every character that may occur, printable ASCII, each once.
    pub alphabet: String,
    /// The bound.
    pub max_bytes: usize,
    /// What the trunk reads before it writes, behind the question; may be empty.
    pub prompt: String,
}

/// What the trunk wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedString {
    /// In the alphabet, no longer than the bound; may be empty.
    pub text: String,
    /// Mean log-probability of the tokens taken, the end mark included, each among those allowed; not calibrated.
    pub mean_logprob: f64,
    /// The trunk ended it by the end mark; otherwise it met the bound and may be cut.
    pub has_ended: bool,
}

/// How one string is written.
#[derive(Debug, Clone)]
pub struct StringPlan {
    /// Of the field.
    pub name: String,
    prompt: Vec<u32>,
    end: u32,
    max_bytes: usize,
    /// Every token that may be taken, by rising id, and what it writes: nothing, of the end mark.
    pieces: Vec<(u32, String)>,
}

impl StringField {
    /// Refuse what could not be written.
    ///
    /// # Errors
    /// `Malformed`: no name, an alphabet that is empty or holds a character twice or one that is not printable ASCII, or a
    /// bound that is not from 1 to 256.
    pub fn check(self) -> Result<Self> {
        let letters = self.alphabet.as_bytes();
        let is_single = |(i, letter): (usize, &u8)| matches!(letter, b' '..=b'~') && !letters[..i].contains(letter);
        if self.name.is_empty() || letters.is_empty() || !letters.iter().enumerate().all(is_single) {
            fail!(
                Malformed,
                "string {:?}: expected a name, and an alphabet of different printable ASCII characters, got {:?}",
                self.name,
                self.alphabet
            );
        }
        if !(1..=MOST_BYTES).contains(&self.max_bytes) {
            fail!(Malformed, "string {}: max_bytes: expected 1 to {MOST_BYTES}, got {}", self.name, self.max_bytes);
        }
        Ok(self)
    }
}

impl StringPlan {
    /// Compile a field.
    ///
    /// # Errors
    /// `Malformed`: the vocabulary has no end mark.
    pub fn of(field: &StringField, trunk: &Trunk) -> Result<Self> {
        let tokenizer = &trunk.tokenizer;
        let Some(end) = end_mark(tokenizer) else {
            fail!(Malformed, "string {}: the tokenizer has no mark by which a text could end", field.name)
        };
        let mut pieces = Vec::new();
        for id in 0..tokenizer.len() as u32 {
            let bytes = tokenizer.decode(&[id]);
            let is_allowed = !bytes.is_empty() && bytes.iter().all(|byte| field.alphabet.as_bytes().contains(byte));
            match String::from_utf8(bytes) {
                Ok(piece) if is_allowed && piece.len() <= field.max_bytes => memory::push(&mut pieces, (id, piece))?,
                _ if id == end => memory::push(&mut pieces, (id, String::new()))?,
                _ => {}
            }
        }
        let prompt = tokenizer.encode(&field.prompt, Special::Text)?;
        Ok(Self { name: field.name.clone(), prompt, end, max_bytes: field.max_bytes, pieces })
    }

    /// Most tokens that are read and written behind the question.
    pub fn longest(&self) -> usize {
        self.prompt.len().saturating_add(self.max_bytes)
    }

    /// Write behind a question that was just appended; the sequence stays as it is. Of equally probable tokens the
    /// smallest id is taken.
    ///
    /// # Errors
    /// As `Session::append` and `Session::score`; `Malformed` where logits are no numbers: the weights are damaged.
    pub fn write(&self, session: &Session) -> Result<GeneratedString> {
        let mut trunk = session.fork();
        trunk.append(Inputs::Tokens(&self.prompt))?;
        self.take(|allowed, taken| {
            if let Some(token) = taken {
                trunk.append(Inputs::Tokens(&[token]))?;
            }
            trunk.score(Inputs::Tokens(&[]), &[-1], Some(allowed))
        })
    }

    /// As `write`; `score` appends the token that was taken last, if any, and gives logits of those allowed next.
    fn take(&self, mut score: impl FnMut(&[u32], Option<u32>) -> Result<Vec<f32>>) -> Result<GeneratedString> {
        let (mut text, mut total, mut steps, mut taken) = (String::new(), 0.0, 0, None);
        while text.len() < self.max_bytes {
            let mut allowed = memory::room(self.pieces.len())?;
            let fits = |piece: &&(u32, String)| text.len() + piece.1.len() <= self.max_bytes;
            allowed.extend(self.pieces.iter().filter(fits).map(|piece| piece.0));
            let logits = score(&allowed, taken)?;
            let whole = log_sum_exp(&logits);
            if !whole.is_finite() {
                fail!(Malformed, "string {}: expected {} finite logits", self.name, allowed.len());
            }
            let best = (1..logits.len()).fold(0, |top, i| if logits[i] > logits[top] { i } else { top });
            (total, steps) = (total + f64::from(logits[best]) - whole, steps + 1);
            if allowed[best] == self.end {
                return Ok(GeneratedString { text, mean_logprob: total / f64::from(steps), has_ended: true });
            }
            taken = Some(allowed[best]);
            if let Some((_, piece)) = self.pieces.iter().find(|piece| piece.0 == allowed[best]) {
                memory::push_str(&mut text, piece)?;
            }
        }
        Ok(GeneratedString { text, mean_logprob: total / f64::from(steps), has_ended: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;
    use alloc::vec;

    fn field(alphabet: &str, max_bytes: usize) -> Result<StringField> {
        let (name, prompt) = ("dose".to_owned(), String::new());
        StringField { name, alphabet: alphabet.to_owned(), max_bytes, prompt }.check()
    }

    fn plan(max_bytes: usize) -> StringPlan {
        let pieces = [(0, "1"), (1, "2"), (2, ""), (3, "12"), (4, "21")];
        let pieces = pieces.map(|(id, piece)| (id, piece.to_owned())).to_vec();
        StringPlan { name: "dose".to_owned(), prompt: Vec::new(), end: 2, max_bytes, pieces }
    }

    #[test]
    fn the_most_probable_of_what_fits_is_taken_until_the_mark_or_the_bound() {
        let all = [0.0, 1.0, 2.0, 5.0, 5.0_f32]; // of equals the smallest id
        let asked = |plan: StringPlan, end_after: usize| {
            let mut seen = Vec::new();
            let found = plan.take(|allowed, taken| {
                seen.push((allowed.to_vec(), taken));
                let end = if seen.len() > end_after { 9.0 } else { -9.0 };
                Ok(allowed.iter().map(|id| if *id == 2 { end } else { all[*id as usize] }).collect())
            });
            (found.unwrap(), seen)
        };
        let (found, seen) = asked(plan(3), 9);
        assert_eq!((found.text.as_str(), found.has_ended), ("122", false));
        assert_eq!(seen, [(vec![0, 1, 2, 3, 4], None), (vec![0, 1, 2], Some(3))]);
        let first = 5.0 - (1.0 + 1_f64.exp() + (-9_f64).exp() + 2.0 * 5_f64.exp()).ln();
        let second = 1.0 - (1.0 + 1_f64.exp() + (-9_f64).exp()).ln();
        assert!((found.mean_logprob - (first + second) / 2.0).abs() < 1e-12);
        let (found, seen) = asked(plan(8), 1);
        assert_eq!((found.text.as_str(), found.has_ended, seen.len()), ("12", true, 2));
        let (found, _) = asked(plan(8), 0);
        assert_eq!((found.text.as_str(), found.has_ended), ("", true));
    }

    #[test]
    fn damaged_weights_write_nothing() {
        let message = plan(3).take(|allowed, _| Ok(vec![f32::NAN; allowed.len()])).unwrap_err().message;
        assert_eq!(message, "string dose: expected 5 finite logits");
    }

    #[test]
    fn what_could_not_be_written_is_refused() {
        assert!(field("0123456789. ", 256).is_ok());
        for alphabet in ["", "00", "é", "a\n"] {
            assert!(
                field(alphabet, 8).unwrap_err().message.contains("different printable ASCII characters"),
                "{alphabet}"
            );
        }
        for bound in [0, 257] {
            assert!(field("01", bound).unwrap_err().message.contains("max_bytes: expected 1 to 256"));
        }
    }
}
