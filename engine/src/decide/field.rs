//! One typed field of a decision: what the logits of its choices mean.
//!
//! Probabilities are softmax(logits / temperature + bias) over the choices (Guo et al. 2017, arXiv:1706.04599, section
//! 4.2; with a bias: Alexandari et al. 2020, arXiv:1901.06852), or for two choices a line through knots. A choice is in
//! the prediction set where it is at least as probable as a threshold of the calibration split (split conformal
//! prediction, Mondrian groups; see `smallhold.decide.conformal`). Python's twin is `smallhold.decide.plan`.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::decimal;
use crate::error::Result;
use crate::math::{exp_f64, ln_f64};

/// A field with what was fitted on the calibration split.
#[derive(Debug, Clone)]
pub struct Field {
    /// Name.
    pub name: String,
    /// Every allowed value (K).
    pub choices: Vec<String>,
    /// Place of the choice that an alert is about.
    pub positive: usize,
    /// Divides the logits.
    pub temperature: f64,
    /// Added to them afterwards, (K) or none.
    pub bias: Vec<f64>,
    /// For two choices: rising (log-odds, calibrated log-odds) pairs in place of temperature and bias, or none.
    pub knots: Vec<(f64, f64)>,
    /// No choice is given where none is this probable.
    pub abstain_below: f64,
    /// An alert is due where the positive choice is this probable.
    pub alert_threshold: f64,
    /// Groups of the promise; none where there is no promise.
    pub groups: Vec<Group>,
}

/// Thresholds of one group of a promise.
#[derive(Debug, Clone)]
pub struct Group {
    /// For example `6`, the hour.
    pub name: String,
    /// (K) the least probability with which a choice is in the set.
    pub least: Vec<f64>,
}

/// A field answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Place of the choice that is given; `None` is an abstention.
    pub choice: Option<usize>,
    /// (K) calibrated.
    pub probabilities: Vec<f64>,
    /// (K) choices that cannot be excluded at the promised error.
    pub set: Vec<bool>,
    /// The positive choice is probable enough for an alert, whether or not a choice is given.
    pub is_alert: bool,
}

impl Field {
    /// Answer from deciding logits (K); `bins` picks the group where groups are named after bins.
    ///
    /// # Errors
    /// `Malformed`: logits that are no numbers; the weights are damaged.
    pub fn answer(&self, logits: &[f32], bins: Option<usize>) -> Result<Answer> {
        if logits.len() != self.choices.len() || logits.iter().any(|logit| !logit.is_finite()) {
            let (count, got) = (self.choices.len(), decimal::list(logits));
            fail!(Malformed, "field {}: expected {count} finite logits, got {got}", self.name);
        }
        let probabilities = self.calibrate(logits);
        if probabilities.iter().any(|p| !p.is_finite()) {
            let got = decimal::list(logits);
            fail!(Malformed, "field {}: its calibration gives no probabilities of {got}", self.name);
        }
        let top = largest(&probabilities);
        let is_alert = probabilities[self.positive] >= self.alert_threshold;
        let is_probable = probabilities[top] >= self.abstain_below;
        if self.groups.is_empty() {
            let choice = is_probable.then_some(top);
            let set = (0..probabilities.len()).map(|k| choice.is_none() || choice == Some(k)).collect();
            return Ok(Answer { choice, probabilities, set, is_alert });
        }
        let least = self.least(bins);
        let mut set: Vec<bool> = probabilities.iter().zip(&least).map(|(p, least)| p >= least).collect();
        if !set.contains(&true) {
            set[top] = true;
        }
        // Given where it is the only one left and, where a threshold was fitted, says the same as the alert.
        let only = set.iter().position(|is_in| *is_in).filter(|_| set.iter().filter(|is_in| **is_in).count() == 1);
        let agrees = |choice: &usize| self.alert_threshold >= 1.0 || (*choice == self.positive) == is_alert;
        let choice = only.filter(|choice| is_probable && agrees(choice));
        Ok(Answer { choice, probabilities, set, is_alert })
    }

    /// Log-odds of a choice before knots, which would hide effects.
    pub fn log_odds(&self, logits: &[f32], choice: usize) -> f64 {
        let scaled = self.scaled(logits);
        let others = || scaled.iter().enumerate().filter(|(k, _)| *k != choice).map(|(_, x)| *x);
        let most = others().fold(f64::NEG_INFINITY, f64::max);
        scaled[choice] - most - ln_f64(others().map(|x| exp_f64(x - most)).sum())
    }

    fn scaled(&self, logits: &[f32]) -> Vec<f64> {
        let bias = |k: usize| self.bias.get(k).copied().unwrap_or(0.0);
        logits.iter().enumerate().map(|(k, logit)| f64::from(*logit) / self.temperature + bias(k)).collect()
    }

    fn calibrate(&self, logits: &[f32]) -> Vec<f64> {
        let scaled = if self.knots.is_empty() {
            self.scaled(logits)
        } else {
            let margin = f64::from(logits[self.positive]) - f64::from(logits[1 - self.positive]);
            let mut scaled = vec![0.0; 2];
            scaled[self.positive] = interpolate(&self.knots, margin);
            scaled
        };
        let most = scaled[largest(&scaled)];
        let weights: Vec<f64> = scaled.iter().map(|x| exp_f64(x - most)).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    /// Thresholds in force after so many bins: those of the newest group that is not later, or of all groups at once.
    fn least(&self, bins: Option<usize>) -> Vec<f64> {
        let hour = |name: &str| name.parse().ok().filter(|hour: &usize| alloc::format!("{hour}") == name);
        let hours: Option<Vec<usize>> = self.groups.iter().map(|group| hour(&group.name)).collect();
        if let (Some(hours), Some(bins)) = (hours, bins) {
            let newest = (0..hours.len()).filter(|i| hours[*i] <= bins).max_by_key(|i| hours[*i]);
            if let Some(i) = newest.or_else(|| (0..hours.len()).min_by_key(|i| hours[*i])) {
                return self.groups[i].least.clone();
            }
        }
        let least = |k| self.groups.iter().map(|group| group.least[k]).fold(f64::INFINITY, f64::min);
        (0..self.choices.len()).map(least).collect()
    }
}

/// Place of the largest number, the first of equals.
pub fn largest(numbers: &[f64]) -> usize {
    (1..numbers.len()).fold(0, |top, i| if numbers[i] > numbers[top] { i } else { top })
}

/// A line through points of rising x, constant outside them.
pub fn interpolate(points: &[(f64, f64)], x: f64) -> f64 {
    let after = points.partition_point(|point| point.0 <= x);
    match (after.checked_sub(1).map(|i| points[i]), points.get(after)) {
        (None, _) => points.first().map_or(0.0, |point| point.1),
        (Some(last), None) => last.1,
        (Some((x0, y0)), Some(_)) if x0 == x => y0,
        (Some((x0, y0)), Some((x1, y1))) => (y1 - y0) / (x1 - x0) * (x - x0) + y0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;

    fn field(groups: &[(&str, [f64; 2])], alert_threshold: f64) -> Field {
        Field {
            name: "death".to_owned(),
            choices: vec!["no".to_owned(), "yes".to_owned()],
            positive: 1,
            temperature: 2.0,
            bias: Vec::new(),
            knots: Vec::new(),
            abstain_below: 0.0,
            alert_threshold,
            groups: groups
                .iter()
                .map(|(name, least)| Group { name: (*name).to_owned(), least: least.to_vec() })
                .collect(),
        }
    }

    #[test]
    fn a_choice_is_given_where_it_alone_is_left_and_agrees_with_the_alert() {
        let asked = |field: &Field, margin: f32, bins| field.answer(&[0.0, margin], bins).unwrap();
        let plain = asked(&field(&[], 1.0), 2.0, None);
        assert!((plain.probabilities[1] - 0.731_058_578_630_004_9).abs() < 1e-12);
        assert_eq!((plain.choice, plain.set), (Some(1), vec![false, true]));
        let promised = field(&[("6", [0.7, 0.2]), ("12", [0.5, 0.4])], 0.3);
        // 6 h: p(yes) .27 is in, p(no) .73 is in; 12 h and later: only `no`, and no alert is due.
        assert_eq!(asked(&promised, -2.0, Some(6)).choice, None);
        assert_eq!(asked(&promised, -2.0, Some(6)).set, [true, true]);
        assert_eq!(asked(&promised, -2.0, Some(1)).set, [true, true]);
        assert_eq!(asked(&promised, -2.0, Some(47)).choice, Some(0));
        assert_eq!(asked(&promised, -2.0, None).set, [true, true]);
        // p(yes) .38 would be excluded at 12 h, but an alert is due: no choice is given, and the alert stands.
        let alarmed = asked(&promised, -1.0, Some(12));
        assert_eq!((alarmed.choice, alarmed.is_alert), (None, true));
    }

    #[test]
    fn knots_stand_in_for_the_temperature() {
        let mut knotted = field(&[], 1.0);
        knotted.knots = vec![(-1.0, -4.0), (1.0, 0.0), (3.0, 1.0)];
        let p = |margin: f32| knotted.answer(&[1.0, 1.0 + margin], None).unwrap().probabilities[1];
        let sigmoid = |x: f64| 1.0 / (1.0 + exp_f64(-x));
        for (margin, calibrated) in [(-9.0, -4.0), (0.0, -2.0), (1.0, 0.0), (2.0, 0.5), (9.0, 1.0)] {
            assert!((p(margin) - sigmoid(calibrated)).abs() < 1e-12, "{margin}");
        }
    }

    #[test]
    fn odds_are_against_all_others_together() {
        let odds = field(&[], 1.0).log_odds(&[1.0, 5.0], 1);
        assert!((odds - 2.0).abs() < 1e-12);
        let mut three = field(&[], 1.0);
        three.choices.push("maybe".to_owned());
        three.temperature = 1.0;
        assert!((three.log_odds(&[0.0, 0.0, 0.0], 0) + core::f64::consts::LN_2).abs() < 1e-12);
        assert!(field(&[], 1.0).answer(&[f32::NAN, 0.0], None).is_err());
    }
}
