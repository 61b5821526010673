//! A coordinator with a run whose open query takes large tables, and nodes that are no more than their uploads.
#![allow(dead_code, reason = "each user takes its own part")]
#![allow(clippy::unwrap_used, reason = "a panic is how it says what went wrong")]

pub(crate) mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use exeunt_coordinator::{Core, Home, RunPlan, ServeOptions, Service};
use exeunt_exits::Query;
use exeunt_link::{
    Authority, Client, ConnectError, Connection, Identity, Limits, Receiver, RecvError, Role, SendError,
    Sender,
};
use exeunt_network::Network;
use exeunt_protocol::coordinator::{Now, Ticket};
use exeunt_protocol::message::{Ack, BlobRef, ContributeReply, Contribution, Membership, Request};
use exeunt_protocol::spec::RunFile;
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};
use exeunt_stats::{RangeCounter, Scale, packed};
use exeunt_store::{NodeRecord, RedbStore, Store as _};
use ndarray::Array2;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Numbers at the run's one exit. With second moments that makes a table of up to 67 MB.
const DIM: usize = 4096;
/// The query that is open: class sums and second moments.
pub(crate) const OPEN: QueryId = QueryId(2);

/// A condition has this long to come true.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("in time")
}

/// What nodes need to deliver to the run.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) home: Home,
    pub(crate) run: RunId,
    pub(crate) cells: usize,
    pub(crate) nodes: Vec<Identity>,
}

/// Fills a coordinator's folder: a run that has come to its large query, and so many nodes.
pub(crate) fn prepare(folder: &Path, nodes: usize) -> Prepared {
    let now = SystemTime::now();
    let home = Home::new(folder.join("coordinator"));
    let authority = home.keys(now).unwrap().authority;
    let nodes: Vec<Identity> = (0..nodes).map(|node| issue(&authority, folder, node, now)).collect();
    let mut store = RedbStore::open(home.store()).unwrap();
    for (number, node) in nodes.iter().enumerate() {
        let name = format!("node-{number}");
        let record = NodeRecord { name, enrolled_ms: 1, revoked: false, membership: Membership::Active };
        store.save_node(id(node), &record, 1).unwrap();
    }
    let now = Now { monotonic: Duration::ZERO, unix_ms: 1 };
    let mut core = Core::open(Box::new(store), now).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("configs/digits.toml")).unwrap();
    let mut file = RunFile::parse(&text, "digits.toml").unwrap();
    file.federation.quorum = u32::try_from(nodes.len()).unwrap();
    let network = Network::load(&root.join("assets/digits_resnet.onnx")).unwrap();
    let mut plan = RunPlan::new(&file, &network).unwrap();
    plan.context.exits.truncate(1);
    plan.context.exits[0].dim = DIM;
    let query = Query::Moments { scales: vec![Scale::for_exponent(0)], second: vec![true] };
    let cells = query.layout(&plan.context).cells();
    let run = core.start_planned(now, &file, plan, network.bytes()).unwrap();
    core.work(now).unwrap();
    let mut range = RangeCounter::new(1);
    range.add(&[Array2::from_elem((400, 1), 0.5_f32).view()]).unwrap();
    let range = packed::encode(range.finish().cells());
    for (query, bytes) in [(QueryId(0), packed::encode(&[900, 450, 450])), (QueryId(1), range)] {
        for (number, node) in nodes.iter().enumerate() {
            let contribution = contribution(&run, query, 1, &bytes);
            core.arrived(now, id(node), contribution, bytes.clone(), Ticket(number as u64));
        }
        core.work(now).unwrap();
    }
    assert_eq!(core.machine().open_query(&run), Some(OPEN));
    Prepared { home, run, cells, nodes }
}

/// Serves what was prepared, until the runtime ends.
pub(crate) async fn serve(home: &Home, listen: SocketAddr) -> SocketAddr {
    let options = ServeOptions { listen, advertise: Vec::new(), approve: false };
    let service = Service::start(home, &options).await.unwrap();
    let address = service.local_addr();
    tokio::spawn(service.run(std::future::pending()));
    address
}

fn issue(authority: &Authority, folder: &Path, node: usize, now: SystemTime) -> Identity {
    let name = format!("node-{node}");
    authority.issue_to(folder.join(&name), Role::Node, &name, now).unwrap()
}

pub(crate) fn id(node: &Identity) -> NodeId {
    NodeId::from_bytes(*node.id().as_bytes())
}

pub(crate) fn contribution(run: &RunId, query: QueryId, dataset: u64, bytes: &[u8]) -> Contribution {
    Contribution { run: run.clone(), query, dataset: DatasetVersion(dataset), table: BlobRef::of(bytes) }
}

/// A packed table of about so many bytes: numbers of 57 bits, then nothing.
pub(crate) fn table(cells: usize, bytes: usize, seed: u64) -> Vec<u8> {
    let mut chance = StdRng::seed_from_u64(seed);
    let numbers = bytes * 8 / 57;
    assert!(numbers <= cells, "found {bytes} bytes, expected at most {}", cells / 8 * 57);
    let table: Vec<i64> = (0..cells)
        .map(|cell| if cell < numbers { chance.random_range(-(1 << 55)..1 << 55) } else { 0 })
        .collect();
    packed::encode(&table)
}

/// Connects a node, on a socket of its own.
pub(crate) async fn connect(node: &Identity, address: SocketAddr) -> (Client, Connection) {
    let client = Client::default();
    let connection = within(client.connect(&[address.into()], node)).await.expect("connected");
    (client, connection)
}

/// As [`connect`], with other limits, and the reason if it does not work.
pub(crate) async fn connect_with(
    node: &Identity,
    address: SocketAddr,
    limits: Limits,
) -> Result<(Client, Connection), ConnectError> {
    let client = Client::new(limits);
    let connection = client.connect(&[address.into()], node).await?;
    Ok((client, connection))
}

/// A stream whose header was sent.
pub(crate) async fn open(
    connection: &Connection,
    contribution: &Contribution,
) -> Result<(Sender, Receiver), SendError> {
    let (mut sender, receiver) = connection.open_bi().await.map_err(SendError::Closed)?;
    sender.send(&Request::Contribute(contribution.clone())).await?;
    Ok((sender, receiver))
}

pub(crate) async fn reply(receiver: &mut Receiver) -> Result<ContributeReply, RecvError> {
    receiver.expect(4096).await
}

/// Where the coordinator wants an upload to go on.
pub(crate) async fn begin(receiver: &mut Receiver) -> usize {
    match within(reply(receiver)).await {
        Ok(ContributeReply::Begin { offset }) => usize::try_from(offset).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Why an attempt to deliver ended early.
#[derive(Debug)]
pub(crate) enum Cut {
    Send(SendError),
    Receive(RecvError),
}

/// One attempt, as a node makes it; with the offset it went on at, if it came to that.
pub(crate) async fn deliver(
    connection: &Connection,
    contribution: &Contribution,
    bytes: &[u8],
    offset: &mut Option<usize>,
) -> Result<Ack, Cut> {
    let (mut sender, mut receiver) = open(connection, contribution).await.map_err(Cut::Send)?;
    match reply(&mut receiver).await.map_err(Cut::Receive)? {
        ContributeReply::Done(ack) => return Ok(ack),
        ContributeReply::Begin { offset: at } => {
            let at = usize::try_from(at).unwrap();
            *offset = Some(at);
            sender.send_bytes(&bytes[at..]).await.map_err(Cut::Send)?;
        }
    }
    sender.finish().await.map_err(Cut::Send)?;
    match reply(&mut receiver).await.map_err(Cut::Receive)? {
        ContributeReply::Done(ack) => Ok(ack),
        other => panic!("{other:?}"),
    }
}
