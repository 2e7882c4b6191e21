//! Sets of combinations of axis values, and how they combine.
//!
//! A stage's cells are the natural join of what its own matrix allows, what the experiment's matrix allows,
//! and the cells of the stages it refers to: on axes that two of them share, their values agree.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::axis::{Axis, Matrix, Rule};

/// Most combinations of one stage, and of all stages together.
pub(crate) const MAX_CELLS: usize = 1_000_000;

/// Axes and combinations of the indices of their values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relation {
    /// The axes.
    pub(crate) axes: Vec<Rc<Axis>>,
    /// One index per axis.
    pub(crate) rows: Vec<Vec<u32>>,
}

/// There would be more than [`MAX_CELLS`] combinations.
#[derive(Debug)]
pub(crate) struct TooMany;

impl Relation {
    /// No axes, one combination.
    pub(crate) fn unit() -> Self {
        Self {
            axes: Vec::new(),
            rows: vec![Vec::new()],
        }
    }

    /// What a matrix says about some of its axes: the product of the listed values without the exclusions that
    /// name these axes alone, and what it includes.
    pub(crate) fn of(matrix: &Matrix, axes: Vec<Rc<Axis>>) -> Result<Self, TooMany> {
        let size = axes
            .iter()
            .map(|axis| axis.listed)
            .try_fold(1_usize, usize::checked_mul);
        if size.is_none_or(|size| size > MAX_CELLS) {
            return Err(TooMany);
        }
        let mut rows = vec![Vec::new()];
        for axis in &axes {
            let extend = |row: &Vec<u32>| {
                let row = row.clone();
                (0..axis.listed as u32)
                    .map(move |index| row.iter().copied().chain([index]).collect())
            };
            rows = rows.iter().flat_map(extend).collect();
        }
        let mut relation = Self { axes, rows };
        relation.exclude(&matrix.exclude, &HashSet::new(), &[]);
        let included = relation.included(matrix);
        relation.rows.extend(included);
        relation.dedup();
        Ok(relation)
    }

    /// The combinations that `matrix` includes, as far as its axes are here.
    pub(crate) fn included(&self, matrix: &Matrix) -> Vec<Vec<u32>> {
        let row = |rule: &Rule| {
            let index = |axis: &Rc<Axis>| {
                let (_, values, _) = rule.entries.iter().find(|(name, ..)| *name == axis.name)?;
                axis.position(values.first()?)
            };
            self.axes.iter().map(index).collect::<Option<Vec<u32>>>()
        };
        matrix.include.iter().filter_map(row).collect()
    }

    /// Leaves out what `rules` name, where all axes they name are here; rows whose values at `positions` are in
    /// `keep` stay.
    pub(crate) fn exclude(
        &mut self,
        rules: &[Rule],
        keep: &HashSet<Vec<u32>>,
        positions: &[usize],
    ) {
        for rule in rules {
            let tests: Option<Vec<(usize, Vec<u32>)>> = rule
                .entries
                .iter()
                .map(|(name, values, _)| {
                    let at = self.axes.iter().position(|axis| axis.name == *name)?;
                    Some((
                        at,
                        values
                            .iter()
                            .filter_map(|value| self.axes[at].position(value))
                            .collect(),
                    ))
                })
                .collect();
            let Some(tests) = tests else { continue };
            self.rows.retain(|row| {
                !tests.iter().all(|(at, values)| values.contains(&row[*at]))
                    || (!keep.is_empty()
                        && keep.contains(&positions.iter().map(|&at| row[at]).collect::<Vec<_>>()))
            });
        }
    }

    /// Only the axes at `positions`, each combination once.
    pub(crate) fn project(&self, positions: &[usize]) -> Self {
        let rows = self
            .rows
            .iter()
            .map(|row| positions.iter().map(|&at| row[at]).collect())
            .collect();
        let mut relation = Self {
            axes: positions.iter().map(|&at| self.axes[at].clone()).collect(),
            rows,
        };
        relation.dedup();
        relation
    }

    /// All pairs that agree on the axes both have.
    pub(crate) fn join(&self, other: &Self) -> Result<Self, TooMany> {
        if other.axes.is_empty() && other.rows.len() == 1 {
            return Ok(self.clone());
        }
        let mut shared = Vec::new();
        let mut new = Vec::new();
        for (theirs, axis) in other.axes.iter().enumerate() {
            match self.position(&axis.name) {
                Some(ours) => shared.push((ours, theirs)),
                None => new.push(theirs),
            }
        }
        let mut by_key: HashMap<Vec<u32>, Vec<&Vec<u32>>> = HashMap::new();
        for row in &other.rows {
            by_key
                .entry(shared.iter().map(|&(_, theirs)| row[theirs]).collect())
                .or_default()
                .push(row);
        }
        let key_of =
            |row: &[u32]| -> Vec<u32> { shared.iter().map(|&(ours, _)| row[ours]).collect() };
        if self.rows.len().saturating_mul(other.rows.len()) > MAX_CELLS {
            // Counted before any is made.
            let matching = |row: &Vec<u32>| by_key.get(&key_of(row)).map_or(0, Vec::len);
            if self.rows.iter().map(matching).sum::<usize>() > MAX_CELLS {
                return Err(TooMany);
            }
        }
        let mut rows = Vec::new();
        for row in &self.rows {
            let key = key_of(row);
            for matching in by_key.get(&key).into_iter().flatten() {
                rows.push(
                    row.iter()
                        .copied()
                        .chain(new.iter().map(|&at| matching[at]))
                        .collect(),
                );
            }
        }
        let axes = self
            .axes
            .iter()
            .cloned()
            .chain(new.iter().map(|&at| other.axes[at].clone()))
            .collect();
        Ok(Self { axes, rows })
    }

    /// Axes in the order of `rank`, combinations in the order of their values.
    pub(crate) fn sort<K: Ord>(&mut self, rank: impl Fn(&Axis) -> K) {
        let mut order: Vec<usize> = (0..self.axes.len()).collect();
        order.sort_by_key(|&at| rank(&self.axes[at]));
        *self = self.project(&order);
        self.rows.sort_unstable();
    }

    /// Where the axis called `name` is.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.axes.iter().position(|axis| axis.name == name)
    }

    fn dedup(&mut self) {
        let mut seen = HashSet::with_capacity(self.rows.len());
        self.rows.retain(|row| seen.insert(row.clone()));
    }
}
