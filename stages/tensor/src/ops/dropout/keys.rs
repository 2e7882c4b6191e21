//! What dropout of a whole pass is drawn from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::samples::{Drawn, Samples, known};
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
        let fits = |samples: &Samples| samples.are(ids);
        known(&self.known, fits, || {
            Samples::new(self.key.clone(), self.layers.clone(), ids)
        })
    }
}
