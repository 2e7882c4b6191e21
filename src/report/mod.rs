//! The report: figures and one HTML page from plain data.

pub(crate) mod data;
mod figures;
#[cfg(test)]
mod fixture;
mod page;
mod png;
pub(crate) mod scale;
mod svg;
mod theme;
pub(crate) mod words;

use std::path::{Path, PathBuf};

use data::ReportData;
use theme::Theme;

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A figure could not be drawn as PNG.
    #[error("figure {name}: {source}")]
    Figure {
        /// The figure.
        name: &'static str,
        /// Why.
        source: png::PngError,
    },
}

/// Writes `index.html`, `figures/*.svg` and `figures/*.png` into `dir`; returns the path of the page.
///
/// # Errors
/// [`ReportError`] on the first file that cannot be written.
pub(crate) fn write(data: &ReportData, dir: &Path) -> Result<PathBuf, ReportError> {
    let folder = dir.join("figures");
    std::fs::create_dir_all(&folder).map_err(|source| ReportError::Write {
        path: folder.clone(),
        source,
    })?;
    let renderer = png::Renderer::new();
    for figure in figures::all(data, Theme::File) {
        let name = figure.name;
        save(&folder.join(format!("{name}.svg")), figure.svg.as_bytes())?;
        let png = renderer
            .png(&figure.svg)
            .map_err(|source| ReportError::Figure { name, source })?;
        save(&folder.join(format!("{name}.png")), &png)?;
    }
    let page = dir.join("index.html");
    save(&page, page::render(data).as_bytes())?;
    Ok(page)
}

/// Writes through a temporary name of this process, so that a reader never sees half a file and two runs of a spec that
/// end at the same time do not take each other's.
fn save(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let fail = |source| ReportError::Write {
        path: path.to_owned(),
        source,
    };
    let part = path.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, bytes).map_err(fail)?;
    std::fs::rename(&part, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: [&str; 6] = [
        "accuracy",
        "steps",
        "time",
        "pass-rates",
        "implicit-filter",
        "dag",
    ];

    fn figure(data: &ReportData, name: &str) -> String {
        let figures = figures::all(data, Theme::File);
        figures
            .into_iter()
            .find(|figure| figure.name == name)
            .map(|figure| figure.svg)
            .unwrap_or_default()
    }

    #[test]
    fn every_figure_is_drawn_as_svg_and_as_png_of_twice_its_size() {
        let data = fixture::study();
        let renderer = png::Renderer::new();
        let figures = figures::all(&data, Theme::File);
        assert_eq!(
            figures.iter().map(|figure| figure.name).collect::<Vec<_>>(),
            FIGURES
        );
        for figure in figures {
            let png = renderer.png(&figure.svg).unwrap();
            let width = u32::from_be_bytes([png[16], png[17], png[18], png[19]]);
            assert_eq!(width, 2 * 860, "{}", figure.name);
            assert!(
                !figure.svg.contains("NaN") && !figure.svg.contains("inf"),
                "{}",
                figure.name
            );
        }
    }

    #[test]
    fn text_in_a_png_is_drawn_without_fonts_on_the_machine() {
        let text = r#"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20" font-family="Inter, sans-serif"><text x="2" y="15" font-size="14">M</text></svg>"#;
        let blank = r#"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"/>"#;
        let renderer = png::Renderer::new();
        assert_ne!(renderer.png(text).unwrap(), renderer.png(blank).unwrap());
    }

    #[test]
    fn accuracy_stands_beside_its_difference_from_the_baseline() {
        let svg = figure(&fixture::study(), "accuracy");
        for text in [
            "86.8",
            "+13.2",
            "32.6",
            "−22.1",
            "In distribution (ID), %",
            "Out of distribution (OOD), %",
        ] {
            assert!(svg.contains(&format!(">{text}<")), "no {text}");
        }
        assert_eq!(
            svg.matches("stroke-dasharray").count(),
            2,
            "a baseline in each panel"
        );
    }

    #[test]
    fn the_speed_up_is_written_on_the_time_bars_with_and_without_scoring() {
        let svg = figure(&fixture::study(), "time");
        assert!(
            svg.contains("3.4× as fast as grpo, 2.5× with scoring"),
            "{svg}"
        );
    }

    #[test]
    fn bins_are_named_with_their_share_of_the_samples() {
        let svg = figure(&fixture::study(), "pass-rates");
        for text in [
            "easy 1980 (44.6%)",
            "medium 2150 (48.4%)",
            "hard 310 (7.0%)",
            "5/8",
        ] {
            assert!(svg.contains(text), "no {text}");
        }
    }

    #[test]
    fn arrows_that_a_longer_path_implies_are_left_out_of_the_dag() {
        let data = fixture::study();
        let references: usize = data.stages.iter().map(|stage| stage.after.len()).sum();
        let arrows = figure(&data, "dag").matches("stroke-opacity").count();
        assert!(
            arrows < references,
            "{arrows} arrows for {references} references"
        );
        // Every stage but the two sources is reached.
        assert!(arrows >= data.stages.len() - 2, "{arrows}");
    }

    /// Left, top and right of every rectangle of a figure.
    fn rectangles(svg: &str) -> Vec<[f64; 3]> {
        let attribute = |line: &str, name: &str| -> f64 {
            let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let lines = svg
            .lines()
            .filter(|line| line.starts_with("<rect") && line.contains(" x="));
        lines
            .map(|line| {
                let x = attribute(line, "x");
                [x, attribute(line, "y"), x + attribute(line, "width")]
            })
            .collect()
    }

    #[test]
    fn a_wide_layer_of_the_dag_takes_several_rows() {
        let mut data = fixture::study();
        for index in 0..30 {
            let mut reader = data.stages[0].clone();
            reader.name = format!("evaluation_number_{index}");
            reader.after = vec![0];
            data.stages.push(reader);
        }
        let svg = figure(&data, "dag");
        let boxes = rectangles(&svg);
        assert_eq!(boxes.len(), data.stages.len());
        assert!(!svg.contains('…'), "a box is as wide as its title");
        for (index, [left, top, right]) in boxes.iter().enumerate() {
            assert!(*left >= 0.0 && *right <= 860.0, "{left} to {right}");
            for [other_left, other_top, other_right] in &boxes[index + 1..] {
                assert!(
                    top != other_top || right < other_left || other_right < left,
                    "two boxes overlap at {left}, {top}"
                );
            }
        }
    }

    #[test]
    fn arrows_of_the_dag_run_behind_no_box() {
        let mut data = fixture::study();
        // One that reads from the top and stands at the bottom, past every layer between.
        let mut reader = data.stages[0].clone();
        reader.name = "reader".to_owned();
        reader.after = vec![data.stages.len() - 1];
        let mut early = reader.clone();
        early.after = vec![0];
        data.stages.extend([early, reader]);
        let last = data.stages.len() - 1;
        data.stages[last].after.push(last - 1);
        let svg = figure(&data, "dag");
        let boxes = rectangles(&svg);
        let upright = svg
            .split('L')
            .skip(1)
            .filter_map(|rest| rest.split_once(['C', '"']))
            .filter_map(|(point, _)| point.split_once(' '))
            .filter_map(|(x, y)| Some((x.parse::<f64>().ok()?, y.parse::<f64>().ok()?)));
        let mut lanes = 0;
        for (x, bottom) in upright {
            lanes += 1;
            for [left, top, right] in &boxes {
                let beside = x < *left || x > *right || (top + 56.0 - bottom).abs() > 1.0;
                assert!(beside, "an arrow at {x}, {bottom} runs behind a box");
            }
        }
        assert!(lanes > 0, "{svg}");
    }

    #[test]
    fn a_grid_of_thousands_of_arms_has_figures_of_the_first() {
        let mut data = fixture::study();
        let (row, time) = (data.table.rows[1].clone(), data.times[0].clone());
        data.times.clear();
        for index in 0..5000 {
            let arm = format!("sft/all lr={index}");
            let mut row = row.clone();
            row.arm.clone_from(&arm);
            data.table.rows.push(row);
            data.times.push(data::ArmTime {
                arm,
                ..time.clone()
            });
        }
        let renderer = png::Renderer::new();
        for figure in figures::all(&data, Theme::File) {
            assert!(renderer.png(&figure.svg).is_ok(), "{}", figure.name);
            if figure.name == "time" {
                assert!(
                    figure.caption.contains("60 of 5000 arms"),
                    "{}",
                    figure.caption
                );
            }
        }
    }

    #[test]
    fn long_and_strange_names_leave_room_for_what_they_name() {
        let mut data = fixture::study();
        let long = format!("sft/{}\u{1} rate=0.001", "very_".repeat(60));
        data.table.rows[1].arm = long.clone();
        data.curves[0].arm = long.clone();
        data.times[0].arm = format!("{long}/easy+medium");
        let bars = |data| rectangles(&figure(data, "accuracy"));
        assert_eq!(bars(&data).len(), bars(&fixture::study()).len());
        let svg = figure(&data, "accuracy");
        assert!(svg.contains("rate=0.001<") && svg.contains('…'), "{svg}");
        let renderer = png::Renderer::new();
        for figure in figures::all(&data, Theme::File) {
            assert!(renderer.png(&figure.svg).is_ok(), "{}", figure.name);
            assert!(!figure.svg.contains("=\"-"), "{}", figure.name);
        }
    }

    #[test]
    fn the_page_shows_the_numbers_and_loads_nothing() {
        let page = page::render(&fixture::study());
        for text in [
            "sft/easy+medium",
            "86.8",
            "5 of 5",
            "3.4×",
            "83.0%",
            "data:image/png;base64,",
            "0 of 8 right",
            // Easy+medium: 6.0 s of training, 2.1 s of scoring.
            "with scoring",
            ">8.1 s<",
        ] {
            assert!(page.contains(text), "no {text}");
        }
        for remote in ["src=\"http", "href=", "url(", "@import"] {
            assert!(!page.contains(remote), "{remote}");
        }
    }

    #[test]
    fn the_page_lets_nothing_run_or_load_but_what_it_was_made_with() {
        use base64::Engine as _;
        use sha2::Digest as _;

        let page = page::render(&fixture::study());
        let within = |from: &str, to: &str| {
            let (_, rest) = page.split_once(from).unwrap();
            rest.split_once(to).unwrap().0.to_owned()
        };
        let policy = within("http-equiv=\"Content-Security-Policy\" content=\"", "\"");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        for (kind, text) in [
            ("style-src", within("<style>", "</style>")),
            ("script-src", within("<script>", "</script>")),
        ] {
            let digest = sha2::Sha256::digest(text.as_bytes());
            let digest = base64::engine::general_purpose::STANDARD.encode(digest);
            assert!(
                policy.contains(&format!("{kind} 'sha256-{digest}'")),
                "{policy}"
            );
        }
        for refused in ["unsafe", "http:", "https:", " * "] {
            assert!(!policy.contains(refused), "{policy}");
        }
        // The policy would refuse these.
        for inline in [
            " style=",
            " onclick=",
            " onload=",
            " onerror=",
            "javascript:",
        ] {
            assert!(!page.contains(inline), "{inline}");
        }
        assert_eq!(page.matches("<script").count(), 1);
        assert_eq!(page.matches("<style").count(), 1);
    }

    #[test]
    fn the_page_tells_what_was_left_out_and_compares_single_runs() {
        let page = page::render(&fixture::study());
        for text in [
            "3 samples left out",
            "McNemar",
            "121",
            "(3 not shared)",
            "+3.0",
            "74.0",
            "as fast as grpo",
        ] {
            assert!(page.contains(text), "no {text}");
        }
    }

    #[test]
    fn arms_that_lack_seeds_are_marked_on_the_page() {
        let mut data = fixture::study();
        let row = &mut data.table.rows[1];
        row.seeds = Some(1);
        for cell in row.cells.iter_mut().flatten() {
            cell.runs = 1;
        }
        let page = page::render(&data);
        for text in [
            "1 of 5",
            "[86.0, 87.6]",
            "95% Wilson interval of a single run",
        ] {
            assert!(page.contains(text), "no {text}");
        }
    }

    #[test]
    fn what_users_wrote_is_escaped() {
        let mut data = fixture::study();
        data.study = "<script>x</script>".to_owned();
        data.table.rows[0].arm = "a<b".to_owned();
        let page = page::render(&data);
        assert!(!page.contains("<script>x") && !page.contains("a<b"));
        assert!(page.contains("# &lt;b&gt;"), "the spec's text");
    }

    #[test]
    fn figures_in_the_page_follow_its_colours_and_files_have_their_own() {
        let data = fixture::study();
        assert!(page::render(&data).contains("fill=\"var(--blue)\""));
        assert!(!figure(&data, "accuracy").contains("var("));
    }

    #[test]
    fn a_study_without_results_still_has_a_page() {
        let data = ReportData {
            study: "empty".to_owned(),
            ..ReportData::default()
        };
        assert!(figures::all(&data, Theme::File).is_empty());
        assert!(page::render(&data).contains("No evaluation has finished yet"));
    }

    #[test]
    fn writing_leaves_no_partial_files_behind() {
        let dir = tempfile::tempdir().unwrap();
        let page = write(&fixture::study(), dir.path()).unwrap();
        assert_eq!(page, dir.path().join("index.html"));
        let names = |dir: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        assert_eq!(names(&dir.path().join("figures")).len(), 2 * FIGURES.len());
        assert!(
            names(&dir.path().join("figures"))
                .iter()
                .all(|name| !name.ends_with(".part"))
        );
    }
}
