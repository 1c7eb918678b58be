//! Keys and values of the positions that a session holds, in pages that sessions share until one of them writes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::error::Result;
use crate::kernels::scalar::to_nearest;
use crate::memory;
use crate::model::Config;
use crate::spare::Spare;

/// Positions of a page.
pub const PAGE: usize = 32;

/// Bytes of pages that are kept for the next session.
const MOST_SPARE: usize = 1 << 24;

/// A page: keys (hd, PAGE) and values (PAGE, hd) of every layer and head, (L, 2, KV, PAGE * hd).
struct Page {
    numbers: Numbers,
    spare: Arc<Pages>,
}

/// Numbers as they are, or 8-bit integers and a step for each vector of a head.
enum Numbers {
    Exact(Vec<f32>),
    Rounded { integers: Vec<i8>, steps: Vec<f32> },
}

/// Pages of a model that no session holds. What a page held before stays there, and is written over before it is read.
pub struct Pages {
    spare: Spare<Numbers>,
    /// Vectors of a page.
    vectors: usize,
    head_dim: usize,
    is_rounded: bool,
}

impl Pages {
    /// None so far, of a shape; numbers in them are rounded to 8 bits or not.
    pub fn new(config: &Config, is_rounded: bool) -> Self {
        let parts = [config.layers, 2, config.kv_heads, PAGE];
        let (vectors, head_dim) = (parts.into_iter().fold(1, usize::saturating_mul), config.head_dim);
        let mut found = Self { spare: Spare::new(0), vectors, head_dim, is_rounded };
        found.spare = Spare::new(MOST_SPARE / found.bytes());
        found
    }

    /// Bytes of a page.
    fn bytes(&self) -> usize {
        self.vectors.saturating_mul(match self.is_rounded {
            true => self.head_dim + size_of::<f32>(),
            false => self.head_dim.saturating_mul(size_of::<f32>()),
        })
    }

    fn take(&self) -> Result<Numbers> {
        if let Some(numbers) = self.spare.take() {
            return Ok(numbers);
        }
        let len = self.vectors.saturating_mul(self.head_dim);
        Ok(match self.is_rounded {
            true => Numbers::Rounded { integers: memory::filled(0, len)?, steps: memory::filled(0.0, self.vectors)? },
            false => Numbers::Exact(memory::filled(0.0, len)?),
        })
    }
}

impl Page {
    fn new(spare: &Arc<Pages>) -> Result<Self> {
        Ok(Self { numbers: spare.take()?, spare: spare.clone() })
    }

    fn copied(&self) -> Result<Self> {
        let mut copy = Self::new(&self.spare)?;
        match (&mut copy.numbers, &self.numbers) {
            (Numbers::Exact(to), Numbers::Exact(from)) => to.copy_from_slice(from),
            (Numbers::Rounded { integers, steps }, Numbers::Rounded { integers: i, steps: s }) => {
                integers.copy_from_slice(i);
                steps.copy_from_slice(s);
            }
            _ => unreachable!("pages of one cache are of one kind"),
        }
        Ok(copy)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.spare.spare.put(core::mem::replace(&mut self.numbers, Numbers::Exact(Vec::new())));
    }
}

/// The cache of one session. A fork shares all pages; whoever writes first copies the one it writes to.
#[derive(Clone)]
pub struct Cache {
    pages: Vec<Arc<Page>>,
    kv_heads: usize,
    spare: Arc<Pages>,
}

/// Which half of a page.
#[derive(Clone, Copy)]
pub enum Half {
    /// Keys, turned by their positions; a dimension of all positions lies together.
    Keys,
    /// Values.
    Values,
}

impl Cache {
    /// An empty cache that takes pages from the spare ones.
    pub fn new(config: &Config, spare: &Arc<Pages>) -> Self {
        Self { pages: Vec::new(), kv_heads: config.kv_heads, spare: spare.clone() }
    }

    /// Bytes of all pages, shared ones included.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.spare.bytes()
    }

    /// Make the pages of positions `from..to` present and this session's own.
    ///
    /// # Errors
    /// `Memory`: the system has not so much; the positions below `from` are as they were.
    pub fn reserve(&mut self, from: usize, to: usize) -> Result<()> {
        while self.pages.len() * PAGE < to {
            memory::push(&mut self.pages, Arc::new(Page::new(&self.spare)?))?;
        }
        if to > from {
            for page in &mut self.pages[from / PAGE..to.div_ceil(PAGE)] {
                if Arc::get_mut(page).is_none() {
                    *page = Arc::new(page.copied()?);
                }
            }
        }
        Ok(())
    }

    /// Let go of pages that hold no position below `length`.
    pub fn truncate(&mut self, length: usize) {
        self.pages.truncate(length.div_ceil(PAGE));
    }

    /// Write keys or values (n, KV, hd) of positions from `first` on, whose pages are this session's own.
    pub fn write(&mut self, layer: usize, half: Half, first: usize, numbers: &[f32]) {
        let (width, start) = (self.spare.head_dim, self.first_vector(layer, half, 0));
        for (i, heads) in numbers.chunks_exact(self.kv_heads * width).enumerate() {
            let position = first + i;
            let Some(page) = Arc::get_mut(&mut self.pages[position / PAGE]) else {
                unreachable!("reserve made the page this session's own");
            };
            let page = &mut page.numbers;
            for (head, from) in heads.chunks_exact(width).enumerate() {
                let (first, at) = (start + head * PAGE, position % PAGE);
                let block = first * width..(first + PAGE) * width;
                match page {
                    Numbers::Exact(numbers) => put(half, at, &mut numbers[block], from.iter().copied()),
                    Numbers::Rounded { integers, steps } => {
                        let (step, inverse) = step_of(from);
                        steps[first + at] = step;
                        put(half, at, &mut integers[block], from.iter().map(|x| to_nearest(x * inverse)));
                    }
                }
            }
        }
    }

    /// Numbers of the room that `read` needs.
    pub fn room(&self) -> usize {
        if self.spare.is_rounded {
            PAGE * self.spare.head_dim
        } else {
            0
        }
    }

    /// The keys (hd, PAGE) or first `count` values (count, hd) of one head in one page; rounded ones are widened into
    /// `room`. Keys behind the first `count` are whatever was there before.
    pub fn read<'a>(
        &'a self,
        layer: usize,
        half: Half,
        head: usize,
        page: usize,
        count: usize,
        room: &'a mut [f32],
    ) -> &'a [f32] {
        let (width, start) = (self.spare.head_dim, self.first_vector(layer, half, head));
        let len = match half {
            Half::Keys => PAGE * width,
            Half::Values => count * width,
        };
        match &self.pages[page].numbers {
            Numbers::Exact(numbers) => &numbers[start * width..][..len],
            Numbers::Rounded { integers, steps } => {
                let (integers, steps) = (&integers[start * width..][..len], &steps[start..start + PAGE]);
                match half {
                    Half::Keys => {
                        for (out, integers) in room.chunks_exact_mut(PAGE).zip(integers.chunks_exact(PAGE)) {
                            for ((slot, integer), step) in out.iter_mut().zip(integers).zip(steps) {
                                *slot = f32::from(*integer) * step;
                            }
                        }
                    }
                    Half::Values => {
                        let vectors = room.chunks_exact_mut(width).zip(integers.chunks_exact(width));
                        for ((out, integers), step) in vectors.zip(steps) {
                            for (slot, integer) in out.iter_mut().zip(integers) {
                                *slot = f32::from(*integer) * step;
                            }
                        }
                    }
                }
                &room[..len]
            }
        }
    }

    fn first_vector(&self, layer: usize, half: Half, head: usize) -> usize {
        ((layer * 2 + half as usize) * self.kv_heads + head) * PAGE
    }
}

/// Write one position's numbers (hd,) into its places of a head in a page.
fn put<T>(half: Half, position: usize, page: &mut [T], numbers: impl ExactSizeIterator<Item = T>) {
    let width = numbers.len();
    match half {
        Half::Keys => page[position..].iter_mut().step_by(PAGE).zip(numbers).for_each(|(slot, x)| *slot = x),
        Half::Values => page[position * width..].iter_mut().zip(numbers).for_each(|(slot, x)| *slot = x),
    }
}

/// The step by which a vector's largest number becomes 127 or -127, and its inverse.
fn step_of(numbers: &[f32]) -> (f32, f32) {
    let step = numbers.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0;
    (step, if step > 0.0 { 1.0 / step } else { 0.0 })
}
