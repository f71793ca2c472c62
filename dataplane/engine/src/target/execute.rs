//! What the target's commit role commands, done: records, the ledger, QMP, words to the source.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use dwcp_handover::{Arrival, Outcome, TargetCommand, TargetEvent, TargetStatus};
use dwcp_wire::{ControlMessage, Stats};

use super::job::{Job, send_control};
use super::qemu::Started;
use crate::cpu;
use crate::error::Class;
use crate::outcome;

impl Job {
    pub(super) fn execute(&mut self, command: TargetCommand) {
        match command {
            TargetCommand::PersistArrival(record) => {
                if let Err(e) = self.host.ledger.save_arrival(&record) {
                    eprintln!("{e}: ending; start receive again");
                    std::process::exit(i32::from(Class::Resource as u8));
                }
                self.events.push_back(TargetEvent::ArrivalPersisted);
            }
            TargetCommand::AcceptSource => {
                if let Some(accept) = self.accept.clone() {
                    self.control(&ControlMessage::Accept(accept));
                }
            }
            TargetCommand::Propose(decision) => {
                let began = Instant::now();
                let job = self.role.ticket().job;
                match self.host.ledger.propose(job, decision) {
                    Ok(record) => self.events.push_back(TargetEvent::Decided(record)),
                    Err(e) => eprintln!("job {job}: {e}"),
                }
                self.timings.decide_us = began.elapsed().as_micros() as u64;
            }
            TargetCommand::HandBack => match self.host.ledger.hand_back(self.role.ticket().job) {
                Ok(record) => self.events.push_back(TargetEvent::Decided(record)),
                Err(e) => eprintln!("job {}: {e}", self.job),
            },
            TargetCommand::Cont => self.cont(),
            TargetCommand::AnnounceSelf => self.qemu.announce(),
            TargetCommand::RestoreCapabilities => {
                if let Err(e) = self.qemu.restore() {
                    eprintln!("job {}: migration settings were not put back: {e}", self.job);
                }
                self.qemu.release();
            }
            TargetCommand::TellSource(outcome) => self.tell(outcome),
            TargetCommand::InspectQemu => {
                let state = self.qemu.inspect();
                self.events.push_back(TargetEvent::QemuInspected(state));
            }
            TargetCommand::DestroyQemu => self.destroy(),
            TargetCommand::Report(status) => self.report(&status),
        }
    }

    fn cont(&mut self) {
        let began = Instant::now();
        let started = self.qemu.cont();
        self.timings.cont_us = began.elapsed().as_micros() as u64;
        self.events.push_back(match started {
            Started::Running => TargetEvent::Resumed,
            Started::Refused { never_left_paused } => TargetEvent::ContFailed { never_left_paused },
            Started::Gone => TargetEvent::QemuLost,
        });
    }

    fn destroy(&mut self) {
        // Their ends first: the writer may be blocked on a QEMU that does not read.
        self.slices = None;
        self.skeleton = None;
        if self.qemu.destroy() {
            self.host.ledger.forget_arrival(self.role.ticket().job);
            self.events.push_back(TargetEvent::QemuDestroyed);
        }
    }

    fn tell(&mut self, outcome: Outcome) {
        let is_final = match outcome {
            Outcome::Aborted { .. } => true,
            Outcome::Committed { arrival, .. } => {
                matches!(arrival, Arrival::Running | Arrival::LeftPaused | Arrival::Lost)
            }
            _ => false,
        };
        if is_final {
            let stats = Stats {
                engine_cpu_us: cpu::process_us().saturating_sub(self.cpu_us_before),
                rx_bytes: self.endpoint.stats().rx_bytes,
                pages_written: self.counters.pages.load(Relaxed),
                huge_bytes: self.counters.huge_bytes.load(Relaxed),
            };
            self.control(&ControlMessage::Stats(stats));
            self.control(&ControlMessage::Resumed(self.timings));
            self.told_final.get_or_insert_with(Instant::now);
        }
        let message = outcome::to_wire(self.role.ticket().job, outcome);
        self.control(&ControlMessage::Outcome(message));
    }

    fn report(&mut self, status: &TargetStatus) {
        match status {
            TargetStatus::Arrived(arrival) => {
                self.told_final.get_or_insert_with(Instant::now);
                eprintln!("job {}: the guest has arrived ({arrival})", self.job);
            }
            TargetStatus::Aborted { reason, .. } => {
                self.told_final.get_or_insert_with(Instant::now);
                let text = self.reason.as_deref().unwrap_or("");
                eprintln!("job {}: aborted ({reason}) {text}", self.job);
            }
            TargetStatus::ContFailed => {
                eprintln!("job {}: the guest does not resume; looking again", self.job);
            }
        }
    }

    pub(super) fn control(&mut self, message: &ControlMessage) {
        send_control(&self.endpoint, self.control_seq, message);
        self.control_seq += 1;
    }
}
