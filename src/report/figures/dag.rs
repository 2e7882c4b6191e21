//! The stages of the spec, their states and times. All cells of a stage are one box, so the figure stays
//! readable for a grid of thousands.

use dcsft_engine::units::duration;
use std::collections::{BTreeMap, BTreeSet};

use super::parts::{Figure, LABEL, WIDTH, heading, small};
use crate::report::data::{ReportData, StageBox};
use crate::report::svg::{Rect, Style, Svg, fitted, text_width};
use crate::report::theme::{Ink, Theme};

const BOX_HEIGHT: f64 = 56.0;
const LAYER: f64 = 92.0;
const TOP: f64 = 50.0;
/// Between boxes of a row.
const GAP: f64 = 18.0;
/// Room for the arrows that pass through a row.
const LANE: f64 = 6.0;
/// The widest row.
const WIDEST: f64 = WIDTH - 32.0;
/// Titles are bold, which makes them wider.
const BOLD: f64 = 1.08;

pub(super) fn draw(data: &ReportData, theme: Theme) -> Option<Figure> {
    if data.stages.is_empty() {
        return None;
    }
    let layers = layers(&data.stages);
    let edges = direct_edges(&data.stages);
    let places = place(&data.stages, &layers, &edges);
    let height = TOP + LAYER * places.lanes.len() as f64 - (LAYER - BOX_HEIGHT) + 18.0;
    let mut svg = Svg::new(WIDTH, height, "The stages and how long they took", theme);
    heading(&mut svg, "Stages");
    for (from, to) in edges {
        edge(&mut svg, &places, from, to);
    }
    for (stage, at) in data.stages.iter().zip(&places.boxes) {
        draw_box(&mut svg, stage, *at);
    }
    Some(Figure {
        name: "dag",
        caption: "Every stage with its kind, its number of cells, what the last run did with them, and the \
                  seconds of computing of all cells. Arrows that a longer path implies are left out."
            .to_owned(),
        svg: svg.finish(),
    })
}

/// Stages by their distance from the sources, longest path first; each stage stands as late as its readers allow,
/// so that edges are short.
fn layers(stages: &[StageBox]) -> Vec<Vec<usize>> {
    let mut depth = vec![0; stages.len()];
    for index in 0..stages.len() {
        depth[index] = stages[index]
            .after
            .iter()
            .map(|&before| depth[before] + 1)
            .max()
            .unwrap_or(0);
    }
    for index in (0..stages.len()).rev() {
        let readers = (0..stages.len()).filter(|&reader| stages[reader].after.contains(&index));
        if let Some(earliest) = readers.map(|reader| depth[reader]).min() {
            depth[index] = depth[index].max(earliest - 1);
        }
    }
    let mut layers = vec![Vec::new(); depth.iter().max().map_or(0, |last| last + 1)];
    for (index, &layer) in depth.iter().enumerate() {
        layers[layer].push(index);
    }
    layers
}

/// Edges without those that a longer path implies: where everything reads the world, drawing each of these would
/// bury the rest.
fn direct_edges(stages: &[StageBox]) -> Vec<(usize, usize)> {
    let mut above: Vec<BTreeSet<usize>> = Vec::with_capacity(stages.len());
    let mut edges = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        let implied: BTreeSet<usize> = stage
            .after
            .iter()
            .flat_map(|&before| above[before].clone())
            .collect();
        edges.extend(
            stage
                .after
                .iter()
                .filter(|before| !implied.contains(before))
                .map(|&before| (before, index)),
        );
        above.push(
            implied
                .into_iter()
                .chain(stage.after.iter().copied())
                .collect(),
        );
    }
    edges
}

/// Where everything stands.
struct Places {
    /// The box of each stage.
    boxes: Vec<Rect>,
    /// The row of each stage's box.
    row: Vec<usize>,
    /// Rows from top to bottom: for each stage whose arrows pass through, where they do. So no arrow runs behind a
    /// box that it does not belong to.
    lanes: Vec<BTreeMap<usize, f64>>,
}

/// Something that takes room in a row.
#[derive(Clone, Copy)]
enum Slot {
    Box(usize),
    /// The arrows from a stage above to stages below.
    Lane(usize),
}

/// Boxes of each layer side by side, in the order of the mean place of what they read from; a layer that is too wide
/// takes several rows.
fn place(stages: &[StageBox], layers: &[Vec<usize>], edges: &[(usize, usize)]) -> Places {
    let nowhere = Rect {
        x: 0.0,
        y: 0.0,
        w: 0.0,
        h: BOX_HEIGHT,
    };
    let mut places = Places {
        boxes: vec![nowhere; stages.len()],
        row: vec![0; stages.len()],
        lanes: Vec::new(),
    };
    // Where each stage's arrows were last, and the arrows that have not arrived yet.
    let mut last = vec![WIDTH / 2.0; stages.len()];
    let mut open: Vec<(usize, usize)> = Vec::new();
    for layer in layers {
        let from = |slot: &Slot, last: &[f64]| match *slot {
            Slot::Lane(source) => last[source],
            Slot::Box(index) => {
                let before = edges.iter().filter(|(_, to)| *to == index);
                let before: Vec<f64> = before.map(|(from, _)| last[*from]).collect();
                match before.len() {
                    0 => WIDTH / 2.0,
                    count => before.iter().sum::<f64>() / count as f64,
                }
            }
        };
        let mut order: Vec<Slot> = layer.iter().map(|&index| Slot::Box(index)).collect();
        order.sort_by(|a, b| from(a, &last).total_cmp(&from(b, &last)));
        let passing: BTreeSet<usize> = open
            .iter()
            .filter(|(_, to)| !layer.contains(to))
            .map(|(from, _)| *from)
            .collect();
        let room = (WIDEST - passing.len() as f64 * (LANE + GAP)).max(WIDEST / 2.0);
        for mut row in in_rows(&order, room, |slot| slot_width(stages, slot)) {
            let here: Vec<usize> = row.iter().filter_map(Slot::stage).collect();
            open.retain(|(_, to)| !here.contains(to));
            let sources: BTreeSet<usize> = open.iter().map(|(from, _)| *from).collect();
            row.extend(sources.into_iter().map(Slot::Lane));
            row.sort_by(|a, b| from(a, &last).total_cmp(&from(b, &last)));
            set_row(stages, &row, &mut places, &mut last);
            open.extend(edges.iter().filter(|(from, _)| here.contains(from)));
        }
    }
    places
}

impl Slot {
    fn stage(&self) -> Option<usize> {
        match self {
            Self::Box(index) => Some(*index),
            Self::Lane(_) => None,
        }
    }
}

fn slot_width(stages: &[StageBox], slot: Slot) -> f64 {
    match slot {
        Slot::Box(index) => box_width(&stages[index]),
        Slot::Lane(_) => LANE,
    }
}

/// Sets one row below the others, in the middle.
fn set_row(stages: &[StageBox], row: &[Slot], places: &mut Places, last: &mut [f64]) {
    let y = TOP + LAYER * places.lanes.len() as f64;
    let taken: f64 = row.iter().map(|slot| slot_width(stages, *slot)).sum();
    let gaps = row.len().saturating_sub(1) as f64;
    let gap = GAP.min(((WIDEST - taken) / gaps.max(1.0)).max(2.0));
    let mut x = (WIDTH - taken - gap * gaps) / 2.0;
    let mut lanes = BTreeMap::new();
    for slot in row {
        let w = slot_width(stages, *slot);
        let middle = x + w / 2.0;
        match *slot {
            Slot::Box(index) => {
                let h = BOX_HEIGHT;
                places.boxes[index] = Rect { x, y, w, h };
                places.row[index] = places.lanes.len();
                last[index] = middle;
            }
            Slot::Lane(source) => {
                lanes.insert(source, middle);
                last[source] = middle;
            }
        }
        x += w + gap;
    }
    places.lanes.push(lanes);
}

/// `slots` in rows of at most `room`.
fn in_rows(slots: &[Slot], room: f64, width: impl Fn(Slot) -> f64) -> Vec<Vec<Slot>> {
    let mut rows: Vec<Vec<Slot>> = Vec::new();
    let mut used = 0.0;
    for &slot in slots {
        used += GAP + width(slot);
        match rows.last_mut() {
            Some(row) if used <= room => row.push(slot),
            _ => {
                used = width(slot);
                rows.push(vec![slot]);
            }
        }
    }
    rows
}

fn box_width(stage: &StageBox) -> f64 {
    let first = text_width(&title(stage), LABEL + 0.5) * BOLD;
    first
        .max(text_width(&state(stage), 11.5))
        .max(text_width(&stage.kind, 11.5))
        .min(WIDEST - 26.0)
        + 26.0
}

fn title(stage: &StageBox) -> String {
    if stage.cells == 1 {
        stage.name.clone()
    } else {
        format!("{} ×{}", stage.name, stage.cells)
    }
}

fn state(stage: &StageBox) -> String {
    let mut parts = Vec::new();
    for (count, word) in [
        (stage.executed, "executed"),
        (stage.cached, "cached"),
        (stage.failed, "failed"),
    ] {
        match count {
            0 => {}
            count if count == stage.cells => parts.push(word.to_owned()),
            count => parts.push(format!("{count} {word}")),
        }
    }
    if stage.seconds > 0.0 {
        parts.push(duration(stage.seconds));
    }
    if parts.is_empty() {
        "not run".to_owned()
    } else {
        parts.join(" · ")
    }
}

fn draw_box(svg: &mut Svg, stage: &StageBox, at: Rect) {
    let border = match (stage.failed, stage.executed, stage.cached) {
        (1.., _, _) => Ink::Vermilion,
        (_, 1.., _) => Ink::Blue,
        (_, _, 1..) => Ink::Green,
        _ => Ink::Grid,
    };
    svg.frame(at, Ink::Panel, border);
    let x = at.x + 12.0;
    svg.text(
        (x, at.y + 19.0),
        Style::new(LABEL + 0.5, Ink::Text).bold(),
        &fitted(&title(stage), LABEL + 0.5, (at.w - 25.0) / BOLD),
    );
    svg.text((x, at.y + 34.0), small(Ink::Muted), &stage.kind);
    svg.text((x, at.y + 48.0), small(Ink::Muted), &state(stage));
}

/// An arrow, through the lanes of the rows between.
fn edge(svg: &mut Svg, places: &Places, from: usize, to: usize) {
    let (start, end) = (places.boxes[from], places.boxes[to]);
    let mut at = (start.x + start.w / 2.0, start.y + start.h);
    let mut path = format!("M{:.1} {:.1}", at.0, at.1);
    for row in places.row[from] + 1..places.row[to] {
        let Some(&x) = places.lanes[row].get(&from) else {
            continue;
        };
        let y = TOP + LAYER * row as f64;
        path += &bend(at, (x, y));
        at = (x, y + BOX_HEIGHT);
        path += &format!("L{:.1} {:.1}", at.0, at.1);
    }
    path += &bend(at, (end.x + end.w / 2.0, end.y));
    svg.path(&path, Ink::Grey, 1.1, r#"stroke-opacity="0.7""#);
}

/// A curve that leaves and arrives vertically.
fn bend((x0, y0): (f64, f64), (x1, y1): (f64, f64)) -> String {
    let bend = ((y1 - y0) / 2.0).max(14.0);
    let (out, back) = (y0 + bend, y1 - bend);
    format!("C{x0:.1} {out:.1} {x1:.1} {back:.1} {x1:.1} {y1:.1}")
}
