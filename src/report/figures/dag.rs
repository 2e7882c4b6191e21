//! The stages of the spec, their states and times. All cells of a stage are one box, so the figure stays
//! readable for a grid of thousands.

use std::collections::BTreeSet;

use super::{Figure, LABEL, WIDTH, heading, small};
use crate::report::data::{ReportData, StageBox};
use crate::report::scale::duration;
use crate::report::svg::{Rect, Style, Svg, text_width};
use crate::report::theme::{Ink, Theme};

const BOX_HEIGHT: f64 = 56.0;
const LAYER: f64 = 92.0;
const TOP: f64 = 50.0;

pub(super) fn draw(data: &ReportData, theme: Theme) -> Option<Figure> {
    if data.stages.is_empty() {
        return None;
    }
    let layers = layers(&data.stages);
    let depth = layers.len();
    let height = TOP + LAYER * depth as f64 - (LAYER - BOX_HEIGHT) + 18.0;
    let mut svg = Svg::new(WIDTH, height, "The stages and how long they took", theme);
    heading(&mut svg, "Stages");
    let places = place(&data.stages, &layers);
    for (from, to) in direct_edges(&data.stages) {
        edge(&mut svg, places[from], places[to]);
    }
    for (stage, at) in data.stages.iter().zip(&places) {
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

/// Boxes of each layer side by side, in the order of the mean place of what they read from.
fn place(stages: &[StageBox], layers: &[Vec<usize>]) -> Vec<Rect> {
    let mut places = vec![
        Rect {
            x: 0.0,
            y: 0.0,
            w: 0.0,
            h: BOX_HEIGHT
        };
        stages.len()
    ];
    for (depth, layer) in layers.iter().enumerate() {
        let mut order = layer.clone();
        let middle = |index: usize, places: &[Rect]| {
            let after = &stages[index].after;
            let sum: f64 = after
                .iter()
                .map(|&before| places[before].x + places[before].w / 2.0)
                .sum();
            if after.is_empty() {
                WIDTH / 2.0
            } else {
                sum / after.len() as f64
            }
        };
        order.sort_by(|&a, &b| middle(a, &places).total_cmp(&middle(b, &places)));
        let gap = 18.0;
        let widths: Vec<f64> = order
            .iter()
            .map(|&index| box_width(&stages[index]))
            .collect();
        let wanted: f64 = widths.iter().sum::<f64>() + gap * (order.len().saturating_sub(1)) as f64;
        let squeeze = ((WIDTH - 32.0) / wanted).min(1.0);
        let mut x = (WIDTH - wanted * squeeze) / 2.0;
        for (&index, width) in order.iter().zip(&widths) {
            places[index] = Rect {
                x,
                y: TOP + LAYER * depth as f64,
                w: width * squeeze,
                h: BOX_HEIGHT,
            };
            x += (width + gap) * squeeze;
        }
    }
    places
}

fn box_width(stage: &StageBox) -> f64 {
    let first = text_width(&title(stage), LABEL + 0.5) * 1.08;
    first
        .max(text_width(&state(stage), 11.5))
        .max(text_width(&stage.kind, 11.5))
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
        &title(stage),
    );
    svg.text((x, at.y + 34.0), small(Ink::Muted), &stage.kind);
    svg.text((x, at.y + 48.0), small(Ink::Muted), &state(stage));
}

fn edge(svg: &mut Svg, from: Rect, to: Rect) {
    let (x0, y0) = (from.x + from.w / 2.0, from.y + from.h);
    let (x1, y1) = (to.x + to.w / 2.0, to.y);
    let bend = ((y1 - y0) / 2.0).max(14.0);
    let path = format!(
        "M{x0:.1} {y0:.1}C{x0:.1} {:.1} {x1:.1} {:.1} {x1:.1} {y1:.1}",
        y0 + bend,
        y1 - bend
    );
    svg.path(&path, Ink::Grey, 1.1, r#"stroke-opacity="0.7""#);
}
