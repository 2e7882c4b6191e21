//! What JPEG files need beyond `image`'s own decoder.

use jpeg_decoder::{Decoder, PixelFormat};

const RESTART_OR_STUFFING: [u8; 9] = [0x00, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7];
const TEMPORARY: u8 = 0x01;
const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;

/// The pixels of a colour image, as libjpeg gives them but for rounding: `image`'s decoder is up to nine levels off where
/// halved chroma meets the border. None for grey and CMYK, and for what this decoder cannot read.
pub(super) fn colour(bytes: &[u8]) -> Option<image::RgbImage> {
    let mut decoder = Decoder::new(bytes);
    decoder.read_info().ok()?;
    let info = decoder.info()?;
    if info.pixel_format != PixelFormat::RGB24 {
        return None;
    }
    let pixels = decoder.decode().ok()?;
    image::RgbImage::from_raw(u32::from(info.width), u32::from(info.height), pixels)
}

/// Is a JPEG file whole? A decoder fills what is missing with grey and says nothing, so a download that broke off would
/// become training data. The usual Python loaders refuse such files, and so does this.
///
/// Whether the end marker comes after the last scan. Walks the segments by their lengths, so that the end
/// marker of an embedded thumbnail does not count.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        // Scan data, and whatever stands between segments, runs up to the next marker.
        let Some(at) = rest.windows(2).position(|pair| {
            pair[0] == 0xff && pair[1] != 0xff && !RESTART_OR_STUFFING.contains(&pair[1])
        }) else {
            return false;
        };
        let marker = rest[at + 1];
        rest = &rest[at + 2..];
        match marker {
            END_OF_IMAGE => return true,
            START_OF_IMAGE | TEMPORARY => {}
            _ => {
                let Some((length, _)) = rest.split_first_chunk::<2>() else {
                    return false;
                };
                let Some(after) = rest.get(usize::from(u16::from_be_bytes(*length))..) else {
                    return false;
                };
                rest = after;
            }
        }
    }
}
