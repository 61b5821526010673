//! Reading a run file: TOML in, a checked [`RunFile`] or an error that names the key.

use std::collections::BTreeSet;

use crate::ids::RunId;
use exeunt_exits::MAX_PLACED;

use crate::spec::{DataFormat, DataSpec, Exits, InputSpec, PartSpec, RunFile, RunSpec};

/// A run file longer than this is refused unread.
pub const MAX_RUN_FILE_BYTES: usize = 1 << 20;
/// Longest deadline of a query, in seconds: a year.
pub const MAX_DEADLINE_S: u64 = 31_536_000;

/// Why a run file was refused. `file` is the name it goes by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunFileError {
    /// The file is larger than [`MAX_RUN_FILE_BYTES`].
    #[error("{file}: {found} bytes, expected at most {MAX_RUN_FILE_BYTES}")]
    TooLong {
        /// Name of the file.
        file: String,
        /// Its length.
        found: usize,
    },
    /// Not TOML, a key of the wrong type, an unknown key, or a missing one.
    #[error("{file}:{line}:{column}: {message}{}", suggestion.as_ref().map(|s| format!("; did you mean '{s}'?")).unwrap_or_default())]
    Syntax {
        /// Name of the file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the reader said, on one line.
        message: String,
        /// The known key nearest to a misspelt one.
        suggestion: Option<String>,
    },
    /// Well-formed, but a value makes no sense.
    #[error("{file}: {key}: found {found}, expected {expected}")]
    Value {
        /// Name of the file.
        file: String,
        /// The key, dotted.
        key: String,
        /// What it holds.
        found: String,
        /// What it may hold.
        expected: String,
    },
}

impl RunFile {
    /// Reads and checks the text of a run file; `file` names it in errors.
    ///
    /// # Errors
    /// See [`RunFileError`].
    pub fn parse(text: &str, file: &str) -> Result<Self, RunFileError> {
        if text.len() > MAX_RUN_FILE_BYTES {
            return Err(RunFileError::TooLong { file: file.to_owned(), found: text.len() });
        }
        let run: Self = toml::from_str(text).map_err(|error| syntax(text, file, &error))?;
        run.check().map_err(|WrongValue { key, found, expected }| RunFileError::Value {
            file: file.to_owned(),
            key,
            found,
            expected,
        })?;
        Ok(run)
    }

    /// Checks everything that can be said without the network: also of a run file that did not come through
    /// [`parse`](Self::parse).
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn check(&self) -> Result<(), WrongValue> {
        RunId::numbered(&self.name, u64::from(u32::MAX)).map_err(|_error| {
            wrong("name", &self.name, "at most 50 characters of a-z, 0-9, '-', '_' or '.'")
        })?;
        check_input(&self.input)?;
        self.check_classes()?;
        self.check_exits()?;
        self.check_numbers()?;
        check_parts(&self.data)
    }

    fn check_classes(&self) -> Result<(), WrongValue> {
        if let (Some(count), false) = (self.task.class_count, self.task.classes.is_empty()) {
            let expected = "either names in task.classes or a number here, not both";
            return Err(wrong("task.class_count", count, expected));
        }
        let count = self.task.class_count.unwrap_or(self.task.classes.len());
        check_count(count)?;
        check_names("task.classes", &self.task.classes)
    }

    fn check_exits(&self) -> Result<(), WrongValue> {
        let exits = match &self.exits {
            Exits::Named(exits) => exits,
            Exits::Auto { auto } if (1..=MAX_PLACED).contains(&(*auto as usize)) => return Ok(()),
            Exits::Auto { auto } => {
                return Err(wrong("exits.auto", auto, format!("1 to {MAX_PLACED} exits to place")));
            }
        };
        if exits.is_empty() || exits.len() > MAX_EXITS {
            return Err(wrong("exits", format!("{} exits", exits.len()), EXITS));
        }
        let mut seen = BTreeSet::new();
        for (i, exit) in exits.iter().enumerate() {
            let key = format!("exits[{i}]");
            if !seen.insert(exit.tap.as_str()) {
                return Err(wrong(format!("{key}.tap"), format!("'{}' twice", exit.tap), "each tap once"));
            }
            if exit.rules.as_ref().unwrap_or(&self.exit.rules).is_empty() {
                return Err(wrong(format!("{key}.rules"), "no rule", "at least one"));
            }
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), WrongValue> {
        let shrinkage = self.method.shrinkage;
        if !(shrinkage > 0.0 && shrinkage <= 100.0) {
            return Err(wrong("method.shrinkage", shrinkage, "a number above 0 and at most 100"));
        }
        if self.method.range_samples == 0 {
            return Err(wrong("method.range_samples", 0, "at least 1"));
        }
        if self.federation.quorum == 0 {
            return Err(wrong("federation.quorum", 0, "at least 1"));
        }
        if !(1..=MAX_DEADLINE_S).contains(&self.federation.deadline_s) {
            return Err(wrong("federation.deadline_s", self.federation.deadline_s, "1 second to 1 year"));
        }
        Ok(())
    }
}

impl RunSpec {
    /// Checks what a node is sent as far as it can be said without the network, which
    /// decides whether the exits are what this says.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn check(&self) -> Result<(), WrongValue> {
        check_input(&self.input)?;
        check_count(self.classes.len())?;
        check_names("classes", &self.classes)?;
        if self.exits.is_empty() || self.exits.len() > MAX_EXITS {
            return Err(wrong("exits", format!("{} exits", self.exits.len()), EXITS));
        }
        let mut seen = BTreeSet::new();
        for (i, exit) in self.exits.iter().enumerate() {
            if !seen.insert(exit.tap.as_str()) {
                return Err(wrong(
                    format!("exits[{i}].tap"),
                    format!("'{}' twice", exit.tap),
                    "each tap once",
                ));
            }
            if exit.rules.is_empty() || !exit.rules.windows(2).all(|pair| pair[0] < pair[1]) {
                let found = format!("{:?}", exit.rules);
                return Err(wrong(
                    format!("exits[{i}].rules"),
                    found,
                    "at least one, in order and each once",
                ));
            }
            if exit.dim == 0 {
                return Err(wrong(format!("exits[{i}].dim"), 0, "at least 1"));
            }
        }
        check_parts(&self.data)
    }
}

fn check_input(input: &InputSpec) -> Result<(), WrongValue> {
    let channels = input.colour.channels();
    for (key, values) in [("input.mean", &input.mean), ("input.std", &input.std)] {
        if values.len() != channels {
            return Err(wrong(key, values.len(), format!("{channels} numbers, one per channel")));
        }
        if let Some(value) = values.iter().find(|v| !v.is_finite()) {
            return Err(wrong(key, value, "finite numbers"));
        }
    }
    if let Some(value) = input.std.iter().find(|v| **v <= 0.0) {
        return Err(wrong("input.std", value, "numbers above 0"));
    }
    let sides = input.resize.into_iter().chain(input.crop.into_iter().flatten());
    for side in sides {
        if !(1..=8192).contains(&side) {
            return Err(wrong("input.resize / input.crop", side, "1 to 8192 pixels"));
        }
    }
    Ok(())
}

fn check_count(classes: usize) -> Result<(), WrongValue> {
    if (2..=100_000).contains(&classes) {
        Ok(())
    } else {
        Err(wrong("task.classes", format!("{classes} classes"), "2 to 100000"))
    }
}

fn check_names(key: &str, classes: &[String]) -> Result<(), WrongValue> {
    let mut seen = BTreeSet::new();
    match classes.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(wrong(key, format!("'{twice}' twice"), "each class once")),
        None => Ok(()),
    }
}

fn check_parts(data: &DataSpec) -> Result<(), WrongValue> {
    let parts = [
        ("data.statistics", &data.statistics),
        ("data.calibration", &data.calibration),
        ("data.evaluation", &data.evaluation),
    ];
    for (key, part) in parts {
        check_part(key, part, data.format)?;
    }
    for (i, (key, part)) in parts.iter().enumerate() {
        for (other_key, other) in &parts[..i] {
            if overlap(part, other) {
                let found = format!("samples that {other_key} holds too");
                let expected = "parts without a sample in common (see 'share' and 'range')";
                return Err(wrong(*key, found, expected));
            }
        }
    }
    Ok(())
}

/// Most exits of a run.
const MAX_EXITS: usize = 256;
const EXITS: &str = "1 to 256";

/// A value of a run file, or of the specification made from it, that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: found {found}, expected {expected}")]
pub struct WrongValue {
    /// The key, dotted.
    pub key: String,
    /// What it holds.
    pub found: String,
    /// What it may hold.
    pub expected: String,
}

fn wrong(key: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> WrongValue {
    WrongValue { key: key.into(), found: found.to_string(), expected: expected.into() }
}

fn check_part(key: &str, part: &PartSpec, format: DataFormat) -> Result<(), WrongValue> {
    for file in part.files.iter().chain(&part.labels) {
        // Whatever system the node runs on.
        let drive = file.as_bytes().get(1) == Some(&b':');
        let escapes =
            drive || file.starts_with(['/', '\\']) || file.split(['/', '\\']).any(|step| step == "..");
        if escapes || file.is_empty() {
            let expected = "a path inside the node's data folder, without '..'";
            return Err(wrong(format!("{key}.files"), format!("'{file}'"), expected));
        }
    }
    let labels_wanted = if format == DataFormat::Idx { part.files.len() } else { 0 };
    if part.labels.len() != labels_wanted {
        let expected = format!("{labels_wanted} label files (only idx has them, one for each of 'files')");
        return Err(wrong(format!("{key}.labels"), part.labels.len(), expected));
    }
    if format != DataFormat::ImageFolder && part.files.is_empty() {
        return Err(wrong(format!("{key}.files"), "none", "at least one file"));
    }
    if let Some([from, to]) = part.range.filter(|[from, to]| from >= to) {
        return Err(wrong(format!("{key}.range"), format!("[{from}, {to}]"), "[from, to) with from < to"));
    }
    match part.share {
        Some([from, to]) if !(0.0 <= from && from < to && to <= 1.0) => {
            Err(wrong(format!("{key}.share"), format!("[{from}, {to}]"), "[from, to) with 0 ≤ from < to ≤ 1"))
        }
        _ => Ok(()),
    }
}

/// A path's steps: `./val`, `val/` and `val` are one.
fn steps(file: &str) -> Vec<&str> {
    file.split(['/', '\\']).filter(|step| !step.is_empty() && *step != ".").collect()
}

/// The files of a part, step by step; without any it is the folder itself.
fn places(part: &PartSpec) -> Vec<Vec<&str>> {
    if part.files.is_empty() { vec![Vec::new()] } else { part.files.iter().map(|file| steps(file)).collect() }
}

/// Whether two parts could hold the same sample, going by what the run file says: a folder and one inside it could.
fn overlap(a: &PartSpec, b: &PartSpec) -> bool {
    let (a_places, b_places) = (places(a), places(b));
    let files = a_places.iter().any(|a| b_places.iter().any(|b| a.starts_with(b) || b.starts_with(a)));
    // Ranges count over a part's files taken together, so they tell parts apart only where the files are the same.
    let ranges = match (a.range, b.range) {
        (Some(a_range), Some(b_range)) if a_places == b_places => {
            a_range[0] < b_range[1] && b_range[0] < a_range[1]
        }
        _ => true,
    };
    let everything = [0.0, 1.0];
    let (s, t) = (a.share.unwrap_or(everything), b.share.unwrap_or(everything));
    files && ranges && s[0] < t[1] && t[0] < s[1]
}

fn syntax(text: &str, file: &str, error: &toml::de::Error) -> RunFileError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let message = plain(&error.message().replace('\n', " "));
    RunFileError::Syntax { file: file.to_owned(), line, column, suggestion: nearest_key(&message), message }
}

/// serde names the types of this program; a person knows numbers.
fn plain(message: &str) -> String {
    let numbers = [
        ("u16", "a whole number"),
        ("u32", "a whole number"),
        ("u64", "a whole number"),
        ("usize", "a whole number"),
        ("f64", "a number"),
    ];
    let known = numbers.iter().find_map(|(name, words)| {
        let rest = message.strip_suffix(name)?.strip_suffix("expected ")?;
        Some(format!("{rest}expected {words}"))
    });
    known.unwrap_or_else(|| message.to_owned())
}

/// serde says "unknown field `x`, expected one of `a`, `b`": the expected name nearest to the found one.
fn nearest_key(message: &str) -> Option<String> {
    let rest =
        message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))?;
    let mut quoted = rest.split('`').step_by(2);
    let found = quoted.next()?;
    quoted
        .map(|known| (strsim::jaro_winkler(found, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use exeunt_exits::{Pool, Rule};
    use exeunt_stats::Digest;

    use super::*;
    use crate::spec::ExitPlan;

    const GOOD: &str = r#"
        name = "digits"
        network = "digits.onnx"
        [input]
        colour = "grey"
        mean = [0.5]
        std = [0.25]
        [task]
        class_count = 10
        [exit]
        pool = 2
        [[exits]]
        tap = "a"
        [[exits]]
        tap = "b"
        pool = "full"
        rules = ["whitened"]
        [data]
        format = "idx"
        statistics = { files = ["x.gz"], labels = ["y.gz"], range = [0, 900] }
        calibration = { files = ["x.gz"], labels = ["y.gz"], range = [900, 1797], share = [0.0, 0.5] }
        evaluation = { files = ["x.gz"], labels = ["y.gz"], range = [900, 1797], share = [0.5, 1.0] }
    "#;

    fn refused(from: &str, to: &str) -> String {
        let changed = GOOD.replace(from, to);
        assert_ne!(changed, GOOD, "the test must change something");
        RunFile::parse(&changed, "run.toml").expect_err("must be refused").to_string()
    }

    #[test]
    fn types_are_named_for_people() {
        let text = GOOD.replace("class_count = 10", "class_count = \"ten\"");
        let error = RunFile::parse(&text, "x.toml").unwrap_err().to_string();
        assert!(error.ends_with("invalid type: string \"ten\", expected a whole number"), "{error}");
    }

    #[test]
    fn a_good_file_is_read_and_defaults_are_filled_in() {
        let run = RunFile::parse(GOOD, "run.toml").expect("good");
        assert_eq!(run.task.names().len(), 10);
        assert_eq!(run.federation.quorum, 1);
        assert_eq!(run.floors.min_count, 10);
        assert_eq!(run.exit.rules.len(), 2);
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_place_and_the_right_one() {
        let said = refused("class_count", "clas_count");
        assert!(said.starts_with("run.toml:9:9: unknown field `clas_count`"), "{said}");
        assert!(said.ends_with("did you mean 'class_count'?"), "{said}");
        let said = refused("colour = \"grey\"", "colour = \"gray\"");
        assert!(said.contains("did you mean 'grey'?"), "{said}");
    }

    #[test]
    fn values_that_make_no_sense_name_their_key() {
        assert!(refused("std = [0.25]", "std = [0.0]").contains("input.std"));
        assert!(refused("mean = [0.5]", "mean = [0.5, 0.5]").contains("input.mean: found 2"));
        assert!(refused("tap = \"b\"", "tap = \"a\"").contains("exits[1].tap: found 'a' twice"));
        assert!(refused("range = [0, 900]", "range = [9, 9]").contains("data.statistics.range"));
        assert!(
            refused(
                "files = [\"x.gz\"], labels = [\"y.gz\"], range = [0",
                "files = [\"../x\"], labels = [\"y.gz\"], range = [0"
            )
            .contains("data.statistics.files")
        );
        assert!(refused("name = \"digits\"", "name = \"Digits!\"").contains("name: found Digits!"));
    }

    /// The exits, written some other way in front of the tables.
    fn with_exits(exits: &str) -> Result<RunFile, RunFileError> {
        let (head, tail) = (GOOD.find("[[exits]]").unwrap(), GOOD.find("[data]").unwrap());
        RunFile::parse(&format!("exits = {exits}\n{}{}", &GOOD[..head], &GOOD[tail..]), "run.toml")
    }

    #[test]
    fn exits_may_be_left_to_whoever_starts_the_run() {
        let exits = |text| with_exits(text).unwrap().exits;
        assert_eq!(exits("\"auto\""), Exits::Auto { auto: 4 });
        assert_eq!(exits("{ auto = 8 }"), Exits::Auto { auto: 8 });
        assert!(matches!(exits("[{ tap = \"a\" }]"), Exits::Named(named) if named[0].tap == "a"));
        for exits in ["\"auto\"", "{ auto = 2 }", "[{ tap = \"a\", pool = 2 }, { tap = \"b\" }]"] {
            let run = with_exits(exits).unwrap();
            let json = serde_json::to_string(&run).unwrap();
            assert_eq!(serde_json::from_str::<RunFile>(&json).unwrap(), run);
        }
        let refused = |text| with_exits(text).unwrap_err().to_string();
        let said = refused("{ auto = 9 }");
        assert_eq!(said, "run.toml: exits.auto: found 9, expected 1 to 8 exits to place");
        let said = refused("\"all\"");
        assert!(said.starts_with("run.toml:1:9: ") && said.contains("a list of exits, \"auto\""), "{said}");
        let said = refused("{ autos = 2 }");
        assert!(said.contains("unknown field `autos`") && said.contains("did you mean 'auto'"), "{said}");
        let said = refused("[{ tap = \"a\" }, { tab = \"b\" }]");
        assert!(said.contains("run.toml:1:27: unknown field `tab`"), "{said}");
        assert!(said.contains("did you mean 'tap'"), "{said}");
    }

    #[test]
    fn parts_that_share_samples_are_refused() {
        let said = refused("share = [0.5, 1.0]", "share = [0.4, 1.0]");
        assert!(said.contains("data.evaluation: found samples that data.calibration holds too"), "{said}");
    }

    #[test]
    fn one_place_written_in_several_ways_is_one_place() {
        let part = |file: &str| PartSpec { files: vec![file.to_owned()], ..PartSpec::default() };
        for same in ["val", "./val", "val/", "val//.", ".", "val/inside"] {
            assert!(overlap(&part("val"), &part(same)) && overlap(&part(same), &part("val")), "{same}");
        }
        assert!(overlap(&PartSpec::default(), &part("train")), "the folder itself holds every other");
        assert!(!overlap(&part("val"), &part("validation")) && !overlap(&part("a/val"), &part("b/val")));
        let ranged = |file: &str, range| PartSpec { range: Some(range), ..part(file) };
        assert!(!overlap(&ranged("x", [0, 5]), &ranged("./x", [5, 9])));
        assert!(overlap(&ranged("x", [0, 6]), &ranged("./x", [5, 9])));
    }

    #[test]
    fn paths_stay_inside_the_folder_on_every_system() {
        for path in ["/etc", "a/../../b", "..", "\\\\etc", "C:/data"] {
            let to = format!("files = [\"{path}\"], labels = [\"y.gz\"], range = [0");
            let said = refused("files = [\"x.gz\"], labels = [\"y.gz\"], range = [0", &to);
            assert!(
                said.contains("data.statistics.files") && said.contains("inside the node's data folder"),
                "{said}"
            );
        }
    }

    #[test]
    fn what_a_node_is_sent_is_checked_as_it_is_read() {
        let run = RunFile::parse(GOOD, "run.toml").expect("good");
        let exits = ["a", "b"].map(|tap| ExitPlan {
            tap: tap.to_owned(),
            pool: Pool::Grid(2),
            rules: vec![Rule::ClassMeans, Rule::Whitened],
            dim: 4,
        });
        let spec = RunSpec {
            network: Digest::of(b"network"),
            network_bytes: 7,
            seed: 0,
            input: run.input,
            classes: run.task.names(),
            exits: exits.to_vec(),
            data: run.data,
            floors: run.floors,
            more: BTreeMap::new(),
        };
        let read = |change: fn(&mut RunSpec)| {
            let mut spec = spec.clone();
            change(&mut spec);
            let json = serde_json::to_vec(&spec).unwrap();
            serde_json::from_slice::<RunSpec>(&json).map_err(|error| error.to_string())
        };
        assert_eq!(read(|_| {}), Ok(spec.clone()));
        let refused = |change| read(change).unwrap_err();
        let said = refused(|spec| spec.data.statistics.files = vec!["../../etc".to_owned()]);
        assert!(said.starts_with("data.statistics.files: found '../../etc'"), "{said}");
        assert!(
            refused(|spec| spec.data.evaluation.share = Some([0.2, 1.0]))
                .contains("data.calibration holds too")
        );
        assert!(refused(|spec| spec.input.std = vec![0.0]).starts_with("input.std"));
        assert!(refused(|spec| spec.input.resize = Some(1 << 30)).starts_with("input.resize"));
        assert!(refused(|spec| spec.exits[1].rules.reverse()).starts_with("exits[1].rules"));
        assert!(refused(|spec| spec.exits[1].tap = "a".to_owned()).starts_with("exits[1].tap"));
        assert!(refused(|spec| spec.classes[1] = "0".to_owned()).starts_with("classes"));
    }
}
