//! The signal encoder: one bin's channels to one embedding for the trunk.
//!
//! h = A [x, relu(x - k), relu(-x - k), |x|] + a;  e = h + D silu(U h + u) + d;  prefix = S s + b. Python's twin is
//! `decide/signal_encoder.py`; its weights lie in a file of their own (`bundle/gguf.py`). They are few, so they are
//! widened once, and nothing is rounded on the way.

use alloc::vec::Vec;

use crate::error::Result;
use crate::gguf::{Encoding, Gguf, TensorInfo};
use crate::kernels::{scalar, Kernels, Weights};
use crate::memory;

/// Knee of the hinge basis, in standard deviations of the rank-Gauss scale.
const HINGE: f32 = 0.7;
const MOST_CHANNELS: usize = 1 << 16;

struct Linear {
    inputs: usize,
    /// (O, I) as float32 in the file's byte order.
    bytes: Vec<u8>,
    bias: Vec<f32>,
}

/// The encoder of one task.
pub struct SignalEncoder {
    /// C, channels of a bin.
    pub channels: usize,
    /// S, static features.
    pub statics: usize,
    /// D.
    pub width: usize,
    kernels: &'static Kernels,
    basis: Linear,
    up: Linear,
    down: Linear,
    prefix: Linear,
}

impl SignalEncoder {
    /// Read a weight file.
    ///
    /// # Errors
    /// `Malformed`: not such a file, or shapes contradict each other.
    pub fn load(data: &[u8], kernels: &'static Kernels) -> Result<Self> {
        let file = Gguf::parse(data)?;
        if file.text("general.architecture") != Some("smallhold-signal") {
            let got = file.text("general.architecture");
            fail!(Malformed, "signal encoder: expected the architecture smallhold-signal, got {got:?}");
        }
        let channels = file.size("smallhold.signal.channels", MOST_CHANNELS)?;
        let Some(basis) = file.tensors.get("basis.weight") else { fail!(Malformed, "the file lacks basis.weight") };
        let width = basis.rows;
        let Some(prefix) = file.tensors.get("static.weight") else { fail!(Malformed, "the file lacks static.weight") };
        let statics = prefix.columns;
        let read = |name, inputs, outputs| linear(&file, data, name, inputs, outputs);
        Ok(Self {
            channels,
            statics,
            width,
            kernels,
            basis: read("basis", 4 * channels, width)?,
            up: read("up", width, 2 * width)?,
            down: read("down", 2 * width, width)?,
            prefix: read("static", statics, width)?,
        })
    }

    /// Embeddings (T, D) of channels (T, C).
    ///
    /// # Errors
    /// `Shape`: not whole rows of channels.
    pub fn bins(&self, channels: &[f32]) -> Result<Vec<f32>> {
        if !channels.len().is_multiple_of(self.channels) {
            fail!(Shape, "channels: {} numbers are not whole rows of {}", channels.len(), self.channels);
        }
        let mut basis = memory::room(channels.len().saturating_mul(4))?;
        for row in channels.chunks_exact(self.channels) {
            basis.extend_from_slice(row);
            basis.extend(row.iter().map(|x| (x - HINGE).max(0.0)));
            basis.extend(row.iter().map(|x| (-x - HINGE).max(0.0)));
            basis.extend(row.iter().map(|x| x.abs()));
        }
        let mut h = self.apply(&self.basis, &basis)?;
        let mut gate = self.apply(&self.up, &h)?;
        let ones = memory::filled(1.0, gate.len())?;
        (self.kernels.gate)(&mut gate, &ones);
        for (slot, more) in h.iter_mut().zip(self.apply(&self.down, &gate)?) {
            *slot += more;
        }
        Ok(h)
    }

    /// Embedding (D,) of static features (S,).
    ///
    /// # Errors
    /// `Shape`: another number of features.
    pub fn prefix(&self, features: &[f32]) -> Result<Vec<f32>> {
        if features.len() != self.statics {
            fail!(Shape, "static features: expected {}, got {}", self.statics, features.len());
        }
        self.apply(&self.prefix, features)
    }

    fn apply(&self, layer: &Linear, x: &[f32]) -> Result<Vec<f32>> {
        let weights = Weights::new(Encoding::F32, layer.inputs, &layer.bytes);
        let mut out = memory::filled(0.0, (x.len() / layer.inputs).saturating_mul(layer.bias.len()))?;
        (self.kernels.multiply)(weights, x, &mut out);
        for row in out.chunks_exact_mut(layer.bias.len()) {
            for (slot, more) in row.iter_mut().zip(&layer.bias) {
                *slot += more;
            }
        }
        Ok(out)
    }
}

/// A matrix (O, I) and its bias; quantized matrices were padded with zero columns up to a whole group.
fn linear(file: &Gguf, data: &[u8], name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
    let (weight, bias) = (alloc::format!("{name}.weight"), alloc::format!("{name}.bias"));
    let (Some(matrix), Some(vector)) = (file.tensors.get(&weight), file.tensors.get(&bias)) else {
        fail!(Malformed, "the file lacks {weight} or {bias}")
    };
    if matrix.rows != outputs || matrix.columns < inputs || (vector.rows, vector.columns) != (1, outputs) {
        let (rows, columns, numbers) = (matrix.rows, matrix.columns, vector.columns);
        fail!(Malformed, "{name}: expected ({outputs}, {inputs}) and {outputs}, got ({rows}, {columns}) and {numbers}");
    }
    let weights =
        |info: &TensorInfo| Weights::new(info.encoding, info.columns, &data[info.start..info.start + info.len]);
    let mut row = memory::filled(0.0, matrix.columns)?;
    let mut bytes = memory::room(outputs.saturating_mul(inputs).saturating_mul(4))?;
    for place in 0..outputs {
        scalar::widen(weights(matrix), place, &mut row);
        bytes.extend(row[..inputs].iter().flat_map(|x| x.to_le_bytes()));
    }
    let mut bias = memory::filled(0.0, outputs)?;
    scalar::widen(weights(vector), 0, &mut bias);
    Ok(Linear { inputs, bytes, bias })
}
