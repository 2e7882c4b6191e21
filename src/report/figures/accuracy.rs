//! ID and OOD accuracy of each arm against the baseline.

use dcsft_engine::results::statistics::Estimate;

use super::parts::{
    ARMS, Figure, LABEL, WIDTH, heading, label, left_out, name_column, small, whiskers,
};
use crate::report::data::{ArmRow, ReportData};
use crate::report::scale::{Scale, percent, points, tick_label};
use crate::report::svg::{Rect, Style, Svg};
use crate::report::theme::{Ink, Theme, ink_of};

const ROW: f64 = 27.0;
const BAR: f64 = 15.0;
const TOP: f64 = 66.0;
const GAP: f64 = 28.0;

pub(super) fn draw(data: &ReportData, theme: Theme) -> Option<Figure> {
    let rows: Vec<&ArmRow> = data
        .table
        .rows
        .iter()
        .filter(|row| row.id.is_some() || row.ood.is_some())
        .collect();
    if rows.is_empty() {
        return None;
    }
    let baseline = data
        .baseline
        .as_deref()
        .and_then(|arm| rows.iter().find(|row| row.arm == arm))
        .copied();
    let arms = rows.len();
    let rows = &rows[..arms.min(ARMS)];
    let height = TOP + ROW * rows.len() as f64 + 36.0;
    let mut svg = Svg::new(
        WIDTH,
        height,
        "Accuracy in and out of distribution, by arm",
        theme,
    );
    heading(&mut svg, "Accuracy by training arm");
    let (names, left) = name_column(rows.iter().map(|row| row.arm.as_str()));
    for (index, name) in names.iter().enumerate() {
        svg.text(
            (left - 10.0, TOP + ROW * index as f64 + ROW / 2.0 + 4.0),
            label(Ink::Text).end(),
            name,
        );
    }
    let width = (WIDTH - left - GAP - 16.0) / 2.0;
    let panel = Panel {
        x: left,
        width,
        rows,
    };
    panel.draw(
        &mut svg,
        "In distribution (ID), %",
        |row| row.id,
        baseline.and_then(|row| row.id),
    );
    let panel = Panel {
        x: left + width + GAP,
        width,
        rows,
    };
    panel.draw(
        &mut svg,
        "Out of distribution (OOD), %",
        |row| row.ood,
        baseline.and_then(|row| row.ood),
    );
    let against = data
        .baseline
        .as_deref()
        .map_or(String::new(), |arm| format!(" The dashed line is {arm}."));
    Some(Figure {
        name: "accuracy",
        caption: format!(
            "Accuracy in percent; whiskers: {}.{against}{}",
            whiskers(data),
            left_out(arms)
        ),
        svg: svg.finish(),
    })
}

struct Panel<'a> {
    x: f64,
    width: f64,
    rows: &'a [&'a ArmRow],
}

impl Panel<'_> {
    fn draw(
        &self,
        svg: &mut Svg,
        title: &str,
        value: impl Fn(&ArmRow) -> Option<Estimate>,
        baseline: Option<Estimate>,
    ) {
        // The values stand to the right of the bars, in a column of their own.
        let column = 78.0;
        let top_value = self
            .rows
            .iter()
            .filter_map(|row| value(row))
            .map(|e| e.high)
            .fold(0.05, f64::max);
        let scale = Scale::exact(
            0.0,
            top_value * 1.02,
            5,
            self.x,
            self.x + self.width - column,
        );
        svg.text((self.x, 50.0), Style::new(LABEL, Ink::Muted).bold(), title);
        self.grid(svg, &scale);
        for (index, row) in self.rows.iter().enumerate() {
            if let Some(estimate) = value(row) {
                let middle = TOP + ROW * index as f64 + ROW / 2.0;
                self.bar(svg, &scale, middle, &estimate, ink_of(&row.arm, index));
                self.numbers(svg, middle, &estimate, baseline);
            }
        }
        if let Some(base) = baseline {
            let x = scale.at(base.value);
            svg.dashed((x, TOP - 4.0), (x, self.bottom()), Ink::Text);
        }
    }

    fn bottom(&self) -> f64 {
        TOP + ROW * self.rows.len() as f64
    }

    fn grid(&self, svg: &mut Svg, scale: &Scale) {
        for tick in scale.ticks() {
            let x = scale.at(tick);
            svg.line((x, TOP - 4.0), (x, self.bottom()), Ink::Grid, 1.0);
            svg.text(
                (x, self.bottom() + 17.0),
                small(Ink::Muted).middle(),
                &tick_label(tick * 100.0),
            );
        }
    }

    fn bar(&self, svg: &mut Svg, scale: &Scale, middle: f64, estimate: &Estimate, ink: Ink) {
        let bar = Rect {
            x: self.x,
            y: middle - BAR / 2.0,
            w: scale.at(estimate.value) - self.x,
            h: BAR,
        };
        svg.rect(bar, ink);
        let (low, high) = (scale.at(estimate.low), scale.at(estimate.high));
        svg.whisker_x(low, high, middle, Ink::Text);
    }

    /// The accuracy, and its difference from the baseline.
    fn numbers(&self, svg: &mut Svg, middle: f64, estimate: &Estimate, baseline: Option<Estimate>) {
        let (x, y) = (self.x + self.width, middle + 4.0);
        let text = percent(estimate.value);
        svg.text((x - 42.0, y), label(Ink::Text).end().bold(), &text);
        let gap = baseline.map(|base| estimate.value - base.value);
        if let Some(gap) = gap.filter(|gap| gap.abs() > 1e-12) {
            svg.text((x, y), small(Ink::Muted).end(), &points(gap));
        }
    }
}
