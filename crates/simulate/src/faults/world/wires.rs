//! The network between the coordinator and its nodes: control streams, and a stream for every request.

use std::collections::VecDeque;

use exeunt_protocol::message::{BlobRef, Contribution};
use exeunt_protocol::node::Input;
use exeunt_protocol::{QueryId, RunId};

use super::event::{Connection, Event, Reaction, Reply, Word};
use super::{CONNECT, HELD, IDLE, RETRY, World};
use crate::faults::device::{Device, Stream};
use crate::faults::scenario::Millis;
use crate::faults::site::Asked;

impl World<'_> {
    pub(super) fn connects(&mut self, node: usize) {
        self.next += 1;
        let connection = self.next;
        let device = &mut self.devices[node];
        let life = device.life;
        let Some(process) = &mut device.process else { return };
        if process.connection.is_some() {
            return;
        }
        process.attempt += 1;
        process.connection = Some(connection);
        let attempt = process.attempt;
        let (up, down) = (VecDeque::from([Word::Hello]), VecDeque::new());
        self.connections.insert(connection, Connection { node, up, down, alive: true, greeted: None });
        let wait = self.delay();
        self.after(wait, Event::Up { connection });
        self.after(CONNECT, Event::GivesUp { node, life, attempt });
    }

    /// Nobody answered.
    pub(super) fn gives_up(&mut self, node: usize, attempt: u64) {
        let Some(process) = &self.devices[node].process else { return };
        if process.attempt == attempt
            && !process.machine.is_connected()
            && let Some(connection) = process.connection
        {
            self.node_loses(connection);
        }
    }

    pub(super) fn node_loses(&mut self, connection: u64) {
        let Some(lost) = self.connections.get_mut(&connection) else { return };
        lost.alive = false;
        let node = lost.node;
        let device = &mut self.devices[node];
        let life = device.life;
        let Some(process) = &mut device.process else { return };
        if process.connection != Some(connection) {
            return;
        }
        process.connection = None;
        process.streams.clear();
        process.machine.handle(Input::Disconnected);
        let wait = process.back_off();
        self.note(format_args!("node {node} lost its connection"));
        let wait = wait + self.some(wait / 4);
        self.after(wait, Event::Connects { node, life });
    }

    pub(super) fn idle(&mut self, connection: u64) {
        let Some(node) = self.connections.get(&connection).filter(|c| c.alive).map(|c| c.node) else {
            return;
        };
        if self.is_cut_off(node) {
            self.node_loses(connection);
            let wait = self.some(2000);
            self.coordinator_loses(wait, connection, node);
        }
    }

    pub(super) fn delay(&mut self) -> Millis {
        1 + self.some(self.weather.delay)
    }

    pub(super) fn weather_loses(&mut self) -> bool {
        let lost = self.weather.lost;
        self.happens(lost)
    }

    /// A packet of a control stream that is lost is sent again.
    pub(super) fn control_delay(&mut self) -> Millis {
        let again = if self.weather_loses() { 300 } else { 0 };
        self.delay() + again
    }

    pub(super) fn say(&mut self, connection: u64, reaction: Reaction) {
        let Some(to) = self.connections.get_mut(&connection) else { return };
        // A slow reader finds the newest state, not every one there was.
        if matches!(reaction, Reaction::Desired(_)) {
            to.down.retain(|known| !matches!(known, Reaction::Desired(_)));
        }
        to.down.push_back(reaction);
        let wait = self.control_delay();
        self.after(wait, Event::Down { connection });
    }

    /// The next word that a node said reaches the coordinator.
    pub(super) fn up(&mut self, connection: u64) {
        let Some(node) = self.connections.get(&connection).map(|connection| connection.node) else { return };
        if self.is_cut_off(node) {
            self.after(HELD, Event::Up { connection });
            return;
        }
        let (id, life) = (self.devices[node].id, self.site_life);
        let Some(from) = self.connections.get_mut(&connection) else { return };
        match from.up.pop_front() {
            Some(Word::Hello) => {
                let Some(site) = &self.site else { return };
                if site.bars(id) {
                    self.say(connection, Reaction::Barred);
                    return;
                }
                from.greeted = Some(life);
                if !from.alive {
                    let wait = self.some(IDLE);
                    self.coordinator_loses(wait, connection, node);
                }
                self.say(connection, Reaction::Welcome);
                self.ask(Asked::Hello { connection, node: id });
            }
            Some(Word::Said(word)) if from.greeted == Some(life) => self.ask(Asked::Word { node: id, word }),
            _ => {}
        }
    }

    /// A request reaches the coordinator.
    pub(super) fn reaches(&mut self, asked: Box<Asked>) {
        match *asked {
            Asked::Lost { connection, .. } => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.greeted = None;
                }
            }
            Asked::Fetch { node, .. } | Asked::Deliver { node, .. }
                if self.is_cut_off(Device::place(node)) =>
            {
                self.after(HELD, Event::Reaches { life: self.site_life, asked });
                return;
            }
            _ => {}
        }
        self.ask(*asked);
    }

    /// The next word of the coordinator reaches a node.
    pub(super) fn down(&mut self, connection: u64) {
        let Some(from) = self.connections.get_mut(&connection) else { return };
        let node = from.node;
        if !from.alive {
            return;
        }
        if self.is_cut_off(node) {
            self.after(HELD, Event::Down { connection });
            return;
        }
        let Some(from) = self.connections.get_mut(&connection) else { return };
        let Some(word) = from.down.pop_front() else { return };
        let device = &mut self.devices[node];
        let Some(process) = &mut device.process else { return };
        if process.connection != Some(connection) {
            return;
        }
        match word {
            Reaction::Welcome => {
                process.welcomed();
                process.machine.handle(Input::Connected);
                self.note(format_args!("node {node} connected"));
            }
            Reaction::Desired(desired) => {
                process.machine.handle(Input::Desired(desired));
                self.note(format_args!("node {node} hears what is wanted"));
            }
            Reaction::Barred => {
                device.shut_out = true;
                device.process = None;
                self.note(format_args!("node {node} is shut out"));
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.alive = false;
                }
                return;
            }
        }
        self.perform(node);
    }

    fn open_stream(&mut self, node: usize, stream: Stream) -> u64 {
        self.next += 1;
        let number = self.next;
        if let Some(process) = &mut self.devices[node].process {
            process.streams.insert(number, stream);
        }
        number
    }

    pub(super) fn fetch(
        &mut self,
        node: usize,
        connection: u64,
        blob: BlobRef,
        purpose: Option<(RunId, QueryId)>,
    ) {
        let stream = self.open_stream(node, Stream::Fetch(blob));
        let id = self.devices[node].id;
        self.send(node, connection, stream, Asked::Fetch { connection, node: id, stream, blob, purpose });
    }

    pub(super) fn deliver(&mut self, node: usize, connection: u64, contribution: Contribution) {
        let key = (contribution.run.clone(), contribution.query);
        let device = &self.devices[node];
        let (id, bytes) = (device.id, device.process.as_ref().and_then(|p| p.answers.get(&key).cloned()));
        let Some(bytes) = bytes else { return };
        let stream = self.open_stream(node, Stream::Deliver(contribution.clone()));
        let asked = Asked::Deliver { connection, node: id, stream, contribution, bytes };
        if let Some(change) = self.devices[node].relapse.take() {
            let life = self.connections.get(&connection).and_then(|connection| connection.greeted);
            let (late, down) = (self.some(6000), 1 + self.some(1000));
            if let Some(life) = life {
                self.after(late, Event::Reaches { life, asked: Box::new(asked) });
            }
            self.devices[node].change(change);
            self.node_dies(node, down, true);
            return;
        }
        let doubled = self.weather.doubled;
        if self.happens(doubled) {
            self.send(node, connection, stream, asked.clone());
        }
        self.send(node, connection, stream, asked);
    }

    /// A request on a stream of its own: it reaches the coordinator, or breaks.
    fn send(&mut self, node: usize, connection: u64, stream: u64, asked: Asked) {
        let life = self.devices[node].life;
        if self.weather_loses() {
            let wait = RETRY + self.some(2000);
            self.after(wait, Event::StreamBroken { node, life, stream });
            // It may break on the way back as well.
            if self.happens(500) {
                return;
            }
        }
        let wait = self.delay();
        if let Some(life) = self.connections.get(&connection).and_then(|connection| connection.greeted) {
            self.after(wait, Event::Reaches { life, asked: Box::new(asked) });
        }
    }

    pub(super) fn reply(&mut self, connection: u64, stream: u64, reply: Reply) {
        let Some(node) = self.connections.get(&connection).map(|connection| connection.node) else { return };
        let wait = self.delay();
        self.after(wait, Event::StreamAnswered { node, connection, stream, reply });
    }

    pub(super) fn stream_answered(&mut self, node: usize, connection: u64, stream: u64, reply: Reply) {
        let cut_off = self.is_cut_off(node);
        let life = self.devices[node].life;
        let Some(process) = &mut self.devices[node].process else { return };
        if process.connection != Some(connection) || !process.streams.contains_key(&stream) {
            return;
        }
        if cut_off {
            self.after(HELD, Event::StreamAnswered { node, connection, stream, reply });
            return;
        }
        match reply {
            Reply::Blob { digest, bytes: Some(bytes) } => {
                process.streams.remove(&stream);
                process.machine.handle(Input::Fetched(digest));
                self.devices[node].cache.insert(digest, bytes);
            }
            Reply::Blob { bytes: None, .. } => self.after(RETRY, Event::StreamBroken { node, life, stream }),
            Reply::Ack { contribution, ack } => {
                process.streams.remove(&stream);
                let (run, query) = (contribution.run, contribution.query);
                process.answers.remove(&(run.clone(), query));
                process.machine.handle(Input::Acknowledged { run, query, ack });
            }
        }
        self.perform(node);
    }

    pub(super) fn stream_broken(&mut self, node: usize, stream: u64) {
        let Some(process) = &mut self.devices[node].process else { return };
        match process.streams.remove(&stream) {
            Some(Stream::Fetch(blob)) => process.machine.handle(Input::NotFetched(blob.digest)),
            Some(Stream::Deliver(Contribution { run, query, .. })) => {
                process.machine.handle(Input::NotDelivered { run, query });
            }
            None => return,
        }
        self.perform(node);
    }
}
