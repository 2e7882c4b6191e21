//! Writes a PNG with pictures of one set of the micro world: `contact_sheet SET FILE [SEED] [SIZE]`.

use std::process::ExitCode;

use dcsft_stages::shapes::{Set, ShapesParams, picture};
use image::{Rgb, RgbImage};

const COLUMNS: u32 = 24;
const ROWS: u32 = 12;
/// Screen pixels between pictures.
const GAP: u32 = 4;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let [set, file, rest @ ..] = arguments else {
        return Err("usage: contact_sheet SET FILE [SEED] [SIZE]".into());
    };
    let set = Set::ALL
        .into_iter()
        .find(|known| known.name() == set)
        .ok_or_else(|| format!("no set {set:?}"))?;
    let number = |index: usize, default: u32| {
        rest.get(index).map_or(Ok(default), |text| {
            text.parse()
                .map_err(|_| format!("{text:?} is not a number"))
        })
    };
    let params = ShapesParams {
        seed: u64::from(number(0, 0)?),
        image_size: number(1, 16)?,
        ..ShapesParams::default()
    };
    let zoom = (48 / params.image_size).max(1);
    let cell = params.image_size * zoom + GAP;
    let mut sheet = RgbImage::from_pixel(COLUMNS * cell, ROWS * cell, Rgb([255, 255, 255]));
    for index in 0..COLUMNS * ROWS {
        let picture = picture(&params, set, u64::from(index));
        for (at, pixel) in picture.pixels.chunks_exact(3).enumerate() {
            let (x, y) = (at as u32 % params.image_size, at as u32 / params.image_size);
            for (dx, dy) in (0..zoom * zoom).map(|step| (step % zoom, step / zoom)) {
                let left = index % COLUMNS * cell + x * zoom + dx;
                let top = index / COLUMNS * cell + y * zoom + dy;
                sheet.put_pixel(left, top, Rgb([pixel[0], pixel[1], pixel[2]]));
            }
        }
    }
    sheet.save(file).map_err(|error| format!("{file}: {error}"))
}
