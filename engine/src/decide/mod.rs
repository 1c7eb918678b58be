//! The decision plan: from readings or a text to a calibrated answer, or to the admission that there is none.
//!
//! Read in this order: `plan` (choices to logits), `field` (logits to an answer), `task` (the file that says how one
//! question is asked), then the two doors. `text` reads a text, `ngrams` beside it at a glance. `readings` turns measurements into what a trunk
//! reads, and `patient` keeps them for one patient. Choices are compared, not generated, and what was tried to
//! compare them is forgotten; `bounded_string` writes what no list of choices could hold. Python's twin is `smallhold.decide`; both give the same answers.

pub mod bounded_string;
pub mod field;
mod members;
pub mod ngrams;
mod npz;
pub mod patient;
pub mod plan;
pub mod readings;
pub mod task;
pub mod text;

use alloc::sync::Arc;

use crate::error::Result;
use crate::gguf::Gguf;
use crate::kernels::Kernels;
use crate::model::{Model, Source};
use crate::tokenizer::Tokenizer;

/// Where the engine's trunk lies in a bundle.
pub const TRUNK_FILE: &str = "gguf/trunk.gguf";

/// A bundle's files by name; whoever gives them has verified them.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<Source>;

/// What all tasks of a bundle share.
#[derive(Clone)]
pub struct Trunk {
    /// Weights.
    pub model: Arc<Model>,
    /// The vocabulary in the same file.
    pub tokenizer: Arc<Tokenizer>,
}

impl Trunk {
    /// Read a weight file with its vocabulary.
    ///
    /// # Errors
    /// As `Model::load` and `Tokenizer::of_gguf`; `Malformed` too where the two disagree.
    pub fn load(source: Source, kernels: &'static Kernels) -> Result<Self> {
        let tokenizer = Tokenizer::of_gguf(&Gguf::parse((*source).as_ref())?)?;
        let model = Model::load(source, kernels)?;
        if tokenizer.len() != model.config.vocab {
            fail!(Malformed, "the file has {} tokens, its matrices {}", tokenizer.len(), model.config.vocab);
        }
        Ok(Self { model: Arc::new(model), tokenizer: Arc::new(tokenizer) })
    }

    /// Id of a control token that a task needs.
    fn control(&self, name: &str) -> Result<u32> {
        match self.tokenizer.id_of(name) {
            Some(id) => Ok(id),
            None => fail!(Malformed, "the vocabulary has no token {name:?}"),
        }
    }
}
