//! The memory of a process that serves inference, loading included.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use exeunt_network::Network;
use serde_json::json;

use crate::place::{Place, noise};

/// Requests before the peak is read.
const REQUESTS: usize = 20;
/// How long the server may take to get ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The most memory that a server of this network in tract ever had resident, in MB: when it was ready, and when it had
/// answered.
fn peaks_mb(network: &Path, run_file: &str) -> [f64; 2] {
    // Nobody leaves, so that all of the network runs.
    let place = Place::of(network, run_file, f64::INFINITY);
    let program = Command::new(env!("CARGO_BIN_EXE_exeunt-node"))
        .arg("--home")
        .arg(place.home.root())
        .args(["serve", "--http", "127.0.0.1:0", "--model", "m", "--engine", "tract", "--http-threads", "1"])
        .stderr(Stdio::piped())
        .spawn();
    let mut server = Server(program.unwrap());
    let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.contains("http://"))).unwrap();
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    // What it logs is read, so that it never waits for that.
    std::thread::spawn(move || lines.for_each(drop));
    let begun = Instant::now();
    while ask(&address, "GET /v2/health/ready", &[], &[]) != 200 {
        assert!(begun.elapsed() < PATIENCE, "the server does not get ready");
        std::thread::sleep(Duration::from_millis(50));
    }
    let ready = resident_mb(&server);
    let input = Network::load(network).unwrap().input().clone();
    let x: Vec<u8> = noise(9, 1, input.len()).iter().flat_map(|number| number.to_le_bytes()).collect();
    let shape: Vec<usize> = std::iter::once(1).chain(input.shape.iter().copied()).collect();
    let tensor = json!({
        "name": input.name, "shape": shape, "datatype": "FP32", "parameters": { "binary_data_size": x.len() },
    });
    let head = json!({ "inputs": [tensor] }).to_string();
    let length = [format!("inference-header-content-length: {}", head.len())];
    let body = [head.as_bytes(), &x].concat();
    for _ in 0..REQUESTS {
        assert_eq!(ask(&address, "POST /v2/models/m/infer", &length, &body), 200);
    }
    [ready, resident_mb(&server)]
}

/// The most that was ever resident, in MB.
fn resident_mb(server: &Server) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kb * 1024.0 / 1e6
}

/// One request on a connection of its own; the answer's status.
fn ask(address: &str, what: &str, headers: &[String], body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut head = format!("{what} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n");
    for header in headers {
        head += &format!("{header}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap().parse().unwrap()
}

fn check(what: &str, network: &Path, run_file: &str, limit_mb: f64) {
    let [ready, peak] = peaks_mb(network, run_file);
    println!("{what}: {ready:.1} MB at most when it is ready, {peak:.1} MB when it has answered");
    assert!(peak < limit_mb, "{what}: {peak:.1} MB, expected less than {limit_mb}");
}

#[test]
#[ignore = "needs EXEUNT_REFERENCE; a number for release builds"]
fn a_server_of_resnet20_takes_less_than_40_mb() {
    let root = std::env::var("EXEUNT_REFERENCE").expect("EXEUNT_REFERENCE names the reference's folder");
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let run_file = fs::read_to_string(configs.join("cifar10-resnet20.toml")).unwrap();
    check("ResNet-20", &PathBuf::from(root).join("models/cifar10_resnet20.onnx"), &run_file, 40.0);
}

#[test]
#[ignore = "needs EXEUNT_MOBILENET, MobileNetV3-Large for 224 × 224 pixels; a number for release builds"]
fn a_server_of_mobilenet_v3_large_takes_less_than_90_mb() {
    let path = std::env::var("EXEUNT_MOBILENET").expect("EXEUNT_MOBILENET names the network's file");
    let network = Network::load(path.as_ref()).unwrap();
    let ends: Vec<_> = network.taps().iter().filter(|tap| tap.block_end).collect();
    let taps = ends.iter().step_by(ends.len().div_ceil(4)).map(|tap| tap.name.clone());
    let exits: Vec<String> = taps.map(|tap| format!("{{ tap = {tap:?} }}")).collect();
    let run_file = format!(
        r#"name = "memory"
network = "n.onnx"
exits = [{}]
[input]
colour = "rgb"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[task]
class_count = 1000
[exit]
pool = 1
[data]
format = "image-folder"
statistics = {{ files = ["train"] }}
calibration = {{ files = ["test"], share = [0.0, 0.5] }}
evaluation = {{ files = ["test"], share = [0.5, 1.0] }}
"#,
        exits.join(", ")
    );
    drop(network);
    check("MobileNetV3-Large", path.as_ref(), &run_file, 90.0);
}
