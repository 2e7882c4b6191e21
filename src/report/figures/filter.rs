//! The implicit filter: from which difficulty the policy gradient came.

use super::parts::{Figure, LABEL, WIDTH, heading, label, legend, small, step_axis};
use crate::report::data::{FilterStep, ImplicitFilter, ReportData};
use crate::report::scale::{Scale, percent, tick_label};
use crate::report::svg::{Rect, Style, Svg};
use crate::report::theme::{Ink, Theme, ink_of};

const TOP: f64 = 88.0;
const BOTTOM: f64 = 300.0;
/// Columns of the area chart: steps are averaged in groups, since a single batch is noise.
const COLUMNS: usize = 40;

pub(super) fn draw(data: &ReportData, theme: Theme) -> Option<Figure> {
    let filter = data
        .filter
        .as_ref()
        .filter(|filter| !filter.bins.is_empty())?;
    let mut svg = Svg::new(
        WIDTH,
        344.0,
        "Share of the policy gradient by difficulty",
        theme,
    );
    heading(
        &mut svg,
        "The implicit filter: where GRPO's gradient comes from",
    );
    let inks: Vec<Ink> = filter
        .bins
        .iter()
        .enumerate()
        .map(|(index, bin)| ink_of(bin, index))
        .collect();
    let entries: Vec<(String, Ink)> = filter
        .bins
        .iter()
        .cloned()
        .zip(inks.iter().copied())
        .collect();
    legend(&mut svg, 16.0, 50.0, &entries);
    columns(&mut svg, filter, &inks);
    if filter.steps.len() > 1 {
        over_steps(&mut svg, filter, &inks);
    }
    let of = |shares: &[f64], bin: &str| {
        filter
            .bins
            .iter()
            .position(|name| name == bin)
            .and_then(|index| shares.get(index))
            .copied()
    };
    let medium = of(&filter.gradient, "medium")
        .zip(of(&filter.samples, "medium"))
        .map_or(String::new(), |(g, s)| {
            format!(
                " Medium samples are {}% of the data and {}% of the gradient.",
                percent(s),
                percent(g)
            )
        });
    Some(Figure {
        name: "implicit-filter",
        caption: format!(
            "A group whose answers are all right or all wrong has no advantage and teaches nothing but to stay near the reference (the KL term): {}% of the gradient comes from groups with both.{medium}",
            percent(filter.mixed)
        ),
        svg: svg.finish(),
    })
}

/// Two stacked columns: the samples and the gradient of the whole run.
fn columns(svg: &mut Svg, filter: &ImplicitFilter, inks: &[Ink]) {
    for (x, name, shares) in [
        (16.0, "samples", &filter.samples),
        (98.0, "gradient", &filter.gradient),
        (180.0, "reward term", &filter.reward),
    ] {
        let mut y = BOTTOM;
        let width = 62.0;
        for (share, ink) in shares.iter().zip(inks) {
            let h = share * (BOTTOM - TOP);
            y -= h;
            svg.rect(
                Rect {
                    x,
                    y: y + 0.75,
                    w: width,
                    h: h - 1.5,
                },
                *ink,
            );
            if h > 16.0 {
                svg.text(
                    (x + width / 2.0, y + h / 2.0 + 4.0),
                    Style::new(LABEL, Ink::OnColour).middle().bold(),
                    &percent(*share),
                );
            }
        }
        svg.text(
            (x + width / 2.0, BOTTOM + 18.0),
            label(Ink::Text).middle(),
            name,
        );
    }
    svg.text(
        (16.0, TOP - 12.0),
        Style::new(LABEL, Ink::Muted).bold(),
        "Whole run, %",
    );
}

/// Stacked areas over the steps, with the share of groups that had an advantage as a line.
fn over_steps(svg: &mut Svg, filter: &ImplicitFilter, inks: &[Ink]) {
    let (left, right) = (306.0, WIDTH - 120.0);
    let groups = averaged(&filter.steps, filter.bins.len());
    let last = filter.steps.last().map_or(1, |step| step.step).max(1);
    let x = Scale::exact(0.0, last as f64, 6, left, right);
    let y = Scale::exact(0.0, 1.0, 5, BOTTOM, TOP);
    svg.text(
        (left, TOP - 12.0),
        Style::new(LABEL, Ink::Muted).bold(),
        "Share of the gradient over training, %",
    );
    let mut below = vec![0.0; groups.len()];
    for (index, ink) in inks.iter().enumerate() {
        let above: Vec<f64> = groups
            .iter()
            .zip(&below)
            .map(|(group, base)| base + group.shares[index])
            .collect();
        let upper = groups
            .iter()
            .zip(&above)
            .map(|(group, value)| (x.at(group.step as f64), y.at(*value)));
        let lower = groups
            .iter()
            .zip(&below)
            .rev()
            .map(|(group, value)| (x.at(group.step as f64), y.at(*value)));
        svg.area(&upper.chain(lower).collect::<Vec<_>>(), *ink, 0.92);
        below = above;
    }
    for tick in y.ticks() {
        svg.text(
            (left - 8.0, y.at(tick) + 4.0),
            small(Ink::Muted).end(),
            &tick_label(tick * 100.0),
        );
    }
    step_axis(svg, &x, BOTTOM, (left + right) / 2.0);
    let active: Vec<(f64, f64)> = groups
        .iter()
        .map(|group| (x.at(group.step as f64), y.at(group.active)))
        .collect();
    svg.polyline(&active, Ink::Text, 2.0);
    if let Some(end) = active.last() {
        svg.text((right + 8.0, end.1), label(Ink::Text).bold(), "groups with");
        svg.text(
            (right + 8.0, end.1 + 15.0),
            label(Ink::Text).bold(),
            "an advantage",
        );
    }
}

/// Means of neighbouring steps, at most [`COLUMNS`] of them. Steps without any gradient have no shares to count.
fn averaged(steps: &[FilterStep], bins: usize) -> Vec<FilterStep> {
    let size = steps.len().div_ceil(COLUMNS).max(1);
    steps
        .chunks(size)
        .filter_map(|chunk| {
            let with: Vec<&FilterStep> = chunk
                .iter()
                .filter(|step| step.shares.iter().sum::<f64>() > 0.0)
                .collect();
            let step = chunk[chunk.len() / 2].step;
            let active = chunk.iter().map(|step| step.active).sum::<f64>() / chunk.len() as f64;
            let shares = (0..bins)
                .map(|bin| {
                    with.iter().map(|step| step.shares[bin]).sum::<f64>() / with.len() as f64
                })
                .collect();
            (!with.is_empty()).then_some(FilterStep {
                step,
                shares,
                active,
            })
        })
        .collect()
}
