//! `exeunt-node classify`: files, folders, or a stream of paths, one after the other.

use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use exeunt_data::Image;
use serde::Serialize;

use crate::infer::{InferError, Verdict};
use crate::serve::Ready;
use crate::session::chain;

/// Stands for the paths on standard input.
const STREAM: &str = "-";
/// Endings of the files that a folder is searched for.
const IMAGES: [&str; 3] = ["jpg", "jpeg", "png"];

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Why a path was not classified.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot be read")]
    Read(#[source] io::Error),
    #[error("cannot be decoded")]
    Image(#[source] exeunt_data::DataError),
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error("found no JPEG or PNG file in this folder, expected at least one")]
    Empty,
}

/// What was decided for one file, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    file: &'a str,
    class: &'a str,
    class_id: u32,
    /// From 1; 0 where the whole network ran.
    exit: usize,
    tap: Option<&'a str>,
    margin: f64,
    confidence: f64,
    cost: f64,
    policy_version: u32,
}

/// What went wrong with one path, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Bad<'a> {
    file: &'a str,
    error: &'a str,
}

/// Classifies what `places` name and writes a line for each file as soon as it is known. `-` stands for `stream`, a
/// path per line. A path that cannot be classified is named on `problems` and does not stop the others; returns how
/// many there were.
///
/// # Errors
/// When results cannot be written, or the stream cannot be read.
pub(crate) fn classify(
    ready: &Ready,
    places: &[PathBuf],
    stream: impl BufRead,
    form: Form,
    results: impl Write,
    problems: impl Write,
) -> io::Result<usize> {
    let mut job = Job { ready, form, results, problems, bad: 0 };
    let mut stream = Some(stream);
    for place in places {
        if place.as_os_str() != STREAM {
            job.place(place)?;
        } else if let Some(stream) = stream.take() {
            for line in stream.split(b'\n') {
                let line = line?;
                if !line.is_empty() {
                    job.place(&path(line))?;
                }
            }
        }
    }
    Ok(job.bad)
}

/// A path is bytes where the system says so.
#[cfg(unix)]
fn path(line: Vec<u8>) -> PathBuf {
    <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(line).into()
}

#[cfg(not(unix))]
fn path(line: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&line).into_owned().into()
}

struct Job<'a, R, P> {
    ready: &'a Ready,
    form: Form,
    results: R,
    problems: P,
    bad: usize,
}

impl<R: Write, P: Write> Job<'_, R, P> {
    fn place(&mut self, place: &Path) -> io::Result<()> {
        if !place.is_dir() {
            return self.file(place);
        }
        match images(place) {
            Ok(files) if files.is_empty() => self.bad(place, &FileError::Empty),
            Ok(files) => files.iter().try_for_each(|file| self.file(file)),
            Err(error) => self.bad(place, &FileError::Read(error)),
        }
    }

    fn file(&mut self, file: &Path) -> io::Result<()> {
        match verdict(self.ready, file) {
            Ok(verdict) => self.good(file, &verdict),
            Err(error) => self.bad(file, &error),
        }
    }

    fn good(&mut self, file: &Path, verdict: &Verdict) -> io::Result<()> {
        let spec = self.ready.inference.spec();
        let file = file.display().to_string();
        let line = Line {
            file: &file,
            class: spec.classes.get(verdict.class as usize).map_or("", String::as_str),
            class_id: verdict.class,
            exit: verdict.exit.map_or(0, |exit| exit + 1),
            tap: verdict.exit.and_then(|exit| spec.exits.get(exit)).map(|exit| exit.tap.as_str()),
            margin: verdict.margin,
            confidence: verdict.confidence(),
            cost: verdict.cost,
            policy_version: self.ready.policy.version,
        };
        match self.form {
            Form::Json => self.json(&line)?,
            Form::Text => {
                let exit = match line.exit {
                    0 => "after the whole network".to_owned(),
                    exit => format!("at exit {exit}"),
                };
                let numbers = format!("margin {:.2}, cost {:.3}", line.margin, line.cost);
                writeln!(self.results, "{file}: {} {exit}, {numbers}", line.class)?;
            }
        }
        // Whoever feeds the stream may be waiting for the answer.
        self.results.flush()
    }

    fn bad(&mut self, file: &Path, error: &FileError) -> io::Result<()> {
        self.bad += 1;
        let (file, error) = (file.display().to_string(), chain(error));
        writeln!(self.problems, "error: {file}: {error}")?;
        if self.form == Form::Json {
            self.json(&Bad { file: &file, error: &error })?;
            self.results.flush()?;
        }
        Ok(())
    }

    fn json(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.results, line)?;
        writeln!(self.results)
    }
}

fn verdict(ready: &Ready, file: &Path) -> Result<Verdict, FileError> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).map_err(FileError::Read)?;
    let image = Image::decode(&bytes, &name).map_err(FileError::Image)?;
    Ok(ready.inference.classify(&image, &name)?)
}

/// The images below a folder, by path. Links to folders are not followed, so that the search ends.
fn images(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if is_image(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    IMAGES.iter().any(|known| ending.eq_ignore_ascii_case(known))
}
