//! What the figures share: sizes, styles, headings, legends.

use crate::report::data::ReportData;
use crate::report::scale::{Scale, tick_label};
use crate::report::svg::{Rect, Style, Svg, fitted, text_width};
use crate::report::theme::Ink;

/// A drawn figure.
pub(crate) struct Figure {
    /// Name of its files, without extension, and its anchor in the page.
    pub(crate) name: &'static str,
    /// What is to be seen, for the page's caption.
    pub(crate) caption: String,
    /// SVG text.
    pub(crate) svg: String,
}

/// Width of every figure.
pub(super) const WIDTH: f64 = 860.0;

pub(super) const LABEL: f64 = 12.5;
pub(super) const SMALL: f64 = 11.5;

/// The title line.
pub(super) fn heading(svg: &mut Svg, text: &str) {
    svg.text((0.0 + 16.0, 26.0), Style::new(15.0, Ink::Text).bold(), text);
}

pub(super) fn label(ink: Ink) -> Style {
    Style::new(LABEL, ink)
}

pub(super) fn small(ink: Ink) -> Style {
    Style::new(SMALL, ink)
}

/// Arms in one figure at most: more is neither read nor drawn in reasonable memory, and the table has them all.
pub(super) const ARMS: usize = 60;

/// What intervals mean, where single runs may stand among means over seeds.
pub(super) fn whiskers(data: &ReportData) -> String {
    let mut words = data.spread.words();
    if data.table.is_mixed() {
        words += ", of a single run its 95% Wilson interval";
    }
    words
}

/// What a caption says where a figure leaves arms out.
pub(super) fn left_out(arms: usize) -> String {
    if arms > ARMS {
        format!(" The first {ARMS} of {arms} arms.")
    } else {
        String::new()
    }
}

/// Names of arms take at most this much of a figure's width.
pub(super) const NAMES: f64 = 280.0;

/// The names of arms as they fit, and where the bars beside them begin.
pub(super) fn name_column<'a>(names: impl Iterator<Item = &'a str>) -> (Vec<String>, f64) {
    let names: Vec<String> = names.map(|name| fitted(name, LABEL, NAMES)).collect();
    let widest = names
        .iter()
        .map(|name| text_width(name, LABEL))
        .fold(60.0, f64::max);
    (names, 16.0 + widest + 12.0)
}

/// The numbers and the name of an axis of training steps, below `bottom`, named at `middle`.
pub(super) fn step_axis(svg: &mut Svg, x: &Scale, bottom: f64, middle: f64) {
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
pub(super) fn legend(svg: &mut Svg, x: f64, y: f64, entries: &[(String, Ink)]) {
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
