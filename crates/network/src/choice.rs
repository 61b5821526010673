//! Which engine to take, and why.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::engine::{Engine, engine_label};
use crate::onnxruntime::{Candidate, OnnxRuntime, OnnxRuntimeError, candidates};
use crate::tract::Tract;

/// The engine that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineWish {
    /// ONNX Runtime where its library is found, else tract.
    #[default]
    Auto,
    /// tract.
    Tract,
    /// ONNX Runtime, and nothing else.
    OnnxRuntime,
}

impl fmt::Display for EngineWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tract => "tract",
            Self::OnnxRuntime => "onnxruntime",
        })
    }
}

/// There is no such engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found engine {found:?}, expected auto, tract or onnxruntime")]
pub struct UnknownEngine {
    /// What was asked for.
    pub found: String,
}

impl FromStr for EngineWish {
    type Err = UnknownEngine;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Auto, Self::Tract, Self::OnnxRuntime]
            .into_iter()
            .find(|wish| wish.to_string() == text)
            .ok_or_else(|| UnknownEngine { found: text.to_owned() })
    }
}

/// What may be said about the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineSettings {
    /// Which.
    pub wish: EngineWish,
    /// ONNX Runtime's shared library, or the folder it is in; none: the usual places.
    pub library: Option<PathBuf>,
    /// Threads that one sample runs on, where the engine can use several; none: one.
    pub threads: Option<usize>,
}

/// The engine that was asked for cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChooseError {
    /// The library was found, and does not work.
    #[error(transparent)]
    OnnxRuntime(#[from] OnnxRuntimeError),
    /// There is no library in the usual places.
    #[error(
        "ONNX Runtime is not in any of {} usual places, expected the path of its shared library in --onnxruntime \
         or EXEUNT_ONNXRUNTIME",
        searched.len()
    )]
    NotFound {
        /// Where it was looked for.
        searched: Vec<Candidate>,
    },
}

/// The engine in use, and why it is that one.
#[derive(Debug)]
pub struct EngineChoice {
    engine: Box<dyn Engine>,
    /// One sentence for a person.
    reason: String,
    /// ONNX Runtime's library, when that is the engine.
    library: Option<PathBuf>,
    /// The usual places, when they were looked at.
    searched: Vec<Candidate>,
}

impl EngineSettings {
    /// Chooses.
    ///
    /// # Errors
    /// When ONNX Runtime was asked for by name and cannot be had. [`EngineWish::Auto`] never fails.
    pub fn choose(&self) -> Result<EngineChoice, ChooseError> {
        let tract = |reason: String, searched| EngineChoice {
            engine: Box::new(Tract),
            reason,
            library: None,
            searched,
        };
        if self.wish == EngineWish::Tract {
            return Ok(tract("tract was asked for".to_owned(), Vec::new()));
        }
        let error = match self.find() {
            Ok(choice) => return Ok(choice),
            Err(error) => error,
        };
        if self.wish == EngineWish::OnnxRuntime {
            return Err(error);
        }
        Ok(match error {
            ChooseError::NotFound { searched } => {
                tract("ONNX Runtime is in none of the usual places".to_owned(), searched)
            }
            error => tract(error.to_string(), Vec::new()),
        })
    }

    fn find(&self) -> Result<EngineChoice, ChooseError> {
        let searched = if self.library.is_some() { Vec::new() } else { candidates() };
        let places: Vec<_> = match &self.library {
            Some(path) => vec![("the one that was named", path.clone())],
            None => searched.iter().filter_map(|place| Some((place.place, place.library.clone()?))).collect(),
        };
        let mut refused = None;
        for (place, path) in places {
            // One that does not work must not hide one that does, further on.
            match OnnxRuntime::load(&path, self.threads.unwrap_or(1)) {
                Ok(engine) => return Ok(self.chosen(engine, place, searched)),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.map_or(ChooseError::NotFound { searched }, ChooseError::from))
    }

    fn chosen(&self, engine: OnnxRuntime, place: &str, searched: Vec<Candidate>) -> EngineChoice {
        let path = engine.path().to_owned();
        let engine = if self.wish == EngineWish::Auto { engine.or_tract() } else { engine };
        let reason = format!("its library is {place}: {}", path.display());
        EngineChoice { engine: Box::new(engine), reason, library: Some(path), searched }
    }
}

impl EngineChoice {
    /// tract, whatever else there is.
    pub fn tract() -> Self {
        let reason = "nothing else was asked for".to_owned();
        Self { engine: Box::new(Tract), reason, library: None, searched: Vec::new() }
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Why it is this one: a sentence without a full stop.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// ONNX Runtime's library, when that is the engine.
    pub fn library(&self) -> Option<&std::path::Path> {
        self.library.as_deref()
    }

    /// Where ONNX Runtime was looked for; empty when it did not have to be.
    pub fn searched(&self) -> &[Candidate] {
        &self.searched
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&engine_label(self.engine()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(wish: EngineWish, library: &str) -> EngineSettings {
        EngineSettings { wish, library: Some(library.into()), threads: None }
    }

    #[test]
    fn a_library_that_is_none_is_an_error_by_name_and_a_reason_otherwise() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not a library").unwrap();
        for (path, expected) in [
            ("/nowhere/libonnxruntime.so", "no ONNX Runtime library there"),
            (file.path().to_str().unwrap(), "cannot be loaded"),
        ] {
            let error = settings(EngineWish::OnnxRuntime, path).choose().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(path), "{error}");
            let choice = settings(EngineWish::Auto, path).choose().unwrap();
            assert_eq!(choice.engine().name(), "tract");
            assert!(choice.reason().contains(expected), "{}", choice.reason());
        }
    }

    #[test]
    fn names_are_read_back() {
        for wish in [EngineWish::Auto, EngineWish::Tract, EngineWish::OnnxRuntime] {
            assert_eq!(wish.to_string().parse(), Ok(wish));
        }
        let error = "tensorflow".parse::<EngineWish>().unwrap_err();
        assert_eq!(error.to_string(), "found engine \"tensorflow\", expected auto, tract or onnxruntime");
    }
}
