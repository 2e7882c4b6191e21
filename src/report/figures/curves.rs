//! Accuracy over training steps.

use super::{Figure, LABEL, WIDTH, heading, label, small};
use crate::report::data::{Curve, CurvePoint, Estimate, ReportData};
use crate::report::scale::{Scale, tick_label};
use crate::report::svg::{Style, Svg, text_width};
use crate::report::theme::{Ink, Theme, ink_of};

/// Bold text is this much wider.
const BOLD: f64 = 1.12;
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
    let names = curves
        .iter()
        .map(|curve| text_width(&curve.arm, LABEL) * BOLD)
        .fold(0.0, f64::max)
        + 14.0;
    let width = (WIDTH - 16.0 - 2.0 * (40.0 + names)) / 2.0;
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
    };
    panel.draw(
        &mut svg,
        "Out of distribution (OOD), %",
        |point| point.ood,
        baseline.and_then(|row| row.ood),
    );
    let panel = Panel {
        x: left + width + names + 40.0,
        width,
        curves: &curves,
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
            data.spread.words()
        ),
        svg: svg.finish(),
    })
}

struct Panel<'a> {
    x: f64,
    width: f64,
    curves: &'a [&'a Curve],
}

impl Panel<'_> {
    fn draw(
        &self,
        svg: &mut Svg,
        title: &str,
        value: impl Fn(&CurvePoint) -> Option<Estimate>,
        baseline: Option<Estimate>,
    ) {
        let all: Vec<Estimate> = self
            .curves
            .iter()
            .flat_map(|curve| &curve.points)
            .filter_map(&value)
            .chain(baseline)
            .collect();
        if all.is_empty() {
            return;
        }
        let low = all.iter().map(|e| e.low).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(|e| e.high).fold(f64::NEG_INFINITY, f64::max);
        let y = Scale::nice(low, high, 5, BOTTOM, TOP);
        let last = self
            .curves
            .iter()
            .flat_map(|curve| &curve.points)
            .map(|point| point.step)
            .max()
            .unwrap_or(1);
        let x = Scale::exact(0.0, last as f64, 6, self.x, self.x + self.width);
        svg.text((self.x, 50.0), Style::new(LABEL, Ink::Muted).bold(), title);
        for tick in y.ticks() {
            svg.line(
                (self.x, y.at(tick)),
                (self.x + self.width, y.at(tick)),
                Ink::Grid,
                1.0,
            );
            svg.text(
                (self.x - 8.0, y.at(tick) + 4.0),
                small(Ink::Muted).end(),
                &tick_label(tick * 100.0),
            );
        }
        for tick in x.ticks() {
            svg.text(
                (x.at(tick), BOTTOM + 18.0),
                small(Ink::Muted).middle(),
                &tick_label(tick),
            );
        }
        svg.text(
            (self.x + self.width / 2.0, BOTTOM + 36.0),
            small(Ink::Muted).middle(),
            "training step",
        );
        if let Some(base) = baseline {
            svg.dashed(
                (self.x, y.at(base.value)),
                (self.x + self.width, y.at(base.value)),
                Ink::Text,
            );
        }
        let mut ends = Vec::new();
        for (index, curve) in self.curves.iter().enumerate() {
            let ink = ink_of(&curve.arm, index);
            let points: Vec<(f64, Estimate)> = curve
                .points
                .iter()
                .filter_map(|point| Some((x.at(point.step as f64), value(point)?)))
                .collect();
            let upper = points.iter().map(|(x, e)| (*x, y.at(e.high)));
            let lower = points.iter().rev().map(|(x, e)| (*x, y.at(e.low)));
            svg.area(&upper.chain(lower).collect::<Vec<_>>(), ink, 0.16);
            let line: Vec<(f64, f64)> = points.iter().map(|(x, e)| (*x, y.at(e.value))).collect();
            svg.polyline(&line, ink, 2.2);
            for point in &line {
                svg.dot(*point, ink);
            }
            if let Some(end) = line.last() {
                ends.push((end.1, &curve.arm, ink));
            }
        }
        for (y, name, ink) in spread_out(ends) {
            svg.text(
                (self.x + self.width + 10.0, y + 4.0),
                label(ink).bold(),
                name,
            );
        }
    }
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
