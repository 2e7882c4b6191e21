//! Accuracy over training steps.

use dcsft_engine::results::statistics::Estimate;

use super::parts::{Figure, LABEL, WIDTH, heading, label, small, step_axis, whiskers};
use crate::report::data::{Curve, CurvePoint, ReportData};
use crate::report::scale::{Scale, tick_label};
use crate::report::svg::{Style, Svg, fitted, text_width};
use crate::report::theme::{Ink, Theme, ink_of};

/// Bold text is this much wider.
const BOLD: f64 = 1.12;
/// Names stand beside both panels, and take at most this much each.
const NAMES: f64 = 150.0;
const TOP: f64 = 66.0;
const BOTTOM: f64 = 300.0;
const HEIGHT: f64 = 344.0;

pub(super) fn draw(data: &ReportData, theme: Theme) -> Option<Figure> {
    let curves: Vec<&Curve> = data
        .curves
        .iter()
        .filter(|curve| curve.points.len() > 1)
        .collect();
    if curves.is_empty() {
        return None;
    }
    let mut svg = Svg::new(WIDTH, HEIGHT, "Accuracy over training steps", theme);
    heading(&mut svg, "Accuracy over training steps");
    let names: Vec<String> = curves
        .iter()
        .map(|curve| fitted(&curve.arm, LABEL, NAMES))
        .collect();
    let column = names
        .iter()
        .map(|name| text_width(name, LABEL) * BOLD)
        .fold(0.0, f64::max)
        + 14.0;
    let width = (WIDTH - 16.0 - 2.0 * (40.0 + column)) / 2.0;
    let baseline = data
        .table
        .rows
        .iter()
        .find(|row| Some(&row.arm) == data.baseline.as_ref());
    let left = 16.0 + 40.0;
    let panel = Panel {
        x: left,
        width,
        curves: &curves,
        names: &names,
    };
    panel.draw(
        &mut svg,
        "Out of distribution (OOD), %",
        |point| point.ood,
        baseline.and_then(|row| row.ood),
    );
    let panel = Panel {
        x: left + width + column + 40.0,
        width,
        curves: &curves,
        names: &names,
    };
    panel.draw(
        &mut svg,
        "In distribution (ID), %",
        |point| point.id,
        baseline.and_then(|row| row.id),
    );
    let against = data
        .baseline
        .as_deref()
        .map_or(String::new(), |arm| format!(" The dashed line is {arm}."));
    Some(Figure {
        name: "steps",
        caption: format!(
            "Accuracy at each evaluated checkpoint; bands: {}.{against}",
            whiskers(data)
        ),
        svg: svg.finish(),
    })
}

struct Panel<'a> {
    x: f64,
    width: f64,
    curves: &'a [&'a Curve],
    /// Their names, as they fit.
    names: &'a [String],
}

impl Panel<'_> {
    fn draw(
        &self,
        svg: &mut Svg,
        title: &str,
        value: impl Fn(&CurvePoint) -> Option<Estimate>,
        baseline: Option<Estimate>,
    ) {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let all: Vec<Estimate> = points().filter_map(&value).chain(baseline).collect();
        if all.is_empty() {
            return;
        }
        let low = all.iter().map(|e| e.low).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(|e| e.high).fold(f64::NEG_INFINITY, f64::max);
        let y = Scale::nice(low, high, 5, BOTTOM, TOP);
        let last = points().map(|point| point.step).max().unwrap_or(1);
        let right = self.x + self.width;
        let x = Scale::exact(0.0, last as f64, 6, self.x, right);
        svg.text((self.x, 50.0), Style::new(LABEL, Ink::Muted).bold(), title);
        for tick in y.ticks() {
            let (height, text) = (y.at(tick), tick_label(tick * 100.0));
            svg.line((self.x, height), (right, height), Ink::Grid, 1.0);
            let at = (self.x - 8.0, height + 4.0);
            svg.text(at, small(Ink::Muted).end(), &text);
        }
        step_axis(svg, &x, BOTTOM, self.x + self.width / 2.0);
        if let Some(base) = baseline {
            let height = y.at(base.value);
            svg.dashed((self.x, height), (right, height), Ink::Text);
        }
        let mut ends = Vec::new();
        for (index, (curve, name)) in self.curves.iter().zip(self.names).enumerate() {
            let ink = ink_of(&curve.arm, index);
            let values = curve.points.iter();
            let values = values.filter_map(|point| Some((x.at(point.step as f64), value(point)?)));
            let end = line(svg, &values.collect::<Vec<_>>(), &y, ink);
            ends.extend(end.map(|(_, height)| (height, name, ink)));
        }
        for (height, name, ink) in spread_out(ends) {
            svg.text((right + 10.0, height + 4.0), label(ink).bold(), name);
        }
    }
}

/// A curve with its dots and the band of its intervals; returns its last point.
fn line(svg: &mut Svg, values: &[(f64, Estimate)], y: &Scale, ink: Ink) -> Option<(f64, f64)> {
    let upper = values.iter().map(|(x, e)| (*x, y.at(e.high)));
    let lower = values.iter().rev().map(|(x, e)| (*x, y.at(e.low)));
    svg.area(&upper.chain(lower).collect::<Vec<_>>(), ink, 0.16);
    let line: Vec<(f64, f64)> = values.iter().map(|(x, e)| (*x, y.at(e.value))).collect();
    svg.polyline(&line, ink, 2.2);
    for point in &line {
        svg.dot(*point, ink);
    }
    line.last().copied()
}

/// Moves labels apart so that none covers another, keeping their order.
fn spread_out(mut labels: Vec<(f64, &String, Ink)>) -> Vec<(f64, &String, Ink)> {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let apart = LABEL + 3.0;
    for index in 1..labels.len() {
        labels[index].0 = labels[index].0.max(labels[index - 1].0 + apart);
    }
    let overflow = labels.last().map_or(0.0, |last| (last.0 - BOTTOM).max(0.0));
    if overflow > 0.0 {
        let mut limit = f64::INFINITY;
        for label in labels.iter_mut().rev() {
            label.0 = label.0.min(BOTTOM).min(limit);
            limit = label.0 - apart;
        }
    }
    labels
}
