//! A wire with weather: datagrams between a client and a server, lost, delayed, reordered, and counted.
//!
//! For kernels without netem, and for what netem cannot do: going dark after so many bytes. A client's address is
//! carried over: when it changes, the server sees another one, too.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What a wire does to datagrams, either way.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Share that is lost.
    pub(crate) loss: f64,
    /// Time that every other datagram takes.
    pub(crate) delay: Duration,
    /// Share that takes only half of it, and overtakes others.
    pub(crate) hasty: f64,
    /// Bytes a second; no bound if none. What would wait longer than 200 ms for its turn is lost.
    pub(crate) rate: Option<f64>,
}

/// Longest wait of a datagram for its turn.
const QUEUE: Duration = Duration::from_millis(200);

/// One direction: pure, with the time and the chance handed in.
struct Lane {
    weather: Weather,
    chance: StdRng,
    free_at: Duration,
}

impl Lane {
    /// When a datagram arrives; none if it does not.
    fn pass(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let begins = self.free_at.max(now);
        if let Some(rate) = self.weather.rate {
            if begins - now > QUEUE {
                return None;
            }
            self.free_at = begins + Duration::from_secs_f64(bytes as f64 / rate);
        }
        let leaves = if self.weather.rate.is_some() { self.free_at } else { now };
        if self.chance.random_bool(self.weather.loss) {
            return None;
        }
        let hasty = self.chance.random_bool(self.weather.hasty);
        Some(leaves + if hasty { self.weather.delay / 2 } else { self.weather.delay })
    }
}

/// Bytes of one direction.
#[derive(Debug, Default)]
pub(crate) struct Count {
    sent: AtomicU64,
    lost: AtomicU64,
}

impl Count {
    /// Bytes that were sent, lost ones among them.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Bytes that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }
}

/// A wire to one server.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Where a client finds the server.
    pub(crate) address: SocketAddr,
    /// From clients to the server.
    pub(crate) up: Arc<Count>,
    /// From the server to clients.
    pub(crate) down: Arc<Count>,
    dark_after: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Wire {
    /// Lays a wire from `listen` to `server`.
    pub(crate) async fn lay(listen: SocketAddr, server: SocketAddr, weather: Weather, seed: u64) -> Self {
        let front = Arc::new(UdpSocket::bind(listen).await.expect("a port"));
        let address = front.local_addr().expect("an address");
        let (up, down) = (Arc::<Count>::default(), Arc::<Count>::default());
        let dark_after = Arc::new(AtomicU64::new(u64::MAX));
        let carrying = Carrying {
            start: Instant::now(),
            up: Arc::clone(&up),
            down: Arc::clone(&down),
            dark_after: Arc::clone(&dark_after),
        };
        let task = tokio::spawn(carrying.carry(front, server, weather, seed));
        Self { address, up, down, dark_after, task }
    }

    /// Lets nothing through any more once so many bytes have come from clients, either way.
    pub(crate) fn dark_after(&self, bytes: u64) {
        self.dark_after.store(bytes, Ordering::SeqCst);
    }

    /// Lets nothing through from now on, or everything again.
    pub(crate) fn set_dark(&self, dark: bool) {
        self.dark_after(if dark { 0 } else { u64::MAX });
    }

    /// Whether nothing is let through.
    pub(crate) fn is_dark(&self) -> bool {
        self.up.sent() >= self.dark_after.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Carrying {
    start: Instant,
    up: Arc<Count>,
    down: Arc<Count>,
    dark_after: Arc<AtomicU64>,
}

impl Carrying {
    async fn carry(self, front: Arc<UdpSocket>, server: SocketAddr, weather: Weather, seed: u64) {
        let lane = |seed| Lane { weather, chance: StdRng::seed_from_u64(seed), free_at: Duration::ZERO };
        let mut up = lane(seed);
        let down = Arc::new(Mutex::new(lane(seed ^ 0x5555)));
        let mut clients: BTreeMap<SocketAddr, (mpsc::UnboundedSender<Late>, Reader)> = BTreeMap::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
            if let Entry::Vacant(vacant) = clients.entry(client) {
                let any: IpAddr = if server.is_ipv4() {
                    Ipv4Addr::UNSPECIFIED.into()
                } else {
                    Ipv6Addr::UNSPECIFIED.into()
                };
                let back = Arc::new(UdpSocket::bind((any, 0)).await.expect("a port"));
                back.connect(server).await.expect("a route");
                let sending = Arc::clone(&back);
                let late = later(self.start, move |datagram| {
                    let sending = Arc::clone(&sending);
                    async move { drop(sending.send(&datagram).await) }
                });
                let back = self.clone().back(back, Arc::clone(&front), client, Arc::clone(&down));
                vacant.insert((late, Reader(tokio::spawn(back))));
            }
            self.up.sent.fetch_add(length as u64, Ordering::SeqCst);
            let now = self.start.elapsed();
            let arrives = up.pass(now, length).filter(|_| !self.is_dark());
            match (arrives, clients.get(&client)) {
                (Some(at), Some((late, _))) => drop(late.send((at, buffer[..length].to_vec()))),
                _ => drop(self.up.lost.fetch_add(length as u64, Ordering::SeqCst)),
            }
        }
    }

    /// From the server to one client.
    async fn back(
        self,
        back: Arc<UdpSocket>,
        front: Arc<UdpSocket>,
        client: SocketAddr,
        lane: Arc<Mutex<Lane>>,
    ) {
        let late = later(self.start, move |datagram| {
            let front = Arc::clone(&front);
            async move { drop(front.send_to(&datagram, client).await) }
        });
        let mut buffer = vec![0; 1 << 16];
        loop {
            let Ok(length) = back.recv(&mut buffer).await else { continue };
            self.down.sent.fetch_add(length as u64, Ordering::SeqCst);
            let arrives = lane.lock().expect("nobody panics with it").pass(self.start.elapsed(), length);
            match arrives.filter(|_| !self.is_dark()) {
                Some(at) => drop(late.send((at, buffer[..length].to_vec()))),
                None => drop(self.down.lost.fetch_add(length as u64, Ordering::SeqCst)),
            }
        }
    }

    fn is_dark(&self) -> bool {
        self.up.sent() >= self.dark_after.load(Ordering::SeqCst)
    }
}

/// Ends with the wire.
struct Reader(JoinHandle<()>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A datagram and when it arrives.
type Late = (Duration, Vec<u8>);

/// Sends datagrams when they are due; those of one moment in the order they came.
fn later<F: Future<Output = ()> + Send>(
    start: Instant,
    send: impl Fn(Vec<u8>) -> F + Send + 'static,
) -> mpsc::UnboundedSender<Late> {
    let (late, mut due) = mpsc::unbounded_channel::<Late>();
    tokio::spawn(async move {
        let mut waiting: BinaryHeap<Reverse<(Duration, u64, Vec<u8>)>> = BinaryHeap::new();
        let mut number = 0;
        loop {
            while waiting.peek().is_some_and(|Reverse((at, ..))| *at <= start.elapsed()) {
                if let Some(Reverse((.., datagram))) = waiting.pop() {
                    send(datagram).await;
                }
            }
            let next = waiting.peek().map(|Reverse((at, ..))| tokio::time::Instant::from_std(start + *at));
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                datagram = due.recv() => match datagram {
                    Some((at, datagram)) => {
                        number += 1;
                        waiting.push(Reverse((at, number, datagram)));
                    }
                    None => return,
                },
                () = sleep => {}
            }
        }
    });
    late
}
