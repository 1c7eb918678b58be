//! Keys and values of the positions that a session holds, in pages that sessions share until one of them writes.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::model::Config;
use crate::spare::Spare;

/// Positions of a page.
pub const PAGE: usize = 32;

/// Bytes of pages that are kept for the next session.
const MOST_SPARE: usize = 1 << 24;

/// A page: keys and values of every layer and head, (L, 2, KV, PAGE, hd).
struct Page {
    numbers: Vec<f32>,
    spare: Arc<Pages>,
}

/// Pages of a model that no session holds. What a page held before stays there, and is written over before it is read.
pub type Pages = Spare<Vec<f32>>;

/// None so far, of a shape.
pub fn pages(config: &Config) -> Pages {
    Spare::new(MOST_SPARE / (page_len(config) * size_of::<f32>()))
}

fn page_len(config: &Config) -> usize {
    config.layers * 2 * config.kv_heads * PAGE * config.head_dim
}

impl Page {
    fn new(len: usize, spare: &Arc<Pages>) -> Self {
        Self { numbers: spare.take().unwrap_or_else(|| vec![0.0; len]), spare: spare.clone() }
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.numbers.len(), &self.spare);
        copy.numbers.copy_from_slice(&self.numbers);
        copy
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.spare.put(core::mem::take(&mut self.numbers));
    }
}

/// The cache of one session. A fork shares all pages; whoever writes first copies the one it writes to.
#[derive(Clone)]
pub struct Cache {
    pages: Vec<Arc<Page>>,
    kv_heads: usize,
    head_dim: usize,
    page_len: usize,
    spare: Arc<Pages>,
}

/// Which half of a page.
#[derive(Clone, Copy)]
pub enum Half {
    /// Keys, turned by their positions.
    Keys,
    /// Values.
    Values,
}

impl Cache {
    /// An empty cache that takes pages from the spare ones.
    pub fn new(config: &Config, spare: &Arc<Pages>) -> Self {
        let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
        Self { pages: Vec::new(), kv_heads, head_dim, page_len: page_len(config), spare: spare.clone() }
    }

    /// Bytes of all pages, shared ones included.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.page_len * core::mem::size_of::<f32>()
    }

    /// Make the pages of positions `from..to` present and this session's own.
    pub fn reserve(&mut self, from: usize, to: usize) {
        while self.pages.len() * PAGE < to {
            self.pages.push(Arc::new(Page::new(self.page_len, &self.spare)));
        }
        if to > from {
            for page in &mut self.pages[from / PAGE..to.div_ceil(PAGE)] {
                Arc::make_mut(page);
            }
        }
    }

    /// Let go of pages that hold no position below `length`.
    pub fn truncate(&mut self, length: usize) {
        self.pages.truncate(length.div_ceil(PAGE));
    }

    /// Write keys or values (n, KV, hd) of positions from `first` on, whose pages are this session's own.
    pub fn write(&mut self, layer: usize, half: Half, first: usize, numbers: &[f32]) {
        let (head_dim, start) = (self.head_dim, self.start(layer, half, 0));
        for (i, heads) in numbers.chunks_exact(self.kv_heads * head_dim).enumerate() {
            let position = first + i;
            let page =
                &mut Arc::make_mut(&mut self.pages[position / PAGE]).numbers[start + position % PAGE * head_dim..];
            for (head, numbers) in heads.chunks_exact(head_dim).enumerate() {
                let at = head * PAGE * head_dim;
                page[at..at + head_dim].copy_from_slice(numbers);
            }
        }
    }

    /// Keys or values (PAGE, hd) of one head in one page.
    pub fn read(&self, layer: usize, half: Half, head: usize, page: usize) -> &[f32] {
        let start = self.start(layer, half, head);
        &self.pages[page].numbers[start..start + PAGE * self.head_dim]
    }

    fn start(&self, layer: usize, half: Half, head: usize) -> usize {
        ((layer * 2 + half as usize) * self.kv_heads + head) * PAGE * self.head_dim
    }
}
