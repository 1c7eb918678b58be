//! A model: its shape, and its matrices where they lie in the file.
//!
//! Names and layouts are llama.cpp's. Architectures: `llama` (rows of queries and keys in pairs), `qwen2` (halves, with
//! biases) and `qwen3` (halves, with norms of queries and keys).

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::bytes::{Bytes, Memory};
use crate::cache::Pages;
use crate::error::Result;
use crate::forward::Room;
use crate::gguf::{Encoding, Gguf, TensorInfo};
use crate::kernels::{scalar, Arrange, Kernels, Team, Weights, GROUP};
use crate::math::{cos_sin, exp_f64, ln_f64};
use crate::memory;
use crate::spare::Spare;

/// Bytes that somebody keeps alive: a memory map, or a vector.
pub type Source = Arc<dyn Bytes>;

/// Sizes beyond which a file is taken for damaged.
const MOST: usize = 1 << 20;
const MOST_CONTEXT: usize = 1 << 24;
/// Sessions that have ended whose room the next ones find.
const MOST_ROOMS: usize = 2;
const MOST_THREADS: usize = 256;
/// Turns that are kept, 8 MB: of 65,536 positions of heads of 32. Those of positions beyond are computed when needed.
const MOST_TURNS: usize = 1 << 20;

/// Shape and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Layers.
    pub layers: usize,
    /// Width of the stream (D).
    pub width: usize,
    /// Channels of the gated MLP (F).
    pub mlp: usize,
    /// Query heads (H).
    pub heads: usize,
    /// Key-value heads (KV).
    pub kv_heads: usize,
    /// Width of a head (hd).
    pub head_dim: usize,
    /// Entries of the vocabulary (V).
    pub vocab: usize,
    /// Positions that a session may hold.
    pub context: usize,
    /// Added under the root of every norm.
    pub epsilon: f32,
    /// Channels of a head that turn with the position.
    pub rotary_dim: usize,
    /// Whether neighbours turn together (`llama`) or channel i with channel i + rotary_dim / 2.
    pub is_paired: bool,
}

/// A matrix in the file, or arranged for the kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// O.
    pub rows: usize,
    /// I.
    pub columns: usize,
    encoding: Encoding,
    place: Range<usize>,
    /// Rows of a block, see `Arrange`; 1 in the file.
    block: usize,
}

impl Matrix {
    /// The rows that lie in one block with a row, as a matrix, and the row's number among them.
    pub fn around(&self, row: usize) -> (Self, usize) {
        let first = row / self.block * self.block;
        (self.part(first..self.rows.min(first + self.block)), row - first)
    }

    /// Some of its rows, from the beginning of a block on.
    pub fn part(&self, rows: Range<usize>) -> Self {
        debug_assert!(rows.start.is_multiple_of(self.block) && rows.end <= self.rows);
        let bytes = self.row_bytes();
        let place = rows.start * bytes..rows.end.next_multiple_of(self.block) * bytes;
        Self { rows: rows.len(), place: self.place.start + place.start..self.place.start + place.end, ..self.clone() }
    }

    /// Of its weights.
    pub fn bytes(&self) -> usize {
        self.place.len()
    }

    fn row_bytes(&self) -> usize {
        let (numbers, bytes) = self.encoding.block();
        self.columns / numbers * bytes
    }

    /// Whether products take activations rounded to 8 bits.
    pub fn is_quantized(&self) -> bool {
        matches!(self.encoding, Encoding::Q8_0 | Encoding::Q4_0)
    }
}

/// A matrix with what is added to its products.
#[derive(Debug)]
pub struct Linear {
    /// (O, I).
    pub matrix: Matrix,
    /// (O,), where the family has one.
    pub bias: Option<Vec<f32>>,
}

/// One decoder layer.
#[derive(Debug)]
pub struct Layer {
    /// Gain (D,) of the norm before attention.
    pub attention_norm: Vec<f32>,
    /// (H hd, D).
    pub query: Linear,
    /// (KV hd, D).
    pub key: Linear,
    /// (KV hd, D).
    pub value: Linear,
    /// Gains (hd,) of the norms of queries and keys, where the family has them.
    pub head_norms: Option<(Vec<f32>, Vec<f32>)>,
    /// (D, H hd).
    pub output: Linear,
    /// Gain (D,) of the norm before the MLP.
    pub mlp_norm: Vec<f32>,
    /// (F, D).
    pub gate: Linear,
    /// (F, D).
    pub up: Linear,
    /// (D, F).
    pub down: Linear,
}

/// Everything that sessions share.
pub struct Model {
    /// Shape.
    pub config: Config,
    /// What computes.
    pub kernels: &'static Kernels,
    /// Rows of the vocabulary (V, D).
    pub embedding: Matrix,
    /// (V, D); the embedding again where the head is tied.
    pub head: Matrix,
    /// Gain (D,) of the last norm.
    pub final_norm: Vec<f32>,
    /// In order.
    pub layers: Vec<Layer>,
    /// How far a turning pair turns from one position to the next, in radians, (rotary_dim / 2).
    pub frequencies: Vec<f64>,
    /// Cosine and sine of the first positions and every turning pair, (P, rotary_dim / 2).
    pub turns: Vec<(f32, f32)>,
    /// Of the cache, without a session.
    pages: [Arc<Pages>; 2],
    is_cache_rounded: AtomicBool,
    /// Of the forward pass, without a session.
    pub(crate) rooms: Spare<Vec<Room>>,
    source: Source,
    arranged: Option<Memory>,
    team: Team,
}

impl Model {
    /// Read a model. The weights stay where they are, but for quantized ones that the kernels want arranged.
    ///
    /// # Errors
    /// `Malformed`: a tensor or key is absent, or shapes contradict each other. `Unsupported`: another architecture, or
    /// a tensor that it does not have. `Memory`: no room for arranged weights.
    pub fn load(source: Source, kernels: &'static Kernels) -> Result<Self> {
        let file = Gguf::parse((*source).as_ref())?;
        let mut reader = Reader { file, data: (*source).as_ref(), used: 0 };
        let config = reader.config()?;
        let (width, queries) = (config.width, config.heads * config.head_dim);
        let keys = config.kv_heads * config.head_dim;
        let embedding = reader.matrix("token_embd", config.vocab, width)?;
        let head = match reader.has("output.weight") {
            true => reader.matrix("output", config.vocab, width)?,
            false => embedding.clone(),
        };
        let final_norm = reader.vector("output_norm.weight", width)?;
        let divisors = match reader.has("rope_freqs.weight") {
            true => Some(reader.vector("rope_freqs.weight", config.rotary_dim / 2)?),
            false => None,
        };
        let mut layers = Vec::new();
        for i in 0..config.layers {
            let name = |part: &str| format!("blk.{i}.{part}");
            let head_norms = match reader.has(&name("attn_q_norm.weight")) {
                true => Some((
                    reader.vector(&name("attn_q_norm.weight"), config.head_dim)?,
                    reader.vector(&name("attn_k_norm.weight"), config.head_dim)?,
                )),
                false => None,
            };
            let layer = Layer {
                attention_norm: reader.vector(&name("attn_norm.weight"), width)?,
                query: reader.linear(&name("attn_q"), queries, width)?,
                key: reader.linear(&name("attn_k"), keys, width)?,
                value: reader.linear(&name("attn_v"), keys, width)?,
                head_norms,
                output: reader.linear(&name("attn_output"), width, queries)?,
                mlp_norm: reader.vector(&name("ffn_norm.weight"), width)?,
                gate: reader.linear(&name("ffn_gate"), config.mlp, width)?,
                up: reader.linear(&name("ffn_up"), config.mlp, width)?,
                down: reader.linear(&name("ffn_down"), width, config.mlp)?,
            };
            memory::push(&mut layers, layer)?;
        }
        if reader.used < reader.file.tensors.len() {
            let more = reader.file.tensors.len() - reader.used;
            fail!(Unsupported, "{more} tensors of the file belong to no part of this architecture");
        }
        let base = reader.file.positive(&reader.key("rope.freq_base"), 10_000.0)?;
        let frequencies = frequencies(&config, base, divisors.as_deref())?;
        let turns = turns(&config, &frequencies)?;
        let mut found = Self {
            pages: [false, true].map(|is_rounded| Arc::new(Pages::new(&config, is_rounded))),
            is_cache_rounded: AtomicBool::new(false),
            rooms: Spare::new(MOST_ROOMS),
            config,
            kernels,
            embedding,
            head,
            final_norm,
            layers,
            frequencies,
            turns,
            source,
            arranged: None,
            team: Team::default(),
        };
        if let Some(how) = &kernels.arrange {
            found.arrange(how)?;
        }
        Ok(found)
    }

    /// Bring all quantized matrices that multiply into the kernels' order.
    fn arrange(&mut self, how: &Arrange) -> Result<()> {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            [&mut layer.query, &mut layer.key, &mut layer.value, &mut layer.output, &mut layer.gate, &mut layer.up]
                .into_iter()
                .chain([&mut layer.down])
                .map(|linear| &mut linear.matrix)
        });
        let matrices: Vec<&mut Matrix> =
            layers.chain([&mut self.head]).filter(|matrix| matrix.is_quantized()).collect();
        let bytes = |matrix: &Matrix| matrix.rows.next_multiple_of(how.rows) * matrix.row_bytes();
        let len = matrices.iter().map(|matrix| bytes(matrix)).sum();
        let Some(mut memory) = Memory::of(len) else { fail!(Memory, "the weights need {len} bytes of memory") };
        let (data, mut rest) = ((*self.source).as_ref(), memory.as_mut());
        let mut start = 0;
        for matrix in matrices {
            let (here, behind) = rest.split_at_mut(bytes(matrix));
            (how.fill)(Weights::new(matrix.encoding, matrix.columns, &data[matrix.place.clone()]), here);
            self.source.let_go(matrix.place.clone());
            (matrix.place, matrix.block) = (start..start + here.len(), how.rows);
            (rest, start) = (behind, start + here.len());
        }
        self.arranged = Some(memory);
        Ok(())
    }

    /// Compute with so many threads from now on, the caller among them, or fewer where the system gives no more; the
    /// results are the same bits.
    ///
    /// # Errors
    /// `Shape`: not from 1 to 256, or said before.
    pub fn set_threads(&self, count: usize) -> Result<()> {
        if !(1..=MOST_THREADS).contains(&count) {
            fail!(Shape, "threads: expected 1 to {MOST_THREADS}, got {count}");
        }
        if !self.team.grow(count) {
            fail!(Shape, "threads: their number is said once, and was");
        }
        Ok(())
    }

    /// Round the caches of sessions that begin from now on to 8 bits, each vector of a head by itself, or do not.
    pub fn set_cache_rounded(&self, is_rounded: bool) {
        self.is_cache_rounded.store(is_rounded, Ordering::Relaxed);
    }

    /// Pages for a new session.
    pub(crate) fn pages(&self) -> &Arc<Pages> {
        &self.pages[usize::from(self.is_cache_rounded.load(Ordering::Relaxed))]
    }

    /// Who computes.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// A matrix's weights.
    pub fn weights(&self, matrix: &Matrix) -> Weights<'_> {
        let data = match &self.arranged {
            Some(memory) if matrix.block > 1 => memory.as_ref(),
            _ => (*self.source).as_ref(),
        };
        Weights::new(matrix.encoding, matrix.columns, &data[matrix.place.clone()]).first(matrix.rows)
    }

    /// The embedding of a token (D,).
    pub fn embed(&self, id: u32, out: &mut [f32]) {
        scalar::widen(self.weights(&self.embedding), id as usize, out);
    }
}

fn frequencies(config: &Config, base: f64, divisors: Option<&[f32]>) -> Result<Vec<f64>> {
    memory::collected((0..config.rotary_dim / 2).map(|i| {
        let frequency = exp_f64(-ln_f64(base) * (2 * i) as f64 / config.rotary_dim as f64);
        divisors.map_or(frequency, |divisors| frequency / f64::from(divisors[i]))
    }))
}

fn turns(config: &Config, frequencies: &[f64]) -> Result<Vec<(f32, f32)>> {
    let positions = config.context.min(MOST_TURNS / frequencies.len());
    let mut found = memory::room(positions * frequencies.len())?;
    for position in 0..positions {
        found.extend(frequencies.iter().map(|frequency| turn_of(position, *frequency)));
    }
    Ok(found)
}

/// Cosine and sine of a position.
pub fn turn_of(position: usize, frequency: f64) -> (f32, f32) {
    let (cos, sin) = cos_sin(position as f64 * frequency);
    (cos as f32, sin as f32)
}

struct Reader<'a> {
    file: Gguf,
    data: &'a [u8],
    used: usize,
}

impl Reader<'_> {
    fn key(&self, name: &str) -> alloc::string::String {
        format!("{}.{name}", self.file.text("general.architecture").unwrap_or(""))
    }

    fn config(&self) -> Result<Config> {
        let is_paired = match self.file.text("general.architecture") {
            Some("llama") => true,
            Some("qwen2" | "qwen3") => false,
            other => fail!(Unsupported, "general.architecture: expected llama, qwen2 or qwen3, got {other:?}"),
        };
        let size = |name: &str, most: usize| self.file.size(&self.key(name), most);
        let (width, heads) = (size("embedding_length", MOST)?, size("attention.head_count", MOST)?);
        let kv_heads = size("attention.head_count_kv", MOST)?;
        let head_dim = match self.file.metadata.get(&self.key("attention.key_length")) {
            Some(_) => size("attention.key_length", MOST)?,
            None => width / heads,
        };
        let rotary_dim = match self.file.metadata.get(&self.key("rope.dimension_count")) {
            Some(_) => size("rope.dimension_count", MOST)?,
            None => head_dim,
        };
        let is_too_wide = heads.checked_mul(head_dim).is_none();
        let turns = rotary_dim <= head_dim && rotary_dim % 2 == 0;
        if kv_heads > heads || heads % kv_heads != 0 || head_dim == 0 || !turns || is_too_wide {
            fail!(
                Malformed,
                "impossible heads: {heads} of queries, {kv_heads} of keys, width {head_dim}, of it {rotary_dim} turning"
            );
        }
        let Some(embedding) = self.file.tensors.get("token_embd.weight") else {
            fail!(Malformed, "the file lacks token_embd.weight")
        };
        Ok(Config {
            layers: size("block_count", MOST)?,
            width,
            mlp: size("feed_forward_length", MOST)?,
            heads,
            kv_heads,
            head_dim,
            vocab: embedding.rows,
            context: size("context_length", MOST_CONTEXT)?,
            epsilon: self.file.positive(&self.key("attention.layer_norm_rms_epsilon"), 1e-5)? as f32,
            rotary_dim,
            is_paired,
        })
    }

    fn has(&self, name: &str) -> bool {
        self.file.tensors.contains(name)
    }

    fn info(&mut self, name: &str, rows: usize, columns: usize) -> Result<TensorInfo> {
        let Some(info) = self.file.tensors.get(name) else { fail!(Malformed, "the file lacks {name}") };
        if (info.rows, info.columns) != (rows, columns) {
            fail!(Malformed, "{name}: expected ({rows}, {columns}), got ({}, {})", info.rows, info.columns);
        }
        self.used += 1;
        Ok(info.clone())
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        let info = self.info(&format!("{name}.weight"), rows, columns)?;
        debug_assert!(info.encoding.block().0 == 1 || columns.is_multiple_of(GROUP));
        Ok(Matrix { rows, columns, encoding: info.encoding, place: info.start..info.start + info.len, block: 1 })
    }

    fn linear(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear> {
        let matrix = self.matrix(name, rows, columns)?;
        let bias = match self.has(&format!("{name}.bias")) {
            true => Some(self.vector(&format!("{name}.bias"), rows)?),
            false => None,
        };
        Ok(Linear { matrix, bias })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let info = self.info(name, 1, len)?;
        let bytes = &self.data[info.start..info.start + info.len];
        let mut out = memory::filled(0.0, len)?;
        scalar::widen(Weights::new(info.encoding, len, bytes), 0, &mut out);
        if out.iter().any(|x| !x.is_finite()) {
            fail!(Malformed, "{name}: holds numbers that are not finite");
        }
        Ok(out)
    }
}
