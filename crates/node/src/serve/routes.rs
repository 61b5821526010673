//! From a path to an answer.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use exeunt_protocol::PolicyVersion;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use ndarray::{Array2, Axis};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use super::counts::{Served, Took};
use super::live::{Live, Ready};
use super::tensors::{self, Answerer, Output};
use crate::infer::Verdict;
use crate::ledger::{Decided, Ledger};

/// How many bytes of a body are JSON; binary tensors follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

type Answer = Response<Full<Bytes>>;

/// An answer that says what is wrong.
struct Wrong {
    status: StatusCode,
    what: String,
}

impl Wrong {
    fn new(status: StatusCode, what: impl Into<String>) -> Self {
        Self { status, what: what.into() }
    }

    fn request(what: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, what.to_string())
    }
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Healthz,
    Metrics,
    Server,
    ServerLive,
    ServerReady,
    /// Statistics of every model; there is one.
    Stats,
    Model {
        name: &'a str,
        version: Option<&'a str>,
        what: Facet,
    },
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Facet {
    Metadata,
    Ready,
    Stats,
    Infer,
}

fn place(path: &str) -> Option<Place<'_>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let facet = |rest: &[&str]| match rest {
        [] => Some(Facet::Metadata),
        ["ready"] => Some(Facet::Ready),
        ["stats"] => Some(Facet::Stats),
        ["infer"] => Some(Facet::Infer),
        _ => None,
    };
    Some(match parts.as_slice() {
        ["healthz"] => Place::Healthz,
        ["metrics"] => Place::Metrics,
        ["v2"] => Place::Server,
        ["v2", "health", "live"] => Place::ServerLive,
        ["v2", "health", "ready"] => Place::ServerReady,
        ["v2", "models", "stats"] => Place::Stats,
        ["v2", "models", name, "versions", version, rest @ ..] => {
            Place::Model { name, version: Some(version), what: facet(rest)? }
        }
        ["v2", "models", name, rest @ ..] => Place::Model { name, version: None, what: facet(rest)? },
        _ => return None,
    })
}

/// What every connection shares.
#[derive(Debug)]
pub(super) struct Desk {
    live: Live,
    model: Option<String>,
    limits: Limits,
    served: Served,
    /// Where what is decided is counted, if it is.
    ledger: OnceLock<Arc<Ledger>>,
    /// One for each connection that may be open.
    slots: Arc<Semaphore>,
    /// One for each inference that may run.
    threads: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(live: Live, model: Option<String>, limits: Limits) -> Self {
        let slots = Arc::new(Semaphore::new(limits.connections));
        let threads = Arc::new(Semaphore::new(limits.threads.max(1)));
        Self { live, model, limits, served: Served::default(), ledger: OnceLock::new(), slots, threads }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn slots(&self) -> &Arc<Semaphore> {
        &self.slots
    }

    /// Counts what is decided from now on. The first ledger stays.
    pub(super) fn count_in(&self, ledger: Ledger) {
        let _ = self.ledger.set(Arc::new(ledger));
    }

    /// Writes down what was counted.
    pub(super) async fn flush(&self) {
        let Some(ledger) = self.ledger.get().map(Arc::clone) else { return };
        match tokio::task::spawn_blocking(move || ledger.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("what inference did is not written down: {error}"),
            Err(panicked) => tracing::error!("{panicked}"),
        }
    }

    pub(super) fn served(&self) -> &Served {
        &self.served
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let begun = Instant::now();
        let path = request.uri().path().to_owned();
        let Some(place) = place(&path) else {
            return wrong(&Wrong::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}")));
        };
        let infers = matches!(place, Place::Model { what: Facet::Infer, .. });
        let expected = if infers { Method::POST } else { Method::GET };
        if *request.method() != expected {
            let what = format!("found method {}, expected {expected}", request.method());
            let mut answer = wrong(&Wrong::new(StatusCode::METHOD_NOT_ALLOWED, what));
            let allowed = if infers { "POST" } else { "GET" };
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
            return answer;
        }
        match self.at(place, request).await {
            Ok(answer) => answer,
            Err(error) => {
                if infers {
                    self.served.failed(begun.elapsed());
                }
                wrong(&error)
            }
        }
    }

    async fn at(&self, place: Place<'_>, request: Request<Incoming>) -> Result<Answer, Wrong> {
        Ok(match place {
            Place::Healthz => text("ok\n".to_owned()),
            Place::Metrics => text(self.served.metrics(self.live.borrow().as_deref(), self.open())),
            Place::Server => json_answer(&json!({
                "name": "exeunt-node",
                "version": env!("CARGO_PKG_VERSION"),
                "extensions": ["binary_tensor_data", "statistics"],
            })),
            Place::ServerLive => json_answer(&json!({ "live": true })),
            Place::ServerReady => {
                self.ready()?;
                json_answer(&json!({ "ready": true }))
            }
            Place::Stats => json_answer(&self.stats(&*self.ready()?)),
            Place::Model { name, version, what } => {
                let ready = self.ready()?;
                self.check(&ready, name, version)?;
                match what {
                    Facet::Metadata => json_answer(&self.metadata(&ready)),
                    Facet::Ready => json_answer(&json!({ "name": self.model_name(&ready), "ready": true })),
                    Facet::Stats => json_answer(&self.stats(&ready)),
                    Facet::Infer => self.infer(ready, request).await?,
                }
            }
        })
    }

    /// Open connections.
    fn open(&self) -> usize {
        self.limits.connections.saturating_sub(self.slots.available_permits())
    }

    /// What answers a request from now to its end, whatever policy comes meanwhile.
    fn ready(&self) -> Result<Arc<Ready>, Wrong> {
        let none = || Wrong::new(StatusCode::SERVICE_UNAVAILABLE, "this node has no policy yet");
        self.live.borrow().clone().ok_or_else(none)
    }

    fn model_name<'a>(&'a self, ready: &'a Ready) -> &'a str {
        self.model.as_deref().unwrap_or(ready.policy.run.as_str())
    }

    fn check(&self, ready: &Ready, name: &str, version: Option<&str>) -> Result<(), Wrong> {
        let known = self.model_name(ready);
        if name != known {
            let what = format!("found model {name:?}, expected {known:?}");
            return Err(Wrong::new(StatusCode::NOT_FOUND, what));
        }
        let current = ready.policy.version.to_string();
        match version {
            Some(version) if version != current => {
                let what = format!(
                    "found version {version:?} of {known:?}, expected {current:?}, the policy in force"
                );
                Err(Wrong::new(StatusCode::NOT_FOUND, what))
            }
            _ => Ok(()),
        }
    }

    fn metadata(&self, ready: &Ready) -> Value {
        let input = ready.inference.input();
        let shape: Vec<i64> = std::iter::once(-1)
            .chain(input.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)))
            .collect();
        let outputs = Output::ALL
            .map(|output| json!({ "name": output.name(), "datatype": output.datatype(), "shape": [-1] }));
        json!({
            "name": self.model_name(ready),
            "versions": [ready.policy.version.to_string()],
            "platform": "exeunt",
            "inputs": [{ "name": input.name, "datatype": "FP32", "shape": shape }],
            "outputs": outputs,
        })
    }

    fn stats(&self, ready: &Ready) -> Value {
        self.served.json(self.model_name(ready), ready.policy.version)
    }

    async fn infer(&self, ready: Arc<Ready>, request: Request<Incoming>) -> Result<Answer, Wrong> {
        let begun = Instant::now();
        let json = json_length(request.headers())?;
        let body = self.body(request).await?;
        let request = tensors::decode(&body, json, ready.inference.input(), self.limits.batch);
        let mut request = request.map_err(Wrong::request)?;
        drop(body);
        let samples = std::mem::take(&mut request.samples);
        let input = begun.elapsed();

        let failed = |what: String| Wrong::new(StatusCode::INTERNAL_SERVER_ERROR, what);
        let closed = |error: tokio::sync::AcquireError| failed(error.to_string());
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(closed)?;
        let queue = begun.elapsed() - input;
        let model = Arc::clone(&ready);
        let work = move || {
            let begun = Instant::now();
            let verdicts = model.inference.run(samples.view());
            verdicts.map(|verdicts| (verdicts, begun.elapsed(), samples, thread))
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(|error| failed(error.to_string()))?;
        let (verdicts, infer, samples, thread) =
            done.map_err(|error| failed(crate::session::chain(&error)))?;

        let encoding = Instant::now();
        let answer = self.verdicts(&ready, &request, &verdicts)?;
        let took = Took { input, queue, infer, output: encoding.elapsed() };
        self.served.succeeded(&ready, &verdicts, took);
        self.count(ready, samples, verdicts, infer, thread);
        Ok(answer)
    }

    /// Counts what was decided. For the share of samples that is looked at closely the whole network runs, too, on the
    /// thread that is still held: nobody waits for that answer.
    fn count(
        &self,
        ready: Arc<Ready>,
        samples: Array2<f32>,
        verdicts: Vec<Verdict>,
        took: Duration,
        thread: OwnedSemaphorePermit,
    ) {
        let Some(ledger) = self.ledger.get().map(Arc::clone) else { return };
        let rows = ledger.decided(decided(&ready), &verdicts, took);
        if rows.is_empty() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            match ready.inference.whole(samples.select(Axis(0), &rows).view()) {
                Ok(wholes) => {
                    let pairs = rows.iter().map(|row| &verdicts[*row]).zip(&wholes);
                    ledger.compared(decided(&ready), pairs);
                }
                Err(error) => {
                    tracing::warn!("the whole network did not run: {}", crate::session::chain(&error))
                }
            }
            drop(thread);
        });
    }

    fn verdicts(
        &self,
        ready: &Ready,
        request: &tensors::InferRequest,
        verdicts: &[Verdict],
    ) -> Result<Answer, Wrong> {
        let answerer = Answerer {
            model: self.model_name(ready),
            run: ready.policy.run.as_str(),
            policy_version: ready.policy.version,
            labels: &ready.inference.spec().classes,
        };
        let encoded = tensors::encode(request, &answerer, verdicts)
            .map_err(|error| Wrong::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        Ok(match encoded.json {
            None => answer(StatusCode::OK, "application/json", encoded.body),
            Some(json) => {
                let mut answer = answer(StatusCode::OK, "application/octet-stream", encoded.body);
                answer.headers_mut().insert(JSON_LENGTH, HeaderValue::from(json));
                answer
            }
        })
    }

    /// The whole body, if it is short enough and comes in time.
    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Wrong> {
        let limit = self.limits.body;
        if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            let what = format!("content encoding {encoding:?} is not supported");
            return Err(Wrong::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
        }
        let too_long = |found: String| {
            let what = format!("found a body of {found} bytes, expected at most {limit}");
            Wrong::new(StatusCode::PAYLOAD_TOO_LARGE, what)
        };
        let announced = request.body().size_hint().lower();
        if announced > limit as u64 {
            return Err(too_long(announced.to_string()));
        }
        let time = self.limits.body_time;
        match tokio::time::timeout(time, Limited::new(request, limit).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long(format!("more than {limit}"))),
            Ok(Err(error)) => Err(Wrong::request(format!("the body cannot be read: {error}"))),
            Err(_elapsed) => Err(Wrong::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body took longer than {} s", time.as_secs_f64()),
            )),
        }
    }
}

/// What decided.
fn decided(ready: &Ready) -> Decided<'_> {
    Decided {
        run: &ready.policy.run,
        policy: PolicyVersion(ready.policy.version),
        exits: ready.inference.spec().exits.len(),
        network_macs: ready.inference.network_macs(),
    }
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Wrong> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    let what = || format!("Inference-Header-Content-Length: found {value:?}, expected a number of bytes");
    length.map(Some).ok_or_else(|| Wrong::request(what()))
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn text(text: String) -> Answer {
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

fn json_answer(value: &Value) -> Answer {
    answer(StatusCode::OK, "application/json", value.to_string())
}

fn wrong(error: &Wrong) -> Answer {
    answer(error.status, "application/json", json!({ "error": error.what }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_protocol() {
        let model = |name, version, what| Some(Place::Model { name, version, what });
        assert_eq!(place("/v2"), Some(Place::Server));
        assert_eq!(place("/v2/"), Some(Place::Server));
        assert_eq!(place("/v2/health/ready"), Some(Place::ServerReady));
        assert_eq!(place("/v2/models/m"), model("m", None, Facet::Metadata));
        assert_eq!(place("/v2/models/m/ready"), model("m", None, Facet::Ready));
        assert_eq!(place("/v2/models/m/versions/3/infer"), model("m", Some("3"), Facet::Infer));
        assert_eq!(place("/v2/models/m/versions/3"), model("m", Some("3"), Facet::Metadata));
        assert_eq!(place("/v2/models/stats"), Some(Place::Stats));
        for nothing in ["/", "/v1", "/v2/models/m/other", "/v2/models/m/infer/more", "/v2/health"] {
            assert_eq!(place(nothing), None, "{nothing}");
        }
        // No model is called "", so this is found to be unknown later.
        assert_eq!(place("/v2/models//infer"), model("", None, Facet::Infer));
    }

    #[test]
    fn a_length_that_is_none_is_refused() {
        let read = |value: &'static str| {
            let headers = HeaderMap::from_iter([(JSON_LENGTH, HeaderValue::from_static(value))]);
            json_length(&headers).map_err(|wrong| wrong.what)
        };
        assert_eq!(read("12"), Ok(Some(12)));
        assert!(read("-1").unwrap_err().contains("expected a number of bytes"));
        assert!(json_length(&HeaderMap::new()).is_ok_and(|length| length.is_none()));
    }
}
