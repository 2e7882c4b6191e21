//! The walk down the graph: key by key, each looked up in the cache.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dcsft_cache::canonical;
use dcsft_cache::{Digest, Lookups, Record, Store};
use rayon::prelude::*;

use super::node::{NodeState, PlanError, PlanOptions, PlannedNode, fits, is_forced};
use crate::key::{FileDigests, FilesIdentity, KeyError, KeyPreimage, Keys};
use crate::stage::Registry;
use crate::study::{Node, NodeId, Reference, Study};

const PROSPECT_DOMAIN: &str = "dcsft 1 stage that has not run";

/// Plans every node of the study, in its order.
pub(super) fn walk(
    study: &Study,
    registry: &Registry,
    store: &Store,
    options: &PlanOptions,
) -> Result<Vec<PlannedNode>, PlanError> {
    let mut planner = Planner {
        study,
        keys: Keys::new(study, registry, options.arithmetic(registry)),
        store,
        lookups: store.lookups(),
        files: FileDigests::new(store, options.paranoid),
        records: HashMap::new(),
        prospects: HashMap::new(),
        prospect_of: Vec::with_capacity(study.nodes.len()),
        nodes: Vec::with_capacity(study.nodes.len()),
        options,
    };
    for wave in study.waves(usize::MAX) {
        planner.add(wave)?;
    }
    Ok(planner.nodes)
}

struct Planner<'a> {
    study: &'a Study,
    keys: Keys<'a>,
    store: &'a Store,
    lookups: Lookups<'a>,
    options: &'a PlanOptions,
    files: FileDigests<'a>,
    /// Look-ups by key: stages that share a key are looked up once.
    records: HashMap<Digest, Option<Arc<Record>>>,
    /// The first node that does a piece of work.
    prospects: HashMap<Digest, NodeId>,
    prospect_of: Vec<Digest>,
    nodes: Vec<PlannedNode>,
}

/// A node with all that its key takes.
struct Prepared<'a> {
    node: &'a Node,
    files: BTreeMap<String, FilesIdentity>,
    /// None while an input does not exist.
    preimage: Option<KeyPreimage>,
}

impl Prepared<'_> {
    /// None while an input does not exist.
    fn key(&self) -> Result<Option<Digest>, KeyError> {
        let key = self.preimage.as_ref().map(KeyPreimage::digest);
        key.transpose().map_err(KeyError::canonical(self.node))
    }
}

/// A key, and what the cache has for it.
type Found = (Digest, Option<Arc<Record>>);

impl Planner<'_> {
    /// Adds nodes that take nothing from each other. Their keys and look-ups are what planning mostly costs, and
    /// are spread over the threads.
    fn add(&mut self, wave: &[Node]) -> Result<(), PlanError> {
        let prepared: Vec<Prepared> = wave
            .iter()
            .map(|node| self.prepare(node))
            .collect::<Result<_, _>>()?;
        let keys: Vec<Option<Digest>> = prepared
            .par_iter()
            .with_min_len(16)
            .map(Prepared::key)
            .collect::<Result<_, _>>()?;
        let known: Vec<Digest> = keys.iter().flatten().copied().collect();
        self.lookups.bring(&known);
        let found: Vec<Option<Found>> = keys
            .par_iter()
            .with_min_len(16)
            .map(|key| key.map(|key| self.find(key)).transpose())
            .collect::<Result<_, _>>()?;
        for (prepared, found) in prepared.into_iter().zip(found) {
            self.settle(prepared, found)?;
        }
        Ok(())
    }

    fn prepare<'a>(&mut self, node: &'a Node) -> Result<Prepared<'a>, PlanError> {
        let files = self.files.of(node)?;
        let preimage = self
            .keys
            .preimage(node, &files, |reference| self.digest_of(reference))?;
        Ok(Prepared {
            node,
            files,
            preimage,
        })
    }

    fn find(&self, key: Digest) -> Result<Found, PlanError> {
        if let Some(known) = self.records.get(&key) {
            return Ok((key, known.clone()));
        }
        let record = if self.options.paranoid {
            self.store.lookup_verified(&key)?
        } else {
            self.lookups.lookup(&key)?
        };
        Ok((key, record.map(Arc::new)))
    }

    fn settle(&mut self, prepared: Prepared, found: Option<Found>) -> Result<(), PlanError> {
        let Prepared {
            node,
            files,
            preimage,
        } = prepared;
        let (state, prospect) = match preimage.zip(found) {
            Some((preimage, (key, record))) => {
                // Nodes of one wave may share a key: all of them get the one record.
                let record = self.records.entry(key).or_insert(record).clone();
                (self.known(node, key, preimage, record), key)
            }
            None => {
                let prospect = self.prospect(node, &files)?;
                let on = self.missing_parents(node);
                (NodeState::Waits { on }, prospect)
            }
        };
        let first = *self.prospects.entry(prospect).or_insert(node.id);
        self.prospect_of.push(prospect);
        self.nodes.push(PlannedNode {
            state,
            shares: (first != node.id).then_some(first),
            files,
        });
        Ok(())
    }

    fn known(
        &self,
        node: &Node,
        key: Digest,
        preimage: KeyPreimage,
        record: Option<Arc<Record>>,
    ) -> NodeState {
        let forced = is_forced(node, self.options);
        match record.filter(|record| fits(record, node)) {
            Some(record) if !forced => NodeState::Cached { key, record },
            record => NodeState::ToRun {
                key,
                preimage: Box::new(preimage),
                forced: record.is_some(),
            },
        }
    }

    fn digest_of(&self, reference: &Reference) -> Option<Digest> {
        self.nodes[reference.node.0]
            .state
            .record()?
            .outputs
            .get(&reference.output)
            .map(|output| output.digest)
    }

    fn missing_parents(&self, node: &Node) -> Vec<NodeId> {
        let references = node.inputs.iter().flat_map(|(_, references)| references);
        let missing: BTreeSet<NodeId> = references
            .filter(|reference| self.digest_of(reference).is_none())
            .map(|reference| reference.node)
            .collect();
        missing.into_iter().collect()
    }

    /// Stands for the key of a stage whose inputs do not exist yet: equal for stages that ask for the same work
    /// of the same upstream work, so that a plan can say how many executions it comes to.
    fn prospect(
        &self,
        node: &Node,
        files: &BTreeMap<String, FilesIdentity>,
    ) -> Result<Digest, KeyError> {
        let labelled = self.keys.kind(node)?.decl().labelled;
        let inputs: BTreeMap<&str, Vec<_>> = node
            .inputs
            .iter()
            .map(|(name, references)| {
                let identities = references.iter().map(|reference| {
                    let label = labelled.then(|| self.study.label(reference));
                    (self.prospect_of[reference.node.0], &reference.output, label)
                });
                (name.as_str(), identities.collect())
            })
            .collect();
        canonical::digest(PROSPECT_DOMAIN, &(&node.kind, &node.params, files, inputs))
            .map_err(KeyError::canonical(node))
    }
}
