//! ID and OOD accuracy of each arm against the baseline.

use super::{Figure, LABEL, WIDTH, heading, label, small};
use crate::report::data::{ArmRow, Estimate, ReportData};
use crate::report::scale::{Scale, percent, points, tick_label};
use crate::report::svg::{Rect, Style, Svg, text_width};
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
    let height = TOP + ROW * rows.len() as f64 + 36.0;
    let mut svg = Svg::new(
        WIDTH,
        height,
        "Accuracy in and out of distribution, by arm",
        theme,
    );
    heading(&mut svg, "Accuracy by training arm");
    let left = 16.0
        + rows
            .iter()
            .map(|row| text_width(&row.arm, LABEL))
            .fold(60.0, f64::max)
        + 12.0;
    for (index, row) in rows.iter().enumerate() {
        svg.text(
            (left - 10.0, TOP + ROW * index as f64 + ROW / 2.0 + 4.0),
            label(Ink::Text).end(),
            &row.arm,
        );
    }
    let width = (WIDTH - left - GAP - 16.0) / 2.0;
    let baseline = data
        .baseline
        .as_deref()
        .and_then(|arm| rows.iter().find(|row| row.arm == arm));
    let panel = Panel {
        x: left,
        width,
        rows: &rows,
    };
    panel.draw(
        &mut svg,
        "In distribution (ID)",
        |row| row.id,
        baseline.and_then(|row| row.id),
    );
    let panel = Panel {
        x: left + width + GAP,
        width,
        rows: &rows,
    };
    panel.draw(
        &mut svg,
        "Out of distribution (OOD)",
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
            "Accuracy in percent; whiskers: {}.{against}",
            data.spread.words()
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
        let bottom = TOP + ROW * self.rows.len() as f64;
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
        for tick in scale.ticks() {
            svg.line(
                (scale.at(tick), TOP - 4.0),
                (scale.at(tick), bottom),
                Ink::Grid,
                1.0,
            );
            svg.text(
                (scale.at(tick), bottom + 17.0),
                small(Ink::Muted).middle(),
                &tick_label(tick * 100.0),
            );
        }
        for (index, row) in self.rows.iter().enumerate() {
            let Some(estimate) = value(row) else { continue };
            let middle = TOP + ROW * index as f64 + ROW / 2.0;
            let end = scale.at(estimate.value);
            svg.rect(
                Rect {
                    x: self.x,
                    y: middle - BAR / 2.0,
                    w: end - self.x,
                    h: BAR,
                },
                ink_of(&row.arm, index),
            );
            svg.whisker_x(
                scale.at(estimate.low),
                scale.at(estimate.high),
                middle,
                Ink::Text,
            );
            let x = self.x + self.width;
            svg.text(
                (x - 42.0, middle + 4.0),
                label(Ink::Text).end().bold(),
                &percent(estimate.value),
            );
            if let Some(base) = baseline.filter(|base| (base.value - estimate.value).abs() > 1e-12)
            {
                svg.text(
                    (x, middle + 4.0),
                    small(Ink::Muted).end(),
                    &points(estimate.value - base.value),
                );
            }
        }
        if let Some(base) = baseline {
            svg.dashed(
                (scale.at(base.value), TOP - 4.0),
                (scale.at(base.value), bottom),
                Ink::Text,
            );
        }
    }
}
