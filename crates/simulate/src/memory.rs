//! A federation without sockets: the same machines, the same store, messages handed over in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use exeunt_coordinator::{Core, Effect, RunPlan};
use exeunt_data::Share;
use exeunt_exits::{Heads, Query};
use exeunt_node::{Margins, Model, Session, Watch, Workplace, open_parts};
use exeunt_protocol::coordinator::{Input as CoordinatorInput, Now, Standing, Ticket};
use exeunt_protocol::message::{
    BlobRef, Contribution, DesiredQuery, DesiredRun, Hello, Membership, OLDEST_VERSION, Refusal, Request,
    VERSION,
};
use exeunt_protocol::node::{Input, Node, Output};
use exeunt_protocol::{NodeId, QueryId, RunId};
use exeunt_stats::{Digest, Table, packed};
use exeunt_store::RedbStore;

use crate::plan::{Plan, SimulateError, Simulated};

/// One simulated node.
struct Device {
    machine: Node,
    session: Session,
    margins: Margins,
    tables: BTreeMap<(RunId, QueryId), Arc<[u8]>>,
}

/// The federation, message by message.
struct Federation<'a> {
    core: Core,
    now: Now,
    devices: Vec<(NodeId, Device)>,
    /// Contributions that wait for their acknowledgement.
    tickets: BTreeMap<Ticket, (usize, Contribution)>,
    heads: Option<(Digest, Arc<Heads>)>,
    model: Arc<Model>,
    plan: &'a Plan,
    /// All devices are this machine, so it is measured once.
    times: Option<Table>,
    progress: &'a mut dyn FnMut(&str, u64, u64),
}

/// Runs a whole federation in this thread. `progress` hears what is being computed: a query's name, how many nodes
/// have answered it, and how many will.
///
/// # Errors
/// See [`SimulateError`].
pub fn in_memory(plan: &Plan, progress: &mut dyn FnMut(&str, u64, u64)) -> Result<Simulated, SimulateError> {
    let now = Now { monotonic: Duration::ZERO, unix_ms: 0 };
    let store = RedbStore::in_memory().map_err(exeunt_coordinator::CoreError::from)?;
    let mut core = Core::open(Box::new(store), now)?;
    let spec = RunPlan::new(&plan.file, &plan.network).map_err(exeunt_coordinator::CoreError::from)?.spec;

    let parts =
        open_parts(&spec, &Workplace { data: &plan.data, share: None }).map_err(SimulateError::Node)?;
    let model = Model::load(spec, &plan.network, plan.engine.engine()).map_err(SimulateError::Node)?;
    let model = Arc::new(model);
    let deal = Share::new(0, plan.nodes, plan.partition, plan.seed);
    let deal =
        deal.ok_or_else(|| SimulateError::Content("a federation needs at least one node".to_owned()))?;
    let [statistics, calibration, evaluation] = parts.map(|part| part.deal(&deal));
    let hands = statistics.into_iter().zip(calibration).zip(evaluation);
    let devices = hands.enumerate().map(|(i, ((statistics, calibration), evaluation))| {
        let session = Session::new(Arc::clone(&model), [statistics, calibration, evaluation], plan.threads);
        let machine = Node::new([]);
        (node_id(i), Device { machine, session, margins: Margins::default(), tables: BTreeMap::new() })
    });
    let devices: Vec<(NodeId, Device)> = devices.collect();
    for (i, (node, _)) in devices.iter().enumerate() {
        let name = format!("node-{i}");
        core.handle(now, CoordinatorInput::Enrolled { node: *node, name: name.clone() });
        let record = exeunt_store::NodeRecord {
            name: name.clone(),
            enrolled_ms: 0,
            revoked: false,
            membership: Membership::Active,
        };
        core.store_mut().save_node(*node, &record, 0).map_err(exeunt_coordinator::CoreError::from)?;
        let hello = Hello {
            oldest: OLDEST_VERSION,
            newest: VERSION,
            name,
            software: "simulated".to_owned(),
            engine: plan.engine.to_string(),
        };
        core.handle(now, CoordinatorInput::Connected { node: *node, hello });
    }
    let run = core.start_run(now, &plan.file, &plan.network)?;
    let mut federation = Federation {
        core,
        now,
        devices,
        tickets: BTreeMap::new(),
        heads: None,
        model,
        plan,
        times: None,
        progress,
    };
    for index in 0..federation.devices.len() {
        federation.tell(index, Input::Connected)?;
    }
    federation.run_to_end(&run)
}

fn node_id(index: usize) -> NodeId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId::from_bytes(bytes)
}

impl Federation<'_> {
    fn run_to_end(&mut self, run: &RunId) -> Result<Simulated, SimulateError> {
        loop {
            let effects = self.core.work(self.now)?;
            if effects.is_empty() {
                let report = self.core.report(self.now, run)?;
                match &report.status.standing {
                    Standing::Ready => {
                        let heads = self.heads.take().map(|(_, heads)| heads);
                        return Ok(Simulated { report, heads });
                    }
                    Standing::Failed { why } => return Err(SimulateError::Run { why: why.clone() }),
                    _ => match self.core.timeout() {
                        // Everybody who answers has; only the deadline is left to wait for.
                        Some(at) if at > self.now.monotonic => {
                            self.now.monotonic = at;
                            self.core.handle(self.now, CoordinatorInput::Tick);
                        }
                        _ => {
                            let waiting =
                                report.status.waiting_for.iter().map(|w| format!("{}: {}", w.name, w.reason));
                            let declined = report.status.queries.last().into_iter().flat_map(|q| &q.declined);
                            let declined = declined.map(|d| format!("{} declined: {}", d.node, d.reason));
                            let waiting = waiting.chain(declined).collect::<Vec<_>>().join("; ");
                            return Err(SimulateError::Stuck { waiting });
                        }
                    },
                }
            }
            let mut effects: VecDeque<Effect> = effects.into();
            let mut answered = 0;
            while let Some(effect) = effects.pop_front() {
                match effect {
                    Effect::Send { node, desired } => {
                        let Some(index) = self.devices.iter().position(|(id, _)| *id == node) else {
                            continue;
                        };
                        if let Some(query) = desired.runs.first().and_then(|run| run.query.as_ref()) {
                            answered += 1;
                            (self.progress)(&query.id.to_string(), answered, self.devices.len() as u64);
                        }
                        self.tell(index, Input::Desired(desired))?;
                    }
                    Effect::Acknowledge { ticket, ack } => {
                        if let Some((index, contribution)) = self.tickets.remove(&ticket) {
                            let (run, query) = (contribution.run, contribution.query);
                            self.devices[index].1.tables.remove(&(run.clone(), query));
                            self.tell(index, Input::Acknowledged { run, query, ack })?;
                        }
                    }
                }
            }
        }
    }

    /// Gives a node an input, and performs what it wants until it rests.
    fn tell(&mut self, index: usize, input: Input) -> Result<(), SimulateError> {
        let node = self.devices[index].0;
        self.devices[index].1.machine.handle(input);
        while let Some(output) = self.devices[index].1.machine.poll_output() {
            match output {
                Output::Say(word) => self.core.handle(self.now, CoordinatorInput::Said { node, word }),
                Output::Fetch { blob, purpose } => {
                    if let Some((run, query)) = purpose {
                        self.core.charge(run, query, node, 0, blob.bytes);
                    }
                    self.devices[index].1.machine.handle(Input::Fetched(blob.digest));
                }
                Output::Compute { run, query } => {
                    let answer = self.answer(index, &run, &query)?;
                    let input = Input::Answered { run: run.run, query: query.id, answer };
                    self.devices[index].1.machine.handle(input);
                }
                Output::Deliver(contribution) => self.deliver(index, contribution),
                Output::Abandon { .. } | Output::UsePolicy { .. } | Output::Rejected { .. } => {}
            }
        }
        Ok(())
    }

    fn deliver(&mut self, index: usize, contribution: Contribution) {
        let key = (contribution.run.clone(), contribution.query);
        let Some(bytes) = self.devices[index].1.tables.get(&key).cloned() else { return };
        let node = self.devices[index].0;
        let ticket = Ticket(self.tickets.len() as u64 + 1 + ((index as u64) << 32));
        let header = postcard_len(&Request::Contribute(contribution.clone()));
        self.core.charge(key.0, key.1, node, header + bytes.len() as u64, 0);
        self.tickets.insert(ticket, (index, contribution.clone()));
        self.core.arrived(self.now, node, contribution, bytes.to_vec(), ticket);
    }

    fn answer(
        &mut self,
        index: usize,
        run: &DesiredRun,
        wanted: &DesiredQuery,
    ) -> Result<Result<Contribution, Refusal>, SimulateError> {
        let query = Query::decode(&self.blob(wanted.body.digest)?)
            .map_err(|error| SimulateError::Content(error.to_string()))?;
        if let Some(heads) = wanted.heads
            && self.heads.as_ref().is_none_or(|(digest, _)| *digest != heads.digest)
        {
            let decoded = Heads::decode(&self.blob(heads.digest)?)
                .map_err(|error| SimulateError::Content(error.to_string()))?;
            self.heads = Some((heads.digest, Arc::new(decoded)));
        }
        let heads =
            self.heads.as_ref().filter(|_| wanted.heads.is_some()).map(|(_, heads)| Arc::clone(heads));
        let table = match (&query, &heads) {
            (Query::Timings { .. }, Some(heads)) => self.times(heads),
            _ => {
                let device = &mut self.devices[index].1;
                device.session.answer(&query, heads.as_ref(), &mut device.margins, &Watch::default())
            }
        };
        let table = match table {
            Ok(table) => table,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let bytes: Arc<[u8]> = packed::encode(table.cells()).into();
        let contribution = Contribution {
            run: run.run.clone(),
            query: wanted.id,
            dataset: exeunt_protocol::DatasetVersion(1),
            table: BlobRef::of(&bytes),
        };
        self.devices[index].1.tables.insert((run.run.clone(), wanted.id), bytes);
        Ok(Ok(contribution))
    }

    fn times(&mut self, heads: &Heads) -> Result<Table, Refusal> {
        if let Some(times) = &self.times {
            return Ok(times.clone());
        }
        let times = self
            .model
            .measure(&self.plan.network, self.plan.engine.engine(), heads, &Watch::default())?
            .table();
        Ok(self.times.insert(times).clone())
    }

    fn blob(&self, digest: Digest) -> Result<Vec<u8>, SimulateError> {
        let bytes = self
            .core
            .store()
            .read_blob(digest, 0, usize::MAX)
            .map_err(exeunt_coordinator::CoreError::from)?;
        bytes.ok_or_else(|| {
            SimulateError::Content(format!("the coordinator lacks the blob {digest} that it asks for"))
        })
    }
}

/// Bytes of a message, for the byte counts.
fn postcard_len(message: &Request) -> u64 {
    postcard::to_allocvec(message).map_or(0, |bytes| bytes.len() as u64)
}
