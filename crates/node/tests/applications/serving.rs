//! The Open Inference Protocol over real HTTP.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use exeunt_network::EngineChoice;
use exeunt_node::serve::{Limits, Server, follow};
use exeunt_node::{Ledger, LiveSettings};
use exeunt_protocol::live::LiveCounts;
use ndarray::Array2;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::place::{Place, noise, onnx_runtime};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Leaves some samples at most exits.
const MIDDLE: f64 = 1.0;
const JSON_LENGTH: &str = "inference-header-content-length";

/// A server for a node's folder.
struct Serving {
    place: Place,
    address: SocketAddr,
    _runtime: Runtime,
}

fn serve(limits: Limits) -> Serving {
    serve_with(limits, |server, _place| server)
}

fn serve_with(limits: Limits, prepare: impl FnOnce(Server, &Place) -> Server) -> Serving {
    serve_in(EngineChoice::tract(), limits, prepare)
}

fn serve_in(engine: EngineChoice, limits: Limits, prepare: impl FnOnce(Server, &Place) -> Server) -> Serving {
    let place = Place::new(MIDDLE);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (sender, live) = watch::channel(None);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let threads = limits.threads;
    let server = runtime.block_on(Server::bind(address, live, None, limits)).unwrap();
    let server = prepare(server, &place);
    let address = server.address();
    runtime.spawn(server.run(std::future::pending()));
    runtime.spawn(follow(place.home.clone(), Arc::new(engine), threads, sender));
    let serving = Serving { place, address, _runtime: runtime };
    wait(|| serving.client().get("/v2/health/ready").status == 200);
    serving
}

fn wait(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "it did not happen in time");
        std::thread::yield_now();
    }
}

impl Serving {
    fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client { stream, read: Vec::new() }
    }
}

/// One connection.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

impl Client {
    fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    fn infer(&mut self, body: &Value) -> Answer {
        self.ask("POST", "/v2/models/digits-1/infer", &[], body.to_string().as_bytes())
    }

    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(method, path, headers, body.len(), body);
        self.answer().expect("an answer")
    }

    /// Announces `length` bytes and sends `body`.
    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], length: usize, body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: node\r\ncontent-length: {length}\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        self.stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    }

    /// The next answer; nothing when the server has closed the connection.
    fn answer(&mut self) -> Option<Answer> {
        let head = loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break self.read.drain(..end + 4).collect::<Vec<u8>>();
            }
            if !self.more() {
                return None;
            }
        };
        let head = String::from_utf8(head).unwrap();
        let (status, rest) = head.split_once("\r\n").unwrap();
        let header = |line: &str| line.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()));
        let headers: BTreeMap<_, _> = rest.lines().filter_map(header).collect();
        let length: usize = headers["content-length"].parse().unwrap();
        while self.read.len() < length {
            assert!(self.more(), "the body ended early");
        }
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Answer { status, headers, body: self.read.drain(..length).collect() })
    }

    fn more(&mut self) -> bool {
        let mut some = [0; 4096];
        // Closed with unread bytes, it may be reset.
        let n = self.stream.read(&mut some).unwrap_or(0);
        self.read.extend(&some[..n]);
        n > 0
    }
}

fn tensor(samples: &Array2<f32>) -> Value {
    let data: Vec<f32> = samples.iter().copied().collect();
    json!({ "name": "input", "shape": [samples.nrows(), 1, 8, 8], "datatype": "FP32", "data": data })
}

fn request(samples: &Array2<f32>) -> Value {
    json!({ "inputs": [tensor(samples)] })
}

fn output<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let outputs = answer["outputs"].as_array().unwrap();
    outputs.iter().find(|output| output["name"] == name).unwrap()
}

#[test]
fn the_server_and_its_model_say_what_they_are() {
    let serving = serve(Limits::default());
    let mut client = serving.client();
    assert_eq!(client.get("/v2").json()["name"], "exeunt-node");
    assert_eq!(client.get("/v2/health/live").status, 200);
    assert_eq!(client.get("/healthz").status, 200);
    let model = client.get("/v2/models/digits-1").json();
    assert_eq!(model["versions"], json!(["1"]));
    assert_eq!(model["inputs"], json!([{ "name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8] }]));
    assert_eq!(model["outputs"][2], json!({ "name": "exit", "datatype": "INT64", "shape": [-1] }));
    assert_eq!(client.get("/v2/models/digits-1/ready").status, 200);
    assert_eq!(client.get("/v2/models/digits-1/versions/1/ready").status, 200);

    let unknown = client.get("/v2/models/other");
    assert_eq!(
        (unknown.status, unknown.error().as_str()),
        (404, r#"found model "other", expected "digits-1""#)
    );
    let stale = client.get("/v2/models/digits-1/versions/7");
    assert_eq!(stale.status, 404);
    assert!(stale.error().contains(r#"expected "1", the policy in force"#), "{}", stale.error());
    let nothing = client.get("/v2/nothing");
    assert_eq!((nothing.status, nothing.error().as_str()), (404, "there is nothing at /v2/nothing"));
    let method = client.get("/v2/models/digits-1/infer");
    assert_eq!((method.status, method.headers["allow"].as_str()), (405, "POST"));
}

#[test]
fn answers_are_those_of_the_library() {
    let serving = serve(Limits::default());
    let mut client = serving.client();
    let x = noise(1, 40, 64) * 2.0;
    let expected = serving.place.ready().inference.run(x.view()).unwrap();
    let exits: Vec<usize> = expected.iter().map(|verdict| verdict.exit.map_or(0, |e| e + 1)).collect();
    assert!(exits.contains(&1) && exits.iter().any(|exit| *exit != 1), "{exits:?}");

    let batch = client.infer(&request(&x)).json();
    for (i, verdict) in expected.iter().enumerate() {
        assert_eq!(output(&batch, "class")["data"][i], verdict.class);
        assert_eq!(output(&batch, "label")["data"][i], verdict.class.to_string());
        assert_eq!(output(&batch, "exit")["data"][i], exits[i]);
        assert_eq!(output(&batch, "margin")["data"][i], verdict.margin);
        assert_eq!(output(&batch, "cost")["data"][i], verdict.cost);
        let one = x.slice(ndarray::s![i..=i, ..]).to_owned();
        let one = client.infer(&request(&one)).json();
        assert_eq!(one["parameters"]["exit"], exits[i]);
        assert_eq!(one["parameters"]["margin"], verdict.margin);
        assert_eq!(one["parameters"]["confidence"], verdict.confidence());
        assert_eq!(one["parameters"]["policy_version"], 1);
        assert_eq!(output(&one, "class")["data"], json!([verdict.class]));
    }

    // The same with binary tensors both ways.
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let header = json!({ "id": "b", "parameters": { "binary_data_output": true }, "inputs": [{
        "name": "input", "shape": [40, 1, 8, 8], "datatype": "FP32", "parameters": { "binary_data_size": bytes.len() },
    }], "outputs": [{ "name": "class" }, { "name": "margin" }]})
    .to_string();
    let body = [header.as_bytes(), &bytes].concat();
    let length = header.len().to_string();
    let path = "/v2/models/digits-1/versions/1/infer";
    let answer = client.ask("POST", path, &[(JSON_LENGTH, &length)], &body);
    assert_eq!(answer.status, 200, "{:?}", String::from_utf8_lossy(&answer.body));
    let (json, binary) = answer.body.split_at(answer.headers[JSON_LENGTH].parse().unwrap());
    assert_eq!(serde_json::from_slice::<Value>(json).unwrap()["id"], "b");
    let (classes, margins) = binary.split_at(40 * 8);
    let (classes, _) = classes.as_chunks();
    let (margins, _) = margins.as_chunks();
    assert!(classes.iter().map(|c| i64::from_le_bytes(*c)).eq(expected.iter().map(|v| i64::from(v.class))));
    assert!(margins.iter().map(|m| f64::from_le_bytes(*m)).eq(expected.iter().map(|v| v.margin)));
}

#[test]
#[ignore = "needs EXEUNT_ONNXRUNTIME"]
fn onnx_runtime_answers_what_tract_does() {
    let serving = serve_in(onnx_runtime(), Limits::default(), |server, _place| server);
    let mut client = serving.client();
    let x = noise(1, 40, 64) * 2.0;
    let expected = serving.place.ready().inference.run(x.view()).unwrap();
    assert!(expected.iter().any(|verdict| verdict.exit != expected[0].exit));
    let ours = serving.place.ready_in(&onnx_runtime());
    assert!(ours.inference.engine().starts_with("ONNX Runtime"), "{}", ours.inference.engine());
    let ours = ours.inference.run(x.view()).unwrap();
    let batch = client.infer(&request(&x)).json();
    for (i, verdict) in expected.iter().enumerate() {
        assert_eq!((ours[i].class, ours[i].exit), (verdict.class, verdict.exit), "sample {i}");
        let exit = verdict.exit.map_or(0, |e| e + 1);
        let one = client.infer(&request(&x.slice(ndarray::s![i..=i, ..]).to_owned())).json();
        let margins =
            [&output(&batch, "margin")["data"][i], &one["parameters"]["margin"]].map(|m| m.as_f64().unwrap());
        for margin in margins.into_iter().chain([ours[i].margin]) {
            assert!((margin - verdict.margin).abs() < 1e-3, "sample {i}: {margin} for {}", verdict.margin);
        }
        assert_eq!(output(&batch, "exit")["data"][i], exit);
        assert_eq!(one["parameters"]["exit"], exit);
        assert_eq!(output(&batch, "class")["data"][i], verdict.class);
    }
}

#[test]
fn a_wrong_request_is_told_so_and_the_connection_goes_on() {
    let serving = serve(Limits { batch: 4, ..Limits::default() });
    let mut client = serving.client();
    let x = noise(2, 1, 64);
    let changed = |key: &str, value: Value| {
        let mut tensor = tensor(&x);
        tensor[key] = value;
        json!({ "inputs": [tensor] })
    };
    let cases = [
        (changed("name", json!("image")), r#"found input "image", expected "input""#),
        (changed("datatype", json!("UINT8")), r#"found datatype "UINT8", expected "FP32""#),
        (changed("shape", json!([1, 8, 8])), "found shape [1, 8, 8], expected [n, 1, 8, 8]"),
        (changed("shape", json!([2, 1, 8, 8])), "found 64 numbers, expected 128"),
        (request(&noise(2, 5, 64)), "found shape [5, 1, 8, 8], expected [n, 1, 8, 8] with n from 1 to 4"),
        (json!({ "inputs": [] }), "found 0 inputs"),
        (json!([1]), "cannot be read"),
    ];
    for (body, expected) in &cases {
        let answer = client.infer(body);
        assert_eq!(answer.status, 400);
        assert_eq!(answer.headers["content-type"], "application/json");
        assert!(answer.error().contains(expected), "{} lacks {expected}", answer.error());
    }
    let length = client.ask("POST", "/v2/models/digits-1/infer", &[(JSON_LENGTH, "x")], b"{}");
    assert_eq!(length.status, 400);
    assert_eq!(client.infer(&request(&x)).status, 200);

    let stats = client.get("/v2/models/digits-1/stats").json()["model_stats"][0].clone();
    assert_eq!(stats["inference_stats"]["fail"]["count"], cases.len() + 1);
    assert_eq!(stats["inference_stats"]["success"]["count"], 1);
    let metrics = String::from_utf8(client.get("/metrics").body).unwrap();
    assert!(metrics.contains("exeunt_requests_total{result=\"ok\"} 1\n"), "{metrics}");
    assert!(metrics.contains("exeunt_policy_version{run=\"digits-1\"} 1\n"), "{metrics}");
}

#[test]
fn what_is_too_large_is_refused() {
    let serving = serve(Limits { body: 1000, header: 2000, ..Limits::default() });
    let path = "/v2/models/digits-1/infer";
    let mut client = serving.client();
    client.send("POST", path, &[], 1001, b"{");
    let announced = client.answer().unwrap();
    let said = "found a body of 1001 bytes, expected at most 1000";
    assert_eq!((announced.status, announced.error().as_str()), (413, said));
    // Without a length, the limit is met while reading.
    let mut client = serving.client();
    let head = format!("POST {path} HTTP/1.1\r\nhost: node\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = format!("500\r\n{}\r\n", "x".repeat(0x500));
    client.stream.write_all(format!("{head}{chunk}").as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap().status, 413);

    let mut client = serving.client();
    client.send("GET", "/v2", &[("x-long", &"x".repeat(4000))], 0, b"");
    assert!(client.answer().is_none_or(|answer| answer.status == 431));
    assert_eq!(serving.client().get("/v2").status, 200);
}

#[test]
fn a_client_that_stops_half_way_bothers_nobody() {
    let short = Duration::from_millis(300);
    let serving = serve(Limits { body_time: short, header_time: short, ..Limits::default() });
    let body = request(&noise(3, 1, 64)).to_string();
    let path = "/v2/models/digits-1/infer";

    let mut half_body = serving.client();
    half_body.send("POST", path, &[], body.len(), &body.as_bytes()[..body.len() / 2]);
    let mut half_header = serving.client();
    half_header.stream.write_all(b"POST /v2/models/dig").unwrap();
    let mut gone = serving.client();
    gone.send("POST", path, &[], body.len(), &body.as_bytes()[..body.len() / 2]);
    gone.stream.shutdown(Shutdown::Both).unwrap();

    // Meanwhile, somebody else.
    for _ in 0..50 {
        assert_eq!(serving.client().ask("POST", path, &[], body.as_bytes()).status, 200);
    }
    let answer = half_body.answer().expect("an answer before the connection is closed");
    assert_eq!((answer.status, answer.error().as_str()), (408, "the body took longer than 0.3 s"));
    assert!(half_body.answer().is_none());
    assert!(half_header.answer().is_none());
    // All of their places are free again, but for the one that asks.
    let open = || String::from_utf8(serving.client().get("/metrics").body).unwrap();
    wait(|| open().contains("exeunt_connections 1\n"));
}

#[test]
fn there_are_only_so_many_connections() {
    let serving = serve(Limits { connections: 2, ..Limits::default() });
    // The connection that asked whether the server is ready may still count.
    let (mut first, mut second) = (serving.client(), None);
    wait(|| {
        first.get("/v2").status == 200 || {
            first = serving.client();
            false
        }
    });
    wait(|| {
        let mut client = serving.client();
        let welcome = client.get("/v2").status == 200;
        second = welcome.then_some(client);
        welcome
    });
    let mut third = serving.client();
    let refused = third.answer().unwrap();
    assert_eq!((refused.status, refused.error().as_str()), (503, "too many connections, try again later"));
    assert!(third.answer().is_none());
    drop(second);
    wait(|| serving.client().answer_to_get("/v2").is_some_and(|answer| answer.status == 200));
    assert_eq!(first.get("/v2").status, 200);
}

impl Client {
    /// As [`Client::get`], where the server may close without reading.
    fn answer_to_get(&mut self, path: &str) -> Option<Answer> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: node\r\n\r\n");
        // It may be closed already; then there is no answer.
        let _ = self.stream.write_all(head.as_bytes());
        self.answer()
    }
}

#[test]
fn a_new_policy_comes_into_force_without_a_request_lost() {
    let mut serving = serve(Limits { threads: 2, ..Limits::default() });
    let body = request(&noise(4, 1, 64));
    let swapped = AtomicBool::new(false);
    let versions = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| {
                let mut client = serving.client();
                let (body, swapped) = (&body, &swapped);
                scope.spawn(move || {
                    let mut versions = Vec::new();
                    // A few more after the swap was seen.
                    let mut left = 20;
                    while left > 0 {
                        left -= usize::from(swapped.load(Ordering::Relaxed));
                        let answer = client.infer(body);
                        assert_eq!(answer.status, 200, "{answer:?}");
                        versions.push(answer.json()["parameters"]["policy_version"].as_u64().unwrap());
                    }
                    versions
                })
            })
            .collect();
        let mut watching = serving.client();
        // Everybody leaves at the first exit from version 2 on.
        serving.place.set_policy(f64::NEG_INFINITY);
        wait(|| {
            watching.infer(&body).json()["parameters"]["exit"] == 1
                && watching.get("/v2/models/digits-1/versions/2/ready").status == 200
        });
        // Version 3 uses the last exit only, for which the network is cut anew, beside the one that answers.
        serving.place.set_last_exit(f64::NEG_INFINITY);
        wait(|| watching.infer(&body).json()["parameters"]["exit"] == 8);
        swapped.store(true, Ordering::Relaxed);
        asking.into_iter().map(|asking| asking.join().unwrap()).collect::<Vec<_>>()
    });
    for versions in versions {
        assert!(versions.is_sorted(), "{versions:?}");
        assert!(versions.len() >= 20);
        assert_eq!(versions.last(), Some(&3));
    }
}

#[test]
fn what_is_decided_is_counted_and_compared_with_the_whole_network() {
    let settings = LiveSettings { share: 1.0, watts: Some(3.0), ..LiveSettings::default() };
    let serving = serve_with(Limits::default(), |server, place| {
        server.counting(Ledger::new(place.home.clone(), settings, 1))
    });
    let x = noise(8, 40, 64) * 2.0;
    let ready = serving.place.ready();
    let verdicts = ready.inference.run(x.view()).unwrap();
    let wholes = ready.inference.whole(x.view()).unwrap();
    let mut client = serving.client();
    for rows in [0..1, 1..33, 33..40] {
        let body = request(&x.slice(ndarray::s![rows, ..]).to_owned());
        assert_eq!(client.infer(&body).status, 200);
    }
    let file = serving.place.file("live.json");
    let counts = || -> Option<Value> {
        let kept: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).unwrap();
        Some(kept["counts"][0].clone())
    };
    wait(|| counts().is_some_and(|counts| counts["sampled"] == 40));
    let counts: LiveCounts = serde_json::from_value(counts().unwrap()).unwrap();
    let exits = ready.inference.spec().exits.len();
    counts.check(exits).unwrap();
    let mut left = vec![0; exits + 1];
    verdicts.iter().for_each(|verdict| left[verdict.exit.unwrap_or(exits)] += 1);
    assert_eq!(counts.left, left);
    let agree = verdicts.iter().zip(&wholes).filter(|(verdict, whole)| verdict.class == whole.class).count();
    assert_eq!(counts.agreed, agree as u64);
    // What the whole network says is what it says where nobody leaves before.
    let mut place = serving.place;
    place.set_policy(f64::INFINITY);
    let stay = place.ready().inference.run(x.view()).unwrap();
    assert!(stay.iter().zip(&wholes).all(|(stay, whole)| stay.exit.is_none() && stay.class == whole.class));
    assert!(counts.margins.iter().all(|bins| bins.is_some_and(|bins| bins.iter().sum::<u64>() == 40)));
    let cost = verdicts.iter().map(|verdict| verdict.cost).sum::<f64>() / 40.0;
    assert!((counts.cost().unwrap() - cost).abs() < 1e-6);
    assert!(counts.mean_ms().unwrap() > 0.0 && counts.joules().unwrap() > 0.0);
}

#[test]
fn a_policy_that_cannot_be_loaded_leaves_the_old_one_answering() {
    let mut serving = serve(Limits::default());
    let mut client = serving.client();
    serving.place.set_lost_policy();
    // Looked at in vain, it is followed by one that can be loaded.
    let body = request(&noise(5, 1, 64));
    assert_eq!(client.infer(&body).json()["parameters"]["policy_version"], 1);
    serving.place.set_policy(0.0);
    wait(|| client.infer(&body).json()["parameters"]["policy_version"] == 3);
}

#[test]
fn ten_thousand_requests_from_64_connections() {
    const CONNECTIONS: usize = 64;
    const REQUESTS: usize = 10_000;
    let serving = serve(Limits { threads: 2, ..Limits::default() });
    let x = noise(6, CONNECTIONS, 64) * 2.0;
    let expected = serving.place.ready().inference.run(x.view()).unwrap();
    std::thread::scope(|scope| {
        for (connection, verdict) in expected.iter().enumerate() {
            let body = request(&x.slice(ndarray::s![connection..=connection, ..]).to_owned());
            let serving = &serving;
            scope.spawn(move || {
                let mut client = serving.client();
                for _ in (connection..REQUESTS).step_by(CONNECTIONS) {
                    let answer = client.infer(&body);
                    assert_eq!(answer.status, 200, "{answer:?}");
                    assert_eq!(answer.json()["parameters"]["margin"], verdict.margin);
                }
            });
        }
    });
    let stats = serving.client().get("/v2/models/stats").json()["model_stats"][0].clone();
    assert_eq!(stats["inference_stats"]["success"]["count"], REQUESTS);
    assert_eq!(stats["inference_stats"]["fail"]["count"], 0);
    assert_eq!(stats["inference_count"], REQUESTS);
}
