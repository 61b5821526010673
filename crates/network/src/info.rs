//! Names and shapes.

use serde::{Deserialize, Serialize};

/// A tensor of one sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorInfo {
    /// Its name in the ONNX file.
    pub name: String,
    /// Its shape without the batch, as a rule `[channels, height, width]` or `[features]`.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// How many numbers a sample has there: the product of the shape.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a sample has no numbers there at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
