//! Keys and values of the positions that a session holds, in pages that sessions share until one of them writes.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::model::Config;

/// Positions of a page.
pub const PAGE: usize = 32;

/// A page: keys and values of every layer and head, (L, 2, KV, PAGE, hd).
#[derive(Clone)]
struct Page(Vec<f32>);

/// The cache of one session. A fork shares all pages; whoever writes first copies the one it writes to.
#[derive(Clone)]
pub struct Cache {
    pages: Vec<Arc<Page>>,
    kv_heads: usize,
    head_dim: usize,
    page_len: usize,
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
    /// An empty cache.
    pub fn new(config: &Config) -> Self {
        let page_len = config.layers * 2 * config.kv_heads * PAGE * config.head_dim;
        Self { pages: Vec::new(), kv_heads: config.kv_heads, head_dim: config.head_dim, page_len }
    }

    /// Bytes of all pages, shared ones included.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.page_len * core::mem::size_of::<f32>()
    }

    /// Make the pages of positions `from..to` present and this session's own.
    pub fn reserve(&mut self, from: usize, to: usize) {
        while self.pages.len() * PAGE < to {
            self.pages.push(Arc::new(Page(vec![0.0; self.page_len])));
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
            let page = &mut Arc::make_mut(&mut self.pages[position / PAGE]).0[start + position % PAGE * head_dim..];
            for (head, numbers) in heads.chunks_exact(head_dim).enumerate() {
                let at = head * PAGE * head_dim;
                page[at..at + head_dim].copy_from_slice(numbers);
            }
        }
    }

    /// Keys or values (PAGE, hd) of one head in one page.
    pub fn read(&self, layer: usize, half: Half, head: usize, page: usize) -> &[f32] {
        let start = self.start(layer, half, head);
        &self.pages[page].0[start..start + PAGE * self.head_dim]
    }

    fn start(&self, layer: usize, half: Half, head: usize) -> usize {
        ((layer * 2 + half as usize) * self.kv_heads + head) * PAGE * self.head_dim
    }
}
