//! Writes the seeds of the fuzz targets, made by the project's own encoders, into the folder that is named (such as
//! `fuzz/corpus`). What is there already stays.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use exeunt_exits::{ExitHead, Heads, LinearHead, Part, Policy, PolicyRequest, Query, Rule};
use exeunt_link::{Address, AuthorityId, Blob, Secret, Token, frame};
use exeunt_network::Network;
use exeunt_protocol::live::LiveCounts;
use exeunt_protocol::message::{
    Ack, Activity, BlobRef, ContributeReply, Contribution, Desired, DesiredPolicy, DesiredQuery, DesiredRun,
    FetchReply, FromNode, Hello, Membership, Refusal, Rejection, Request, ToNode,
};
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse};
use exeunt_protocol::spec::{ExitPlan, RunFile, RunSpec};
use exeunt_protocol::{DatasetVersion, NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::{Digest, Scale, packed};
use ndarray::{Array1, Array2, Array3, Array4};
use ndarray_npy::NpzWriter;
use serde::Serialize;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("usage: seeds FOLDER")?);
    let corpus = Corpus { root };
    frames(&corpus)?;
    messages(&corpus)?;
    tables(&corpus)?;
    tokens(&corpus)?;
    run_files(&corpus)?;
    records(&corpus)?;
    npz(&corpus)?;
    images(&corpus)?;
    networks(&corpus)?;
    machines(&corpus)?;
    Ok(())
}

type Done = Result<(), Box<dyn std::error::Error>>;

struct Corpus {
    root: PathBuf,
}

impl Corpus {
    fn put(&self, target: &str, name: &str, bytes: &[u8]) -> Done {
        let folder = self.root.join(target);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(name), bytes)?)
    }

    /// A message, behind the number of its kind.
    fn message<T: Serialize>(&self, kind: u8, name: &str, message: &T) -> Done {
        let framed = frame::encode(message, usize::MAX)?;
        self.put("messages", name, &[&[kind], &framed[frame::HEADER..]].concat())
    }

    fn json<T: Serialize>(&self, kind: u8, name: &str, message: &T) -> Done {
        self.put("messages", name, &[vec![kind], serde_json::to_vec(message)?].concat())
    }
}

fn run() -> RunId {
    "digits-1".parse().expect("a run's id")
}

fn hello() -> FromNode {
    let (name, software, engine) = ("node-a".to_owned(), "exeunt 0.1.0".to_owned(), "tract".to_owned());
    FromNode::Hello(Hello { oldest: 1, newest: 2, name, software, engine })
}

fn frames(corpus: &Corpus) -> Done {
    let stream = [frame::encode(&hello(), 1 << 10)?, frame::encode(&Membership::Active, 1 << 10)?].concat();
    corpus.put("frames", "two-messages", &[&[128, 7], &stream[..]].concat())?;
    corpus.put("frames", "cut-off", &[&[128, 3], &stream[..20]].concat())?;
    let blob = frame::encode(&Blob::of(b"bytes that follow"), 1 << 10)?;
    corpus.put("frames", "blob", &[&[16, 5], &blob[..], b"bytes that follow"].concat())?;
    corpus.put("frames", "too-long", &[1, 1, 0xff, 0xff, 0xff, 0xff, 0])?;
    corpus.put("frames", "empty-frames", &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn messages(corpus: &Corpus) -> Done {
    let (query, blob) = (QueryId(3), BlobRef::of(b"blob"));
    corpus.message(0, "hello", &hello())?;
    let activity = Activity::Computing { query, done: 300, of: 1797 };
    corpus.message(0, "report", &FromNode::Report { run: run(), activity })?;
    let refusal = Refusal::BadData { what: "x.png: neither JPEG nor PNG".to_owned() };
    corpus.message(0, "decline", &FromNode::Decline { run: run(), query, refusal })?;
    let mut counts = LiveCounts::new(run(), PolicyVersion(2), 2, 1_700_000_000_000);
    counts.left = vec![600, 300, 100];
    (counts.macs, counts.bare_macs, counts.sampled, counts.agreed) = (500, 1000, 40, 38);
    counts.margins[0] = Some([0, 0, 0, 0, 0, 10, 20, 10, 0, 0, 0, 0, 0, 0, 0]);
    (counts.busy_ns, counts.timed, counts.milliwatts) = (20_000_000, 10, Some(5_000));
    corpus.message(0, "live", &FromNode::Live(Box::new(counts)))?;
    let desired_query = DesiredQuery { id: query, body: blob, heads: Some(blob) };
    let policy = DesiredPolicy { version: PolicyVersion(1), body: blob, heads: blob };
    let wanted = DesiredRun {
        run: run(),
        spec: blob,
        network: blob,
        query: Some(desired_query),
        policy: Some(policy),
    };
    corpus.message(1, "desired", &ToNode::Desired(Desired { runs: vec![wanted] }))?;
    corpus.message(1, "welcome", &ToNode::Welcome { version: 2 })?;
    let purpose = Some((run(), query));
    corpus.message(2, "fetch", &Request::Fetch { blob: blob.digest, offset: 65_536, purpose })?;
    let contribution = Contribution { run: run(), query, dataset: DatasetVersion(1), table: blob };
    corpus.message(2, "contribute", &Request::Contribute(contribution))?;
    corpus.message(3, "begin", &FetchReply::Begin { bytes: 156_577 })?;
    let rejection = Rejection::Stale { found: 1, expected: 2 };
    corpus.message(4, "done", &ContributeReply::Done(Ack::Rejected(rejection)))?;
    let conflict = Rejection::ContributionConflict { found: blob.digest, expected: blob.digest };
    corpus.message(5, "conflict", &Ack::Rejected(conflict))?;
    corpus.message(6, "blob", &Blob::of(b"blob"))?;
    corpus.message(7, "name", &exeunt_link::Rejection::Name("empty".to_owned()))?;

    let node = Some(NodeId::from_bytes([7; 16]));
    corpus.json(
        8,
        "set-policy",
        &OperatorRequest::SetPolicy { run: None, wish: PolicyRequest::MaxDrop(1.0), node },
    )?;
    let (file, network) = (Box::new(run_file("digits.toml")?), blob.digest);
    corpus.json(8, "start-run", &OperatorRequest::StartRun { file, network })?;
    corpus.json(9, "started", &OperatorResponse::Started { run: run() })?;
    corpus.json(10, "spec", &spec()?)?;
    corpus.json(11, "policy", &Policy::static_cut(2, 1, Rule::Whitened))?;

    let heads = blob.digest;
    let edges = vec![vec![vec![-1.0, 0.5], vec![]], vec![vec![], vec![0.0]]];
    let queries = [
        ("census", Query::Census),
        ("moments", Query::Moments { scales: vec![Scale::for_exponent(3); 2], second: vec![true, false] }),
        ("confidence", Query::Confidence { heads, part: Part::Calibration, edges }),
        ("evaluate", Query::Evaluate { heads, part: Part::Evaluation, policies: vec![Policy::off(2)] }),
    ];
    for (name, query) in queries {
        corpus.put("messages", name, &[vec![12], query.encode()].concat())?;
    }
    corpus.put("messages", "heads", &[vec![13], self::heads()?.encode()].concat())
}

fn heads() -> Result<Heads, Box<dyn std::error::Error>> {
    let means = Array2::from_shape_fn((2, 3), |(k, d)| (k * 3 + d) as f32);
    let linear = LinearHead::new(means.clone(), vec![0.5, -1.0])?;
    let exit = ExitHead::new(means, vec![true, true])?.with_spreads(Ok(vec![1.0, 2.0]))?;
    Ok(Heads::new(vec![exit.with_whitened(Ok(linear))?]))
}

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets")
}

fn run_file(name: &str) -> Result<RunFile, Box<dyn std::error::Error>> {
    let path = assets().join("../configs").join(name);
    Ok(RunFile::parse(&fs::read_to_string(path)?, name)?)
}

fn spec() -> Result<RunSpec, Box<dyn std::error::Error>> {
    let file = run_file("digits.toml")?;
    let plan = |tap: &str| ExitPlan {
        tap: tap.to_owned(),
        pool: file.exit.pool,
        rules: Rule::ALL.to_vec(),
        dim: 64,
    };
    Ok(RunSpec {
        network: Digest::of(b"network"),
        network_bytes: 156_577,
        seed: file.seed,
        classes: file.task.names(),
        exits: vec![plan("/relu_1"), plan("/relu_2")],
        input: file.input,
        data: file.data,
        floors: file.floors,
        more: Default::default(),
    })
}

fn tables(corpus: &Corpus) -> Done {
    let mut cells = vec![0_i64; 1500];
    cells[..1024].iter_mut().enumerate().for_each(|(at, cell)| *cell = at as i64 * 37 - 9_000);
    let packed = |cells: &[i64]| {
        let count = u16::try_from(cells.len()).unwrap_or(0).to_be_bytes();
        [&[0], &count[..], &packed::encode(cells)].concat()
    };
    corpus.put("tables", "sums", &packed(&cells))?;
    corpus.put("tables", "extremes", &packed(&[i64::MIN, i64::MAX, 0, -1]))?;
    corpus.put("tables", "nothing", &packed(&[]))?;
    corpus.put("tables", "honest", &[1])?;
    // A count below zero in the census, a sum that is off, wider scales.
    corpus.put("tables", "negative", &[1, 1, 0, 0, 200, 50])?;
    corpus.put(
        "tables",
        "off",
        &[1, 0, 0, 0, 0, 2, 0, 9, 3, 1, 2, 3, 0, 70, 8, 0, 0, 0, 0, 0, 0, 0, 0x70, 0],
    )?;
    corpus.put("tables", "wider", &[1, 0, 0, 0, 0, 0, 255, 0, 255, 0, 0])
}

fn tokens(corpus: &Corpus) -> Done {
    let addresses: Vec<Address> = vec!["192.0.2.7:7000".parse()?, "coordinator.lan:7000".parse()?];
    let (authority, secret) = (AuthorityId::from_bytes([7; 32]), Secret::from_bytes([9; 16]));
    let expires = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let token = Token::new(addresses, authority, secret, expires)?;
    let texts = [
        ("token", token.to_string()),
        ("cut-off", token.to_string()[..60].to_owned()),
        ("address", "[2001:db8::7]:7000".to_owned()),
        ("authority", authority.to_string()),
        ("node", NodeId::from_bytes([0xab; 16]).to_string()),
        ("run", run().to_string()),
        ("digest", Digest::of(b"").to_string()),
        ("pool", "full".to_owned()),
        ("rule", Rule::Whitened.to_string()),
        ("role", exeunt_link::Role::Node.to_string()),
    ];
    for (name, text) in texts {
        corpus.put("tokens", name, &[&[0], text.as_bytes()].concat())?;
    }
    // What is inside: authority, secret, expiry, two addresses.
    let content =
        [&[7; 32][..], &[9; 16], &[0x80, 0xa0, 0xa7, 0xda, 6, 2, 5], b"a.b:1", &[5], b"[::]:"].concat();
    corpus.put("tokens", "content", &[&[1], &content[..]].concat())
}

fn run_files(corpus: &Corpus) -> Done {
    for entry in fs::read_dir(assets().join("../configs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            corpus.put("run_files", name, &fs::read(&path)?)?;
        }
    }
    Ok(())
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(bytes)?;
    packed.finish()
}

fn records(corpus: &Corpus) -> Done {
    let record = |labels: &[u8]| [labels.to_vec(), (0..3072).map(|at| (at % 13) as u8).collect()].concat();
    corpus.put("records", "cifar10", &[&[0, 0, 0], &record(&[3])[..]].concat())?;
    corpus.put(
        "records",
        "cifar10-gz",
        &[&[0, 0, 0], &gzip(&[record(&[3]), record(&[9])].concat())?[..]].concat(),
    )?;
    corpus.put("records", "cifar100-gz", &[&[1, 0, 0], &gzip(&record(&[1, 7]))?[..]].concat())?;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let labels = [words(&[0x0801, 2]), vec![7, 9]].concat();
    let images = [words(&[0x0803, 2, 2, 3]), (0..12).collect()].concat();
    let both = |labels: &[u8], images: &[u8]| {
        let length = u16::try_from(labels.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[2], &length[..], labels, images].concat()
    };
    corpus.put("records", "idx", &both(&labels, &images))?;
    corpus.put("records", "idx-gz", &both(&gzip(&labels)?, &gzip(&images)?))?;
    let huge = words(&[0x0803, u32::MAX, u32::MAX, u32::MAX]);
    corpus.put("records", "idx-huge", &both(&labels, &huge))
}

/// An `.npz` file in memory that is being written.
type Archive = NpzWriter<std::io::Cursor<Vec<u8>>>;

fn npz(corpus: &Corpus) -> Done {
    let file = |packed: bool, add: &dyn Fn(&mut Archive) -> Done| {
        let bytes = std::io::Cursor::new(Vec::new());
        let mut archive = if packed { NpzWriter::new_compressed(bytes) } else { NpzWriter::new(bytes) };
        add(&mut archive)?;
        Ok::<_, Box<dyn std::error::Error>>(archive.finish()?.into_inner())
    };
    let grey = file(false, &|archive| {
        archive
            .add_array("images", &Array3::<u8>::from_shape_fn((2, 2, 3), |(n, y, x)| (n + y + x) as u8))?;
        Ok(archive.add_array("labels", &Array1::<i64>::from(vec![4, 1]))?)
    })?;
    let colour = file(true, &|archive| {
        archive.add_array("images", &Array4::<u8>::zeros((1, 4, 4, 3)))?;
        Ok(archive.add_array("labels", &Array1::<u8>::from(vec![4]))?)
    })?;
    let wrong = file(false, &|archive| {
        archive.add_array("images", &Array2::<u8>::zeros((1, 4)))?;
        Ok(archive.add_array("labels", &Array1::<i16>::from(vec![-4]))?)
    })?;
    for (name, bytes) in [("grey", grey), ("colour", colour), ("wrong", wrong)] {
        corpus.put("npz", name, &bytes)?;
    }
    Ok(())
}

fn images(corpus: &Corpus) -> Done {
    use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage};
    let colour = RgbImage::from_fn(9, 5, |x, y| Rgb([x as u8 * 20, y as u8 * 40, 7]));
    let grey = GrayImage::from_fn(8, 8, |x, y| image::Luma([(x * y) as u8]));
    let written = |name: &str, image: DynamicImage, format| {
        let mut bytes = std::io::Cursor::new(vec![4, 1]);
        bytes.set_position(2);
        image.write_to(&mut bytes, format)?;
        corpus.put("images", name, bytes.get_ref())
    };
    written("colour.png", colour.clone().into(), ImageFormat::Png)?;
    written("colour.jpg", colour.clone().into(), ImageFormat::Jpeg)?;
    written("grey.png", grey.clone().into(), ImageFormat::Png)?;
    written("grey.jpg", grey.into(), ImageFormat::Jpeg)?;
    let colour = DynamicImage::from(colour);
    written("wide.png", colour.to_rgb16().into(), ImageFormat::Png)?;
    written("transparent.png", colour.to_rgba8().into(), ImageFormat::Png)
}

fn networks(corpus: &Corpus) -> Done {
    let network = Network::load(&assets().join("digits_resnet.onnx"))?;
    let taps: Vec<&str> = network.taps().iter().map(|tap| tap.name.as_str()).collect();
    let mut number = 0;
    for segment in network.cut(&taps)? {
        let file = segment.to_onnx();
        if file.len() < 6_000 && number < 12 {
            number += 1;
            let op = segment.output().name.rsplit('/').next().unwrap_or_default().to_lowercase();
            corpus.put("networks", &format!("{number:02}-{op}"), &[vec![0], file.clone()].concat())?;
            // The same with two operators exchanged and a number changed.
            let edits = [8, 0, 9, 6, 9, 0, 12, 0, 3];
            corpus.put("networks", &format!("{number:02}-{op}-edited"), &[edits.to_vec(), file].concat())?;
        }
    }
    Ok(())
}

fn machines(corpus: &Corpus) -> Done {
    // What these bytes mean follows from the order of the steps; any bytes mean something.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    for number in 0..6 {
        let bytes: Vec<u8> = (0..600).map(|_| next()).collect();
        corpus.put("node", &format!("steps-{number}"), &bytes)?;
        corpus.put("coordinator", &format!("steps-{number}"), &bytes)?;
    }
    Ok(())
}
