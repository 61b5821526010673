//! Pixels.

use std::io::Cursor;

use image::{ColorType, ImageReader, Limits};

use crate::DataError;

/// Longest side of an image that is decoded.
const MAX_SIDE: u32 = 16_384;
/// Memory that decoding one image may take.
const MAX_DECODE_BYTES: u64 = 512 << 20;

/// An image as stored: 8 bits, rows from the top, channels together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// `height × width × channels` bytes.
    pub pixels: Vec<u8>,
}

impl Image {
    /// Decodes a JPEG or PNG file's bytes. Transparency is dropped, 16 bits become 8.
    ///
    /// # Errors
    /// [`DataError::Image`] with `name`.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        let bad = |why: String| DataError::Image { name: name.to_owned(), why };
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|error| bad(error.to_string()))?;
        if reader.format().is_none() {
            return Err(bad("neither JPEG nor PNG".to_owned()));
        }
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(MAX_DECODE_BYTES);
        reader.limits(limits);
        let image = reader.decode().map_err(|error| bad(error.to_string()))?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let grey = matches!(image.color(), ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16);
        let (channels, pixels) =
            if grey { (1, image.into_luma8().into_raw()) } else { (3, image.into_rgb8().into_raw()) };
        Ok(Self { height, width, channels, pixels })
    }

    /// The same image in grey: ITU-R BT.601 luma, in the 16-bit fixed point that Pillow uses.
    #[must_use]
    pub fn to_grey(&self) -> Self {
        if self.channels == 1 {
            return self.clone();
        }
        let luma = |p: &[u8]| {
            let sum = 19_595 * u32::from(p[0]) + 38_470 * u32::from(p[1]) + 7_471 * u32::from(p[2]) + 0x8000;
            (sum >> 16) as u8
        };
        let pixels = self.pixels.chunks_exact(3).map(luma).collect();
        Self { channels: 1, pixels, ..*self }
    }

    /// The same image with three channels.
    #[must_use]
    pub fn to_rgb(&self) -> Self {
        if self.channels == 3 {
            return self.clone();
        }
        let pixels = self.pixels.iter().flat_map(|p| [*p; 3]).collect();
        Self { channels: 3, pixels, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_and_jpeg_are_decoded_and_rubbish_is_named() {
        let picture = image::RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 40, y as u8 * 80, 7]));
        let mut png = Vec::new();
        picture.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let decoded = Image::decode(&png, "a.png").unwrap();
        assert_eq!((decoded.height, decoded.width, decoded.channels), (3, 5, 3));
        assert_eq!(decoded.pixels, picture.into_raw());
        let error = Image::decode(&png[..40], "b.png").unwrap_err().to_string();
        assert!(error.starts_with("b.png: "), "{error}");
        assert!(Image::decode(b"hello", "c").unwrap_err().to_string().contains("neither JPEG nor PNG"));
    }

    #[test]
    fn grey_and_colour_are_converted() {
        let image = Image { height: 1, width: 2, channels: 3, pixels: vec![255, 255, 255, 255, 0, 0] };
        assert_eq!(image.to_grey().pixels, [255, 76]);
        assert_eq!(image.to_grey().to_rgb().pixels, [255, 255, 255, 76, 76, 76]);
    }
}
