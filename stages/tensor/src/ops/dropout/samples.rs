//! Whose inputs dropout draws for, in all layers of a pass.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::owner::Owner;
use super::{Dropout, Dropped};
use crate::rng::StreamKey;

/// Dropout of a forward pass and of the way back through it. What is drawn for a sample depends on the pass's key, the layer
/// and the sample alone, and is the same on every device. A device is told the keys of all layers at once.
pub struct DropoutKeys {
    key: StreamKey,
    layers: Arc<[Arc<str>]>,
    places: BTreeMap<Arc<str>, usize>,
    known: Mutex<Vec<Arc<Samples>>>,
}

/// The samples whose rows some layers have, in order.
pub(super) struct Samples {
    key: StreamKey,
    layers: Arc<[Arc<str>]>,
    ids: Vec<Arc<str>>,
    rows: Mutex<Vec<Arc<Rows>>>,
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) sent: super::device::Sent<2>,
}

/// How many rows each sample has.
pub(super) struct Rows {
    pub(super) counts: Vec<usize>,
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) sent: super::device::Sent<1>,
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

impl DropoutKeys {
    /// For a pass through `layers`.
    pub fn new(key: &StreamKey, layers: impl IntoIterator<Item = Arc<str>>) -> Self {
        let layers: Arc<[Arc<str>]> = layers.into_iter().collect();
        Self {
            key: key.clone(),
            places: layers.iter().cloned().zip(0..).collect(),
            layers,
            known: Mutex::default(),
        }
    }

    /// Draws which of a layer's inputs are dropped, each with `probability`. `ids` are the samples' IDs in the order of the
    /// batch, and `counts` how many rows of the input are each one's own.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn draw(
        &self,
        layer: &str,
        probability: f64,
        ids: &[Arc<str>],
        counts: &[usize],
        width: usize,
    ) -> Dropout {
        let samples = self.samples(ids);
        let rows = samples.rows(counts);
        let layer = *self.places.get(layer).expect("a layer of the pass");
        Dropout {
            probability,
            dropped: Dropped::Drawn(Drawn {
                samples,
                rows,
                layer,
                width,
            }),
        }
    }

    fn samples(&self, ids: &[Arc<str>]) -> Arc<Samples> {
        let fits = |samples: &Samples| samples.ids == ids;
        known(&self.known, fits, || Samples {
            key: self.key.clone(),
            layers: self.layers.clone(),
            ids: ids.to_vec(),
            rows: Mutex::default(),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            sent: super::device::Sent::default(),
        })
    }
}

/// The one that fits, made where there is none.
fn known<T>(
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
    fn rows(&self, counts: &[usize]) -> Arc<Rows> {
        let fits = |rows: &Rows| rows.counts == counts;
        known(&self.rows, fits, || Rows {
            counts: counts.to_vec(),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            sent: super::device::Sent::default(),
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
