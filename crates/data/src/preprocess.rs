//! From an image to the network's input, as torchvision does it.

use exeunt_protocol::spec::{Colour, InputSpec};
use fast_image_resize::images::Image as Pixels;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::{DataError, Image};

/// Longest side of a resized image, as of a decoded one: a strip of one row would ask for gigabytes.
const MAX_SIDE: usize = 16_384;

/// Resize, crop, grey or colour, scale to 0..1, normalise; see [`InputSpec`].
#[derive(Debug, Clone)]
pub struct Preprocess {
    spec: InputSpec,
}

impl Preprocess {
    /// As the run file says.
    ///
    /// # Errors
    /// [`DataError::Input`] when means and deviations do not fit the channels.
    pub fn new(spec: &InputSpec) -> Result<Self, DataError> {
        let channels = spec.colour.channels();
        if spec.mean.len() != channels || spec.std.len() != channels || spec.std.contains(&0.0) {
            return Err(DataError::Input {
                found: format!("mean {:?} and std {:?}", spec.mean, spec.std),
                expected: format!("{channels} numbers each, std not 0"),
            });
        }
        Ok(Self { spec: spec.clone() })
    }

    /// Appends `channels · height · width` numbers, channel by channel, for an input of `shape`.
    ///
    /// # Errors
    /// [`DataError::Image`] when the image does not come out at that shape; then nothing was appended.
    pub fn append(
        &self,
        image: &Image,
        shape: &[usize],
        name: &str,
        out: &mut Vec<f32>,
    ) -> Result<(), DataError> {
        let bad = |why: String| DataError::Image { name: name.to_owned(), why };
        let image = match self.spec.colour {
            Colour::Grey => image.to_grey(),
            Colour::Rgb => image.to_rgb(),
        };
        let image = match self.spec.resize {
            Some(side) => resize(image, side as usize).map_err(bad)?,
            None => image,
        };
        let [height, width] =
            self.spec.crop.map_or([image.height, image.width], |crop| crop.map(|s| s as usize));
        if image.height < height || image.width < width {
            return Err(bad(format!(
                "found {}×{} pixels, expected at least {height}×{width} to crop",
                image.height, image.width
            )));
        }
        if shape != [image.channels, height, width] {
            return Err(bad(format!("found {}×{height}×{width}, expected {shape:?}", image.channels)));
        }
        let (top, left) = (centre(image.height - height), centre(image.width - width));
        for channel in 0..image.channels {
            let (mean, std) = (self.spec.mean[channel], self.spec.std[channel]);
            // One division per level instead of one per pixel; the same numbers.
            let levels: [f32; 256] = std::array::from_fn(|level| (level as f32 / 255.0 - mean) / std);
            for row in top..top + height {
                let from = (row * image.width + left) * image.channels + channel;
                let row = image.pixels[from..].iter().step_by(image.channels).take(width);
                out.extend(row.map(|pixel| levels[usize::from(*pixel)]));
            }
        }
        Ok(())
    }
}

/// Half of a margin, to even, as Python's `round` in torchvision's `center_crop`.
fn centre(margin: usize) -> usize {
    let half = margin / 2;
    if margin % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

/// The shorter side becomes `side`; bilinear, antialiased (Pillow's and torchvision's way).
fn resize(image: Image, side: usize) -> Result<Image, String> {
    let (short, long) = (image.height.min(image.width), image.height.max(image.width));
    if short == side {
        return Ok(image);
    }
    let other = side.saturating_mul(long) / short.max(1);
    if other > MAX_SIDE {
        return Err(format!(
            "found {}×{} pixels, expected a longer side of at most {MAX_SIDE} where the shorter is resized to {side}",
            image.height, image.width
        ));
    }
    let (height, width) = if image.height <= image.width { (side, other) } else { (other, side) };
    let kind = if image.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let small = |n: usize| u32::try_from(n).map_err(|error| error.to_string());
    let source = Pixels::from_vec_u8(small(image.width)?, small(image.height)?, image.pixels, kind)
        .map_err(|error| error.to_string())?;
    let mut target = Pixels::new(small(width)?, small(height)?, kind);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&source, &mut target, &options).map_err(|error| error.to_string())?;
    Ok(Image { height, width, channels: image.channels, pixels: target.into_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(colour: Colour) -> InputSpec {
        let n = colour.channels();
        InputSpec { colour, resize: None, crop: None, mean: vec![0.5; n], std: vec![0.25; n] }
    }

    fn ramp(height: usize, width: usize, channels: usize) -> Image {
        let pixels = (0..height * width * channels).map(|i| (i * 7 % 256) as u8).collect();
        Image { height, width, channels, pixels }
    }

    #[test]
    fn channels_come_one_after_the_other_normalised() {
        let image = ramp(1, 2, 3);
        let mut out = Vec::new();
        Preprocess::new(&spec(Colour::Rgb)).unwrap().append(&image, &[3, 1, 2], "x", &mut out).unwrap();
        let expected = [0, 21, 7, 28, 14, 35].map(|p| (p as f32 / 255.0 - 0.5) / 0.25);
        assert_eq!(out, expected);
    }

    #[test]
    fn resize_and_crop_follow_torchvision() {
        let input = InputSpec { resize: Some(8), crop: Some([8, 5]), ..spec(Colour::Grey) };
        let mut out = Vec::new();
        Preprocess::new(&input).unwrap().append(&ramp(17, 31, 1), &[1, 8, 5], "x", &mut out).unwrap();
        assert_eq!(out.len(), 40);
        assert_eq!(resize(ramp(17, 31, 1), 8).unwrap().width, 14, "int(8 · 31 / 17)");
        assert_eq!([0, 1, 2, 3, 5, 7].map(centre), [0, 0, 1, 2, 2, 4]);
    }

    #[test]
    fn a_strip_is_refused_rather_than_blown_up() {
        let input = InputSpec { resize: Some(256), crop: Some([1, 1]), ..spec(Colour::Grey) };
        let mut out = Vec::new();
        let preprocess = Preprocess::new(&input).unwrap();
        let error = preprocess.append(&ramp(1, 16_384, 1), &[1, 1, 1], "strip.png", &mut out).unwrap_err();
        assert!(matches!(error, DataError::Image { .. }), "{error}");
        assert!(error.to_string().starts_with("strip.png: found 1×16384 pixels"), "{error}");
    }

    #[test]
    fn images_of_the_wrong_size_are_named() {
        let mut out = Vec::new();
        let plain = Preprocess::new(&spec(Colour::Grey)).unwrap();
        let error = plain.append(&ramp(2, 2, 1), &[1, 8, 8], "a.png", &mut out).unwrap_err().to_string();
        assert_eq!(error, "a.png: found 1×2×2, expected [1, 8, 8]");
        let crop = Preprocess::new(&InputSpec { crop: Some([4, 4]), ..spec(Colour::Grey) }).unwrap();
        assert!(crop.append(&ramp(2, 9, 1), &[1, 4, 4], "b", &mut out).is_err());
        assert!(out.is_empty());
        assert!(Preprocess::new(&InputSpec { mean: vec![], ..spec(Colour::Grey) }).is_err());
    }
}
