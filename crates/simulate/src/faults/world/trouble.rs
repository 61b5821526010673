//! Faults: how they begin, and how they end.

use super::event::Event;
use super::{IDLE, SLOW, World};
use crate::faults::scenario::Fault;

impl World<'_> {
    pub(super) fn strike(&mut self, fault: usize) {
        let what = self.scenario.faults[fault];
        self.note(format_args!("fault {what:?}"));
        self.faults[what.kind()] += 1;
        match what {
            Fault::Partition { lasts, node, .. } => {
                self.partitions.push((fault, node));
                self.after(lasts, Event::FaultOver(fault));
                let cut: Vec<u64> = self.connections.keys().copied().collect();
                for connection in cut {
                    self.after(IDLE, Event::Idle { connection });
                }
            }
            Fault::Break { node, .. } => self.break_connection(node),
            Fault::Storm { lasts, weather, .. } => {
                self.weather = weather;
                self.after(lasts, Event::FaultOver(fault));
            }
            Fault::NodeDies { node, down, keeps_cache, .. } => self.node_dies(node, down, keeps_cache),
            Fault::CoordinatorEnds { end, down, .. } => self.coordinator_ends(end, down),
            Fault::Fuse { operations, end, down, .. } => {
                self.fuse = Some((end, down));
                self.disk.light_fuse(operations);
            }
            Fault::DiskFull { lasts, .. } => {
                self.disk_full += 1;
                self.disk.set_full(true);
                self.after(lasts, Event::FaultOver(fault));
            }
            Fault::Clock { wall_ms, ahead, .. } => {
                self.wall_skew += wall_ms;
                self.ahead += ahead;
                self.after(0, Event::Wake { life: self.site_life });
            }
            Fault::SlowDisk { lasts, slow, .. } => {
                self.slow = slow;
                self.after(lasts, Event::FaultOver(fault));
            }
            Fault::Data { node, change, .. } => self.devices[node].change(change),
            Fault::Relapse { node, change, .. } => self.devices[node].relapse = Some(change),
        }
    }

    pub(super) fn relent(&mut self, fault: usize) {
        self.note(format_args!("over {:?}", self.scenario.faults[fault]));
        match self.scenario.faults[fault] {
            Fault::Partition { .. } => self.partitions.retain(|(of, _)| *of != fault),
            Fault::Storm { .. } => {
                self.weather = self.scenario.weather;
                if self.calm {
                    self.weather.lost = 0;
                }
            }
            Fault::SlowDisk { .. } => self.slow = SLOW,
            Fault::DiskFull { .. } => {
                self.disk_full -= 1;
                self.disk.set_full(self.disk_full > 0);
            }
            _ => {}
        }
    }

    /// A connection breaks; each end learns of it when it does.
    fn break_connection(&mut self, node: usize) {
        let current = self.devices[node].process.as_ref().and_then(|process| process.connection);
        if let Some(connection) = current {
            let (near, far) = (self.some(2000), self.some(IDLE));
            self.after(near, Event::NodeLoses { connection });
            self.coordinator_loses(far, connection, node);
        }
    }
}
