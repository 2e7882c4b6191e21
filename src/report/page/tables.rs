//! The page's tables: arms by sets, differences, comparisons.

use dcsft_engine::results::statistics::{Estimate, Gap, Spread};
use dcsft_engine::units::duration;
use maud::{Markup, html};

use crate::report::data::{ArmRow, Comparison, ReportData, SetComparison};
use crate::report::scale::{percent, points};
use crate::report::theme::{Ink, ink_of};
use crate::report::words::{difference, p_value, seeds_of, uncertainty};

pub(super) fn results(data: &ReportData) -> Markup {
    let table = &data.table;
    let steps = table.rows.iter().any(|row| row.step.is_some());
    let times = table.rows.iter().any(|row| row.seconds.is_some());
    let scored = data.times.iter().any(|time| time.scoring > 0.0);
    let with_scoring = |arm: &str| {
        let time = data.times.iter().find(|time| time.arm == arm)?;
        Some(time.training + time.scoring)
    };
    let formats = table.rows.iter().any(|row| row.format.is_some());
    let means = table.sets.iter().filter(|(_, ood)| *ood).count() > 1;
    let seeds = table.is_mixed() || table.lacks_seeds();
    let cell = |cell: Option<&Estimate>, row: &ArmRow| estimate(cell, row.seeds, table.seeds);
    html! {
        @if table.rows.is_empty() {
            p.note { "No evaluation has finished yet." }
        } @else {
            div.scroll {
                table.sortable {
                    thead { tr {
                        th { "arm" }
                        @if steps { th.number { "step" } }
                        @if seeds { th.number { "seeds" } }
                        @for (set, ood) in &table.sets {
                            th.number { (set) " " span.split { @if *ood { "OOD" } @else { "ID" } } }
                        }
                        @if means { th.number { "OOD mean" } }
                        @if formats { th.number { "in format" } }
                        @if times { th.number { (data.timing.heading()) } }
                        @if scored { th.number { "with scoring" } }
                    } }
                    tbody {
                        @for (index, row) in table.rows.iter().enumerate() {
                            tr {
                                th scope="row" { (swatch(ink_of(&row.arm, index))) (row.arm) }
                                @if steps { td.number data-value=[row.step] { @if let Some(step) = row.step { (step) } } }
                                @if seeds { td.number data-value=[row.seeds] { (seeds_of(row.seeds, table.seeds)) } }
                                @for estimate in &row.cells { (cell(estimate.as_ref(), row)) }
                                @if means { (cell(row.ood.as_ref(), row)) }
                                @if formats {
                                    td.number data-value=[row.format] { @if let Some(f) = row.format { (percent(f)) } }
                                }
                                @if times { (seconds(row.seconds)) }
                                @if scored { (seconds(with_scoring(&row.arm))) }
                            }
                        }
                    }
                }
            }
            p.note {
                "Accuracy in percent; " (data.spread.words())
                @if table.is_mixed() { "; [low, high] is the 95% Wilson interval of a single run" }
                @if table.lacks_seeds() { "; (n) is a mean over n seeds only" }
                ". Click a heading to sort."
            }
        }
    }
}

fn estimate(cell: Option<&Estimate>, seeds: Option<usize>, most: usize) -> Markup {
    html! {
        td.number data-value=[cell.map(|cell| cell.value)] {
            @if let Some(cell) = cell {
                (percent(cell.value)) " " span.interval { (uncertainty(cell, seeds, most)) }
            } @else { "–" }
        }
    }
}

pub(super) fn seconds(seconds: Option<f64>) -> Markup {
    html! {
        td.number data-value=[seconds] { @if let Some(seconds) = seconds { (duration(seconds)) } }
    }
}

pub(super) fn differences(data: &ReportData) -> Markup {
    let rows = &data.differences;
    // One seed says nothing about the spread of a difference; the table above has its numbers.
    let several = matches!(data.spread, Spread::StandardError { .. });
    html! {
        @if several && !rows.is_empty() {
            section #differences {
                h2 { "Paired differences" }
                div.scroll {
                    table.sortable {
                        thead { tr {
                            th { "arm" } th { "against" }
                            th.number { "OOD" } th.number { "better on" }
                            th.number { "ID" } th.number { "better on" }
                        } }
                        tbody {
                            @for row in rows {
                                tr {
                                    th scope="row" { (row.arm) }
                                    td { (row.versus) }
                                    (gap(row.ood.as_ref()))
                                    (gap(row.id.as_ref()))
                                }
                            }
                        }
                    }
                }
                p.note {
                    "In points of accuracy, mean ± standard error over seeds. Both arms of a pair share the seed: \
                     the same data, base model and cold start."
                }
            }
        }
    }
}

/// What was left out, and what else is to be known before the numbers are read.
pub(super) fn comparisons(comparisons: &[Comparison]) -> Markup {
    let row = |one: &Comparison,
               set: &str,
               value: f64,
               interval: [f64; 2],
               paired: Option<&SetComparison>| {
        html! {
            tr {
                th scope="row" { (one.arm) } td { (one.versus) } td { (set) }
                td.number data-value=(value) { (difference(value, interval)) }
                @if let Some(SetComparison { paired, unshared, .. }) = paired {
                    td.number data-value=(paired.better) { (paired.better) }
                    td.number data-value=(paired.worse) { (paired.worse) }
                    td.number data-value=(paired.p) { (p_value(paired.p)) }
                    td.number data-value=(paired.n) { (paired.n) @if *unshared > 0 { " (" (unshared) " not shared)" } }
                } @else { td {} td {} td {} td {} }
            }
        }
    };
    html! {
        @if !comparisons.is_empty() {
            section #comparisons {
                h2 { "Sample by sample" }
                div.scroll {
                    table.sortable {
                        thead { tr {
                            th { "arm" } th { "against" } th { "set" }
                            th.number { "difference" }
                            th.number { "better" } th.number { "worse" } th.number { "p" } th.number { "samples" }
                        } }
                        tbody {
                            @for one in comparisons {
                                @for set in &one.sets {
                                    (row(one, &set.set, set.paired.difference, set.paired.interval, Some(set)))
                                }
                                @if let Some((difference, interval)) = one.id {
                                    (row(one, "ID mean", difference, interval, None))
                                }
                                @if let Some((difference, interval)) = one.ood {
                                    (row(one, "OOD mean", difference, interval, None))
                                }
                            }
                        }
                    }
                }
                p.note {
                    "Arms of one run each that answered the same samples, joined by sample, in points of accuracy ± half the 95% \
                     interval, or with the interval where it is lopsided. \
                     better and worse count the samples that only one of the two has right; p is that of the exact \
                     McNemar test, the interval that of Agresti and Min (2005) for matched proportions."
                }
            }
        }
    }
}

pub(super) fn matched(data: &ReportData) -> Markup {
    html! {
        @if !data.matched.is_empty() {
            section #matched {
                h2 { "At matched ID accuracy" }
                div.scroll {
                    table.sortable {
                        thead { tr {
                            th { "arm" } th { "against" } th.number { "OOD" } th.number { "better on" }
                            th.number { "ID from" } th.number { "to" }
                        } }
                        tbody {
                            @for row in &data.matched {
                                tr {
                                    th scope="row" { (row.arm) } td { (row.versus) }
                                    @if row.gap.is_some() {
                                        (gap(row.gap.as_ref()))
                                    } @else {
                                        td.number { "no common ID" } td.number {}
                                    }
                                    @for end in 0..2 {
                                        td.number data-value=[row.range.map(|range| range[end])] {
                                            @if let Some(range) = row.range { (percent(range[end])) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
                p.note {
                    "Each arm over all its settings and steps: the best OOD accuracy that it has at an ID accuracy \
                     or above, averaged over the ID accuracies that both arms reach. Nothing is interpolated between \
                     its settings or extrapolated beyond them. In points; mean ± standard error over seeds."
                }
            }
        }
    }
}

/// A difference and its wins: two cells.
fn gap(gap: Option<&Gap>) -> Markup {
    html! {
        td.number data-value=[gap.map(|gap| gap.mean)] {
            @if let Some(gap) = gap {
                strong { (points(gap.mean)) }
                @if let Some(se) = gap.se { " " span.interval { "±" (percent(se)) } }
            }
        }
        td.number data-value=[gap.map(|gap| gap.wins)] {
            @if let Some(gap) = gap { (gap.wins) " of " (gap.pairs) }
        }
    }
}

pub(super) fn swatch(ink: Ink) -> Markup {
    html! { span class={ "swatch swatch" (ink.variable()) } {} }
}
