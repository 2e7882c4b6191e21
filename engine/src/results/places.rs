//! Where each row stands in a table: in which line, in which column, and which repeat it is.
//!
//! Two rows share a cell only if they are repeats of one experiment. What tells rows of one arm apart is written
//! beside the arm: an axis (`lr=0.001`), the stage that trained it where stages share an arm's name (`stage=b`), the
//! evaluation where one set was evaluated in several ways (`eval=strict`). What a column tells, the checkpoint's step
//! or the set, is not repeated there. Sets of one name that come from several stages get a column each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::ResultRow;
use crate::text::plain;

/// The axis whose name says that it picks the set.
const SET: &str = "set";
/// What tells stages apart that share an arm's name.
pub const STAGE: &str = "stage";
/// What tells evaluations of one set apart.
pub const EVALUATION: &str = "eval";

/// A row's place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The arm, with what tells its lines apart: `sft/easy+medium lr=0.001`.
    pub arm: String,
    /// What tells them apart, as (name, value).
    pub told: Vec<(String, String)>,
    /// The training step; none for a final model.
    pub step: Option<u64>,
    /// The column: the set's name, with where it comes from if that name is used twice.
    pub set: String,
    /// The set is out of distribution.
    pub ood: bool,
    /// Which repeat it is; empty where the row has no such axis.
    pub repeat: String,
}

/// The places of `rows`, in their order. The values of the axis `over` are repeats.
pub fn places(rows: &[ResultRow], over: &str) -> Vec<Place> {
    let sets = set_names(rows, over);
    let rows: Vec<Row<'_>> = rows
        .iter()
        .zip(sets)
        .map(|(row, set)| Row::new(row, set, over))
        .collect();
    let mut shown = first_fields(&rows);
    loop {
        let places: Vec<Place> = rows.iter().map(|row| row.place(&shown)).collect();
        if !tell_apart(&rows, &places, &mut shown) {
            return places;
        }
    }
}

/// What can tell two rows of an arm apart, in the order in which it is tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    /// The stage whose model was evaluated.
    Model,
    Axis(String),
    /// The stage that evaluated.
    Evaluation,
}

struct Row<'a> {
    row: &'a ResultRow,
    set: String,
    /// Without the one that is repeated over.
    axes: BTreeMap<&'a str, &'a Value>,
    repeat: String,
}

impl<'a> Row<'a> {
    fn new(row: &'a ResultRow, set: String, over: &str) -> Self {
        let mut axes = row.all_axes();
        let repeat = axes.remove(over).map(plain).unwrap_or_default();
        Self {
            row,
            set,
            axes,
            repeat,
        }
    }

    fn field(&self, field: &Field) -> Option<(String, String)> {
        match field {
            Field::Model => {
                let model = self.row.model.as_ref()?;
                Some((STAGE.to_owned(), model.stage.clone()))
            }
            Field::Axis(axis) => {
                let value = self.axes.get(axis.as_str())?;
                Some((axis.clone(), plain(value)))
            }
            Field::Evaluation => Some((EVALUATION.to_owned(), self.row.stage.clone())),
        }
    }

    /// Whether the line's step or the column's name says the axis' value.
    fn told(&self, value: &Value) -> bool {
        let value = plain(value);
        let number = value.strip_prefix("step-").unwrap_or(&value);
        value == self.row.set || self.row.step.is_some_and(|step| step.to_string() == number)
    }

    fn place(&self, shown: &BTreeMap<&str, BTreeSet<Field>>) -> Place {
        let fields = shown.get(self.row.arm.as_str()).into_iter().flatten();
        let told: Vec<(String, String)> = fields.filter_map(|field| self.field(field)).collect();
        let told_text = told.iter().map(|(name, value)| format!(" {name}={value}"));
        Place {
            arm: std::iter::once(self.row.arm.clone())
                .chain(told_text)
                .collect(),
            told,
            step: self.row.step,
            set: self.set.clone(),
            ood: self.row.split == "ood",
            repeat: self.repeat.clone(),
        }
    }
}

/// By arm: the stage of the model where there are several, and the axes in which its rows differ and that neither step
/// nor set tells.
fn first_fields<'a>(rows: &[Row<'a>]) -> BTreeMap<&'a str, BTreeSet<Field>> {
    let mut arms: BTreeMap<&str, Vec<&Row<'_>>> = BTreeMap::new();
    for row in rows {
        arms.entry(&row.row.arm).or_default().push(row);
    }
    let mut shown: BTreeMap<&str, BTreeSet<Field>> = BTreeMap::new();
    for (arm, rows) in arms {
        let fields = shown.entry(arm).or_default();
        let models = rows.iter().map(|row| row.row.model.as_ref());
        let models: BTreeSet<_> = models.map(|model| model.map(|m| &m.stage)).collect();
        if models.len() > 1 {
            fields.insert(Field::Model);
        }
        let axes: BTreeSet<&str> = rows
            .iter()
            .flat_map(|row| row.axes.keys().copied())
            .collect();
        for axis in axes {
            let values = || {
                rows.iter()
                    .filter_map(|row| Some((row, *row.axes.get(axis)?)))
            };
            let distinct: BTreeSet<String> = values().map(|(_, value)| plain(value)).collect();
            let told = values().all(|(row, value)| row.told(value)) || names_sets(axis, &rows);
            if distinct.len() > 1 && !told {
                fields.insert(Field::Axis(axis.to_owned()));
            }
        }
    }
    shown
}

/// Whether the axis picks the set and nothing else, and has one value for each column: it is called `set`, or it is one
/// of the set's stage and none of the model's.
fn names_sets(axis: &str, rows: &[&Row<'_>]) -> bool {
    let mut of_set: BTreeMap<&str, String> = BTreeMap::new();
    rows.iter().all(|row| {
        let value = row.axes.get(axis).map(|value| plain(value));
        let value = value.unwrap_or_default();
        let origins = row.row.model.as_ref().zip(row.row.data.as_ref());
        let picks = origins.is_some_and(|(model, data)| {
            data.axes.contains_key(axis) && !model.axes.contains_key(axis)
        });
        let one = *of_set.entry(&row.set).or_insert_with(|| value.clone()) == value;
        one && (axis == SET || picks)
    })
}

/// Shows a further field for each two rows that share a cell and a metric; false where none do, or nothing is left that
/// tells them apart.
fn tell_apart<'a>(
    rows: &[Row<'a>],
    places: &[Place],
    shown: &mut BTreeMap<&'a str, BTreeSet<Field>>,
) -> bool {
    let mut cells: HashMap<(&Place, &str), &Row<'_>> = HashMap::new();
    let mut added = false;
    for (row, place) in rows.iter().zip(places) {
        let Some(other) = cells.insert((place, &row.row.metric), row) else {
            continue;
        };
        let fields = shown.entry(&row.row.arm).or_default();
        let axes = other.axes.keys().chain(row.axes.keys());
        let axes: BTreeSet<Field> = axes.map(|axis| Field::Axis((*axis).to_owned())).collect();
        let mut candidates = axes.into_iter().chain([Field::Model, Field::Evaluation]);
        let telling = candidates
            .find(|field| !fields.contains(field) && row.field(field) != other.field(field));
        if let Some(field) = telling {
            fields.insert(field);
            added = true;
        }
    }
    added
}

/// The column of each row. A set is known by its name and by where it comes from: the stage and the output, and those
/// of the stage's axes that the evaluation's own axes do not say.
fn set_names(rows: &[ResultRow], over: &str) -> Vec<String> {
    let sources: Vec<(String, String)> = rows.iter().map(|row| source(row, over)).collect();
    let mut names: BTreeMap<&str, BTreeSet<(&str, &str, &str)>> = BTreeMap::new();
    for (row, (stage, whole)) in rows.iter().zip(&sources) {
        let known = names.entry(&row.set).or_default();
        known.insert((&row.split, stage, whole));
    }
    rows.iter()
        .zip(&sources)
        .map(|(row, (stage, whole))| {
            let known = &names[row.set.as_str()];
            let wholes: BTreeSet<&str> = known.iter().map(|(_, _, whole)| *whole).collect();
            let stages: BTreeSet<&str> = known.iter().map(|(_, stage, _)| *stage).collect();
            let splits: BTreeSet<&str> = known.iter().map(|(split, _, _)| *split).collect();
            let mut name = row.set.clone();
            if wholes.len() > 1 {
                let from = if stages.len() == wholes.len() {
                    stage
                } else {
                    whole
                };
                name = format!("{name}/{from}");
            }
            if splits.len() > 1 {
                name = format!("{name}/{}", row.split);
            }
            name
        })
        .collect()
}

/// Where the set comes from: (the stage, all of it).
fn source(row: &ResultRow, over: &str) -> (String, String) {
    let Some(data) = &row.data else {
        return Default::default();
    };
    let axes = row.all_axes();
    let mut whole = data.clone();
    whole
        .axes
        .retain(|axis, _| axis != over && !axes.contains_key(axis.as_str()));
    (data.stage.clone(), whole.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stage::Origin;

    fn row(arm: &str, stage: &str, axes: Value, set: &str) -> ResultRow {
        ResultRow {
            arm: arm.to_owned(),
            axes: serde_json::from_value(axes).unwrap(),
            step: None,
            set: set.to_owned(),
            split: "id".to_owned(),
            metric: "accuracy".to_owned(),
            value: 0.5,
            n: None,
            ci: None,
            stage: stage.to_owned(),
            model: None,
            data: None,
        }
    }

    fn origin(stage: &str, axes: Value) -> Option<Origin> {
        Some(Origin {
            stage: stage.to_owned(),
            axes: serde_json::from_value(axes).unwrap(),
            output: "model".to_owned(),
        })
    }

    fn lines(rows: &[ResultRow]) -> Vec<(String, String)> {
        let places = places(rows, "seed");
        places
            .into_iter()
            .map(|place| (place.arm, place.set))
            .collect()
    }

    fn assert_distinct(rows: &[ResultRow]) {
        let places = places(rows, "seed");
        let distinct: BTreeSet<String> = places.iter().map(|place| format!("{place:?}")).collect();
        assert_eq!(distinct.len(), rows.len(), "{places:?}");
    }

    #[test]
    fn stages_that_share_an_arm_have_a_line_each_even_on_different_sets() {
        let mut rows = [
            row("tuned", "e1", json!({}), "val"),
            row("tuned", "e2", json!({}), "test"),
        ];
        rows[0].model = origin("good", json!({}));
        rows[1].model = origin("bad", json!({}));
        let arms: Vec<String> = lines(&rows).into_iter().map(|(arm, _)| arm).collect();
        assert_eq!(arms, ["tuned stage=good", "tuned stage=bad"]);
    }

    #[test]
    fn a_model_picked_by_name_is_told_by_the_axes_it_was_picked_by() {
        let mut rows = [
            row("m", "e1", json!({}), "val"),
            row("m", "e2", json!({}), "test"),
        ];
        rows[0].model = origin("m", json!({"lr": 0.1}));
        rows[1].model = origin("m", json!({"lr": 0.2}));
        let arms: Vec<String> = lines(&rows).into_iter().map(|(arm, _)| arm).collect();
        assert_eq!(arms, ["m lr=0.1", "m lr=0.2"]);
        // Seeds are repeats, picked by name or not.
        rows[0].model = origin("m", json!({"seed": 0}));
        rows[1].model = origin("m", json!({"seed": 1}));
        rows[1].set = "val".to_owned();
        let places = places(&rows, "seed");
        assert_eq!(places[0].arm, places[1].arm);
        assert_eq!([&*places[0].repeat, &*places[1].repeat], ["0", "1"]);
    }

    #[test]
    fn sets_of_one_name_have_a_column_for_each_place_they_come_from() {
        let mut rows = [
            row("a", "e1", json!({}), "data"),
            row("b", "e2", json!({}), "data"),
            row("b", "e3", json!({}), "other"),
        ];
        rows[0].data = origin("val", json!({}));
        rows[1].data = origin("test", json!({}));
        let sets: Vec<String> = lines(&rows).into_iter().map(|(_, set)| set).collect();
        assert_eq!(sets, ["data/val", "data/test", "other"]);
        // One set per seed is one set.
        rows[0].data = origin("val", json!({"seed": 0}));
        rows[1].data = origin("val", json!({"seed": 1}));
        let sets: Vec<String> = lines(&rows).into_iter().map(|(_, set)| set).collect();
        assert_eq!(sets, ["data", "data", "other"]);
        rows[1].split = "ood".to_owned();
        assert_eq!(lines(&rows)[1].1, "data/ood");
    }

    #[test]
    fn ways_to_evaluate_one_set_have_a_line_each() {
        let rows = ["strict", "loose"].map(|stage| row("m", stage, json!({"seed": 0}), "val"));
        let arms: Vec<String> = lines(&rows).into_iter().map(|(arm, _)| arm).collect();
        assert_eq!(arms, ["m eval=strict", "m eval=loose"]);
    }

    #[test]
    fn axes_called_step_and_set_that_tell_neither_are_shown() {
        let by_step = [1, 2].map(|step| row("m", "e", json!({"step": step}), "val"));
        let by_set = ["easy", "hard"].map(|set| row("m", "e", json!({"set": set}), "data"));
        assert_eq!(lines(&by_step)[1].0, "m step=2");
        assert_eq!(lines(&by_set)[1].0, "m set=hard");
        // A set whose name is made of the axis tells it.
        let named =
            ["a", "r"].map(|set| row("m", "e", json!({"set": set}), &format!("imagenet-{set}")));
        assert_eq!(lines(&named)[1].0, "m");
        // So does an axis that the set's stage has and the model's has not, whatever it is called.
        let mut picked =
            ["a", "r"].map(|on| row("m", "e", json!({"on": on}), &format!("imagenet-{on}")));
        for (row, on) in picked.iter_mut().zip(["a", "r"]) {
            row.model = origin("m", json!({}));
            row.data = origin("d", json!({"on": on}));
        }
        assert_eq!(lines(&picked)[1].0, "m");
        picked[1].model = origin("m", json!({"on": "r"}));
        assert_eq!(lines(&picked)[1].0, "m on=r");
    }

    #[test]
    fn no_two_evaluations_share_a_cell() {
        // Axes that look alike as text or that step and set seem to tell, and stages beside them.
        let mut rows = Vec::new();
        for stage in ["e1", "e2"] {
            for axis in ["step", "set", "x"] {
                for value in [json!("val"), json!(100), json!("step-100"), json!("data")] {
                    let mut row = row("m", stage, json!({axis: value, "seed": 1}), "val");
                    row.step = Some(100);
                    rows.push(row);
                }
            }
        }
        assert_distinct(&rows);
    }

    #[test]
    fn what_step_and_set_tell_is_not_repeated_beside_the_arm() {
        let rows = [(100, "val"), (100, "rendition"), (300, "val")].map(|(step, set)| {
            let axes = json!({"on": set, "checkpoint": format!("step-{step}")});
            let mut row = row("sft/all", "e", axes, set);
            row.step = Some(step);
            row
        });
        assert!(lines(&rows).iter().all(|(arm, _)| arm == "sft/all"));
    }
}
