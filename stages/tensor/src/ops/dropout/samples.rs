//! Whose inputs dropout draws for, in all layers of a pass.

use std::sync::{Arc, Mutex, PoisonError};

use super::owner::Owner;
use crate::rng::StreamKey;

/// What goes to a device once, when it is first asked for.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(super) type Sent<const D: usize> =
    std::sync::OnceLock<burn::tensor::Tensor<D, burn::tensor::Int>>;

/// The samples whose rows some layers have, in order.
pub(super) struct Samples {
    key: StreamKey,
    layers: Arc<[Arc<str>]>,
    ids: Vec<Arc<str>>,
    rows: Mutex<Vec<Arc<Rows>>>,
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) sent: Sent<2>,
}

/// How many rows each sample has.
pub(super) struct Rows {
    pub(super) counts: Vec<usize>,
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) sent: Sent<1>,
}

/// What is drawn for one layer's inputs.
#[derive(Clone)]
pub(super) struct Drawn {
    pub(super) samples: Arc<Samples>,
    pub(super) rows: Arc<Rows>,
    /// The layer's place among those of the pass.
    pub(super) layer: usize,
    pub(super) width: usize,
}

/// The one that fits, made where there is none.
pub(super) fn known<T>(
    known: &Mutex<Vec<Arc<T>>>,
    fits: impl Fn(&T) -> bool,
    make: impl FnOnce() -> T,
) -> Arc<T> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(one) = known.iter().find(|one| fits(one)) {
        return one.clone();
    }
    let one = Arc::new(make());
    known.push(one.clone());
    one
}

impl Samples {
    pub(super) fn new(key: StreamKey, layers: Arc<[Arc<str>]>, ids: &[Arc<str>]) -> Self {
        Self {
            key,
            layers,
            ids: ids.to_vec(),
            rows: Mutex::default(),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            sent: Sent::default(),
        }
    }

    pub(super) fn are(&self, ids: &[Arc<str>]) -> bool {
        self.ids == ids
    }

    pub(super) fn rows(&self, counts: &[usize]) -> Arc<Rows> {
        let fits = |rows: &Rows| rows.counts == counts;
        known(&self.rows, fits, || Rows {
            counts: counts.to_vec(),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            sent: Sent::default(),
        })
    }

    /// How many they are.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) fn count(&self) -> usize {
        self.ids.len()
    }

    /// The key of each sample's stream in a layer.
    fn seeds(&self, layer: usize) -> impl Iterator<Item = [u8; 32]> {
        let key = self.key.clone().text(&self.layers[layer]);
        let ids = self.ids.iter();
        ids.map(move |id| key.clone().text(id).seed())
    }

    /// Those of all layers, layer after layer.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) fn all_seeds(&self) -> Vec<[u8; 32]> {
        use rayon::prelude::*;
        let layers = (0..self.layers.len()).into_par_iter();
        layers.flat_map_iter(|layer| self.seeds(layer)).collect()
    }
}

impl Drawn {
    /// Each sample's inputs.
    pub(super) fn owners(&self) -> Vec<Owner> {
        let mut end = 0;
        let seeds = self.samples.seeds(self.layer);
        let owner = |(seed, &count): ([u8; 32], &usize)| {
            let start = end;
            end += (count * self.width) as u64;
            Owner {
                seed,
                inputs: start..end,
            }
        };
        seeds.zip(&self.rows.counts).map(owner).collect()
    }
}

/// Shown by its layer alone.
impl std::fmt::Debug for Drawn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layer = self.samples.layers.get(self.layer);
        f.debug_tuple("Drawn").field(&layer).finish()
    }
}
