//! What is fast: products of matrices, attention's inner loops, and the functions applied to every number.
//!
//! One file a processor family; `scalar` says what each kernel computes and is the slow twin in the tests. A family is
//! a table of functions, chosen once when a model is loaded. Whatever tile a kernel works in, one output is always
//! summed in one order, so that a prompt computed in pieces gives the same bits as the whole.

use alloc::vec::Vec;

use crate::gguf::Encoding;

#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_endian = "little", target_feature = "neon")
))]
mod attention;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod avx2;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod avx512;
#[cfg(all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"))]
mod neon;
pub mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;
#[cfg(all(feature = "std", not(target_family = "wasm")))]
mod team;
#[cfg(all(feature = "std", not(target_family = "wasm")))]
pub use team::Team;

/// Weights in a group that share a step, in the file and in rounded activations.
pub const GROUP: usize = 32;

/// Rows of activations, rounded to 8 bits for products with quantized weights.
///
/// Every group of a row has a step of its own: no row depends on another, so chunks do not change the result.
#[derive(Debug, Default, Clone)]
pub struct Rounded {
    /// Integers, (T, I).
    pub values: Vec<i8>,
    /// Steps, (T, I / 32).
    pub steps: Vec<f32>,
    /// Sums of the integers of each group, (T, I / 32); of the families that need them alone.
    pub sums: Vec<i32>,
    /// The integers in 16 bits, (T, I); of the families that need them alone.
    pub words: Vec<i16>,
    /// Whether these are the rows that are being multiplied; matrices that read the same rows share one rounding.
    pub is_current: bool,
}

/// A matrix (O, I) as it lies in the file, or as a family has arranged it.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// How its numbers are written.
    pub encoding: Encoding,
    /// I.
    pub columns: usize,
    /// Its rows, one behind the other; or its blocks of rows, see `Arrange`.
    pub bytes: &'a [u8],
    rows: usize,
}

impl<'a> Weights<'a> {
    /// A matrix of all the rows in its bytes.
    pub fn new(encoding: Encoding, columns: usize, bytes: &'a [u8]) -> Self {
        let mut found = Self { encoding, columns, bytes, rows: 0 };
        found.rows = bytes.len() / found.row_bytes();
        found
    }

    /// The first `rows` rows; the last block of an arranged matrix may have room for more.
    pub fn first(self, rows: usize) -> Self {
        debug_assert!(rows <= self.rows);
        Self { rows, ..self }
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        let (numbers, bytes) = self.encoding.block();
        self.columns / numbers * bytes
    }

    /// O.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// How a family wants quantized weights to lie, where not as in the file.
pub struct Arrange {
    /// Rows of a block, which lie mingled; blocks lie one behind the other, and the last is as long as the others.
    pub rows: usize,
    /// Arrange a matrix. `out` has the bytes of its rows, their number rounded up to whole blocks.
    pub fill: fn(weights: Weights<'_>, out: &mut [u8]),
}

/// Bring a matrix into panels of so many rows; rows that the last one lacks are those of the row before. A panel holds,
/// group by group, the integers of its rows, `together` bytes of every row side by side, and then their steps.
#[allow(dead_code)] // not of every target
fn arrange_panels(weights: Weights<'_>, panel_rows: usize, together: usize, out: &mut [u8]) {
    let (stride, rows, block) = (weights.row_bytes(), weights.rows(), weights.encoding.block().1);
    for (p, panel) in out.chunks_exact_mut(panel_rows * stride).take(rows.div_ceil(panel_rows)).enumerate() {
        for r in 0..panel_rows {
            let start = (p * panel_rows + r).min(rows - 1) * stride;
            let row = weights.bytes[start..start + stride].chunks_exact(block);
            for (to, from) in panel.chunks_exact_mut(panel_rows * block).zip(row) {
                let (integers, steps) = to.split_at_mut(panel_rows * (block - 2));
                steps[2 * r..2 * r + 2].copy_from_slice(&from[..2]);
                for (to, from) in integers.chunks_exact_mut(together * panel_rows).zip(from[2..].chunks_exact(together))
                {
                    to[together * r..together * (r + 1)].copy_from_slice(from);
                }
            }
        }
    }
}

/// A query of a page of keys and values: where it begins among the queries, as its sum among the sums, and where its
/// weights for the page begin.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Of hd numbers.
    pub numbers: usize,
    /// Of PAGE numbers.
    pub weights: usize,
}

/// A loop over a page of keys or values: what every row reads, the page, the rows, how much of the page they see, and what
/// is written.
pub type Attention = fn(from: &[f32], page: &[f32], rows: &[Row], seen: usize, to: &mut [f32]);

/// The functions of one processor family.
pub struct Kernels {
    /// Of the family.
    pub name: &'static str,
    /// What `multiply_rounded` expects of its weights; `None`: that they lie as in the file.
    pub arrange: Option<Arrange>,
    /// Round rows (T, I) to 8 bits; I a multiple of 32.
    pub round: fn(rows: &[f32], columns: usize, out: &mut Rounded),
    /// Products (T, O) of rounded rows with weights in Q8_0 or Q4_0.
    pub multiply_rounded: fn(weights: Weights<'_>, rows: &Rounded, out: &mut [f32]),
    /// Products (T, O) of rows (T, I) with weights in F32 or F16.
    pub multiply: fn(weights: Weights<'_>, rows: &[f32], out: &mut [f32]),
    /// Products of the query (hd,) of every row with the first `seen` keys of a page (hd, PAGE), to the row's weights; what
    /// lies behind them in the page is written over.
    pub scores: Attention,
    /// Add `seen` values (seen, hd), each by its weight, to the sum (hd,) of every row.
    pub add_weighted: Attention,
    /// Softmax of scores (N,) times a scale, in place.
    pub softmax: fn(scores: &mut [f32], scale: f32),
    /// SiLU of the gate times the other half, in place: gate / (1 + e^-gate) * up.
    pub gate: fn(gate: &mut [f32], up: &[f32]),
    /// Root-mean-square norm of a row (D,) times a gain (D,).
    pub norm: fn(row: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]),
}

/// One thread, where the system knows no others.
#[cfg(not(all(feature = "std", not(target_family = "wasm"))))]
#[derive(Default)]
pub struct Team;

#[cfg(not(all(feature = "std", not(target_family = "wasm"))))]
impl Team {
    /// Stay one thread.
    pub fn grow(&self, _: usize) -> bool {
        true
    }

    /// Threads that can work on a job.
    pub fn size(&self) -> usize {
        1
    }

    /// Do some work on every item.
    pub fn each<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        items.iter_mut().for_each(work);
    }
}

/// The fastest family that this processor has.
pub fn detect() -> &'static Kernels {
    families()[0]
}

/// All families that this processor has, the fastest first; `scalar` last.
pub fn families() -> &'static [&'static Kernels] {
    static BUILT_IN: &[&Kernels] = &[
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        &simd128::KERNELS,
        #[cfg(all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"))]
        &neon::KERNELS,
        &scalar::KERNELS,
    ];
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    {
        static WITH_AVX512: [&Kernels; 3] = [&avx512::KERNELS, &avx2::KERNELS, &scalar::KERNELS];
        static WITH_AVX2: [&Kernels; 2] = [&avx2::KERNELS, &scalar::KERNELS];
        if avx512::is_available() {
            return &WITH_AVX512;
        }
        if avx2::is_available() {
            return &WITH_AVX2;
        }
    }
    #[cfg(all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"))]
    {
        static WITH_DOT_PRODUCT: [&Kernels; 3] = [&neon::WITH_DOT_PRODUCT, &neon::KERNELS, &scalar::KERNELS];
        if neon::has_dot_product() {
            return &WITH_DOT_PRODUCT;
        }
    }
    BUILT_IN
}

/// A family by name, if this processor has it.
pub fn family(name: &str) -> Option<&'static Kernels> {
    families().iter().copied().find(|family| family.name == name)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::cache::PAGE;
    use std::vec;

    /// Numbers in (-1, 1) that are the same on every machine.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn bytes(count: usize, seed: u32) -> Vec<u8> {
        numbers(count, seed).iter().map(|x| (x * 127.0) as i8 as u8).collect()
    }

    /// Blocks of an encoding, with steps of about 0.01.
    fn blocks(encoding: Encoding, rows: usize, columns: usize) -> Vec<u8> {
        let (_, size) = encoding.block();
        let mut found = bytes(rows * columns / GROUP * size, 7);
        for (i, block) in found.chunks_exact_mut(size).enumerate() {
            block[..2].copy_from_slice(&(0x2000_u16 + 13 * (i as u16 % 64)).to_le_bytes());
        }
        found
    }

    fn assert_close(found: &[f32], expected: &[f32], size: f32, what: &str) {
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= 2e-6 * size.max(b.abs()), "{what}: {a} and {b} at {i}");
        }
        assert_eq!(found.len(), expected.len(), "{what}");
    }

    #[test]
    fn every_family_computes_what_the_slow_twin_does() {
        for family in families() {
            for (count, columns, rows) in [(1, 32, 1), (5, 96, 3), (4, 64, 8), (7, 192, 37), (11, 512, 2), (2, 672, 16)]
            {
                let x = numbers(count * columns, 1);
                let (mut ours, mut theirs) = (Rounded::default(), Rounded::default());
                (family.round)(&x, columns, &mut ours);
                scalar::round(&x, columns, &mut theirs);
                assert_eq!((&ours.values, &ours.steps), (&theirs.values, &theirs.steps), "{}", family.name);
                for encoding in [Encoding::Q8_0, Encoding::Q4_0] {
                    let data = blocks(encoding, rows, columns);
                    let weights = Weights::new(encoding, columns, &data);
                    let (mut found, mut expected) = (vec![0.0; count * rows], vec![0.0; count * rows]);
                    scalar::multiply_rounded(weights, &ours, &mut expected);
                    let mut arranged = data.clone();
                    if let Some(how) = &family.arrange {
                        arranged.resize(rows.next_multiple_of(how.rows) * weights.row_bytes(), 0);
                        (how.fill)(weights, &mut arranged);
                    }
                    let weights = Weights::new(encoding, columns, &arranged).first(rows);
                    (family.multiply_rounded)(weights, &ours, &mut found);
                    assert_close(&found, &expected, 1.0, family.name);
                    if ["avx2", "avx512vnni", "neon", "dotprod"].contains(&family.name) {
                        assert_eq!(found, expected, "{}: not the steps of the slow twin", family.name);
                    }
                    // A row alone, and rows in any company, are the same bits.
                    for t in 0..count {
                        let mut alone = Rounded::default();
                        (family.round)(&x[t * columns..(t + 1) * columns], columns, &mut alone);
                        let mut single = vec![0.0; rows];
                        (family.multiply_rounded)(weights, &alone, &mut single);
                        assert_eq!(single, found[t * rows..(t + 1) * rows], "{} {t}", family.name);
                    }
                }
                for encoding in [Encoding::F32, Encoding::F16] {
                    let data: Vec<u8> = match encoding {
                        Encoding::F32 => numbers(rows * columns, 3).iter().flat_map(|x| x.to_le_bytes()).collect(),
                        _ => (0..rows * columns).flat_map(|i| (0x3000 + 13 * (i as u16 % 90)).to_le_bytes()).collect(),
                    };
                    let weights = Weights::new(encoding, columns, &data);
                    let (mut found, mut expected) = (vec![0.0; count * rows], vec![0.0; count * rows]);
                    (family.multiply)(weights, &x, &mut found);
                    scalar::multiply(weights, &x, &mut expected);
                    assert_close(&found, &expected, 8.0, family.name);
                }
            }
        }
    }

    #[test]
    fn every_family_computes_the_small_functions_as_the_slow_twin_does() {
        for family in families() {
            for width in [1, 7, 8, 20, 32, 65] {
                let (a, b) = (numbers(width, 5), numbers(3 * width, 6));
                let (mut found, mut expected) = (b.clone(), b.clone());
                (family.softmax)(&mut found, 3.0);
                scalar::softmax(&mut expected, 3.0);
                assert_close(&found, &expected, 0.1, family.name);
                assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                let (mut found, mut expected) = (a.iter().map(|x| 20.0 * x).collect::<Vec<_>>(), vec![0.0; 0]);
                expected.extend_from_slice(&found);
                (family.gate)(&mut found, &b[..width]);
                scalar::gate(&mut expected, &b[..width]);
                assert_close(&found, &expected, 1.0, family.name);
                let (mut found, mut expected) = (vec![0.0; width], vec![0.0; width]);
                (family.norm)(&a, &b[..width], 1e-5, &mut found);
                scalar::norm(&a, &b[..width], 1e-5, &mut expected);
                assert_close(&found, &expected, 1.0, family.name);
            }
        }
    }

    #[test]
    fn every_family_attends_as_the_slow_twin_does_and_rows_go_together_as_they_like() {
        for family in families() {
            for (width, count) in [(1, 1), (7, 2), (16, 3), (20, 4), (32, 5), (64, 8), (72, 7)] {
                for seen in [1, 7, 16, 17, PAGE] {
                    // Rows in no order, with room between them.
                    let row = |i: usize| Row { numbers: (count - 1 - i) * (width + 3), weights: i * 2 * PAGE };
                    let rows: Vec<Row> = (0..count).map(row).collect();
                    let queries = numbers(count * (width + 3), 5);
                    let (keys, values) = (numbers(width * PAGE, 6), numbers(seen * width, 7));
                    let (mut found, mut expected) = (vec![0.0; 2 * count * PAGE], vec![0.0; 2 * count * PAGE]);
                    (family.scores)(&queries, &keys, &rows, seen, &mut found);
                    scalar::scores(&queries, &keys, &rows, seen, &mut expected);
                    for row in &rows {
                        let one = row.weights..row.weights + seen;
                        assert_close(&found[one.clone()], &expected[one.clone()], 4.0, family.name);
                        let mut alone = vec![0.0; found.len()];
                        (family.scores)(&queries, &keys, &[*row], seen, &mut alone);
                        assert_eq!(alone[one.clone()], found[one], "{}", family.name);
                        assert!(found[row.weights + PAGE..][..PAGE].iter().all(|x| *x == 0.0), "{}", family.name);
                    }
                    let weights = numbers(2 * count * PAGE, 8);
                    let (mut found, mut expected) = (queries.clone(), queries.clone());
                    (family.add_weighted)(&weights, &values, &rows, seen, &mut found);
                    scalar::add_weighted(&weights, &values, &rows, seen, &mut expected);
                    assert_close(&found, &expected, 8.0, family.name);
                    for row in &rows {
                        let mut alone = queries.clone();
                        (family.add_weighted)(&weights, &values, &[*row], seen, &mut alone);
                        let one = row.numbers..row.numbers + width;
                        assert_eq!(alone[one.clone()], found[one], "{}", family.name);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_of_zeros_and_a_huge_one_are_rounded() {
        for family in families() {
            let mut out = Rounded::default();
            let mut row = vec![0.0; 64];
            row[40] = -1e30;
            row[41] = 0.5e30;
            (family.round)(&row, 64, &mut out);
            assert_eq!((out.values[40], out.values[41], out.steps[0]), (-127, 64, 0.0), "{}", family.name);
            assert!(out.values[..32].iter().all(|x| *x == 0));
        }
    }

    #[test]
    fn rows_that_hold_what_is_no_number_are_multiplied_and_their_sums_are_those_of_the_integers() {
        for family in families() {
            for (wrong, scale) in [(f32::NAN, 1.0), (f32::INFINITY, 1.0), (f32::NEG_INFINITY, 1.0), (0.0, 1e-42)] {
                let mut row: Vec<f32> = numbers(64, 3).iter().map(|x| x * scale).collect();
                row[5..9].fill(wrong);
                let mut rounded = Rounded::default();
                (family.round)(&row, 64, &mut rounded);
                let sums = rounded.values.chunks_exact(GROUP).map(|group| group.iter().map(|x| i32::from(*x)).sum());
                let sums: Vec<i32> = sums.collect();
                assert!(rounded.sums.is_empty() || rounded.sums == sums, "{}: {:?}", family.name, rounded.sums);
                for encoding in [Encoding::Q8_0, Encoding::Q4_0] {
                    let data = blocks(encoding, 3, 64);
                    let (weights, mut arranged) = (Weights::new(encoding, 64, &data), data.clone());
                    if let Some(how) = &family.arrange {
                        arranged.resize(3_usize.next_multiple_of(how.rows) * weights.row_bytes(), 0);
                        (how.fill)(weights, &mut arranged);
                    }
                    let weights = Weights::new(encoding, 64, &arranged).first(3);
                    (family.multiply_rounded)(weights, &rounded, &mut [0.0; 3]);
                }
            }
        }
    }

    #[test]
    fn a_block_of_four_bits_is_unpacked_as_the_file_format_says() {
        let mut block = [0_u8; 18];
        block[..2].copy_from_slice(&0x3c00_u16.to_le_bytes()); // 1.0
        block[2] = 0xf0; // weight 0 is 0 - 8, weight 16 is 15 - 8
        let (step, integers) = scalar::unpack(Encoding::Q4_0, &block);
        assert_eq!((step, integers[0], integers[16], integers[1]), (1.0, -8, 7, -8));
    }
}
