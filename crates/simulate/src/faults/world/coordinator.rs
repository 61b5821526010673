//! The coordinator's part: its lives, its desk, and what its operator wishes for.

use exeunt_exits::PolicyRequest;
use exeunt_protocol::coordinator::Target;
use exeunt_protocol::message::Ack;

use super::event::{Event, Reaction, Reply};
use super::{RESTART, RETRY, World};
use crate::faults::device::Device;
use crate::faults::disk::End;
use crate::faults::oracle::Promise;
use crate::faults::scenario::{Millis, Wish};
use crate::faults::site::{Answer, Asked, Site};

impl World<'_> {
    pub(super) fn coordinator_loses(&mut self, wait: Millis, connection: u64, node: usize) {
        let asked = Box::new(Asked::Lost { connection, node: self.devices[node].id });
        self.after(wait, Event::Reaches { life: self.site_life, asked });
    }

    pub(super) fn coordinator_starts(&mut self) {
        if self.site.is_some() {
            return;
        }
        let opened = Site::open(self.disk.clone(), self.time(), &self.sealed, self.mutation);
        self.notice_seals();
        match opened {
            Ok(site) => {
                self.note(format_args!("coordinator up"));
                self.site_life += 1;
                self.site = Some(site);
                self.check_store();
                let life = self.site_life;
                self.after(0, Event::Wake { life });
            }
            Err(error) => self.coordinator_failed(&error.to_string()),
        }
    }

    /// The coordinator has ended by itself.
    fn coordinator_failed(&mut self, error: &str) {
        self.note(format_args!("coordinator failed: {error}"));
        if self.disk.is_dead() {
            let (end, down) = self.fuse.take().unwrap_or((End::Kill, RESTART));
            self.coordinator_ends(end, down);
        } else if self.disk_full > 0 {
            self.coordinator_ends(End::Kill, RESTART);
        } else {
            self.blame(Promise::Running, error.to_owned());
        }
    }

    pub(super) fn coordinator_ends(&mut self, end: End, down: Millis) {
        self.note(format_args!("coordinator down: {end:?}"));
        if end != End::Stop {
            self.disk.cut_off();
        }
        self.restarts += 1;
        self.site_life += 1;
        if let Some(site) = self.site.take() {
            for asked in &site.inbox {
                if let Some(wish) = asked.wish() {
                    self.in_doubt(wish);
                }
            }
        }
        self.disk.settle(end, &mut self.luck);
        self.disk.set_full(self.disk_full > 0);
        let lost: Vec<u64> =
            self.connections.iter().filter(|(_, of)| of.alive).map(|(number, _)| *number).collect();
        for connection in lost {
            let wait = self.some(5000);
            self.after(wait, Event::NodeLoses { connection });
        }
        self.after(down, Event::CoordinatorStarts);
    }

    /// An operator did not hear what became of a wish, and asks again.
    fn in_doubt(&mut self, wish: usize) {
        self.in_doubt = true;
        self.after(RETRY, Event::Wish { wish, tries: 1 });
    }

    pub(super) fn ask(&mut self, asked: Asked) {
        let life = self.site_life;
        let wait = self.some(self.slow);
        let Some(site) = &mut self.site else { return };
        if site.inbox.is_empty() {
            self.after(wait, Event::Desk { life });
        }
        if let Some(site) = &mut self.site {
            site.inbox.push(asked);
        }
    }

    pub(super) fn wake(&mut self) {
        let time = self.time();
        if let Some(at) = self.site.as_ref().and_then(Site::timeout) {
            if at <= time.monotonic {
                self.ask(Asked::Tick);
            } else {
                let wait = (at - time.monotonic).as_millis() as Millis + 1;
                self.after(wait, Event::Wake { life: self.site_life });
            }
        }
    }

    pub(super) fn desk(&mut self) {
        let time = self.time();
        let Some(site) = &mut self.site else { return };
        let wishes: Vec<usize> = site.inbox.iter().filter_map(Asked::wish).collect();
        let woken = site.inbox.iter().any(|asked| matches!(asked, Asked::Tick));
        let before = site.timeout();
        let worked = site.work(time, self.kit);
        let timeout = site.timeout();
        self.notice_seals();
        match worked {
            Ok(answers) => {
                for answer in answers {
                    self.leaves(answer);
                }
                if woken && timeout.is_some_and(|at| at <= time.monotonic) {
                    self.blame(Promise::Running, "it wants to be woken at once, for ever".to_owned());
                } else if timeout.is_some_and(|at| at <= time.monotonic || timeout != before) {
                    self.wake();
                }
            }
            Err(error) => {
                for wish in wishes {
                    self.in_doubt(wish);
                }
                self.coordinator_failed(&error.to_string());
            }
        }
    }

    /// Tells the oracle of what was sealed; before it hears of what was acknowledged in the same breath.
    fn notice_seals(&mut self) {
        let sealed =
            std::mem::take(&mut *self.sealed.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for (run, id, seal) in sealed {
            self.note(format_args!("{id} of {run} sealed: {:?}, {:?}", seal.cohort, seal.digest));
            self.oracle.sealed(self.now, Device::place, &self.samples, (run, id, seal));
        }
    }

    pub(super) fn check_store(&mut self) {
        let Some(site) = &self.site else { return };
        let mut found = Vec::new();
        for run in site.core.machine().runs() {
            let seals = site.core.store().seals(run).unwrap_or_default();
            found.extend(seals.into_iter().map(|(query, seal)| (run.clone(), query, seal)));
        }
        // One may have become durable in the moment of a crash.
        for (run, id, seal) in found {
            self.oracle.sealed(self.now, Device::place, &self.samples, (run, id, seal));
        }
        if let Some(site) = &self.site {
            self.oracle.check_store(self.now, site.core.store());
        }
    }

    fn leaves(&mut self, answer: Answer) {
        match answer {
            Answer::Joined { node } => {
                self.oracle.enrolled(node);
                let place = Device::place(node);
                if !self.weather_loses() && !self.devices[place].joined {
                    self.note(format_args!("node {place} joined"));
                    self.devices[place].joined = true;
                    let life = self.devices[place].life;
                    self.after(1, Event::Connects { node: place, life });
                }
            }
            Answer::Superseded { connection } => {
                let wait = self.delay();
                self.after(wait, Event::NodeLoses { connection });
            }
            Answer::Desired { connection, desired } => self.say(connection, Reaction::Desired(desired)),
            Answer::Blob { connection, stream, digest, bytes } => {
                self.reply(connection, stream, Reply::Blob { digest, bytes });
            }
            Answer::Ack { connection, node, stream, contribution, ack } => {
                let query = contribution.query;
                self.note(format_args!("{query} of {}: {node} gets {ack:?}", contribution.run));
                match &ack {
                    Ack::Stored => self.oracle.acknowledged(self.now, node, &contribution),
                    _ => self.oracle.counts.rejected += 1,
                }
                self.reply(connection, stream, Reply::Ack { contribution, ack });
            }
            Answer::Started { wish, run } => {
                self.note(format_args!("wish {wish}: {run} started"));
                self.runs.push(run);
                self.wishes_open -= 1;
            }
            Answer::PolicySet { wish, run, version, target } => {
                self.note(format_args!("wish {wish}: policy {} of {run}", version.0));
                self.oracle.policy_set(run.clone(), version);
                if target == Target::Fleet {
                    self.in_force = Some((run, version));
                }
                self.wishes_open -= 1;
            }
            Answer::Granted { wish } => {
                self.note(format_args!("wish {wish}: granted"));
                // A policy is chosen again when a contribution was taken out.
                self.in_doubt |= matches!(self.scenario.wishes[wish].1, Wish::Remove { .. });
                self.wishes_open -= 1;
            }
            Answer::Stopped { wish, run } => {
                self.note(format_args!("wish {wish}: {run} stopped"));
                self.oracle.stopped(run);
                self.wishes_open -= 1;
            }
            Answer::Revoked { wish, node } => {
                self.note(format_args!("wish {wish}: {node} shut out"));
                self.oracle.revoked(node);
                self.wishes_open -= 1;
                let place = Device::place(node);
                if let Some(connection) = self.devices[place].process.as_ref().and_then(|p| p.connection) {
                    self.say(connection, Reaction::Barred);
                }
            }
            Answer::Later { wish } => self.after(2 * RETRY, Event::Wish { wish, tries: 1 }),
            Answer::Refused { wish } => {
                self.note(format_args!("wish {wish}: refused"));
                self.wishes_open -= 1;
            }
        }
    }

    pub(super) fn wish(&mut self, number: usize, tries: u32) {
        let wish = self.scenario.wishes[number].1;
        let run = |run: usize| self.runs.get(run).cloned();
        let device = |node: usize| self.devices.get(node);
        // The operator's answer to a start may have been lost; one that is still wanted is asked for again.
        let asked =
            match wish {
                Wish::StartRun => Some(Asked::StartRun { wish: number }),
                Wish::SetPolicy { run: of, percent } => run(of).map(|run| Asked::SetPolicy {
                    wish: number,
                    run,
                    request: PolicyRequest::Fraction(f64::from(percent) / 100.0),
                    target: Target::Fleet,
                }),
                Wish::TryPolicy { run: of, percent } => run(of).map(|run| Asked::SetPolicy {
                    wish: number,
                    run,
                    request: PolicyRequest::Fraction(f64::from(percent) / 100.0),
                    target: Target::Nobody,
                }),
                Wish::StopRun { run: of } => run(of).map(|run| Asked::Stop { wish: number, run }),
                Wish::Revoke { node } => {
                    device(node).map(|device| Asked::Revoke { wish: number, node: device.id })
                }
                Wish::Quarantine { node } => {
                    device(node).map(|device| Asked::Quarantine { wish: number, node: device.id })
                }
                Wish::Release { node } => {
                    device(node).map(|device| Asked::Release { wish: number, node: device.id })
                }
                Wish::Remove { run: of, node } => run(of)
                    .zip(device(node))
                    .map(|(run, device)| Asked::Remove { wish: number, run, node: device.id }),
            };
        if let Some(device) = wish.node().and_then(device) {
            self.oracle.leaves_out(device.id);
        }
        let starts = self.scenario.wishes.iter().filter(|(_, wish)| *wish == Wish::StartRun).count();
        match asked {
            Some(asked) if self.site.is_some() => self.ask(asked),
            // A shortened scenario may lack the run that it was about.
            None if wish.run().is_some_and(|run| run >= starts) => self.wishes_open -= 1,
            _ => self.after(RETRY, Event::Wish { wish: number, tries: tries + 1 }),
        }
    }
}
