//! Measurements of one patient as what a trunk reads: a vector for each time bin, or observation words.
//!
//! Each reading is put on a normal scale by its rank among the training readings. The signal door has eleven channels a
//! parameter (`close_bin` names them); the word door has one word for each parameter measured since the card before,
//! and an hour word that ends the card. A reading that arrives after its bin was closed counts in the open one: what was
//! said is never rewritten. Python's twins are `smallhold.decide.signal` and `smallhold.decide.words`.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::field::interpolate;
use super::members::Members;
use crate::decimal;
use crate::error::Result;
use crate::math::ln_f64;

/// Channels of a parameter, in order.
const CHANNELS: [&str; 11] =
    ["last", "bin_mean", "log_age", "is_measured", "change_6", "first", "mean", "min", "max", "mean_12", "log_count"];
/// `change_6` compares with the newest reading as of so many bins ago.
const CHANGE_BINS: usize = 6;
/// `mean_12` is over so many bins.
const RECENT_BINS: usize = 12;
/// Quantiles of the normal distribution at i / 16: the bins of value words.
#[rustfmt::skip]
const EDGES: [f64; 15] = [
    -1.5341205443525459, -1.1503493803760079, -0.8871465590188758, -0.6744897501960817, -0.4887764111146694,
    -0.31863936396437514, -0.15731068461017067, 0.0, 0.15731068461017067, 0.31863936396437514, 0.4887764111146694,
    0.6744897501960817, 0.8871465590188758, 1.1503493803760079, 1.5341205443525459,
];
const STATIC_EDGES: [f64; 7] = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5];

/// What the signal door of a task expects.
#[derive(Debug, Clone)]
pub struct SignalSpec {
    /// Names in channel order.
    pub parameters: Vec<String>,
    /// For each a rank-Gauss transform: rising readings and their normal scores.
    pub grids: Vec<Vec<(f64, f64)>>,
    /// Length of a bin.
    pub bin_minutes: usize,
    /// Names of the static features.
    pub statics: Vec<String>,
}

impl SignalSpec {
    pub(super) fn of(members: &Members<'_>) -> Result<Self> {
        let channels = members.texts("channels")?;
        if channels != CHANNELS {
            fail!(Malformed, "{}: channels {channels:?} are not those of this version", members.place);
        }
        let grids = members.list("grids", |grid| {
            let (values, scores) = (grid.numbers("values")?, grid.numbers("scores")?);
            if values.is_empty() || values.len() != scores.len() || values.windows(2).any(|two| two[0] >= two[1]) {
                fail!(Malformed, "{}: a grid needs rising values and as many scores", grid.place);
            }
            Ok(values.into_iter().zip(scores).collect())
        })?;
        let found = Self {
            parameters: members.texts("parameters")?,
            grids,
            bin_minutes: members.size("bin_minutes")?,
            statics: members.texts("static")?,
        };
        if found.parameters.is_empty() || found.parameters.len() != found.grids.len() {
            fail!(Malformed, "{}: expected one grid for each of the parameters", members.place);
        }
        Ok(found)
    }

    /// Length of one bin's vector (C).
    pub fn num_channels(&self) -> usize {
        self.parameters.len() * CHANNELS.len()
    }

    /// Place of a parameter and the normal score of its reading.
    ///
    /// # Errors
    /// `Shape`: no such parameter, or a value that is not finite.
    pub fn score(&self, code: &str, value: f64) -> Result<(usize, f64)> {
        let Some(place) = self.parameters.iter().position(|name| name == code) else {
            fail!(Shape, "unknown parameter {code:?}: this task reads {}", self.parameters.join(", "))
        };
        if !value.is_finite() {
            fail!(Shape, "{code}: expected a finite value, got {}", decimal::shown(value));
        }
        Ok((place, interpolate(&self.grids[place], value)))
    }
}

/// Running summaries of one parameter.
#[derive(Debug, Clone)]
struct Summary {
    count: f64,
    sum: f64,
    min: f64,
    max: f64,
    first: f64,
    last: f64,
    last_bin: usize,
    bin_sum: f64,
    bin_count: f64,
    /// (sum, count) of the newest bins.
    recent: [(f64, f64); RECENT_BINS],
    /// Newest reading as of the newest bins, where there was one.
    before: [Option<f64>; CHANGE_BINS],
}

/// Running summaries of one patient; memory does not grow with the length of the record.
#[derive(Debug, Clone)]
pub struct SignalState {
    bins_closed: usize,
    parameters: Vec<Summary>,
}

impl SignalState {
    /// Nothing measured yet.
    pub fn new(spec: &SignalSpec) -> Self {
        let empty = Summary {
            count: 0.0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            first: 0.0,
            last: 0.0,
            last_bin: 0,
            bin_sum: 0.0,
            bin_count: 0.0,
            recent: [(0.0, 0.0); RECENT_BINS],
            before: [None; CHANGE_BINS],
        };
        Self { bins_closed: 0, parameters: vec![empty; spec.parameters.len()] }
    }

    /// Add a score of `SignalSpec::score` to the open bin.
    pub fn observe(&mut self, (place, score): (usize, f64)) {
        let now = self.bins_closed;
        let one = &mut self.parameters[place];
        if one.count == 0.0 {
            one.first = score;
        }
        one.count += 1.0;
        one.sum += score;
        one.min = one.min.min(score);
        one.max = one.max.max(score);
        one.last = score;
        one.last_bin = now;
        one.bin_sum += score;
        one.bin_count += 1.0;
    }

    /// End the open bin: its vector (C), `CHANNELS` for the first parameter, then for the second, and so on.
    pub fn close_bin(&mut self) -> Vec<f32> {
        let now = self.bins_closed;
        let mut channels = Vec::with_capacity(self.parameters.len() * CHANNELS.len());
        for one in &mut self.parameters {
            one.recent[now % RECENT_BINS] = (one.bin_sum, one.bin_count);
            let is_seen = one.count > 0.0;
            let when_seen = |x: f64| if is_seen { x } else { 0.0 };
            let total = one.recent.iter().fold((0.0, 0.0), |total, bin| (total.0 + bin.0, total.1 + bin.1));
            let before = one.before[now % CHANGE_BINS];
            let row: [f64; CHANNELS.len()] = [
                one.last,
                one.bin_sum / one.bin_count.max(1.0),
                when_seen(ln_f64(1.0 + (now - one.last_bin) as f64)),
                if one.bin_count > 0.0 { 1.0 } else { 0.0 },
                before.map_or(0.0, |before| one.last - before),
                one.first,
                one.sum / one.count.max(1.0),
                when_seen(one.min),
                when_seen(one.max),
                total.0 / total.1.max(1.0),
                ln_f64(1.0 + one.count),
            ];
            channels.extend(row.iter().map(|x| *x as f32));
            one.before[now % CHANGE_BINS] = is_seen.then_some(one.last);
            (one.bin_sum, one.bin_count) = (0.0, 0.0);
        }
        self.bins_closed += 1;
        channels
    }

    /// Places of the parameters that were measured up to a bin, by its vector.
    pub fn measured(channels: &[f32]) -> Vec<usize> {
        let counts = channels.chunks_exact(CHANNELS.len()).map(|channels| channels[CHANNELS.len() - 1]);
        counts.enumerate().filter(|(_, log_count)| *log_count > 0.0).map(|(place, _)| place).collect()
    }

    /// Channels of one parameter in a bin's vector.
    pub fn channels_of(place: usize) -> core::ops::Range<usize> {
        place * CHANNELS.len()..(place + 1) * CHANNELS.len()
    }
}

/// How a stay is written in words.
#[derive(Debug, Clone)]
pub struct WordSpec {
    /// Bins after which a card closes, rising.
    pub card_ends: Vec<usize>,
}

impl WordSpec {
    pub(super) fn of(members: &Members<'_>, signal: &SignalSpec) -> Result<Self> {
        let card_ends = members.sizes("card_ends")?;
        let is_rising =
            card_ends.first().is_some_and(|end| *end > 0) && card_ends.windows(2).all(|two| two[0] < two[1]);
        let is_same = members.texts("parameters")? == signal.parameters && members.texts("static")? == signal.statics;
        if !is_rising || !is_same {
            fail!(Malformed, "{}: expected rising card ends, and the signal door's parameters", members.place);
        }
        Ok(Self { card_ends })
    }
}

/// Every word that a stay may be written in.
pub fn vocabulary(words: &WordSpec, spec: &SignalSpec) -> Vec<String> {
    let values = spec.parameters.iter().flat_map(|name| (0..=EDGES.len()).map(move |bin| value_word(name, bin)));
    let statics =
        spec.statics.iter().flat_map(|name| (0..=STATIC_EDGES.len()).map(move |level| static_word(name, level)));
    values.chain(statics).chain(words.card_ends.iter().map(|end| hour_word(*end))).collect()
}

fn value_word(parameter: &str, bin: usize) -> String {
    format!("<{parameter}:{bin:02}>")
}

fn static_word(name: &str, level: usize) -> String {
    format!("<{}:{level}>", name.replace(' ', "_"))
}

fn hour_word(end: usize) -> String {
    format!("<hour:{end:02}>")
}

/// Words of what is known on admission; a feature that is 0 (unknown, or another unit) has none.
pub fn static_words(spec: &SignalSpec, features: &[f32]) -> Vec<String> {
    let word = |(name, x): (&String, &f32)| {
        let level = STATIC_EDGES.partition_point(|edge| *edge <= f64::from(*x));
        (*x != 0.0).then(|| static_word(name, level))
    };
    spec.statics.iter().zip(features).filter_map(word).collect()
}

/// The open card of one patient.
#[derive(Debug, Clone)]
pub struct WordState {
    /// Bins closed so far.
    pub bins_closed: usize,
    /// (sum, count) of the scores of each parameter since the card before.
    open: Vec<(f64, u32)>,
}

impl WordState {
    /// Nothing measured yet.
    pub fn new(spec: &SignalSpec) -> Self {
        Self { bins_closed: 0, open: vec![(0.0, 0); spec.parameters.len()] }
    }

    /// Add a score of `SignalSpec::score` to the open card.
    pub fn observe(&mut self, (place, score): (usize, f64)) {
        self.open[place].0 += score;
        self.open[place].1 += 1;
    }

    /// End a bin: the words of a card where one ends here, else none.
    pub fn close_bin(&mut self, words: &WordSpec, spec: &SignalSpec) -> Vec<String> {
        self.bins_closed += 1;
        if words.card_ends.binary_search(&self.bins_closed).is_err() {
            return Vec::new();
        }
        let mut card = Vec::new();
        for (name, (sum, count)) in spec.parameters.iter().zip(&mut self.open) {
            if *count > 0 {
                let mean = *sum / f64::from(*count);
                card.push(value_word(name, EDGES.partition_point(|edge| *edge <= mean)));
            }
            (*sum, *count) = (0.0, 0);
        }
        card.push(hour_word(self.bins_closed));
        card
    }
}
