//! A small SVG writer: as much as the figures need, with colours by role.

use std::fmt::Write as _;

use dcsft_engine::text::line;

use super::theme::{Ink, Theme};

/// Where text is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// Text begins at x.
    Start,
    /// Text is centred on x.
    Middle,
    /// Text ends at x.
    End,
}

/// How text looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Size in pixels.
    pub(crate) size: f64,
    /// Where it is held.
    pub(crate) anchor: Anchor,
    /// Its colour.
    pub(crate) ink: Ink,
    /// Heavier.
    pub(crate) bold: bool,
}

impl Style {
    /// Text of `size` pixels that begins at its point.
    pub(crate) fn new(size: f64, ink: Ink) -> Self {
        Self {
            size,
            anchor: Anchor::Start,
            ink,
            bold: false,
        }
    }

    /// Centred.
    pub(crate) fn middle(mut self) -> Self {
        self.anchor = Anchor::Middle;
        self
    }

    /// Ending at its point.
    pub(crate) fn end(mut self) -> Self {
        self.anchor = Anchor::End;
        self
    }

    /// Heavier.
    pub(crate) fn bold(mut self) -> Self {
        self.bold = true;
        self
    }
}

/// A rectangle's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rect {
    /// Left.
    pub(crate) x: f64,
    /// Top.
    pub(crate) y: f64,
    /// Width.
    pub(crate) w: f64,
    /// Height.
    pub(crate) h: f64,
}

/// A drawing under construction; y goes down, units are pixels.
pub(crate) struct Svg {
    width: f64,
    height: f64,
    theme: Theme,
    title: String,
    body: String,
}

impl Svg {
    /// An empty drawing. `title` is what a screen reader says.
    pub(crate) fn new(width: f64, height: f64, title: &str, theme: Theme) -> Self {
        Self {
            width,
            height,
            theme,
            title: title.to_owned(),
            body: String::new(),
        }
    }

    /// A filled rectangle with corners of radius 2.
    pub(crate) fn rect(&mut self, at: Rect, ink: Ink) {
        self.rect_with(at, ink, "");
    }

    /// A filled rectangle with further attributes.
    pub(crate) fn rect_with(&mut self, at: Rect, ink: Ink, attributes: &str) {
        if at.w <= 0.0 || at.h <= 0.0 {
            return;
        }
        let fill = self.theme.colour(ink);
        let (x, y, w, h) = (n(at.x), n(at.y), n(at.w), n(at.h));
        let _ = writeln!(
            self.body,
            r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="2" fill="{fill}" {attributes}/>"#
        );
    }

    /// A rectangle with a border.
    pub(crate) fn frame(&mut self, at: Rect, fill: Ink, border: Ink) {
        let stroke = self.theme.colour(border);
        self.rect_with(
            at,
            fill,
            &format!(r#"stroke="{stroke}" stroke-width="1.25""#),
        );
    }

    /// A rectangle filled with diagonal lines of `ink`.
    pub(crate) fn hatched(&mut self, at: Rect, ink: Ink) {
        self.rect_with(at, ink, r#"fill-opacity="0.22""#);
        let mut lines = String::new();
        let step = 6.0;
        let mut offset = step;
        while offset < at.w + at.h {
            let (x0, y0) = if offset <= at.h {
                (0.0, offset)
            } else {
                (offset - at.h, at.h)
            };
            let (x1, y1) = if offset <= at.w {
                (offset, 0.0)
            } else {
                (at.w, offset - at.w)
            };
            let _ = write!(
                lines,
                "M{} {}L{} {}",
                n(at.x + x0),
                n(at.y + y0),
                n(at.x + x1),
                n(at.y + y1)
            );
            offset += step;
        }
        self.path(&lines, ink, 1.25, "");
    }

    /// A straight line.
    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), ink: Ink, width: f64) {
        self.path(
            &format!("M{} {}L{} {}", n(from.0), n(from.1), n(to.0), n(to.1)),
            ink,
            width,
            "",
        );
    }

    /// A dashed straight line.
    pub(crate) fn dashed(&mut self, from: (f64, f64), to: (f64, f64), ink: Ink) {
        let path = format!("M{} {}L{} {}", n(from.0), n(from.1), n(to.0), n(to.1));
        self.path(&path, ink, 1.25, r#"stroke-dasharray="5 4""#);
    }

    /// A stroked path with further attributes.
    pub(crate) fn path(&mut self, path: &str, ink: Ink, width: f64, attributes: &str) {
        if path.is_empty() {
            return;
        }
        let stroke = self.theme.colour(ink);
        let width = n(width);
        let _ = writeln!(
            self.body,
            r#"<path d="{path}" fill="none" stroke="{stroke}" stroke-width="{width}" stroke-linejoin="round" {attributes}/>"#
        );
    }

    /// A line through points.
    pub(crate) fn polyline(&mut self, points: &[(f64, f64)], ink: Ink, width: f64) {
        self.path(&joined(points), ink, width, r#"stroke-linecap="round""#);
    }

    /// A filled shape.
    pub(crate) fn area(&mut self, points: &[(f64, f64)], ink: Ink, opacity: f64) {
        if points.is_empty() {
            return;
        }
        let (fill, path, opacity) = (self.theme.colour(ink), joined(points), n(opacity));
        let _ = writeln!(
            self.body,
            r#"<path d="{path}Z" fill="{fill}" fill-opacity="{opacity}"/>"#
        );
    }

    /// A dot with a rim of the paper's colour.
    pub(crate) fn dot(&mut self, at: (f64, f64), ink: Ink) {
        let (fill, rim) = (self.theme.colour(ink), self.theme.colour(Ink::Paper));
        let (x, y) = (n(at.0), n(at.1));
        let _ = writeln!(
            self.body,
            r#"<circle cx="{x}" cy="{y}" r="3.6" fill="{fill}" stroke="{rim}" stroke-width="1.2"/>"#
        );
    }

    /// A horizontal whisker from `low` to `high` at `y`, with end caps.
    pub(crate) fn whisker_x(&mut self, low: f64, high: f64, y: f64, ink: Ink) {
        let (a, b) = (n(low), n(high));
        let (y0, y, y1) = (n(y - 3.0), n(y), n(y + 3.0));
        self.path(
            &format!("M{a} {y}L{b} {y}M{a} {y0}L{a} {y1}M{b} {y0}L{b} {y1}"),
            ink,
            1.3,
            "",
        );
    }

    /// Text on its baseline.
    pub(crate) fn text(&mut self, at: (f64, f64), style: Style, text: &str) {
        self.text_with(at, style, text, "");
    }

    /// Text turned a quarter to the left, centred on its point.
    pub(crate) fn text_up(&mut self, at: (f64, f64), style: Style, text: &str) {
        let turn = format!(r#"transform="rotate(-90 {} {})""#, n(at.0), n(at.1));
        self.text_with(at, style, text, &turn);
    }

    fn text_with(&mut self, at: (f64, f64), style: Style, text: &str, attributes: &str) {
        let anchor = match style.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if style.bold {
            r#"font-weight="600" "#
        } else {
            ""
        };
        let (x, y, size) = (n(at.0), n(at.1), n(style.size));
        let fill = self.theme.colour(style.ink);
        let text = escape(&line(text));
        let _ = writeln!(
            self.body,
            r#"<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" {weight}{attributes}>{text}</text>"#
        );
    }

    /// The finished drawing.
    pub(crate) fn finish(self) -> String {
        let (width, height, title) = (n(self.width), n(self.height), escape(&self.title));
        let size = match self.theme {
            Theme::File => format!(r#"width="{width}" height="{height}" "#),
            Theme::Page => String::new(),
        };
        let paper = match self.theme {
            Theme::File => format!(
                "<rect width=\"{width}\" height=\"{height}\" fill=\"{}\"/>\n",
                Ink::Paper.light()
            ),
            Theme::Page => String::new(),
        };
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" {size}viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-label=\"{title}\" font-family=\"Inter, 'Helvetica Neue', Helvetica, Arial, Ubuntu, sans-serif\">\n\
             {paper}{}</svg>\n",
            self.body
        )
    }
}

/// About how wide `text` is at `size` pixels: the mean advance of common sans-serif faces.
pub(crate) fn text_width(text: &str, size: f64) -> f64 {
    let units: f64 =
        text.chars()
            .map(|c| match c {
                'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ':' | ' ' | '[' | ']' | '/'
                | '|' => 0.33,
                'm' | 'w' | 'M' | 'W' => 0.84,
                'A'..='Z' => 0.66,
                _ => 0.56,
            })
            .sum();
    units * size
}

/// `text` with its middle left out where it would be wider than `width`: names of arms differ at both ends.
pub(crate) fn fitted(text: &str, size: f64, width: f64) -> String {
    let chars: Vec<char> = text.chars().collect();
    let shorter = |kept: usize| -> String {
        let (head, tail) = (kept.div_ceil(2), chars.len() - kept / 2);
        chars[..head]
            .iter()
            .chain(&['…'])
            .chain(&chars[tail..])
            .collect()
    };
    std::iter::once(text.to_owned())
        .chain((0..chars.len()).rev().map(shorter))
        .find(|text| text_width(text, size) <= width)
        .unwrap_or_default()
}

/// A coordinate with at most two decimals, without trailing zeros.
fn n(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

fn joined(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let _ = write!(
            path,
            "{}{} {}",
            if index == 0 { 'M' } else { 'L' },
            n(*x),
            n(*y)
        );
    }
    path
}

/// Text as it stands inside XML, which has no place for control characters.
fn escape(text: &str) -> String {
    text.replace(
        |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'),
        "",
    )
    .replace('&', "&amp;")
    .replace('<', "&lt;")
    .replace('>', "&gt;")
    .replace('"', "&quot;")
}
