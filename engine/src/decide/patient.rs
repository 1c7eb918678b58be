//! One patient: readings come in, bins close, and the trunk's cache keeps all that was said.
//!
//! A decision reads logits at the end of the sequence and leaves it as it was.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::field::{Answer, Field};
use super::plan::FieldPlan;
use super::readings::{static_words, vocabulary, SignalState, WordState};
use super::task::{Door, SignalDoor, Task};
use super::{Files, Trunk};
use crate::decimal;
use crate::error::Result;
use crate::session::{Inputs, Mark, Session};
use crate::signal::SignalEncoder;

/// A task that reads readings, ready to open sessions.
pub struct SignalTask {
    /// Name of the task.
    pub name: String,
    /// The question in words.
    pub question: String,
    /// What is decided.
    pub fields: Vec<Field>,
    /// How readings reach the trunk.
    pub door: SignalDoor,
    plans: Vec<FieldPlan>,
    trunk: Trunk,
    encoder: SignalEncoder,
}

/// One patient through the signal door.
pub struct PatientSession {
    task: Arc<SignalTask>,
    state: SignalState,
    /// Vector of the newest bin (C).
    newest: Vec<f32>,
    bins: usize,
    trunk: Session,
}

/// Where a patient stood, through either door.
pub struct PatientMark<S> {
    state: S,
    newest: Vec<f32>,
    bins: usize,
    trunk: Mark,
}

/// One patient in observation words.
pub struct WordSession {
    task: Arc<SignalTask>,
    state: WordState,
    /// Bins that the newest card covers.
    card_end: usize,
    trunk: Session,
}

impl SignalTask {
    /// Load what a task needs.
    ///
    /// # Errors
    /// `Malformed`: a text task, or an encoder of another shape. `Capacity`: the trunk's context is too short.
    pub fn load(task: Task, trunk: &Trunk, files: Files<'_>) -> Result<Self> {
        let Door::Signal(door) = task.door else { fail!(Malformed, "task {}: reads text, not readings", task.name) };
        let source = files(&door.encoder)?;
        let encoder = SignalEncoder::load((*source).as_ref(), trunk.model.kernels)?;
        let expected = (door.signal.num_channels(), door.signal.statics.len(), trunk.model.config.width);
        let got = (encoder.channels, encoder.statics, encoder.width);
        if got != expected {
            fail!(
                Malformed,
                "task {}: an encoder of {expected:?} channels, features and width, got {got:?}",
                task.name
            );
        }
        let plans =
            task.fields.iter().map(|field| FieldPlan::of(field, &task.name, trunk)).collect::<Result<Vec<_>>>()?;
        let longest = plans.iter().map(FieldPlan::longest).max().unwrap_or(0);
        let needed = door.num_bins.saturating_add(1 + longest);
        if trunk.model.config.context < needed {
            fail!(Capacity, "task {}: needs a context of {needed}, the trunk has less", task.name);
        }
        if let Some((words, _)) = &door.words {
            for word in vocabulary(words, &door.signal) {
                trunk.control(&word)?;
            }
        }
        Ok(Self {
            name: task.name,
            question: task.question,
            fields: task.fields,
            door,
            plans,
            trunk: trunk.clone(),
            encoder,
        })
    }

    /// Whether a field can be explained by deletion.
    ///
    /// # Errors
    /// `Shape`: no such field. `Unsupported`: its choices have a common beginning.
    pub fn check_explained(&self, field: usize) -> Result<()> {
        self.deciding(field).map(|_| ())
    }

    /// Tokens (K) whose logits behind a bin decide.
    fn deciding(&self, field: usize) -> Result<&[u32]> {
        let Some(plan) = self.plans.get(field) else { fail!(Shape, "task {}: no field {field}", self.name) };
        match plan.direct() {
            Some(deciding) => Ok(deciding),
            None => fail!(Unsupported, "task {}: choices with a common beginning are not explained", self.name),
        }
    }

    fn check_statics(&self, features: &[f32]) -> Result<()> {
        let names = &self.door.signal.statics;
        if features.len() != names.len() || features.iter().any(|x| !x.is_finite()) {
            let got = decimal::list(features);
            fail!(Shape, "static features: expected {} finite numbers {names:?}, got {got}", names.len());
        }
        Ok(())
    }
}

impl PatientSession {
    /// Start a patient from the static features (S).
    ///
    /// # Errors
    /// `Shape`: another number of features, or one that is not finite.
    pub fn new(task: Arc<SignalTask>, features: &[f32]) -> Result<Self> {
        task.check_statics(features)?;
        let mut trunk = Session::new(task.trunk.model.clone());
        trunk.append(Inputs::Embeddings(&task.encoder.prefix(features)?))?;
        Ok(Self { state: SignalState::new(&task.door.signal), newest: Vec::new(), bins: 0, trunk, task })
    }

    /// Where the patient stands, to go back to.
    ///
    /// # Errors
    /// `Memory`: the system has not so much.
    pub fn mark(&self) -> Result<PatientMark<SignalState>> {
        let (state, newest) = (self.state.clone(), self.newest.clone());
        Ok(PatientMark { state, newest, bins: self.bins, trunk: self.trunk.mark()? })
    }

    /// Forget what came since a mark of this very patient.
    pub fn back_to(&mut self, mark: PatientMark<SignalState>) {
        (self.state, self.newest, self.bins) = (mark.state, mark.newest, mark.bins);
        self.trunk.back_to(mark.trunk);
    }

    /// Bins closed so far.
    pub fn bins(&self) -> usize {
        self.bins
    }

    /// Add one reading, in the parameter's canonical unit, to the open bin.
    ///
    /// # Errors
    /// `Shape`: no such parameter, or a value that is not finite.
    pub fn observe(&mut self, code: &str, value: f64) -> Result<()> {
        self.state.observe(self.task.door.signal.score(code, value)?);
        Ok(())
    }

    /// End the bin: append its vector.
    ///
    /// # Errors
    /// `Capacity`: the task answers for no later bin. `Memory`: the system has not so much; go back to a mark.
    pub fn close_bin(&mut self) -> Result<()> {
        check_room(&self.task, self.bins)?;
        self.newest = self.state.close_bin();
        self.trunk.append(Inputs::Embeddings(&self.task.encoder.bins(&self.newest)?))?;
        self.bins += 1;
        Ok(())
    }

    /// Answer every field as of the newest bin; changes nothing.
    ///
    /// # Errors
    /// `Shape`: no bin was closed yet.
    pub fn decide(&mut self) -> Result<Vec<Answer>> {
        if self.bins == 0 {
            fail!(Shape, "task {}: close a bin before deciding", self.task.name);
        }
        let asked = self.task.fields.iter().zip(&self.task.plans);
        asked.map(|(field, plan)| field.answer(&plan.logits(&mut self.trunk)?, Some(self.bins))).collect()
    }

    /// What each measured parameter does to the positive choice of a field: the log-odds that it loses when the newest
    /// bin is read again without that parameter.
    ///
    /// # Errors
    /// `Shape`: no bin was closed yet, or no such field. `Unsupported`: the field's choices have a common beginning.
    pub fn effects(&mut self, field: usize) -> Result<Vec<(String, f64)>> {
        let task = self.task.clone();
        let deciding = task.deciding(field)?;
        if self.bins == 0 {
            fail!(Shape, "task {}: close a bin before asking for effects", task.name);
        }
        let asked = &task.fields[field];
        let whole = asked.log_odds(&task.plans[field].logits(&mut self.trunk)?, asked.positive);
        let mut trial = self.trunk.fork();
        trial.rewind(self.trunk.length() - 1)?;
        let effect = |place: usize| {
            let mut without = self.newest.clone();
            without[SignalState::channels_of(place)].fill(0.0);
            let embedding = task.encoder.bins(&without)?;
            let logits = trial.score(Inputs::Embeddings(&embedding), &[0], Some(deciding))?;
            Ok((task.door.signal.parameters[place].clone(), whole - asked.log_odds(&logits, asked.positive)))
        };
        SignalState::measured(&self.newest).into_iter().map(effect).collect()
    }
}

impl WordSession {
    /// Start a patient in words from the static features (S).
    ///
    /// # Errors
    /// `Unsupported`: the trunk never learnt words. `Shape`: another number of features, or one that is not finite.
    pub fn new(task: Arc<SignalTask>, features: &[f32]) -> Result<Self> {
        if task.door.words.is_none() {
            fail!(Unsupported, "task {}: its trunk never learnt observation words", task.name);
        }
        task.check_statics(features)?;
        let mut trunk = Session::new(task.trunk.model.clone());
        let mut ids = alloc::vec![task.trunk.control("<bos>")?];
        for word in static_words(&task.door.signal, features) {
            ids.push(task.trunk.control(&word)?);
        }
        trunk.append(Inputs::Tokens(&ids))?;
        Ok(Self { state: WordState::new(&task.door.signal), card_end: 0, trunk, task })
    }

    /// Add one reading, in the parameter's canonical unit, to the open card.
    ///
    /// # Errors
    /// `Shape`: no such parameter, or a value that is not finite.
    pub fn observe(&mut self, code: &str, value: f64) -> Result<()> {
        self.state.observe(self.task.door.signal.score(code, value)?);
        Ok(())
    }

    /// End a bin; whether a card closed with it, so that there is something new to decide on.
    ///
    /// # Errors
    /// `Capacity`: the task answers for no later bin, or the context is full; the sequence is unchanged.
    pub fn close_bin(&mut self) -> Result<bool> {
        check_room(&self.task, self.state.bins_closed)?;
        let Some((words, _)) = &self.task.door.words else { return Ok(false) };
        let mut next = self.state.clone();
        let card = next.close_bin(words, &self.task.door.signal);
        let ids = card.iter().map(|word| self.task.trunk.control(word)).collect::<Result<Vec<u32>>>()?;
        self.trunk.append(Inputs::Tokens(&ids))?;
        self.state = next;
        if !card.is_empty() {
            self.card_end = self.state.bins_closed;
        }
        Ok(!card.is_empty())
    }

    /// Where the patient stands, to go back to.
    ///
    /// # Errors
    /// `Memory`: the system has not so much.
    pub fn mark(&self) -> Result<PatientMark<WordState>> {
        let (state, bins) = (self.state.clone(), self.card_end);
        Ok(PatientMark { state, newest: Vec::new(), bins, trunk: self.trunk.mark()? })
    }

    /// Forget what came since a mark of this very patient.
    pub fn back_to(&mut self, mark: PatientMark<WordState>) {
        (self.state, self.card_end) = (mark.state, mark.bins);
        self.trunk.back_to(mark.trunk);
    }

    /// Bins closed so far; the newest card may cover fewer.
    pub fn bins(&self) -> usize {
        self.state.bins_closed
    }

    /// Answer every field as of the newest card; changes nothing.
    ///
    /// # Errors
    /// `Shape`: no card was closed yet.
    pub fn decide(&mut self) -> Result<Vec<Answer>> {
        let (Some((_, fields)), 1..) = (&self.task.door.words, self.card_end) else {
            fail!(Shape, "task {}: close a card before deciding", self.task.name)
        };
        let asked = fields.iter().zip(&self.task.plans);
        asked.map(|(field, plan)| field.answer(&plan.logits(&mut self.trunk)?, Some(self.card_end))).collect()
    }
}

fn check_room(task: &SignalTask, bins: usize) -> Result<()> {
    if bins >= task.door.num_bins {
        let (most, minutes) = (task.door.num_bins, task.door.signal.bin_minutes);
        fail!(Capacity, "task {} answers for {most} bins of {minutes} minutes: start the patient again", task.name);
    }
    Ok(())
}
