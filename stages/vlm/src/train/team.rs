//! Copies of a model on several devices, which work side by side.
//!
//! Where work is cut is the caller's to say and never depends on how many devices there are, and results are taken in the
//! order of the work; so any number of equal devices gives the same bytes.

use burn::tensor::{Device, StreamId};
use dcsft_tensor::params::ParamSet;

use crate::beside::join;
use crate::model::VisionLanguageModel;

/// Copies of what learns, on other devices than the first.
#[derive(Default)]
pub(crate) struct Replicas(Vec<Replica>);

/// One of them.
pub(crate) struct Replica {
    pub(crate) model: Box<dyn VisionLanguageModel>,
    /// The objective's own weights.
    pub(crate) own: Option<ParamSet>,
}

impl Replicas {
    /// A copy on each of `devices`.
    pub(crate) fn new(
        devices: &[Device],
        model: &dyn VisionLanguageModel,
        own: Option<&ParamSet>,
    ) -> Self {
        let replica = |device| Replica {
            model: model.replica(device),
            own: own.map(|own| own.copy_to(device)),
        };
        Self(devices.iter().map(replica).collect())
    }

    /// Takes over what the first has learnt.
    pub(crate) fn follow(&mut self, model: &ParamSet, own: Option<&ParamSet>) {
        for replica in &mut self.0 {
            replica.model.params_mut().follow(model);
            if let (Some(replica), Some(own)) = (&mut replica.own, own) {
                replica.follow(own);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Replica> {
        self.0.iter()
    }
}

/// The same model on one or more devices, the first first.
#[derive(Clone, Copy)]
pub struct Team<'a>(&'a [&'a dyn VisionLanguageModel]);

impl<'a> Team<'a> {
    /// Of at least one model.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(models: &'a [&'a dyn VisionLanguageModel]) -> Self {
        assert!(!models.is_empty(), "a team has at least one model");
        Self(models)
    }

    /// The model that learns.
    pub fn first(&self) -> &'a dyn VisionLanguageModel {
        self.0[0]
    }

    /// Has the models do some pieces of work, each piece by one of them; gives the results in the order of the pieces.
    ///
    /// # Errors
    /// The first in that order.
    pub fn work<P: Sync, R: Send, E: Send>(
        &self,
        pieces: &[P],
        work: impl Fn(&dyn VisionLanguageModel, &P) -> Result<R, E> + Sync,
    ) -> Result<Vec<R>, E> {
        let mut results = Vec::with_capacity(pieces.len());
        for wave in pieces.chunks(self.0.len()) {
            let pairs = self.0.iter().zip(wave).collect();
            for result in side_by_side(pairs, |(model, piece)| work(*model, piece)) {
                results.push(result?);
            }
        }
        Ok(results)
    }
}

/// Does some work side by side, the first of it on this thread; gives the results in order.
pub(crate) fn side_by_side<T: Send, R: Send>(
    pieces: Vec<T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    // A thread's own queue would have memory of its own on the device, and threads come and go here.
    let (queue, work) = (StreamId::current(), &work);
    let mut pieces = pieces.into_iter();
    let Some(first) = pieces.next() else {
        return Vec::new();
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = pieces
            .map(|piece| scope.spawn(move || queue.executes(|| work(piece))))
            .collect();
        let first = work(first);
        [first]
            .into_iter()
            .chain(others.into_iter().map(join))
            .collect()
    })
}
