//! A task file, `tasks/<task>.json`: everything that is needed to ask one question. Python's twin is
//! `smallhold.decide.task`, which writes it.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::bounded_string::StringField;
use super::field::{Field, Group};
use super::members::Members;
use super::readings::{SignalSpec, WordSpec};
use crate::decimal;
use crate::error::Result;
use crate::json::Value;
use crate::table::twice;

const FORMAT: &str = "smallhold.task/1";

/// One question, through exactly one door.
#[derive(Debug, Clone)]
pub struct Task {
    /// For example `icu-risk`.
    pub name: String,
    /// The question in words.
    pub question: String,
    /// What is decided.
    pub fields: Vec<Field>,
    /// Short texts that the trunk writes beside the answer; of a text task.
    pub strings: Vec<StringField>,
    /// How it is asked.
    pub door: Door,
}

/// What a task reads.
#[derive(Debug, Clone)]
pub enum Door {
    /// A text.
    Text(TextDoor),
    /// Readings of one patient, bin by bin.
    Signal(SignalDoor),
}

/// How a text reaches the two paths, and how much each says.
#[derive(Debug, Clone)]
pub struct TextDoor {
    /// Control token before and behind the text.
    pub marker: String,
    /// Tokens of the text that the trunk reads.
    pub max_tokens: usize,
    /// The n-gram classifier's file.
    pub ngrams: Option<String>,
    /// 0: the trunk is not run.
    pub trunk_weight: f32,
    /// 0 without a classifier.
    pub ngram_weight: f32,
}

/// How readings reach the trunk.
#[derive(Debug, Clone)]
pub struct SignalDoor {
    /// Bins that the task answers for.
    pub num_bins: usize,
    /// The encoder's file.
    pub encoder: String,
    /// Channels and their scales.
    pub signal: SignalSpec,
    /// The same readings as words, where the trunk learnt them, and the fields as fitted on answers in words.
    pub words: Option<(WordSpec, Vec<Field>)>,
}

impl Task {
    /// Read a task file.
    ///
    /// # Errors
    /// `Malformed`: another format, or a member that is absent, of another type, or impossible.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let value = Value::parse(data)?;
        let file = Members { value: &value, place: "task file" };
        let format = file.text("format")?;
        if format != FORMAT {
            fail!(Malformed, "task file: expected the format {FORMAT}, got {format:?}");
        }
        let fields = file.list("fields", field)?;
        if fields.is_empty() {
            fail!(Malformed, "task file: expected one or more fields");
        }
        let door = match value.get("text") {
            Some(text) if fields.len() == 1 => Door::Text(text_door(text)?),
            Some(_) => fail!(Malformed, "task file: a text task has one field"),
            None => Door::Signal(signal_door(&file, &fields)?),
        };
        let strings = match file.has("strings") {
            true if cfg!(feature = "strings") => file.list("strings", string)?,
            true => fail!(Unsupported, "task file: strings: this build of the engine decides and writes none"),
            false => Vec::new(),
        };
        if !strings.is_empty() && matches!(door, Door::Signal(_)) {
            fail!(Malformed, "task file: strings: expected none in a task that reads signals");
        }
        for (i, string) in strings.iter().enumerate() {
            let name = &string.name;
            if fields.iter().any(|field| field.name == *name) || strings[..i].iter().any(|other| other.name == *name) {
                fail!(Malformed, "task file: strings: expected names of their own, got {name:?} twice");
            }
        }
        let (name, question) = (file.text("name")?.to_owned(), file.text("question")?.to_owned());
        Ok(Self { name, question, fields, strings, door })
    }
}

fn string(item: &Members<'_>) -> Result<StringField> {
    StringField {
        name: item.text("name")?.to_owned(),
        alphabet: item.text("alphabet")?.to_owned(),
        max_bytes: item.size("max_bytes")?,
        prompt: if item.has("prompt") { item.text("prompt")?.to_owned() } else { String::new() },
    }
    .check()
}

fn text_door(value: &Value) -> Result<TextDoor> {
    let door = Members { value, place: "task file, text" };
    let ngrams = match door.get("ngrams")? {
        Value::Null => None,
        _ => Some(door.text("ngrams")?.to_owned()),
    };
    let found = TextDoor {
        marker: door.text("marker")?.to_owned(),
        max_tokens: door.size("max_tokens")?,
        trunk_weight: door.number("trunk_weight")? as f32,
        ngram_weight: door.number("ngram_weight")? as f32,
        ngrams,
    };
    let weights = [found.trunk_weight, found.ngram_weight];
    if !weights.iter().all(|weight| (0.0..f32::INFINITY).contains(weight)) || weights == [0.0; 2] {
        fail!(
            Malformed,
            "task file, text: expected two weights of 0 or more, not both 0, got {}",
            decimal::list(&weights)
        );
    }
    if found.ngrams.is_none() && found.ngram_weight > 0.0 {
        fail!(Malformed, "task file, text: a weight of n-grams and no classifier");
    }
    Ok(found)
}

fn signal_door(file: &Members<'_>, fields: &[Field]) -> Result<SignalDoor> {
    let signal = SignalSpec::of(&Members { value: file.get("signal")?, place: "task file, signal" })?;
    let words = match file.value.get("words") {
        None => None,
        Some(value) => {
            let words = WordSpec::of(&Members { value, place: "task file, words" }, &signal)?;
            let fitted = match file.value.get("word_fields") {
                Some(_) => file.list("word_fields", field)?,
                // The signal door's probabilities, without its promise, which was not fitted on words.
                None => fields.iter().map(|field| Field { groups: Vec::new(), ..field.clone() }).collect(),
            };
            let is_same = |(a, b): (&Field, &Field)| (&a.name, &a.choices) == (&b.name, &b.choices);
            if fitted.len() != fields.len() || !fitted.iter().zip(fields).all(is_same) {
                fail!(Malformed, "task file: word_fields are not the fields again");
            }
            Some((words, fitted))
        }
    };
    Ok(SignalDoor { num_bins: file.size("num_bins")?, encoder: file.text("encoder")?.to_owned(), signal, words })
}

fn field(item: &Members<'_>) -> Result<Field> {
    let name = item.text("name")?;
    let choices = item.texts("choices")?;
    let positive = item.text("positive")?;
    let place = choices.iter().position(|choice| choice == positive);
    let (Some(positive), false) = (place, choices.len() < 2) else {
        fail!(Malformed, "field {name}: expected two or more choices, {positive:?} among them, got {choices:?}")
    };
    if let Some(choice) = twice(choices.len(), &|at| &choices[at])? {
        fail!(Malformed, "field {name}: the choice {choice:?} is there twice");
    }
    let pair = |pair: &Members<'_>| match pair.value.as_list() {
        Some([x, y]) => match (x.as_number(), y.as_number()) {
            (Some(x), Some(y)) => Ok((x, y)),
            _ => fail!(Malformed, "{}: expected two numbers", pair.place),
        },
        _ => fail!(Malformed, "{}: expected two numbers", pair.place),
    };
    // What was fitted may be absent, as from the first bundles, and is then what Python's `Field` assumes.
    let knots = if item.has("knots") { item.list("knots", pair)? } else { Vec::new() };
    let is_rising = knots.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
    if !knots.is_empty() && (choices.len() != 2 || knots.len() < 2 || !is_rising) {
        fail!(Malformed, "field {name}: knots: expected two choices and two or more rising pairs");
    }
    let groups = match item.value.get("conformal") {
        None | Some(Value::Null) => Vec::new(),
        Some(value) => {
            let groups = Members { value, place: "conformal" }.list("groups", |group| {
                Ok(Group { name: group.text("name")?.to_owned(), least: group.numbers("least")? })
            })?;
            if groups.is_empty() || twice(groups.len(), &|at| &groups[at].name)?.is_some() {
                fail!(Malformed, "field {name}: conformal: expected one or more groups with different names");
            }
            groups
        }
    };
    let found = Field {
        name: name.to_owned(),
        positive,
        temperature: item.number_or("temperature", 1.0)?,
        bias: if item.has("bias") { item.numbers("bias")? } else { Vec::new() },
        knots,
        abstain_below: item.number_or("abstain_below", 0.0)?,
        alert_threshold: item.number_or("alert_threshold", 1.0)?,
        groups,
        choices,
    };
    let is_share = |x: &f64| (0.0..=1.0).contains(x);
    let thresholds = [found.abstain_below, found.alert_threshold];
    if !found.groups.iter().flat_map(|group| &group.least).chain(&thresholds).all(is_share) {
        fail!(Malformed, "field {name}: expected thresholds from 0 to 1");
    }
    let count = found.choices.len();
    let (bias, groups) = (found.bias.len(), found.groups.iter().all(|group| group.least.len() == count));
    if found.temperature <= 0.0 || !(bias == 0 || bias == count) || !groups {
        fail!(Malformed, "field {name}: expected a positive temperature, and {count} numbers in bias and least");
    }
    Ok(found)
}
