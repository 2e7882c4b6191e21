//! Training time, and what rollout scoring adds to it.

use dcsft_engine::units::duration;

use super::parts::{ARMS, Figure, WIDTH, heading, label, left_out, name_column, small};
use crate::report::data::{ArmTime, ReportData};
use crate::report::scale::{Scale, tick_label};
use crate::report::svg::{Rect, Svg, fitted};
use crate::report::theme::{Ink, Theme, ink_of};

const ROW: f64 = 46.0;
const BAR: f64 = 24.0;
const TOP: f64 = 48.0;

pub(super) fn draw(data: &ReportData, theme: Theme) -> Option<Figure> {
    let times = featured(&data.times);
    if times.is_empty() {
        return None;
    }
    let arms = times.len();
    let times = &times[..arms.min(ARMS)];
    let height = TOP + ROW * times.len() as f64 + 58.0;
    let mut svg = Svg::new(WIDTH, height, "Training time by arm", theme);
    heading(&mut svg, "Training time");
    let (names, left) = name_column(times.iter().map(|time| time.arm.as_str()));
    let longest = times.iter().map(|time| total(time)).fold(0.0, f64::max);
    let (unit, seconds) = if longest > 180.0 {
        ("minutes", 60.0)
    } else {
        ("seconds", 1.0)
    };
    let scale = Scale::exact(0.0, longest / seconds, 6, left, WIDTH - 190.0);
    let bottom = TOP + ROW * times.len() as f64;
    for tick in scale.ticks() {
        let x = scale.at(tick);
        svg.line((x, TOP), (x, bottom), Ink::Grid, 1.0);
        svg.text(
            (x, bottom + 17.0),
            small(Ink::Muted).middle(),
            &tick_label(tick),
        );
    }
    let unit = format!("{} in {unit}", data.timing.name());
    svg.text((left, bottom + 38.0), small(Ink::Muted), &unit);
    let slowest = times.iter().max_by(|a, b| total(a).total_cmp(&total(b)));
    for (index, (time, name)) in times.iter().zip(&names).enumerate() {
        let middle = TOP + ROW * index as f64 + ROW / 2.0;
        let (x, y) = (left - 10.0, middle + 4.0);
        svg.text((x, y), label(Ink::Text).end(), name);
        let at = |time: f64| scale.at(time / seconds);
        bar(&mut svg, time, middle, ink_of(&time.arm, index), at);
        let after = at(total(time)) + 10.0;
        let text = duration(time.training);
        svg.text((after, middle - 2.0), label(Ink::Text).bold(), &text);
        if let Some(text) = slowest.and_then(|slowest| speed_up(time, slowest)) {
            svg.text((after, middle + 13.0), small(Ink::Muted), &text);
        }
    }
    legend(&mut svg, times, bottom + 38.0);
    Some(Figure {
        name: "time",
        caption: format!(
            "{} Mean over seeds, as measured when each stage was computed; “faster” is against the slowest arm shown. \
             Hatched: the rollout scoring that finds the difficulty bins, computed once for all arms.{}",
            data.timing.words(),
            left_out(arms)
        ),
        svg: svg.finish(),
    })
}

/// Training, and hatched behind it the scoring; `at` is the pixel of a time in seconds.
fn bar(svg: &mut Svg, time: &ArmTime, middle: f64, ink: Ink, at: impl Fn(f64) -> f64) {
    let part = |from: f64, to: f64| Rect {
        x: at(from),
        y: middle - BAR / 2.0,
        w: at(to) - at(from),
        h: BAR,
    };
    svg.rect(part(0.0, time.training), ink);
    if time.scoring > 0.0 {
        svg.hatched(part(time.training, total(time)), ink);
    }
}

/// Easy+medium and GRPO, where there are both; else all arms.
fn featured(times: &[ArmTime]) -> Vec<&ArmTime> {
    let short = |time: &ArmTime| time.arm.rsplit('/').next().unwrap_or_default().to_owned();
    let pair: Vec<&ArmTime> = times
        .iter()
        .filter(|time| ["easy+medium", "grpo"].contains(&short(time).as_str()))
        .collect();
    if pair.len() > 1 {
        pair
    } else {
        times.iter().collect()
    }
}

fn total(time: &ArmTime) -> f64 {
    time.training + time.scoring
}

/// `4.9x as fast as grpo, 3.2x with scoring`: the slowest arm's time over this one's.
fn speed_up(time: &ArmTime, slowest: &ArmTime) -> Option<String> {
    if std::ptr::eq(time, slowest) || time.training <= 0.0 {
        return None;
    }
    let (ratio, arm) = (slowest.training / time.training, &slowest.arm);
    let plain = format!("{ratio:.1}× as fast as {}", fitted(arm, 11.5, 90.0));
    if time.scoring > 0.0 {
        return Some(format!(
            "{plain}, {:.1}× with scoring",
            total(slowest) / total(time)
        ));
    }
    Some(plain)
}

fn legend(svg: &mut Svg, times: &[&ArmTime], y: f64) {
    if times.iter().all(|time| time.scoring <= 0.0) {
        return;
    }
    let x = WIDTH - 170.0;
    svg.hatched(
        Rect {
            x,
            y: y - 10.0,
            w: 22.0,
            h: 12.0,
        },
        Ink::Grey,
    );
    svg.text((x + 30.0, y), small(Ink::Muted), "rollout scoring");
}
