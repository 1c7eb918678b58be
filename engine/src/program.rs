//! A bundle that is asked by JSON: one object in, one object out. This is the interface that every shape of the engine
//! shares, be it lines on standard input, a body of `POST /decide`, a call from C or one from a web page.
//!
//! ```text
//! {"about": true}
//! {"task": "triage", "text": "Red, itchy patches on both elbows.", "explain": true}
//! {"task": "icu-risk", "patient": "7", "static": {"age": 0.35, ...}}
//! {"task": "icu-risk", "patient": "7", "observe": [["HR", 118]], "close": true, "decide": true}
//! {"task": "icu-risk", "patient": "7", "static": null}
//! ```
//!
//! An `id` comes back as it was given; `words` opens a patient by the door of observation words. A host that has a trunk
//! of its own, on a graphics processor say, asks with `reads` which tokens that one is to read, and then with its `logits`.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::decide::bounded_string::GeneratedString;
use crate::decide::field::{largest, Answer, Field};
use crate::decide::patient::{PatientMark, PatientSession, SignalTask, WordSession};
use crate::decide::readings::{SignalState, WordState};
use crate::decide::task::{Door, Task};
use crate::decide::text::TextTask;
use crate::decide::{Files, Trunk, TRUNK_FILE};
use crate::error::{Error, Kind, Result};
use crate::json::{object, Value};
use crate::kernels::Kernels;
use crate::model::Model;
use crate::table::{in_order, Table};
use crate::verify::bundle::Bundle;
use crate::verify::manifest::Manifest;

/// Patients that are open at once; each holds a quarter of a megabyte of cache with the models that ship.
const MOST_PATIENTS: usize = 1024;
const MOST_NAME_BYTES: usize = 256;
/// The trunk for other runtimes; what the bundle says of it serves hosts that bring one.
const ONNX_FILE: &str = "onnx/trunk.onnx";
const MEMBERS: [&str; 13] = [
    "id", "about", "task", "text", "reads", "logits", "patient", "static", "words", "observe", "close", "decide",
    "explain",
];

/// Members that have no meaning beside readings.
const OF_TEXTS: [&str; 3] = ["text", "reads", "logits"];

/// Members that have no meaning beside a text.
const OF_READINGS: [&str; 6] = ["patient", "static", "words", "observe", "close", "decide"];

enum Runner {
    Text(Box<TextTask>),
    Signal(Arc<SignalTask>),
}

enum Patient {
    Signal(PatientSession),
    Words(WordSession),
}

enum PatientBefore {
    Signal(PatientMark<SignalState>),
    Words(PatientMark<WordState>),
}

/// A bundle's tasks, and the patients that are open.
pub struct Program {
    about: Value,
    tasks: Table<Runner>,
    /// By task and patient, see `key`.
    patients: Table<Patient>,
    model: Arc<Model>,
}

impl Program {
    /// Load tasks of a bundle.
    ///
    /// # Errors
    /// As the bundle's, the trunk's and the tasks' own loading; `Malformed` where the bundle has no such task.
    pub fn load(bundle: &Bundle, names: &[String], kernels: &'static Kernels) -> Result<Self> {
        let files: Files<'_> = &|name| bundle.read(name);
        let trunk = Trunk::load(files(TRUNK_FILE)?, kernels)?;
        let mut tasks = Table::default();
        for name in names {
            if !bundle.manifest().tasks.contains(name) {
                fail!(Malformed, "expected a task of {}, got {name:?}", bundle.manifest().tasks.join(", "));
            }
            let task = Task::parse((*files(&format!("tasks/{name}.json"))?).as_ref())?;
            if task.name != *name {
                fail!(Malformed, "tasks/{name}.json holds the task {:?}", task.name);
            }
            let runner = match task.door {
                Door::Text(_) => Runner::Text(Box::new(TextTask::load(task, &trunk, files)?)),
                Door::Signal(_) => Runner::Signal(Arc::new(SignalTask::load(task, &trunk, files)?)),
            };
            tasks.insert(name.clone(), runner)?;
        }
        let about = about(bundle.manifest(), &tasks);
        Ok(Self { about, tasks, patients: Table::default(), model: trunk.model })
    }

    /// Compute with so many threads from now on.
    ///
    /// # Errors
    /// See `Model::set_threads`.
    pub fn set_threads(&self, count: usize) -> Result<()> {
        self.model.set_threads(count)
    }

    /// Answer one request; a failure is an answer too, and its kind beside it.
    pub fn ask(&mut self, line: &[u8]) -> (Value, Option<Kind>) {
        let request = Value::parse(line);
        let outcome = request.as_ref().map_err(Error::clone).and_then(|request| self.answer(request));
        let id = request.ok().and_then(|request| request.take("id"));
        let failure = outcome.as_ref().err().map(|error| error.kind);
        let mut members = match outcome {
            Ok(members) => members,
            Err(error) => {
                let about = object([("kind", kind(error.kind).into()), ("message", error.message.as_str().into())]);
                vec![("error".to_owned(), about)]
            }
        };
        if let Some(id) = id {
            members.insert(0, ("id".to_owned(), id));
        }
        (Value::Object(members), failure)
    }

    fn answer(&mut self, request: &Value) -> Result<Vec<(String, Value)>> {
        let Some(members) = request.as_object() else { fail!(Malformed, "expected an object") };
        if let Some((name, _)) = members.iter().find(|(name, _)| !MEMBERS.contains(&name.as_str())) {
            fail!(Malformed, "unknown member {name:?}: expected {}", MEMBERS.join(", "));
        }
        if flag(request, "about")? {
            return Ok(vec![("about".to_owned(), self.about.clone())]);
        }
        let name = match request.get("task") {
            Some(name) => expected(name.as_text(), "task", "a name")?,
            None if self.tasks.len() == 1 => self.tasks.names().next().unwrap_or(""),
            None => fail!(Malformed, "task: expected one of {}", self.names()),
        }
        .to_owned();
        let text = request.get("text");
        match self.tasks.get(&name) {
            None => fail!(Malformed, "task: expected one of {}, got {name:?}", self.names()),
            Some(Runner::Text(_)) if members.iter().any(|(name, _)| OF_READINGS.contains(&name.as_str())) => {
                fail!(Malformed, "task {name}: reads text, not readings")
            }
            Some(Runner::Text(task)) => match text {
                Some(text) => text_answer(task, expected(text.as_text(), "text", "text")?, request),
                None => fail!(Malformed, "task {name}: expected a member \"text\""),
            },
            Some(Runner::Signal(_)) if members.iter().any(|(name, _)| OF_TEXTS.contains(&name.as_str())) => {
                fail!(Malformed, "task {name}: reads readings, not text")
            }
            Some(Runner::Signal(task)) => {
                let task = task.clone();
                self.patient_answer(&task, request)
            }
        }
    }

    fn names(&self) -> String {
        self.tasks.names().collect::<Vec<_>>().join(", ")
    }

    /// Open the patient where `static` is given (or end it, by `null`), add readings, close bins, decide: in this order,
    /// each where it is asked. All of the request is checked before any of it is done, so that a mistake changes nothing.
    fn patient_answer(&mut self, task: &Arc<SignalTask>, request: &Value) -> Result<Vec<(String, Value)>> {
        let patient = match request.get("patient") {
            Some(patient) => expected(
                patient.as_text().filter(|name| name.len() <= MOST_NAME_BYTES),
                "patient",
                "a name of at most 256 bytes",
            )?,
            None => fail!(Malformed, "task {}: expected a member \"patient\"", task.name),
        };
        let key = format!("{}\0{patient}", task.name);
        let mut answer = vec![("task".to_owned(), task.name.as_str().into()), ("patient".to_owned(), patient.into())];
        let readings = readings(task, request)?;
        let closes = match request.get("close") {
            None => 0,
            Some(Value::Bool(is)) => usize::from(*is),
            Some(count) => expected(count.as_size(), "close", "true, or how many bins")?,
        };
        let (decides, explains) = (flag(request, "decide")?, flag(request, "explain")?);
        let in_words = flag(request, "words")?;
        let mut opened = match request.get("static") {
            None if request.get("words").is_some() => fail!(Malformed, "words: is given with \"static\""),
            None => None,
            Some(Value::Null) => {
                self.patients.remove(&key);
                return Ok(answer);
            }
            Some(_) if self.patients.len() >= MOST_PATIENTS && !self.patients.contains(&key) => {
                fail!(Capacity, "{MOST_PATIENTS} patients are open: end one, by \"static\": null")
            }
            Some(value) => Some(Patient::open(task, &statics(task, value)?, in_words)?),
        };
        let Some(session) = opened.as_mut().or_else(|| self.patients.get_mut(&key)) else {
            fail!(Malformed, "patient {patient:?} is not open: give \"static\" first")
        };
        session.check(task, closes, decides, explains)?;
        // What shows only now, memory that ends or a context that is full, must not leave half of a request done.
        let before = session.mark()?;
        let done = session.go_on(&readings, closes).and_then(|()| session.said(task, decides, explains));
        match done {
            Ok(said) => answer.extend(said),
            Err(error) => {
                session.back_to(before);
                return Err(error);
            }
        }
        if let Some(opened) = opened {
            self.patients.insert(key, opened)?;
        }
        Ok(answer)
    }
}

/// What the bundle says of itself, and how its tasks are asked.
fn about(manifest: &Manifest, tasks: &Table<Runner>) -> Value {
    let texts = |items: &[String]| Value::List(items.iter().map(|item| item.as_str().into()).collect());
    let fields = |fields: &[Field]| {
        let field = |field: &Field| object([("name", field.name.as_str().into()), ("choices", texts(&field.choices))]);
        Value::List(fields.iter().map(field).collect())
    };
    let task = |(name, runner): &(String, Runner)| {
        let (question, asked) = match runner {
            Runner::Text(task) => (&task.question, vec![("fields", fields(core::slice::from_ref(&task.field)))]),
            Runner::Signal(task) => {
                let signal = &task.door.signal;
                let asked = vec![
                    ("fields", fields(&task.fields)),
                    ("static", texts(&signal.statics)),
                    ("parameters", texts(&signal.parameters)),
                    ("bins", (task.door.num_bins as f64).into()),
                    ("bin_minutes", (signal.bin_minutes as f64).into()),
                    ("words", task.door.words.is_some().into()),
                ];
                (&task.question, asked)
            }
        };
        let mut members =
            vec![("name".to_owned(), name.as_str().into()), ("question".to_owned(), question.as_str().into())];
        members.extend(asked.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Value::Object(members)
    };
    let onnx = manifest.files.get(ONNX_FILE).map_or(Value::Null, |file| file.sha256.as_str().into());
    object([
        ("name", manifest.name.as_str().into()),
        ("version", manifest.version.as_str().into()),
        ("digest", manifest.digest.as_str().into()),
        ("onnx", onnx),
        ("is_simulated", manifest.is_simulated.into()),
        ("tasks", Value::List(tasks.iter().map(task).collect())),
    ])
}

impl Patient {
    fn open(task: &Arc<SignalTask>, features: &[f32], in_words: bool) -> Result<Self> {
        Ok(match in_words {
            false => Self::Signal(PatientSession::new(task.clone(), features)?),
            true => Self::Words(WordSession::new(task.clone(), features)?),
        })
    }

    /// Whether a request can be done.
    fn check(&self, task: &SignalTask, closes: usize, decides: bool, explains: bool) -> Result<()> {
        let (most, bins) = (task.door.num_bins, self.bins());
        if closes > most - bins {
            fail!(Capacity, "close: {bins} bins are closed, and the task answers for {most}: open the patient again");
        }
        let first = match (self, &task.door.words) {
            (Self::Words(_), Some((words, _))) => words.card_ends[0],
            _ => 1,
        };
        if (decides || explains) && bins + closes < first {
            fail!(Shape, "task {}: close a bin before deciding", task.name);
        }
        match self {
            Self::Words(_) if explains => fail!(Unsupported, "explain: answers in words are not explained by deletion"),
            Self::Signal(_) if explains => task.check_explained(0),
            _ => Ok(()),
        }
    }

    fn bins(&self) -> usize {
        match self {
            Self::Signal(session) => session.bins(),
            Self::Words(session) => session.bins(),
        }
    }

    fn mark(&self) -> Result<PatientBefore> {
        Ok(match self {
            Self::Signal(session) => PatientBefore::Signal(session.mark()?),
            Self::Words(session) => PatientBefore::Words(session.mark()?),
        })
    }

    fn back_to(&mut self, before: PatientBefore) {
        match (self, before) {
            (Self::Signal(session), PatientBefore::Signal(mark)) => session.back_to(mark),
            (Self::Words(session), PatientBefore::Words(mark)) => session.back_to(mark),
            _ => {} // a mark of another patient
        }
    }

    /// Add readings and close bins; where that fails, some of it may be done.
    fn go_on(&mut self, readings: &[(String, f64)], closes: usize) -> Result<()> {
        for (code, value) in readings {
            match self {
                Self::Signal(session) => session.observe(code, *value)?,
                Self::Words(session) => session.observe(code, *value)?,
            }
        }
        (0..closes).try_for_each(|_| match self {
            Self::Signal(session) => session.close_bin(),
            Self::Words(session) => session.close_bin().map(|_| ()),
        })
    }

    /// What is answered.
    fn said(&mut self, task: &SignalTask, decides: bool, explains: bool) -> Result<Vec<(String, Value)>> {
        let mut answer = vec![("bins".to_owned(), (self.bins() as f64).into())];
        if decides {
            let answers = self.decide()?;
            let fields = task.fields.iter().zip(&answers);
            let fields = fields.map(|(field, answer)| (field.name.clone(), answer_value(field, answer))).collect();
            answer.push(("answers".to_owned(), Value::Object(fields)));
        }
        if explains {
            answer.push(("evidence".to_owned(), self.evidence()?));
        }
        Ok(answer)
    }

    fn decide(&mut self) -> Result<Vec<Answer>> {
        match self {
            Self::Signal(session) => session.decide(),
            Self::Words(session) => session.decide(),
        }
    }

    fn evidence(&mut self) -> Result<Value> {
        match self {
            Self::Signal(session) => effects("code", &session.effects(0)?),
            Self::Words(_) => fail!(Unsupported, "explain: answers in words are not explained by deletion"),
        }
    }
}

/// What a text is answered; or, for a host that has a trunk of its own, what that one is to read, and then the answer by
/// its logits.
fn text_answer(task: &TextTask, text: &str, request: &Value) -> Result<Vec<(String, Value)>> {
    let (explains, logits) = (flag(request, "explain")?, request.get("logits"));
    if flag(request, "reads")? {
        let (tokens, deciding) = task.reads(text)?;
        let ids = |ids: &[u32]| Value::List(ids.iter().map(|id| f64::from(*id).into()).collect());
        return Ok(vec![
            ("task".to_owned(), task.name.as_str().into()),
            ("reads".to_owned(), ids(&tokens)),
            ("deciding".to_owned(), ids(deciding)),
        ]);
    }
    let decision = match logits {
        None => task.decide(text)?,
        Some(_) if explains => {
            fail!(Unsupported, "explain: takes many passes of the engine's own trunk, not \"logits\"")
        }
        Some(logits) => {
            let numbers = logits.as_list().and_then(|items| items.iter().map(Value::as_number).collect());
            let numbers: Vec<f64> = expected(numbers, "logits", "a list of numbers")?;
            task.decide_by(text, &numbers.iter().map(|x| *x as f32).collect::<Vec<_>>())?
        }
    };
    let mut answer = vec![
        ("task".to_owned(), task.name.as_str().into()),
        (
            "answers".to_owned(),
            Value::Object(vec![(task.field.name.clone(), answer_value(&task.field, &decision.answer))]),
        ),
        ("tokens".to_owned(), (decision.tokens as f64).into()),
        ("is_cut".to_owned(), decision.is_cut.into()),
    ];
    if cfg!(feature = "strings") && !decision.strings.is_empty() {
        let written = |(name, string): &(String, GeneratedString)| {
            let members = object([
                ("text", string.text.as_str().into()),
                ("mean_logprob", string.mean_logprob.into()),
                ("has_ended", string.has_ended.into()),
                ("is_generated", true.into()),
            ]);
            (name.clone(), members)
        };
        answer.push(("strings".to_owned(), Value::Object(decision.strings.iter().map(written).collect())));
    }
    if explains {
        let choice = decision.answer.choice.unwrap_or_else(|| largest(&decision.answer.probabilities));
        answer.push(("evidence".to_owned(), effects("text", &task.effects(text, &decision.logits, choice)?)?));
    }
    Ok(answer)
}

fn answer_value(field: &Field, answer: &Answer) -> Value {
    let named = |k: usize| field.choices[k].as_str();
    let probabilities = answer.probabilities.iter().enumerate().map(|(k, p)| (named(k).to_owned(), (*p).into()));
    let set = (0..answer.set.len()).filter(|k| answer.set[*k]).map(|k| named(k).into());
    object([
        ("choice", answer.choice.map_or(Value::Null, |k| named(k).into())),
        ("probabilities", Value::Object(probabilities.collect())),
        ("has_abstained", answer.choice.is_none().into()),
        ("prediction_set", Value::List(set.collect())),
        ("is_alert", answer.is_alert.into()),
    ])
}

/// Strongest first.
fn effects(what: &str, found: &[(String, f64)]) -> Result<Value> {
    let squared = |at: usize| found[at].1 * found[at].1;
    let order = in_order(found.len(), &|a, b| squared(b).total_cmp(&squared(a)).then(a.cmp(&b)))?;
    let item = |(name, effect): &(String, f64)| object([(what, name.as_str().into()), ("effect", (*effect).into())]);
    Ok(Value::List(order.iter().map(|at| item(&found[*at as usize])).collect()))
}

/// Static features in the task's order or by name.
fn statics(task: &SignalTask, value: &Value) -> Result<Vec<f32>> {
    let names = &task.door.signal.statics;
    let in_order: Option<Vec<f64>> = match value {
        Value::List(items) => items.iter().map(Value::as_number).collect(),
        Value::Object(members) if members.len() == names.len() => {
            names.iter().map(|name| value.get(name).and_then(Value::as_number)).collect()
        }
        _ => None,
    };
    match in_order {
        Some(numbers) if numbers.len() == names.len() => Ok(numbers.iter().map(|x| *x as f32).collect()),
        _ => fail!(Malformed, "static: expected numbers for {}", names.join(", ")),
    }
}

/// Readings [parameter, value], each of which the task knows.
fn readings(task: &SignalTask, request: &Value) -> Result<Vec<(String, f64)>> {
    let Some(value) = request.get("observe") else { return Ok(Vec::new()) };
    let items = expected(value.as_list(), "observe", "a list of [parameter, value]")?;
    let reading = |item: &Value| match item.as_list() {
        Some([Value::Text(code), Value::Number(value)]) => {
            task.door.signal.score(code, *value)?;
            Ok((code.clone(), *value))
        }
        _ => fail!(Malformed, "observe: expected items [parameter, value]"),
    };
    items.iter().map(reading).collect()
}

fn flag(request: &Value, name: &str) -> Result<bool> {
    request.get(name).map_or(Ok(false), |value| expected(value.as_bool(), name, "true or false"))
}

fn expected<T>(found: Option<T>, name: &str, what: &str) -> Result<T> {
    match found {
        Some(found) => Ok(found),
        None => fail!(Malformed, "{name}: expected {what}"),
    }
}

/// Kinds of failure as words.
fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Malformed => "malformed",
        Kind::Unsupported => "unsupported",
        Kind::Shape => "shape",
        Kind::Capacity => "capacity",
        Kind::Memory => "memory",
        Kind::System => "system",
        Kind::Untrusted => "untrusted",
    }
}
