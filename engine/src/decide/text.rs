//! A closed question about a text: the trunk reads it token by token, the n-gram path at a glance, and both are weighed.
//!
//! The trunk reads `<bos>`, the marker, the text and the marker again; the logits are read there.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::bounded_string::{GeneratedString, StringPlan};
use super::field::{Answer, Field};
use super::ngrams::{first_characters, is_space, NGramClassifier};
use super::plan::FieldPlan;
use super::task::{Door, Task, TextDoor};
use super::{Files, Trunk};
use crate::error::Result;
use crate::session::{Inputs, Session};
use crate::tokenizer::Special;

/// Pieces of a text that are left out one after the other to see what each does.
const MOST_PIECES: usize = 24;

/// A text task ready to be asked; every text is a question of its own.
pub struct TextTask {
    /// Name of the task.
    pub name: String,
    /// The question in words.
    pub question: String,
    /// What is decided.
    pub field: Field,
    door: TextDoor,
    plan: FieldPlan,
    strings: Vec<StringPlan>,
    trunk: Trunk,
    ngrams: Option<NGramClassifier>,
    /// `<bos>` and the marker.
    start: [u32; 2],
    /// What every question begins with: these two.
    prefix: Session,
}

/// What a text task answers.
#[derive(Debug, Clone)]
pub struct TextDecision {
    /// The answer.
    pub answer: Answer,
    /// Deciding logits (K) that it was read from.
    pub logits: Vec<f32>,
    /// Tokens of the text that the trunk read.
    pub tokens: usize,
    /// The text was longer.
    pub is_cut: bool,
    /// What the trunk wrote for each string of the task; no part of the answer.
    pub strings: Vec<(String, GeneratedString)>,
}

impl TextTask {
    /// Load what a task needs.
    ///
    /// # Errors
    /// `Malformed`: not a text task, a control token is missing, or the classifier knows other choices. `Capacity`: the
    /// trunk's context is too short.
    pub fn load(task: Task, trunk: &Trunk, files: Files<'_>) -> Result<Self> {
        let (Door::Text(door), Some(field)) = (task.door, task.fields.into_iter().next()) else {
            fail!(Malformed, "task {}: reads readings, not text", task.name)
        };
        let plan = FieldPlan::of(&field, &task.name, trunk)?;
        let ngrams = door.ngrams.as_deref().map(|name| NGramClassifier::load(files(name)?)).transpose()?;
        if let Some(known) = ngrams.as_ref().map(NGramClassifier::num_choices).filter(|k| *k != field.choices.len()) {
            fail!(Malformed, "task {}: {} choices, the n-grams know {known}", task.name, field.choices.len());
        }
        let strings: Vec<StringPlan> = match cfg!(feature = "strings") {
            true => task.strings.iter().map(|field| StringPlan::of(field, trunk)).collect::<Result<_>>()?,
            false => Vec::new(), // the task file was refused if it had any
        };
        let longest = strings.iter().map(StringPlan::longest).fold(plan.longest(), usize::max);
        let needed = door.max_tokens.saturating_add(longest).saturating_add(3);
        if trunk.model.config.context < needed {
            fail!(Capacity, "task {}: needs a context of {needed}, the trunk has less", task.name);
        }
        let start = [trunk.control("<bos>")?, trunk.control(&door.marker)?];
        let mut prefix = Session::new(trunk.model.clone());
        prefix.append(Inputs::Tokens(&start))?;
        Ok(Self {
            name: task.name,
            question: task.question,
            field,
            door,
            plan,
            strings,
            trunk: trunk.clone(),
            ngrams,
            start,
            prefix,
        })
    }

    /// Answer the question of one text.
    ///
    /// # Errors
    /// `Shape`: nothing but white space.
    pub fn decide(&self, text: &str) -> Result<TextDecision> {
        let (tokens, is_cut) = self.tokens(text)?;
        if cfg!(not(feature = "strings")) || self.strings.is_empty() {
            return self.answer(text, tokens.len(), is_cut, &mut || self.plan.logits(&mut self.asked(&tokens)?));
        }
        let mut asked = self.asked(&tokens)?;
        let mut decision = self.answer(text, tokens.len(), is_cut, &mut || self.plan.logits(&mut asked))?;
        let written = self.strings.iter().map(|plan| Ok((plan.name.clone(), plan.write(&asked)?)));
        decision.strings = written.collect::<Result<_>>()?;
        Ok(decision)
    }

    /// What a trunk elsewhere has to read: token ids (T), and those (K) whose logits behind the last one decide.
    ///
    /// # Errors
    /// As `decide`; `Unsupported` where the choices part at several places, or strings are written: a trunk elsewhere is
    /// asked once.
    pub fn reads(&self, text: &str) -> Result<(Vec<u32>, &[u32])> {
        let (forced, deciding) = self.one_token()?;
        Ok(([&self.start, self.behind_start(&self.tokens(text)?.0).as_slice(), forced].concat(), deciding))
    }

    /// Answer the question of one text by the deciding logits (K) of a trunk elsewhere; see `reads`.
    ///
    /// # Errors
    /// As `reads`; `Shape` too for another number of logits, or one that is not finite.
    pub fn decide_by(&self, text: &str, logits: &[f32]) -> Result<TextDecision> {
        let (_, deciding) = self.one_token()?;
        if logits.len() != deciding.len() || logits.iter().any(|x| !x.is_finite()) {
            fail!(Shape, "logits: expected {} finite numbers, got {}", deciding.len(), logits.len());
        }
        let (tokens, is_cut) = self.tokens(text)?;
        self.answer(text, tokens.len(), is_cut, &mut || Ok(logits.to_vec()))
    }

    fn answer(
        &self,
        text: &str,
        tokens: usize,
        is_cut: bool,
        trunk: &mut dyn FnMut() -> Result<Vec<f32>>,
    ) -> Result<TextDecision> {
        let logits = self.weighed(text, trunk)?;
        Ok(TextDecision { answer: self.field.answer(&logits, None)?, logits, tokens, is_cut, strings: Vec::new() })
    }

    /// What each piece of a text (a word, in a long text a run of words) does to one choice: the log-odds that the choice
    /// loses without it, in the order of the text. None for a text of one word. `whole` are the logits of the whole text.
    ///
    /// # Errors
    /// As `decide`.
    pub fn effects(&self, text: &str, whole: &[f32], choice: usize) -> Result<Vec<(String, f64)>> {
        let words: Vec<&str> = first_characters(text).split(is_space).filter(|word| !word.is_empty()).collect();
        let count = words.len().min(MOST_PIECES);
        if count < 2 {
            return Ok(Vec::new());
        }
        let whole = self.field.log_odds(whole, choice);
        let edge = |i: usize| half_to_even(i * words.len(), count);
        let piece = |i: usize| {
            let (start, end) = (edge(i), edge(i + 1));
            let rest = [&words[..start], &words[end..]].concat().join(" ");
            let tokens = self.tokens(&rest)?.0;
            let without =
                self.field.log_odds(&self.weighed(&rest, &mut || self.plan.logits(&mut self.asked(&tokens)?))?, choice);
            Ok((words[start..end].join(" "), whole - without))
        };
        (0..count).map(piece).collect()
    }

    fn tokens(&self, text: &str) -> Result<(Vec<u32>, bool)> {
        if text.chars().all(is_space) {
            fail!(Shape, "text: expected at least one word, got nothing but white space");
        }
        let read = first_characters(text);
        let mut tokens = self.trunk.tokenizer.encode(read, Special::Text)?;
        let is_cut = tokens.len() > self.door.max_tokens || read.len() < text.len();
        tokens.truncate(self.door.max_tokens);
        Ok((tokens, is_cut))
    }

    /// A path without weight is not asked.
    fn weighed(&self, text: &str, trunk: &mut dyn FnMut() -> Result<Vec<f32>>) -> Result<Vec<f32>> {
        let mut sums = vec![0.0; self.field.choices.len()];
        let mut add = |weight: f32, logits: Vec<f32>| {
            for (sum, logit) in sums.iter_mut().zip(logits) {
                *sum += weight * logit;
            }
        };
        if self.door.trunk_weight > 0.0 {
            add(self.door.trunk_weight, trunk()?);
        }
        if let Some(ngrams) = self.ngrams.as_ref().filter(|_| self.door.ngram_weight > 0.0) {
            add(self.door.ngram_weight, ngrams.logits(text)?);
        }
        Ok(sums)
    }

    fn one_token(&self) -> Result<(&[u32], &[u32])> {
        if !self.strings.is_empty() {
            fail!(
                Unsupported,
                "task {}: writes strings, and a trunk elsewhere is asked once: ask the engine's own",
                self.name
            );
        }
        match self.plan.one_token() {
            Some(found) => Ok(found),
            None => fail!(
                Unsupported,
                "task {}: its choices part at {} places, and a trunk elsewhere is asked once: ask the engine's own, or give \
                 each choice a token of its own",
                self.name,
                self.plan.num_branches()
            ),
        }
    }

    fn behind_start(&self, tokens: &[u32]) -> Vec<u32> {
        [tokens, &self.start[1..]].concat()
    }

    /// A session behind the whole question.
    fn asked(&self, tokens: &[u32]) -> Result<Session> {
        let mut asked = self.prefix.fork();
        asked.append(Inputs::Tokens(&self.behind_start(tokens)))?;
        Ok(asked)
    }
}

/// a / b to the nearest whole number, a half to the even one.
fn half_to_even(a: usize, b: usize) -> usize {
    let (whole, rest) = (a / b, a % b);
    whole + usize::from(2 * rest > b || (2 * rest == b && whole % 2 == 1))
}

#[cfg(test)]
mod tests {
    #[test]
    fn halves_go_to_the_even_neighbour() {
        let rounded: Vec<usize> = (0..9).map(|a| super::half_to_even(a, 4)).collect();
        assert_eq!(rounded, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    }

    use alloc::vec::Vec;
}
