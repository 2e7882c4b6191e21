//! The figures, each a pure function from data to SVG text; none where there is nothing to draw.

mod accuracy;
mod curves;
mod dag;
mod filter;
mod histogram;
mod times;

use super::data::ReportData;
use super::scale::{Scale, tick_label};
use super::svg::{Rect, Style, Svg, fitted, text_width};
use super::theme::{Ink, Theme};

/// A drawn figure.
pub(crate) struct Figure {
    /// Name of its files, without extension, and its anchor in the page.
    pub(crate) name: &'static str,
    /// What is to be seen, for the page's caption.
    pub(crate) caption: String,
    /// SVG text.
    pub(crate) svg: String,
}

/// Every figure that the data has something for, in the order of the page.
pub(crate) fn all(data: &ReportData, theme: Theme) -> Vec<Figure> {
    [
        accuracy::draw(data, theme),
        curves::draw(data, theme),
        times::draw(data, theme),
        histogram::draw(data, theme),
        filter::draw(data, theme),
        dag::draw(data, theme),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Width of every figure.
const WIDTH: f64 = 860.0;

const LABEL: f64 = 12.5;
const SMALL: f64 = 11.5;

/// The title line.
fn heading(svg: &mut Svg, text: &str) {
    svg.text((0.0 + 16.0, 26.0), Style::new(15.0, Ink::Text).bold(), text);
}

fn label(ink: Ink) -> Style {
    Style::new(LABEL, ink)
}

fn small(ink: Ink) -> Style {
    Style::new(SMALL, ink)
}

/// Arms in one figure at most: more is neither read nor drawn in reasonable memory, and the table has them all.
const ARMS: usize = 60;

/// What intervals mean, where single runs may stand among means over seeds.
fn whiskers(data: &ReportData) -> String {
    let mut words = data.spread.words();
    if data.table.is_mixed() {
        words += ", of a single run its 95% Wilson interval";
    }
    words
}

/// What a caption says where a figure leaves arms out.
fn left_out(arms: usize) -> String {
    if arms > ARMS {
        format!(" The first {ARMS} of {arms} arms.")
    } else {
        String::new()
    }
}

/// Names of arms take at most this much of a figure's width.
const NAMES: f64 = 280.0;

/// The names of arms as they fit, and where the bars beside them begin.
fn name_column<'a>(names: impl Iterator<Item = &'a str>) -> (Vec<String>, f64) {
    let names: Vec<String> = names.map(|name| fitted(name, LABEL, NAMES)).collect();
    let widest = names
        .iter()
        .map(|name| text_width(name, LABEL))
        .fold(60.0, f64::max);
    (names, 16.0 + widest + 12.0)
}

/// The numbers and the name of an axis of training steps, below `bottom`, named at `middle`.
fn step_axis(svg: &mut Svg, x: &Scale, bottom: f64, middle: f64) {
    for tick in x.ticks() {
        svg.text(
            (x.at(tick), bottom + 18.0),
            small(Ink::Muted).middle(),
            &tick_label(tick),
        );
    }
    svg.text(
        (middle, bottom + 36.0),
        small(Ink::Muted).middle(),
        "training step",
    );
}

/// A legend: swatches with names, from `x` on.
fn legend(svg: &mut Svg, x: f64, y: f64, entries: &[(String, Ink)]) {
    let mut x = x;
    for (name, ink) in entries {
        svg.rect(
            Rect {
                x,
                y: y - 9.0,
                w: 11.0,
                h: 11.0,
            },
            *ink,
        );
        svg.text((x + 16.0, y), label(Ink::Text), name);
        x += 16.0 + text_width(name, LABEL) + 18.0;
    }
}
