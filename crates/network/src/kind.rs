//! What a file that is no ONNX model probably is.

use std::fmt;

/// What the first bytes of a file look like, for the message that refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// No bytes at all.
    Empty,
    /// A web page, often what a download of a moved file leaves behind.
    Html,
    /// A zip archive, as `torch.save` writes.
    Zip,
    /// A Python pickle, as older `torch.save` wrote.
    Pickle,
    /// The pointer that Git LFS keeps in place of a file.
    GitLfsPointer,
    /// gzip.
    Gzip,
    /// HDF5, as Keras writes.
    Hdf5,
    /// TensorFlow Lite.
    TensorFlowLite,
    /// ONNX Runtime's own format.
    OnnxRuntime,
    /// safetensors: weights without a graph.
    Safetensors,
    /// JSON.
    Json,
    /// Some other text.
    Text,
    /// Protocol-buffer bytes that hold no graph.
    NoGraph,
    /// Bytes that stop in the middle of a field, or never were a protocol buffer.
    Undecodable,
}

impl FileKind {
    /// Recognises what is *not* ONNX. `None` for bytes that may well be.
    pub(crate) fn foreign(bytes: &[u8]) -> Option<Self> {
        let at =
            |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        let text = bytes.trim_ascii_start();
        Some(if bytes.is_empty() {
            Self::Empty
        } else if at(0, b"PK\x03\x04") {
            Self::Zip
        } else if at(0, b"\x1f\x8b") {
            Self::Gzip
        } else if at(0, b"\x89HDF") {
            Self::Hdf5
        } else if at(4, b"TFL3") {
            Self::TensorFlowLite
        } else if at(4, b"ORTM") {
            Self::OnnxRuntime
        } else if at(8, b"{\"") && at(6, &[0, 0]) {
            Self::Safetensors
        } else if at(0, b"\x80") && bytes.get(1).is_some_and(|version| (2..=5).contains(version)) {
            Self::Pickle
        } else if at(0, b"version https://git-lfs") {
            Self::GitLfsPointer
        } else if text.starts_with(b"<") {
            Self::Html
        } else if text.starts_with(b"{") && is_text(text) {
            Self::Json
        } else if is_text(bytes) {
            Self::Text
        } else {
            return None;
        })
    }
}

/// Whether the beginning is plain text. Every ONNX file has control characters among its first bytes:
/// the tag of the IR version alone is one.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().take(64).all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..))
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "an empty file",
            Self::Html => "an HTML or XML page",
            Self::Zip => "a zip archive, as PyTorch's own checkpoints are",
            Self::Pickle => "a Python pickle, as older PyTorch checkpoints are",
            Self::GitLfsPointer => "a Git LFS pointer in place of the file",
            Self::Gzip => "gzip data",
            Self::Hdf5 => "HDF5, as Keras writes",
            Self::TensorFlowLite => "a TensorFlow Lite model",
            Self::OnnxRuntime => "a model in ONNX Runtime's own format",
            Self::Safetensors => "safetensors, weights without a graph",
            Self::Json => "JSON",
            Self::Text => "text",
            Self::NoGraph => "a protocol buffer without a graph",
            Self::Undecodable => "bytes that are not, or only the beginning of, an ONNX model",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_what_people_pass_by_mistake() {
        let cases: [(&[u8], Option<FileKind>); 9] = [
            (b"", Some(FileKind::Empty)),
            (b"\n<!DOCTYPE html>", Some(FileKind::Html)),
            (b"PK\x03\x04\0\0", Some(FileKind::Zip)),
            (b"\x80\x02}q\0", Some(FileKind::Pickle)),
            (b"version https://git-lfs.github.com/spec/v1", Some(FileKind::GitLfsPointer)),
            (b"{\"input\": 1}", Some(FileKind::Json)),
            (b"hello there", Some(FileKind::Text)),
            (b"\x10\x02\0\0\0\0\0\0{\"__metadata__\"", Some(FileKind::Safetensors)),
            (b"\x08\x08\x12\x07pytorch", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(FileKind::foreign(bytes), expected, "{:?}", bytes.escape_ascii().to_string());
        }
    }
}
