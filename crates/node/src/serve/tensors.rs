//! Requests and responses of the Open Inference Protocol, version 2: JSON, and JSON with binary tensors behind it.
//!
//! A body is JSON. With the header `Inference-Header-Content-Length` only its first bytes are, and tensors follow in
//! the order in which the JSON names them, little-endian, each as long as its `binary_data_size` says. Nothing here
//! knows of HTTP.

use std::fmt;

use exeunt_network::TensorInfo;
use ndarray::Array2;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::infer::Verdict;

/// The only type that goes in: 32-bit floats.
const DATATYPE: &str = "FP32";

/// Why a request cannot be answered. What is wrong is the client's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The JSON is malformed, or lacks a key.
    #[error("the request cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The header says that the JSON is longer than the body.
    #[error(
        "Inference-Header-Content-Length: found {found}, expected at most {expected}, the length of the body"
    )]
    HeaderLength {
        /// What the header says.
        found: usize,
        /// Bytes of the body.
        expected: usize,
    },
    /// Not exactly one input.
    #[error("found {found} inputs, expected one, {expected:?}")]
    Inputs {
        /// Inputs given.
        found: usize,
        /// The input's name.
        expected: String,
    },
    /// Another name than the network's.
    #[error("found input {found:?}, expected {expected:?}")]
    Input {
        /// The name given.
        found: String,
        /// The network's.
        expected: String,
    },
    /// Another type than floats.
    #[error("input {input:?}: found datatype {found:?}, expected \"{DATATYPE}\"")]
    Datatype {
        /// The input.
        input: String,
        /// The type given.
        found: String,
    },
    /// Not a batch of the network's input.
    #[error(
        "input {input:?}: found shape {found:?}, expected [n, {}] with n from 1 to {limit}",
        list(expected)
    )]
    Shape {
        /// The input.
        input: String,
        /// The shape given.
        found: Vec<u64>,
        /// One sample's shape.
        expected: Vec<usize>,
        /// The largest batch.
        limit: usize,
    },
    /// The shape and the numbers do not agree.
    #[error("input {input:?}: found {found} {unit}, expected {expected}")]
    Size {
        /// The input.
        input: String,
        /// Numbers or bytes.
        unit: &'static str,
        /// How many there are.
        found: usize,
        /// How many the shape asks for.
        expected: usize,
    },
    /// An output that does not exist.
    #[error("found output {found:?}, expected one of {}", NAMES.join(", "))]
    Output {
        /// The name given.
        found: String,
    },
    /// An extension of the protocol that is not offered.
    #[error("{what} is not supported")]
    Unsupported {
        /// Which.
        what: &'static str,
    },
}

fn list(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a verdict is told as: one number or text per sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Class,
    Label,
    Exit,
    Confidence,
    Margin,
    Cost,
}

/// The names of [`Output::ALL`].
const NAMES: [&str; 6] = ["class", "label", "exit", "confidence", "margin", "cost"];

impl Output {
    pub(crate) const ALL: [Self; 6] =
        [Self::Class, Self::Label, Self::Exit, Self::Confidence, Self::Margin, Self::Cost];

    pub(crate) fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    pub(crate) fn datatype(self) -> &'static str {
        match self {
            Self::Class | Self::Exit => "INT64",
            Self::Label => "BYTES",
            Self::Confidence | Self::Margin | Self::Cost => "FP64",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|output| output.name() == name)
    }
}

/// A request that can be answered.
#[derive(Debug)]
pub(crate) struct InferRequest {
    /// The client's name for it.
    pub(crate) id: Option<String>,
    /// Preprocessed samples, one per row.
    pub(crate) samples: Array2<f32>,
    /// What to answer with, and which of it as binary tensors.
    pub(crate) outputs: Vec<(Output, bool)>,
}

#[derive(Deserialize)]
struct Raw {
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    inputs: Vec<RawInput>,
    #[serde(default)]
    outputs: Vec<RawOutput>,
}

/// The parameters that mean something here. Others, such as priorities, may be there and change nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    binary_data_output: bool,
    binary_data_size: Option<usize>,
    binary_data: Option<bool>,
    classification: u64,
    shared_memory_region: Option<String>,
}

#[derive(Deserialize)]
struct RawInput {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    data: Option<Numbers>,
}

#[derive(Deserialize)]
struct RawOutput {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

/// Reads a request for a network that takes `input`, of at most `max_batch` samples. `json` is how many bytes of
/// `body` are JSON, if the client said so.
pub(crate) fn decode(
    body: &[u8],
    json: Option<usize>,
    input: &TensorInfo,
    max_batch: usize,
) -> Result<InferRequest, RequestError> {
    let json = json.unwrap_or(body.len());
    let Some((json, binary)) = body.split_at_checked(json) else {
        return Err(RequestError::HeaderLength { found: json, expected: body.len() });
    };
    let mut raw: Raw = serde_json::from_slice(json)?;
    let given = raw.inputs.len();
    let (Some(tensor), 1) = (raw.inputs.pop(), given) else {
        return Err(RequestError::Inputs { found: given, expected: input.name.clone() });
    };
    let samples = samples(tensor, binary, input, max_batch)?;

    let as_binary = raw.parameters.binary_data_output;
    let mut outputs = Vec::with_capacity(raw.outputs.len());
    for wanted in raw.outputs {
        refuse_extensions(&wanted.parameters)?;
        let output = Output::named(&wanted.name).ok_or(RequestError::Output { found: wanted.name })?;
        outputs.push((output, wanted.parameters.binary_data.unwrap_or(as_binary)));
    }
    if outputs.is_empty() {
        outputs = Output::ALL.map(|output| (output, as_binary)).to_vec();
    }
    Ok(InferRequest { id: raw.id, samples, outputs })
}

fn refuse_extensions(parameters: &Parameters) -> Result<(), RequestError> {
    if parameters.shared_memory_region.is_some() {
        return Err(RequestError::Unsupported { what: "shared memory" });
    }
    if parameters.classification > 0 {
        return Err(RequestError::Unsupported { what: "the classification extension" });
    }
    Ok(())
}

fn samples(
    tensor: RawInput,
    binary: &[u8],
    input: &TensorInfo,
    max_batch: usize,
) -> Result<Array2<f32>, RequestError> {
    refuse_extensions(&tensor.parameters)?;
    if tensor.name != input.name {
        return Err(RequestError::Input { found: tensor.name, expected: input.name.clone() });
    }
    let input_name = || input.name.clone();
    if tensor.datatype != DATATYPE {
        return Err(RequestError::Datatype { input: input_name(), found: tensor.datatype });
    }
    let batch = match tensor.shape.split_first() {
        Some((batch, sample)) if sample.iter().copied().eq(input.shape.iter().map(|size| *size as u64)) => {
            usize::try_from(*batch).ok().filter(|batch| (1..=max_batch).contains(batch))
        }
        _ => None,
    };
    let Some(batch) = batch else {
        let (found, expected) = (tensor.shape, input.shape.clone());
        return Err(RequestError::Shape { input: input_name(), found, expected, limit: max_batch });
    };
    let numbers = batch * input.len();
    let size = |unit, found, expected| RequestError::Size { input: input_name(), unit, found, expected };
    let flat = match (tensor.data, tensor.parameters.binary_data_size) {
        (Some(Numbers(flat)), None) if binary.is_empty() => flat,
        (Some(_), _) => return Err(size("bytes behind the JSON", binary.len(), 0)),
        (None, announced) => {
            let expected = numbers * size_of::<f32>();
            for found in [announced.unwrap_or(0), binary.len()] {
                if found != expected {
                    return Err(size("bytes of binary data", found, expected));
                }
            }
            let (numbers, _rest) = binary.as_chunks();
            numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
    };
    let found = flat.len();
    Array2::from_shape_vec((batch, input.len()), flat).map_err(|_mismatch| size("numbers", found, numbers))
}

/// Numbers in arrays, however nested; the shape says how they lie.
struct Numbers(Vec<f32>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut numbers = Vec::new();
        Flatten(&mut numbers).deserialize(deserializer)?;
        Ok(Self(numbers))
    }
}

struct Flatten<'a>(&'a mut Vec<f32>);

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, in arrays")
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.0.push(number as f32);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.0.push(number as f32);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.0.push(number as f32);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Flatten(self.0))?.is_some() {}
        Ok(())
    }
}

/// Who answers: what a response says besides the verdicts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answerer<'a> {
    pub(crate) model: &'a str,
    pub(crate) run: &'a str,
    pub(crate) policy_version: u32,
    pub(crate) labels: &'a [String],
}

#[derive(Serialize)]
struct Response<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    parameters: ResponseParameters<'a>,
    outputs: Vec<ResponseOutput>,
}

/// What was decided, for one sample; a batch has it in its outputs.
#[derive(Serialize)]
struct ResponseParameters<'a> {
    run: &'a str,
    policy_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    margin: Option<f64>,
}

#[derive(Serialize)]
struct ResponseOutput {
    name: &'static str,
    datatype: &'static str,
    shape: [usize; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<serde_json::Value>,
}

/// A response, and how many of its bytes are JSON where binary tensors follow.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) body: Vec<u8>,
    pub(crate) json: Option<usize>,
}

/// Writes what was decided. Exits are numbered from 1; 0 is the whole network.
pub(crate) fn encode(
    request: &InferRequest,
    answerer: &Answerer<'_>,
    verdicts: &[Verdict],
) -> Result<Encoded, serde_json::Error> {
    let mut binary = Vec::new();
    let outputs = request.outputs.iter().map(|(output, as_binary)| {
        let (parameters, data) = if *as_binary {
            let before = binary.len();
            verdicts.iter().for_each(|verdict| append(*output, verdict, answerer.labels, &mut binary));
            (Some(serde_json::json!({ "binary_data_size": binary.len() - before })), None)
        } else {
            let data = verdicts.iter().map(|verdict| json(*output, verdict, answerer.labels));
            (None, Some(data.collect()))
        };
        let (name, datatype) = (output.name(), output.datatype());
        ResponseOutput { name, datatype, shape: [verdicts.len()], parameters, data }
    });
    let outputs = outputs.collect();
    let only = match verdicts {
        [only] => Some(only),
        _ => None,
    };
    let response = Response {
        model_name: answerer.model,
        model_version: answerer.policy_version.to_string(),
        id: request.id.as_deref(),
        parameters: ResponseParameters {
            run: answerer.run,
            policy_version: answerer.policy_version,
            exit: only.map(exit),
            confidence: only.map(|verdict| verdict.confidence()),
            margin: only.map(|verdict| verdict.margin),
        },
        outputs,
    };
    let mut body = serde_json::to_vec(&response)?;
    let json = request.outputs.iter().any(|(_, as_binary)| *as_binary).then_some(body.len());
    body.append(&mut binary);
    Ok(Encoded { body, json })
}

fn exit(verdict: &Verdict) -> i64 {
    verdict.exit.map_or(0, |exit| i64::try_from(exit).unwrap_or(i64::MAX - 1) + 1)
}

fn label<'a>(verdict: &Verdict, labels: &'a [String]) -> &'a str {
    labels.get(verdict.class as usize).map_or("", String::as_str)
}

fn json(output: Output, verdict: &Verdict, labels: &[String]) -> serde_json::Value {
    match output {
        Output::Class => verdict.class.into(),
        Output::Label => label(verdict, labels).into(),
        Output::Exit => exit(verdict).into(),
        Output::Confidence => verdict.confidence().into(),
        Output::Margin => verdict.margin.into(),
        Output::Cost => verdict.cost.into(),
    }
}

fn append(output: Output, verdict: &Verdict, labels: &[String], to: &mut Vec<u8>) {
    match output {
        Output::Class => to.extend(i64::from(verdict.class).to_le_bytes()),
        Output::Label => {
            let label = label(verdict, labels).as_bytes();
            to.extend(u32::try_from(label.len()).unwrap_or(u32::MAX).to_le_bytes());
            to.extend(label);
        }
        Output::Exit => to.extend(exit(verdict).to_le_bytes()),
        Output::Confidence => to.extend(verdict.confidence().to_le_bytes()),
        Output::Margin => to.extend(verdict.margin.to_le_bytes()),
        Output::Cost => to.extend(verdict.cost.to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> TensorInfo {
        TensorInfo { name: "input".to_owned(), shape: vec![1, 2, 2] }
    }

    fn verdict(exit: Option<usize>) -> Verdict {
        Verdict { class: 1, exit, margin: 2.5, cost: 0.25 }
    }

    fn read(body: &str) -> Result<InferRequest, RequestError> {
        decode(body.as_bytes(), None, &input(), 4)
    }

    fn one(changes: &str) -> String {
        let tensor = r#""name":"input","shape":[1,1,2,2],"datatype":"FP32","data":[[1,2.5],[-3,4e0]]"#;
        let mut tensor = serde_json::from_str::<serde_json::Value>(&format!("{{{tensor}}}")).unwrap();
        let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            tensor[key] = value.clone();
        }
        serde_json::json!({ "inputs": [tensor] }).to_string()
    }

    #[test]
    fn numbers_are_read_however_they_are_nested() {
        for data in ["[1, 2.5, -3, 4]", "[[[[1, 2.5], [-3, 4]]]]"] {
            let request = read(&one(&format!(r#"{{"data":{data}}}"#))).unwrap();
            assert_eq!(request.samples, ndarray::array![[1.0, 2.5, -3.0, 4.0]]);
            assert_eq!(request.outputs.len(), 6);
        }
    }

    #[test]
    fn binary_tensors_follow_the_json() {
        let json = one(r#"{"shape":[2,1,2,2],"parameters":{"binary_data_size":32},"data":null}"#);
        let numbers: Vec<u8> = (0_u8..8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        let body = [json.as_bytes(), &numbers].concat();
        let request = decode(&body, Some(json.len()), &input(), 4).unwrap();
        assert_eq!(request.samples, ndarray::array![[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]);
        let short = decode(&body[..body.len() - 1], Some(json.len()), &input(), 4).unwrap_err();
        assert_eq!(short.to_string(), r#"input "input": found 31 bytes of binary data, expected 32"#);
        let wrong = decode(&body, Some(body.len() + 1), &input(), 4).unwrap_err();
        assert!(matches!(wrong, RequestError::HeaderLength { .. }), "{wrong}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |changes: &str| read(&one(changes)).unwrap_err().to_string();
        assert_eq!(said(r#"{"name":"x"}"#), r#"found input "x", expected "input""#);
        assert_eq!(
            said(r#"{"datatype":"INT64"}"#),
            r#"input "input": found datatype "INT64", expected "FP32""#
        );
        let shape = r#"input "input": found shape [5, 1, 2, 2], expected [n, 1, 2, 2] with n from 1 to 4"#;
        assert_eq!(said(r#"{"shape":[5,1,2,2]}"#), shape);
        for other in ["[1,2,2]", "[0,1,2,2]", "[1,1,2,2,1]", "[]", "[18446744073709551615,1,2,2]"] {
            assert!(said(&format!(r#"{{"shape":{other}}}"#)).contains("expected [n, 1, 2, 2]"), "{other}");
        }
        assert_eq!(said(r#"{"data":[1,2,3]}"#), r#"input "input": found 3 numbers, expected 4"#);
        assert_eq!(said(r#"{"data":null}"#), r#"input "input": found 0 bytes of binary data, expected 16"#);
        assert!(said(r#"{"data":["a"]}"#).contains("expected numbers, in arrays"));
        assert!(said(r#"{"shape":[-1,1,2,2]}"#).contains("cannot be read"));
        let shared = r#"{"parameters":{"shared_memory_region":"r"}}"#;
        assert_eq!(said(shared), "shared memory is not supported");
        assert_eq!(
            read(r#"{"inputs":[]}"#).unwrap_err().to_string(),
            r#"found 0 inputs, expected one, "input""#
        );
        assert!(matches!(read("{"), Err(RequestError::Json(_))));
        let output = one("{}").replace("}]}", r#"}],"outputs":[{"name":"logits"}]}"#);
        assert_eq!(
            read(&output).unwrap_err().to_string(),
            "found output \"logits\", expected one of class, label, exit, confidence, margin, cost"
        );
    }

    #[test]
    fn one_sample_has_its_decision_in_the_parameters() {
        let answerer =
            Answerer { model: "m", run: "r-1", policy_version: 7, labels: &["a".into(), "b".into()] };
        let request = read(&one("{}").replace("{\"inputs\"", r#"{"id":"x","inputs""#)).unwrap();
        let encoded = encode(&request, &answerer, &[verdict(Some(2))]).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&encoded.body).unwrap();
        assert_eq!(encoded.json, None);
        assert_eq!(said["id"], "x");
        assert_eq!(said["model_version"], "7");
        assert_eq!(said["parameters"]["exit"], 3);
        assert_eq!(said["parameters"]["margin"], 2.5);
        assert_eq!(said["parameters"]["policy_version"], 7);
        assert_eq!(said["outputs"][0]["data"], serde_json::json!([1]));
        assert_eq!(said["outputs"][1]["data"], serde_json::json!(["b"]));
        let request = read(&one(r#"{"shape":[2,1,2,2],"data":[1,2,3,4,5,6,7,8]}"#)).unwrap();
        let encoded = encode(&request, &answerer, &[verdict(Some(2)), verdict(None)]).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&encoded.body).unwrap();
        assert_eq!(said["parameters"], serde_json::json!({ "run": "r-1", "policy_version": 7 }));
        assert_eq!(said["outputs"][2]["data"], serde_json::json!([3, 0]));
    }

    #[test]
    fn outputs_are_binary_where_wished() {
        let answerer =
            Answerer { model: "m", run: "r", policy_version: 1, labels: &["a".into(), "bc".into()] };
        let outputs =
            r#"}],"outputs":[{"name":"label","parameters":{"binary_data":true}},{"name":"class"}]}"#;
        let request = read(&one("{}").replace("}]}", outputs)).unwrap();
        let encoded = encode(&request, &answerer, &[verdict(None)]).unwrap();
        let (json, binary) = encoded.body.split_at(encoded.json.unwrap());
        let said: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(said["outputs"][0]["parameters"]["binary_data_size"], 6);
        assert_eq!(said["outputs"][1]["data"], serde_json::json!([1]));
        assert_eq!(binary, [2, 0, 0, 0, b'b', b'c']);
    }
}
