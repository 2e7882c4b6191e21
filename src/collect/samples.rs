//! How many samples stages make or read, as far as that is known before they run.

use std::collections::BTreeMap;

use dcsft_cache::{Digest, Store};
use dcsft_engine::plan::Plan;
use dcsft_engine::stage::{ArtifactType, Cardinality, Registry};
use dcsft_engine::study::{Node, Study};
use dcsft_stages::data::Dataset;
use rayon::prelude::*;
use serde::Serialize;

/// The input that holds the samples a stage works on.
const DATA: &str = "data";

/// A number of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Samples {
    /// How many.
    pub(crate) count: u64,
    /// What is known about the number.
    pub(crate) basis: Basis,
}

/// What a number of samples is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Basis {
    /// The cached set.
    Result,
    /// The list or the params: records that cannot be used will be left out.
    List,
    /// It is part of a larger set: at most so many.
    Bound,
}

impl Samples {
    /// `9600`, or `≤ 9600`.
    pub(crate) fn text(self) -> String {
        match self.basis {
            Basis::Bound => format!("≤ {}", self.count),
            Basis::Result | Basis::List => self.count.to_string(),
        }
    }
}

/// For each node the samples that it makes, or that it reads where it makes none.
pub(crate) fn samples(
    study: &Study,
    registry: &Registry,
    plan: &Plan,
    store: &Store,
) -> Vec<Option<Samples>> {
    let mut counter = Counter {
        study,
        registry,
        plan,
        store,
        cached: BTreeMap::new(),
        sets: Vec::with_capacity(study.nodes.len()),
    };
    let mut samples = Vec::with_capacity(study.nodes.len());
    for nodes in study.nodes.chunks(AT_ONCE) {
        let planned: Vec<BTreeMap<String, u64>> = nodes
            .par_iter()
            .with_min_len(16)
            .map(|node| counter.planned(node))
            .collect();
        let known = nodes.iter().zip(planned);
        samples.extend(known.map(|(node, planned)| counter.add(node, &planned)));
    }
    samples
}

/// So many stages' numbers are read from their params at once.
const AT_ONCE: usize = 1024;

struct Counter<'a> {
    study: &'a Study,
    registry: &'a Registry,
    plan: &'a Plan,
    store: &'a Store,
    /// Sizes of cached sets.
    cached: BTreeMap<Digest, Option<u64>>,
    /// Of each node so far, the sizes of its sets by output.
    sets: Vec<BTreeMap<String, Samples>>,
}

impl Counter<'_> {
    /// What the params of a stage that has no result say of its outputs.
    fn planned(&self, node: &Node) -> BTreeMap<String, u64> {
        let known = self.plan.node(node.id).state.record().is_some();
        match self.registry.get(&node.kind) {
            Some(kind) if !known => kind.samples(&node.params, &self.study.root),
            _ => BTreeMap::new(),
        }
    }

    fn add(&mut self, node: &Node, planned: &BTreeMap<String, u64>) -> Option<Samples> {
        let read = self.read(node);
        let sets = self.made(node, planned, read);
        // Bins are cut out of what is read; other sets of one stage lie side by side.
        let of_node = match sets.len() {
            0 => read,
            1 => sets.values().next().copied(),
            _ if read.is_some() => read,
            _ => sets.values().copied().reduce(|sum, set| Samples {
                count: sum.count + set.count,
                basis: sum.basis.max(set.basis),
            }),
        };
        self.sets.push(sets);
        of_node
    }

    /// The samples at the input `data`.
    fn read(&self, node: &Node) -> Option<Samples> {
        let kind = self.registry.get(&node.kind)?;
        let one = |name: &str| {
            let mut inputs = kind.decl().inputs.iter();
            inputs.any(|input| input.name == name && input.cardinality == Cardinality::One)
        };
        let (_, references) = node
            .inputs
            .iter()
            .find(|(name, _)| name == DATA && one(name))?;
        let [reference] = references.as_slice() else {
            return None;
        };
        self.sets[reference.node.0].get(&reference.output).copied()
    }

    /// The sets that the node makes.
    fn made(
        &mut self,
        node: &Node,
        planned: &BTreeMap<String, u64>,
        read: Option<Samples>,
    ) -> BTreeMap<String, Samples> {
        let record = self.plan.node(node.id).state.record().cloned();
        let mut sets = BTreeMap::new();
        let outputs = node.outputs.iter();
        for output in outputs.filter(|output| output.artifact == ArtifactType::Dataset) {
            let cached = record
                .as_ref()
                .and_then(|record| record.outputs.get(&output.name))
                .and_then(|made| self.size_of(made.digest));
            let known = |count, basis| Samples { count, basis };
            let samples = cached
                .map(|count| known(count, Basis::Result))
                .or_else(|| {
                    let count = planned.get(&output.name)?;
                    Some(known(*count, Basis::List))
                })
                .or_else(|| read.map(|read| known(read.count, Basis::Bound)));
            if let Some(samples) = samples {
                sets.insert(output.name.clone(), samples);
            }
        }
        sets
    }

    fn size_of(&mut self, digest: Digest) -> Option<u64> {
        *self.cached.entry(digest).or_insert_with(|| {
            let info = Dataset::info_of(&self.store.artifact_files(&digest)).ok()?;
            Some(info.count as u64)
        })
    }
}
