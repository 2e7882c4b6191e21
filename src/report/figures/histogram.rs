//! How many samples were answered right how often.

use std::collections::BTreeMap;

use super::parts::{Figure, LABEL, WIDTH, heading, label, legend, small};
use crate::report::data::{CountBar, PassRates, ReportData};
use crate::report::scale::{Scale, percent, tick_label};
use crate::report::svg::{Rect, Svg};
use crate::report::theme::{Ink, Theme, ink_of};

/// What samples are called that no bin holds.
const NO_BIN: &str = "no bin";
const TOP: f64 = 72.0;
const BOTTOM: f64 = 280.0;

const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 16.0;
/// Narrower slots have no room for the label of a bar.
const LABELLED: f64 = 34.0;

pub(super) fn draw(data: &ReportData, theme: Theme) -> Option<Figure> {
    let rates = data.histogram.as_ref()?;
    let total: u64 = rates.counts.iter().map(|bar| bar.samples).sum();
    if total == 0 {
        return None;
    }
    let mut svg = Svg::new(WIDTH, 336.0, "Pass rates of the training samples", theme);
    heading(&mut svg, "Pass rate of the training samples");
    legend(&mut svg, 16.0, 50.0, &shares(rates, total));
    let most = rates.counts.iter().map(|bar| bar.samples).max();
    let y = Scale::nice(0.0, most.unwrap_or(1) as f64, 4, BOTTOM, TOP);
    axes(&mut svg, rates, &y);
    for bar in &rates.counts {
        draw_bar(&mut svg, rates, bar, &y);
    }
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

/// The legend: each bin with its number and share of the samples.
fn shares(rates: &PassRates, total: u64) -> Vec<(String, Ink)> {
    let mut samples: BTreeMap<&str, u64> = BTreeMap::new();
    for bar in &rates.counts {
        *samples.entry(bin_of(bar)).or_default() += bar.samples;
    }
    let bins = rates.bins.iter().map(String::as_str);
    bins.chain(samples.contains_key(NO_BIN).then_some(NO_BIN))
        .enumerate()
        .map(|(index, bin)| {
            let of_bin = *samples.get(bin).unwrap_or(&0);
            let share = percent(of_bin as f64 / total as f64);
            (format!("{bin} {of_bin} ({share}%)"), ink(bin, index))
        })
        .collect()
}

/// Grid, ticks and what the axes are.
fn axes(svg: &mut Svg, rates: &PassRates, y: &Scale) {
    for tick in y.ticks() {
        svg.line((LEFT, y.at(tick)), (RIGHT, y.at(tick)), Ink::Grid, 1.0);
        svg.text(
            (LEFT - 8.0, y.at(tick) + 4.0),
            small(Ink::Muted).end(),
            &tick_label(tick),
        );
    }
    // Labels of narrow bars would run into each other.
    let every = (LABELLED / slot(rates)).ceil().max(1.0) as u64;
    for correct in (0..=rates.n).filter(|correct| correct % every == 0 || *correct == rates.n) {
        svg.text(
            (middle(rates, correct), BOTTOM + 18.0),
            label(Ink::Text).middle(),
            &format!("{correct}/{}", rates.n),
        );
    }
    svg.text(
        ((LEFT + RIGHT) / 2.0, BOTTOM + 42.0),
        small(Ink::Muted).middle(),
        "right answers / sampled answers",
    );
    svg.text_up(
        (16.0 + LABEL / 2.0, (TOP + BOTTOM) / 2.0),
        small(Ink::Muted).middle(),
        "samples",
    );
}

fn draw_bar(svg: &mut Svg, rates: &PassRates, bar: &CountBar, y: &Scale) {
    let bin = bin_of(bar);
    let index = rates.bins.iter().position(|name| name == bin);
    let (middle, top) = (middle(rates, bar.correct), y.at(bar.samples as f64));
    let w = (slot(rates) * 0.78).min(64.0);
    svg.rect(
        Rect {
            x: middle - w / 2.0,
            y: top,
            w,
            h: BOTTOM - top,
        },
        ink(bin, index.unwrap_or(rates.bins.len())),
    );
    if slot(rates) > LABELLED {
        svg.text(
            (middle, top - 6.0),
            small(Ink::Muted).middle(),
            &bar.samples.to_string(),
        );
    }
}

/// Pixels that each number of right answers has.
fn slot(rates: &PassRates) -> f64 {
    (RIGHT - LEFT) / (rates.n + 1) as f64
}

fn middle(rates: &PassRates, correct: u64) -> f64 {
    LEFT + slot(rates) * (correct as f64 + 0.5)
}

fn bin_of(bar: &CountBar) -> &str {
    bar.bin.as_deref().unwrap_or(NO_BIN)
}

fn ink(bin: &str, index: usize) -> Ink {
    if bin == NO_BIN {
        Ink::Grid
    } else {
        ink_of(bin, index)
    }
}
