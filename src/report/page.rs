//! The HTML page: one file with its style, scripts and images inside, so that it can be mailed or archived.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::data::{
    ArmRow, Comparison, Estimate, GalleryBin, GallerySample, Gap, ReportData, SetComparison, Spread,
};
use super::figures::{self, Figure};
use super::scale::{duration, percent, points};
use super::theme::{Ink, Theme, ink_of};
use super::words::{difference, p_value, seeds_of, uncertainty};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page.
pub(crate) fn render(data: &ReportData) -> String {
    let figures = figures::all(data, Theme::Page);
    let named = |name: &str| figures.iter().find(|figure| figure.name == name);
    let style = palette() + STYLE;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy(&style));
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (data.study) " · dcsft" }
                style { (PreEscaped(&style)) }
            }
            body {
                main {
                    (header(data))
                    (headlines(data))
                    (notes(&data.notes))
                    section #results {
                        h2 { "Results" }
                        (results(data))
                        (figure(named("accuracy")))
                        (figure(named("steps")))
                        (figure(named("time")))
                    }
                    (differences(data))
                    (comparisons(&data.comparisons))
                    (matched(data))
                    @if data.histogram.is_some() || data.filter.is_some() {
                        section #difficulty {
                            h2 { "Difficulty" }
                            (figure(named("pass-rates")))
                            (figure(named("implicit-filter")))
                        }
                    }
                    (gallery(&data.gallery))
                    section #run {
                        h2 { "Run" }
                        (figure(named("dag")))
                        (nodes(data))
                    }
                    (sources(data))
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// What the page may do: show what is inside it, and nothing else. Scripts and styles are those of this file, known by
/// their digests, so nothing that stands in a name or an answer can run or load anything.
fn policy(style: &str) -> String {
    let digest = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; img-src data:; style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
        digest(style),
        digest(SCRIPT)
    )
}

/// The theme's colours as variables and as swatches, for light and dark pages.
fn palette() -> String {
    let block = |colour: fn(Ink) -> &'static str| -> String {
        Ink::ALL
            .iter()
            .map(|&ink| format!("{}:{};", ink.variable(), colour(ink)))
            .collect()
    };
    let (light, dark) = (block(Ink::light), block(Ink::dark));
    let swatches: String = Ink::ALL
        .iter()
        .map(|ink| format!(".swatch{0}{{background:var({0})}}", ink.variable()))
        .collect();
    format!(
        ":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{swatches}"
    )
}

fn header(data: &ReportData) -> Markup {
    html! {
        header {
            p.kicker { "dcsft experiment report" }
            h1 { (data.study) }
            dl.facts {
                @for fact in &data.facts {
                    div { dt { (fact.name) } dd { (fact.value) } }
                }
            }
        }
    }
}

/// One sentence each on what the study asks.
struct Headline {
    name: String,
    value: String,
    detail: String,
}

fn headline_cards(data: &ReportData) -> Vec<Headline> {
    let mut cards = Vec::new();
    let row = |last: &str| {
        data.table
            .rows
            .iter()
            .find(|row| row.arm == last || row.arm.ends_with(&format!("/{last}")))
    };
    let base = data.baseline.as_deref().and_then(row);
    let mut against_base = |arm: &str, title: &str| {
        let (Some(base), Some(other)) = (base, row(arm)) else {
            return;
        };
        if let (Some(from), Some(to)) = (base.ood, other.ood) {
            let id = base.id.zip(other.id).map_or(String::new(), |(a, b)| {
                format!(", {} ID", points(b.value - a.value))
            });
            cards.push(Headline {
                name: title.to_owned(),
                value: points(to.value - from.value),
                detail: format!(
                    "points OOD{id}, against {} ({}% OOD)",
                    base.arm,
                    percent(from.value)
                ),
            });
        }
    };
    against_base("hard", "SFT on hard");
    against_base("easy+medium", "SFT on easy+medium");
    against_base("grpo", "GRPO");
    let time = |last: &str| {
        data.times
            .iter()
            .find(|t| t.arm == last || t.arm.ends_with(&format!("/{last}")))
    };
    if let (Some(sft), Some(grpo)) = (time("easy+medium"), time("grpo"))
        && sft.training > 0.0
    {
        let scored = (sft.training + sft.scoring).max(f64::MIN_POSITIVE);
        cards.push(Headline {
            name: format!("GRPO / easy+medium, {} of training", data.timing.name()),
            value: format!("{:.1}×", grpo.training / sft.training),
            detail: format!("{:.1}× with rollout scoring", grpo.training / scored),
        });
    }
    if let Some(filter) = &data.filter
        && let Some(index) = filter.bins.iter().position(|bin| bin == "medium")
    {
        cards.push(Headline {
            name: "GRPO gradient from medium".to_owned(),
            value: format!("{}%", percent(filter.gradient[index])),
            detail: format!(
                "medium is {}% of the samples",
                percent(filter.samples[index])
            ),
        });
    }
    cards
}

fn headlines(data: &ReportData) -> Markup {
    let cards = headline_cards(data);
    html! {
        @if !cards.is_empty() {
            div.cards {
                @for card in &cards {
                    div.card {
                        div.name { (card.name) }
                        div.value { (card.value) }
                        div.detail { (card.detail) }
                    }
                }
            }
        }
    }
}

fn results(data: &ReportData) -> Markup {
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

fn seconds(seconds: Option<f64>) -> Markup {
    html! {
        td.number data-value=[seconds] { @if let Some(seconds) = seconds { (duration(seconds)) } }
    }
}

fn swatch(ink: Ink) -> Markup {
    html! { span class={ "swatch swatch" (ink.variable()) } {} }
}

fn figure(figure: Option<&Figure>) -> Markup {
    html! {
        @if let Some(figure) = figure {
            figure id=(figure.name) {
                div.scroll { (PreEscaped(&figure.svg)) }
                figcaption { (figure.caption) }
            }
        }
    }
}

fn differences(data: &ReportData) -> Markup {
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
fn notes(notes: &[String]) -> Markup {
    html! {
        @if !notes.is_empty() {
            section #notes {
                h2 { "To be known" }
                ul { @for note in notes { li { (note) } } }
            }
        }
    }
}

fn comparisons(comparisons: &[Comparison]) -> Markup {
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

fn matched(data: &ReportData) -> Markup {
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

fn gallery(bins: &[GalleryBin]) -> Markup {
    html! {
        @if !bins.is_empty() {
            section #samples {
                h2 { "Samples by difficulty" }
                @for (index, bin) in bins.iter().enumerate() {
                    h3 { (swatch(ink_of(&bin.bin, index))) (bin.bin) }
                    div.gallery { @for sample in &bin.samples { (sample_card(sample)) } }
                }
            }
        }
    }
}

fn sample_card(sample: &GallerySample) -> Markup {
    let source = |image| {
        format!(
            "data:{};base64,{}",
            sample.media_type,
            STANDARD.encode(image)
        )
    };
    html! {
        div.sample {
            @if let Some(image) = &sample.image {
                img src=(source(image)) alt={ "sample: " (sample.answer) };
            }
            div.text {
                p.question { (sample.question) }
                p { "answer " strong { (sample.answer) } }
                ul.answers {
                    @for (text, count) in &sample.answers {
                        li class=(if *text == sample.answer { "right" } else { "wrong" }) {
                            @if text.is_empty() { em { "nothing" } } @else { (text) }
                            " " span.count { "×" (count) }
                        }
                    }
                }
                p.rate { (sample.correct) " of " (sample.n) " right" }
            }
        }
    }
}

fn nodes(data: &ReportData) -> Markup {
    html! {
        @if !data.nodes.is_empty() {
            details {
                summary { "All " (data.nodes.len()) " stages with times" }
                div.scroll {
                    table.sortable {
                        thead { tr { th { "stage" } th { "kind" } th { "state" } th.number { "time" } th { "key" } } }
                        tbody {
                            @for node in &data.nodes {
                                tr {
                                    th scope="row" { (node.title) }
                                    td { (node.kind) }
                                    td { (node.state) }
                                    (seconds(node.seconds))
                                    td.key { @if let Some(key) = &node.key { (key) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn sources(data: &ReportData) -> Markup {
    html! {
        section #spec {
            h2 { "Spec" }
            @if !data.overrides.is_empty() {
                p { "Overrides: " @for text in &data.overrides { code { "--set " (text) } " " } }
            }
            @for (name, text) in &data.sources {
                details open[data.sources.len() == 1] {
                    summary { (name) }
                    pre { code { (text) } }
                }
            }
        }
    }
}
