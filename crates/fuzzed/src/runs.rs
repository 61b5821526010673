//! Run files.

use exeunt_protocol::run_file::RunFileError;
use exeunt_protocol::spec::RunFile;

/// The text of a run file.
///
/// # Panics
/// When a file that was taken is refused, or is another, once it is written and read again; or when an error names a
/// place that the text does not have.
pub fn run_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match RunFile::parse(&text, "run.toml") {
        Ok(file) => {
            assert_eq!(file.check(), Ok(()));
            let toml = toml::to_string(&file).expect("what was read can be written");
            assert_eq!(RunFile::parse(&toml, "run.toml").as_ref(), Ok(&file), "{toml}");
            let json = serde_json::to_string(&file).expect("what was read can be written");
            assert_eq!(serde_json::from_str::<RunFile>(&json).expect("as an operator sends it"), file);
            assert!((2..=100_000).contains(&file.task.names().len()));
        }
        Err(RunFileError::Syntax { line, column, .. }) => {
            assert!(line <= text.matches('\n').count() + 1 && column <= text.chars().count() + 1);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
