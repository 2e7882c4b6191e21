//! The HTML page: one file with its style, scripts and images inside, so that it can be mailed or archived.

mod tables;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::data::{GalleryBin, GallerySample, ReportData};
use super::figures::{self, Figure};
use super::scale::{percent, points};
use super::theme::{Ink, Theme, ink_of};

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
                        (tables::results(data))
                        (figure(named("accuracy")))
                        (figure(named("steps")))
                        (figure(named("time")))
                    }
                    (tables::differences(data))
                    (tables::comparisons(&data.comparisons))
                    (tables::matched(data))
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

fn gallery(bins: &[GalleryBin]) -> Markup {
    html! {
        @if !bins.is_empty() {
            section #samples {
                h2 { "Samples by difficulty" }
                @for (index, bin) in bins.iter().enumerate() {
                    h3 { (tables::swatch(ink_of(&bin.bin, index))) (bin.bin) }
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
                summary { "All " (data.nodes.len()) " stages, with times and where their results come from" }
                div.scroll {
                    table.sortable {
                        thead { tr { th { "stage" } th { "kind" } th { "state" } th.number { "time" } th { "key" }
                            th { "device" } th { "host" } th { "dcsft" } th { "run" } } }
                        tbody {
                            @for node in &data.nodes {
                                tr {
                                    th scope="row" { (node.title) }
                                    td { (node.kind) }
                                    td { (node.state) }
                                    (tables::seconds(node.seconds))
                                    td.key { @if let Some(key) = &node.key { (key) } }
                                    @for cell in node.origin.iter().flatten() { td { (cell) } }
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
