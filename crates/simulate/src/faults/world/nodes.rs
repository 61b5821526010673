//! The nodes' part: their lives, and what their machines want done.

use std::sync::Arc;

use exeunt_protocol::message::{BlobRef, Contribution, Refusal};
use exeunt_protocol::node::{Input, Output};
use exeunt_stats::{Digest, packed};

use super::event::{Event, Word};
use super::{IDLE, RETRY, World};
use crate::faults::device::Job;
use crate::faults::scenario::Millis;
use crate::faults::site::Asked;

impl World<'_> {
    pub(super) fn node_starts(&mut self, node: usize) {
        let device = &mut self.devices[node];
        if device.shut_out || device.process.is_some() {
            return;
        }
        device.start();
        let (joined, life) = (device.joined, device.life);
        self.note(format_args!("node {node} up"));
        let next = if joined { Event::Connects { node, life } } else { Event::Joins { node, life } };
        self.after(1, next);
    }

    pub(super) fn node_dies(&mut self, node: usize, down: Millis, keeps_cache: bool) {
        let device = &mut self.devices[node];
        let Some(process) = device.process.take() else { return };
        if !keeps_cache {
            device.cache.clear();
        }
        if let Some(connection) = process.connection {
            if let Some(connection) = self.connections.get_mut(&connection) {
                connection.alive = false;
            }
            let wait = self.some(IDLE);
            self.coordinator_loses(wait, connection, node);
        }
        self.after(down, Event::NodeStarts { node });
    }

    /// A token is made by the operator and carried to the node by hand; it makes both happen until they have.
    pub(super) fn joins(&mut self, node: usize) {
        if self.devices[node].joined {
            return;
        }
        let (id, life) = (self.devices[node].id, self.devices[node].life);
        let secret = Digest::of(id.as_bytes());
        if !self.is_cut_off(node) && !self.weather_loses() {
            if !self.oracle.is_enrolled(id) {
                self.ask(Asked::Token { secret });
            }
            self.ask(Asked::Join { node: id, secret });
        }
        let wait = RETRY + self.some(1000);
        self.after(wait, Event::Joins { node, life });
    }

    /// Does what a node's machine wants.
    pub(super) fn perform(&mut self, node: usize) {
        loop {
            let Some(process) = &mut self.devices[node].process else { return };
            let Some(connection) = process.connection else { return };
            let Some(output) = process.machine.poll_output() else { return };
            match output {
                Output::Say(word) => {
                    if let Some(connection) = self.connections.get_mut(&connection) {
                        connection.up.push_back(Word::Said(word));
                    }
                    let wait = self.control_delay();
                    self.after(wait, Event::Up { connection });
                }
                Output::Fetch { blob, purpose } => self.fetch(node, connection, blob, purpose),
                Output::Deliver(contribution) => self.deliver(node, connection, contribution),
                Output::Compute { run, query } => {
                    process.jobs.push_back(Job { run, query, cancelled: false });
                    self.work(node);
                }
                Output::Abandon { run, query } => {
                    let of = |job: &&mut Job| job.run.run == run && job.query.id == query;
                    process.jobs.iter_mut().filter(of).for_each(|job| job.cancelled = true);
                }
                Output::UsePolicy { run, policy } => {
                    self.note(format_args!(
                        "node {node} infers with policy {} of {}",
                        policy.version.0, run.run
                    ));
                    self.devices[node].policy = Some((run.run, policy));
                }
                Output::Rejected { run, query, reason } => {
                    self.note(format_args!("node {node}: {query} of {run} refused: {reason}"));
                }
            }
        }
    }

    /// Lets a node's worker take up the next query.
    pub(super) fn work(&mut self, node: usize) {
        let slow = self.devices[node].plan.slow;
        let wait = 1 + self.some(slow);
        let device = &mut self.devices[node];
        let life = device.life;
        let Some(process) = &mut device.process else { return };
        if !process.computing && !process.jobs.is_empty() {
            process.computing = true;
            self.after(wait, Event::Computed { node, life });
        }
    }

    pub(super) fn computed(&mut self, node: usize) {
        let Some(process) = &mut self.devices[node].process else { return };
        process.computing = false;
        let Some(job) = process.jobs.pop_front() else { return };
        let key = (job.run.run.clone(), job.query.id);
        let answer = self.answer(node, &job);
        let Some(process) = &mut self.devices[node].process else { return };
        let answer = match answer {
            Ok((contribution, bytes)) => {
                process.answers.insert(key.clone(), bytes);
                Ok(contribution)
            }
            Err(refusal) => Err(refusal),
        };
        process.machine.handle(Input::Answered { run: key.0.clone(), query: key.1, answer });
        self.note(format_args!("node {node} has its answer to {} of {}", key.1, key.0));
        self.work(node);
        self.perform(node);
    }

    fn answer(&mut self, node: usize, job: &Job) -> Result<(Contribution, Arc<[u8]>), Refusal> {
        if job.cancelled {
            return Err(Refusal::Failed { what: "not wanted any more".to_owned() });
        }
        let device = &self.devices[node];
        let missing = || Refusal::Failed { what: "not in the cache".to_owned() };
        let body = device.cache.get(&job.query.body.digest).ok_or_else(missing)?;
        let query = self.samples.query(job.query.body.digest, body)?;
        let heads = match job.query.heads {
            Some(heads) => Some((heads.digest, &**device.cache.get(&heads.digest).ok_or_else(missing)?)),
            None => None,
        };
        let table = self.samples.answer(device.holding(), (job.query.body.digest, &query), heads)?;
        let bytes: Arc<[u8]> = packed::encode(table.cells()).into();
        let contribution = Contribution {
            run: job.run.run.clone(),
            query: job.query.id,
            dataset: device.dataset(),
            table: BlobRef::of(&bytes),
        };
        self.oracle.computed(device.id, &contribution, table, device.edition.samples);
        Ok((contribution, bytes))
    }
}
