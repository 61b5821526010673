//! What a run is: the run file's contents, and the specification made from it that nodes receive.
//!
//! The types are plain data. They are read from TOML by [`crate::run_file`], checked there, and travel to nodes as
//! JSON, which lets the next version add a key without breaking this one.

use std::collections::BTreeMap;

use exeunt_exits::{Pool, Rule};
use exeunt_stats::Digest;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A run file (`configs/*.toml`), as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// Short name; runs made from the file are called `name-1`, `name-2`, …
    pub name: String,
    /// The network's ONNX file, relative to the run file.
    pub network: String,
    /// Seeds the split by content hash. Default 0.
    #[serde(default)]
    pub seed: u64,
    /// How an image becomes the network's input.
    pub input: InputSpec,
    /// What is to be told apart.
    pub task: TaskSpec,
    /// Pooling and rules for exits that do not say their own.
    #[serde(default)]
    pub exit: ExitDefaults,
    /// The exits, in the order the network reaches them, or how many are to be placed.
    pub exits: Exits,
    /// Where the samples lie.
    pub data: DataSpec,
    /// Who must answer, and by when.
    #[serde(default)]
    pub federation: FederationSpec,
    /// What may leave a node.
    #[serde(default)]
    pub floors: FloorsSpec,
    /// How class means become rules and policies.
    #[serde(default)]
    pub method: MethodSpec,
}

/// How an image becomes the network's input, in this order: resize, crop, grey or colour, scale to 0..1, normalise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// One grey channel or red, green and blue.
    pub colour: Colour,
    /// Resize so that the shorter side has this many pixels (bilinear, antialiased). Default: as stored.
    #[serde(default)]
    pub resize: Option<u32>,
    /// Cut this `[height, width]` from the centre. Default: as stored.
    #[serde(default)]
    pub crop: Option<[u32; 2]>,
    /// Subtracted from each channel after scaling to 0..1.
    pub mean: Vec<f32>,
    /// Each channel is divided by this.
    pub std: Vec<f32>,
}

/// Channels of the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Colour {
    /// One channel; colour images are converted by ITU-R BT.601 luma.
    Grey,
    /// Three channels, red first; grey images are repeated.
    Rgb,
}

impl Colour {
    /// Number of channels.
    pub const fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
        }
    }
}

/// What is to be told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// The classes' names in the order of the network's outputs.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Instead of names: how many classes there are.
    #[serde(default)]
    pub class_count: Option<usize>,
}

impl TaskSpec {
    /// The classes' names; numbers where only their count is given.
    pub fn names(&self) -> Vec<String> {
        match self.class_count {
            Some(count) if self.classes.is_empty() => (0..count).map(|k| k.to_string()).collect(),
            _ => self.classes.clone(),
        }
    }
}

/// Pooling and rules for exits that do not say their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitDefaults {
    /// Average the map to `pool × pool` per channel, or `"full"`. Default 4.
    #[serde(default = "default_pool")]
    pub pool: Pool,
    /// Rules to fit. Default both.
    #[serde(default = "default_rules")]
    pub rules: Vec<Rule>,
}

impl Default for ExitDefaults {
    fn default() -> Self {
        Self { pool: default_pool(), rules: default_rules() }
    }
}

fn default_pool() -> Pool {
    Pool::Grid(4)
}

fn default_rules() -> Vec<Rule> {
    vec![Rule::ClassMeans, Rule::Whitened]
}

/// Exits that `exits = "auto"` asks for.
const AUTO_EXITS: u32 = 4;

/// The exits of a run file: a list, `"auto"`, or `{ auto = N }`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Exits {
    /// These.
    Named(Vec<ExitSpec>),
    /// Whoever starts the run places them by measured time and names them; a coordinator takes named ones only.
    Auto {
        /// How many.
        auto: u32,
    },
}

impl Exits {
    /// The exits that are named; none where they are still to be placed.
    pub fn named(&self) -> &[ExitSpec] {
        match self {
            Self::Named(exits) => exits,
            Self::Auto { .. } => &[],
        }
    }

    /// [`named`](Self::named), to change them.
    pub fn named_mut(&mut self) -> &mut [ExitSpec] {
        match self {
            Self::Named(exits) => exits,
            Self::Auto { .. } => &mut [],
        }
    }
}

// Not derived: an untagged enum would answer every mistake in the list with "did not match any variant".
impl<'de> Deserialize<'de> for Exits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListOrAuto)
    }
}

struct ListOrAuto;

impl<'de> Visitor<'de> for ListOrAuto {
    type Value = Exits;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of exits, \"auto\" or { auto = N }")
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Exits, E> {
        match word {
            "auto" => Ok(Exits::Auto { auto: AUTO_EXITS }),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Exits, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(Exits::Named)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Exits, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Auto {
            auto: u32,
        }
        let Auto { auto } = Deserialize::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Exits::Auto { auto })
    }
}

/// One exit of the run file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitSpec {
    /// ONNX value name of a single-tensor cut point (`exeunt inspect` lists them).
    pub tap: String,
    /// Pooling of this exit, if not the default.
    #[serde(default)]
    pub pool: Option<Pool>,
    /// Rules of this exit, if not the default.
    #[serde(default)]
    pub rules: Option<Vec<Rule>>,
}

/// Where the samples lie, relative to the folder each node was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// How the samples are stored.
    pub format: DataFormat,
    /// Folder for `simulate` and `demo`, relative to the run file; a node's own `--data` comes before it.
    #[serde(default)]
    pub root: Option<String>,
    /// Unreadable samples are named, counted and skipped up to this many per node. Default 0.
    #[serde(default)]
    pub max_bad: u64,
    /// Name of the image array in an `.npz` file. Default `images`.
    #[serde(default)]
    pub images: Option<String>,
    /// Name of the label array in an `.npz` file. Default `labels`.
    #[serde(default)]
    pub labels: Option<String>,
    /// Samples that make the means.
    pub statistics: PartSpec,
    /// Samples that choose thresholds. They must not have trained the network.
    pub calibration: PartSpec,
    /// Samples on which curves are read.
    pub evaluation: PartSpec,
}

/// How samples are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    /// A folder per class with JPEG or PNG files.
    ImageFolder,
    /// IDX files (MNIST's format), plain or `.gz`.
    Idx,
    /// CIFAR-10's binary records, plain or `.gz`.
    Cifar10,
    /// CIFAR-100's binary records (fine labels), plain or `.gz`.
    Cifar100,
    /// NumPy arrays in an `.npz` file.
    Npz,
}

/// Which samples belong to a part.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartSpec {
    /// Files, or the folder of an image folder, relative to the node's folder. Default: the folder itself.
    #[serde(default)]
    pub files: Vec<String>,
    /// IDX only: the label files, one for each of `files`.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Only samples `[from, to)` of the files taken together, in stored order.
    #[serde(default)]
    pub range: Option<[u64; 2]>,
    /// Only samples whose content hash falls into `[from, to)` of 0..1. `[0.0, 0.8]` is four fifths of them.
    #[serde(default)]
    pub share: Option<[f64; 2]>,
}

/// Who must answer a query, and by when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FederationSpec {
    /// A run starts, and a query closes at its deadline, with at least this many nodes. Default 1.
    #[serde(default = "one")]
    pub quorum: u32,
    /// Seconds a query waits for nodes beyond the quorum. Default 600.
    #[serde(default = "default_deadline")]
    pub deadline_s: u64,
}

impl Default for FederationSpec {
    fn default() -> Self {
        Self { quorum: 1, deadline_s: default_deadline() }
    }
}

fn one() -> u32 {
    1
}

fn default_deadline() -> u64 {
    600
}

/// What may leave a node, and what may be published (DESIGN "What may leave a node").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FloorsSpec {
    /// A class with fewer samples than this is withheld at the node. Default 10.
    #[serde(default = "default_min_count")]
    pub min_count: u64,
    /// Second moments leave only with at least `second_factor · D` samples. Default 2.
    #[serde(default = "default_second_factor")]
    pub second_factor: u64,
    /// Means are published only over at least this many nodes. Default 1.
    #[serde(default = "one")]
    pub min_nodes: u32,
}

impl Default for FloorsSpec {
    fn default() -> Self {
        Self { min_count: default_min_count(), second_factor: default_second_factor(), min_nodes: 1 }
    }
}

fn default_min_count() -> u64 {
    10
}

fn default_second_factor() -> u64 {
    2
}

/// How class means become rules and policies (METHOD).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodSpec {
    /// `λ` of the whitened rule's covariance. Default 0.01.
    #[serde(default = "default_shrinkage")]
    pub shrinkage: f64,
    /// Whether the whitened rule adds `log n_k/N`. Default false.
    #[serde(default)]
    pub prior: bool,
    /// Rounds of policy search at most. Default 12.
    #[serde(default = "default_rounds")]
    pub search_rounds: u32,
    /// About this many samples of the whole fleet are looked at to find the scales. Default 2048.
    #[serde(default = "default_range_samples")]
    pub range_samples: u64,
}

impl Default for MethodSpec {
    fn default() -> Self {
        Self {
            shrinkage: default_shrinkage(),
            prior: false,
            search_rounds: default_rounds(),
            range_samples: default_range_samples(),
        }
    }
}

fn default_shrinkage() -> f64 {
    0.01
}

fn default_rounds() -> u32 {
    12
}

fn default_range_samples() -> u64 {
    2048
}

/// A run as nodes receive it: the run file with the network named by content and every default filled in.
///
/// Read only through [`RunSpec::check`]: what comes from a coordinator is not taken on trust.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct RunSpec {
    /// BLAKE3 of the network's file.
    pub network: Digest,
    /// Its size in bytes.
    pub network_bytes: u64,
    /// Splits the data by content.
    pub seed: u64,
    /// How an image becomes the network's input.
    pub input: InputSpec,
    /// The classes, in the order of the network's outputs.
    pub classes: Vec<String>,
    /// The exits.
    pub exits: Vec<ExitPlan>,
    /// Where the samples lie.
    pub data: DataSpec,
    /// What may leave a node.
    pub floors: FloorsSpec,
    /// Keys a newer coordinator added, kept so that nothing is lost in passing.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Serialize for RunSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The derived function of the same name, which `remote` keeps apart from the trait's.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for RunSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spec = Self::deserialize(deserializer)?;
        spec.check().map_err(D::Error::custom)?;
        Ok(spec)
    }
}

/// An exit with its pooling and rules decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitPlan {
    /// ONNX value name.
    pub tap: String,
    /// Pooling.
    pub pool: Pool,
    /// Rules, sorted, without repetition.
    pub rules: Vec<Rule>,
    /// Numbers per sample after pooling.
    pub dim: usize,
}
