//! How many samples were answered right how often.

use std::collections::BTreeMap;

use super::{Figure, LABEL, WIDTH, heading, label, legend, small};
use crate::report::data::ReportData;
use crate::report::scale::{Scale, percent, tick_label};
use crate::report::svg::{Rect, Svg};
use crate::report::theme::{Ink, Theme, ink_of};

const TOP: f64 = 72.0;
const BOTTOM: f64 = 280.0;

pub(super) fn draw(data: &ReportData, theme: Theme) -> Option<Figure> {
    let rates = data.histogram.as_ref()?;
    let total: u64 = rates.counts.iter().map(|bar| bar.samples).sum();
    if total == 0 {
        return None;
    }
    let mut svg = Svg::new(WIDTH, 336.0, "Pass rates of the training samples", theme);
    heading(&mut svg, "Pass rate of the training samples");
    let mut shares: BTreeMap<&str, u64> = BTreeMap::new();
    for bar in &rates.counts {
        *shares
            .entry(bar.bin.as_deref().unwrap_or("no bin"))
            .or_default() += bar.samples;
    }
    let names = rates
        .bins
        .iter()
        .map(String::as_str)
        .chain(shares.contains_key("no bin").then_some("no bin"));
    let entries: Vec<(String, Ink)> = names
        .enumerate()
        .map(|(index, bin)| {
            let share = *shares.get(bin).unwrap_or(&0);
            (
                format!("{bin} {share} ({}%)", percent(share as f64 / total as f64)),
                ink(bin, index),
            )
        })
        .collect();
    legend(&mut svg, 16.0, 50.0, &entries);

    let left = 64.0;
    let most = rates
        .counts
        .iter()
        .map(|bar| bar.samples)
        .max()
        .unwrap_or(1);
    let y = Scale::nice(0.0, most as f64, 4, BOTTOM, TOP);
    for tick in y.ticks() {
        svg.line(
            (left, y.at(tick)),
            (WIDTH - 16.0, y.at(tick)),
            Ink::Grid,
            1.0,
        );
        svg.text(
            (left - 8.0, y.at(tick) + 4.0),
            small(Ink::Muted).end(),
            &tick_label(tick),
        );
    }
    let slot = (WIDTH - 16.0 - left) / (rates.n + 1) as f64;
    let present: BTreeMap<u64, _> = rates.counts.iter().map(|bar| (bar.correct, bar)).collect();
    // Labels of narrow bars would run into each other.
    let every = (34.0 / slot).ceil().max(1.0) as u64;
    for correct in 0..=rates.n {
        let middle = left + slot * (correct as f64 + 0.5);
        if correct % every == 0 || correct == rates.n {
            svg.text(
                (middle, BOTTOM + 18.0),
                label(Ink::Text).middle(),
                &format!("{correct}/{}", rates.n),
            );
        }
        let Some(bar) = present.get(&correct) else {
            continue;
        };
        let bin = bar.bin.as_deref().unwrap_or("no bin");
        let index = rates
            .bins
            .iter()
            .position(|name| name == bin)
            .unwrap_or(rates.bins.len());
        let top = y.at(bar.samples as f64);
        let w = (slot * 0.78).min(64.0);
        svg.rect(
            Rect {
                x: middle - w / 2.0,
                y: top,
                w,
                h: BOTTOM - top,
            },
            ink(bin, index),
        );
        if slot > 34.0 {
            svg.text(
                (middle, top - 6.0),
                small(Ink::Muted).middle(),
                &bar.samples.to_string(),
            );
        }
    }
    let middle = left + (WIDTH - 16.0 - left) / 2.0;
    svg.text(
        (middle, BOTTOM + 42.0),
        small(Ink::Muted).middle(),
        "right answers / sampled answers",
    );
    svg.text_up(
        (16.0 + LABEL / 2.0, (TOP + BOTTOM) / 2.0),
        small(Ink::Muted).middle(),
        "samples",
    );
    let cells = if rates.cells > 1 {
        format!(", over {} scored sets", rates.cells)
    } else {
        String::new()
    };
    Some(Figure {
        name: "pass-rates",
        caption: format!(
            "{total} training samples by how many of {} sampled answers were right{cells}.",
            rates.n
        ),
        svg: svg.finish(),
    })
}

fn ink(bin: &str, index: usize) -> Ink {
    if bin == "no bin" {
        Ink::Grid
    } else {
        ink_of(bin, index)
    }
}
