//! The source jobs of this daemon: each runs in a thread of its own, with its child process. Here they
//! are started, found, cancelled and remembered for a while. Locked for map operations only.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam::channel::{Sender, TrySendError, bounded};
use uuid::Uuid;

use crate::error::{Class, Doing, EngineError, Result};
use crate::progress::{Event, Progress, Snapshot};
use crate::records;
use crate::report::Report;
use crate::signals::Interrupts;
use crate::source::{self, Options};

/// Source jobs at a time.
const RUNNING_MAX: usize = 16;
/// Ended jobs whose receipts are kept; their records on disk stay.
const ENDED_KEPT: usize = 64;
/// New ceilings that may wait for a job to take them.
const RATES_MAX: usize = 16;

/// What the one who started a job hears.
#[derive(Debug)]
pub enum News {
    /// Something happened.
    Event(Event),
    /// It is over; nothing more will come.
    Ended(Result<Report>),
}

/// Where news go; called from the job's thread alone.
pub type Listener = Arc<dyn Fn(News) + Send + Sync>;

/// What a running job has said of itself.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The guest.
    pub vm: String,
    /// Its fence.
    pub fence: String,
    /// The phase.
    pub phase: String,
    /// The last counters.
    pub snapshot: Option<Snapshot>,
}

/// A job that has ended in this daemon's life.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its id.
    pub job: Uuid,
    /// What was known of it.
    pub seen: Seen,
    /// Its receipt, or why it did not start.
    pub result: std::result::Result<Report, String>,
}

struct Running {
    qmp: Option<PathBuf>,
    interrupts: Interrupts,
    /// Absent for a job that was taken up: its bytes have been moved.
    rates: Option<Sender<u64>>,
    seen: Arc<Mutex<Seen>>,
}

impl Running {
    fn new(qmp: Option<PathBuf>, rates: Option<Sender<u64>>, seen: Seen) -> Self {
        Self { qmp, rates, interrupts: Interrupts::default(), seen: Arc::new(Mutex::new(seen)) }
    }
}

#[derive(Default)]
struct Table {
    running: HashMap<Uuid, Running>,
    ended: VecDeque<Ended>,
    draining: bool,
}

/// All source jobs of one daemon.
#[derive(Clone, Default)]
pub struct SourceJobs(Arc<Mutex<Table>>);

impl SourceJobs {
    /// Starts a job; `options` gets its id and its channel for rates here.
    ///
    /// # Errors
    /// Too many jobs, this guest is being moved already, or the daemon is ending.
    pub fn start(&self, mut options: Options, listener: Listener) -> Result<()> {
        let (rates_in, rates) = bounded(RATES_MAX);
        options.new_rates = rates;
        let seen = Seen { phase: "preflight".to_owned(), ..Seen::default() };
        let (job, entry) =
            (options.job, Running::new(Some(options.qmp.clone()), Some(rates_in), seen));
        let work = move |interrupts, progress| source::run(options, interrupts, progress);
        self.spawn(job, entry, listener, work)
    }

    /// Takes up the jobs whose records say that an earlier process left them undecided.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn take_up(&self, state: &Path) -> Result<()> {
        for (store, record) in records::open_sources(state)? {
            let job = Uuid::from_bytes(record.ticket.job.0);
            eprintln!("job {job}: taken up");
            let seen = Seen {
                vm: record.notes.get("vm").unwrap_or_default().to_owned(),
                fence: record.ticket.fence.to_string(),
                phase: "in_doubt".to_owned(),
                snapshot: None,
            };
            let work = move |interrupts, progress| {
                source::resume(store, record, interrupts, progress, None)
            };
            self.spawn(job, Running::new(None, None, seen), Arc::new(|_| ()), work)?;
        }
        Ok(())
    }

    fn spawn(
        &self,
        job: Uuid,
        entry: Running,
        listener: Listener,
        work: impl FnOnce(Interrupts, Progress) -> Result<Report> + Send + 'static,
    ) -> Result<()> {
        let (interrupts, seen) = (entry.interrupts.clone(), Arc::clone(&entry.seen));
        self.table().admit(job, entry)?;
        let jobs = self.clone();
        let thread = move || {
            let progress = observed(job, seen, Arc::clone(&listener));
            let worked = catch_unwind(AssertUnwindSafe(|| work(interrupts, progress)));
            let result = worked.unwrap_or_else(|_| {
                let text = "the job's thread broke; `jobs` and `resolve` tell how it stands";
                Err(EngineError::new(Class::Failed, text))
            });
            jobs.end(job, &result);
            listener(News::Ended(result));
        };
        std::thread::Builder::new()
            .name("source-job".to_owned())
            .spawn(thread)
            .map(|_| ())
            .doing(|| "starting a thread".to_owned())
            .inspect_err(|_| drop(self.table().running.remove(&job)))
    }

    /// Asks a job to end and tells the phase it is in; `None` when none of that id runs.
    pub fn cancel(&self, job: Uuid) -> Option<String> {
        let table = self.table();
        let running = table.running.get(&job)?;
        running.interrupts.raise();
        Some(locked(&running.seen).phase.clone())
    }

    /// Sets a job's ceiling, in bytes per second, 0 for none.
    ///
    /// # Errors
    /// No such job runs, or one that moves no bytes any more.
    pub fn set_rate(&self, job: Uuid, bytes_per_s: u64) -> Result<()> {
        let refuse = |class, text: &str| Err(EngineError::new(class, format!("job {job}: {text}")));
        let table = self.table();
        let Some(running) = table.running.get(&job) else {
            return match table.ended.iter().any(|ended| ended.job == job) {
                true => refuse(Class::Conflict, "is over"),
                false => refuse(Class::NotFound, "no such source job runs here"),
            };
        };
        let Some(rates) = &running.rates else {
            return refuse(Class::Conflict, "waits for its outcome and moves no bytes");
        };
        match rates.try_send(bytes_per_s) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => refuse(Class::Limit, "earlier rates still wait"),
            Err(TrySendError::Disconnected(_)) => refuse(Class::Conflict, "is ending"),
        }
    }

    /// What the running jobs have said of themselves.
    pub fn running(&self) -> Vec<(Uuid, Seen)> {
        self.table().running.iter().map(|(job, r)| (*job, locked(&r.seen).clone())).collect()
    }

    /// The jobs that ended lately, the last one first.
    pub fn ended(&self) -> Vec<Ended> {
        self.table().ended.iter().cloned().collect()
    }

    /// Takes no more jobs and asks those that run to end: the guest stays here, unless the last
    /// slice has left.
    pub fn drain(&self) {
        let mut table = self.table();
        table.draining = true;
        for running in table.running.values() {
            running.interrupts.raise();
        }
    }

    /// The jobs that still move bytes, and those that only wait for their outcome.
    pub fn counts(&self) -> (usize, usize) {
        let table = self.table();
        let moving = table.running.values().filter(|r| r.rates.is_some()).count();
        (moving, table.running.len() - moving)
    }

    fn end(&self, job: Uuid, result: &Result<Report>) {
        let result = match result {
            Ok(report) => Ok(report.clone()),
            Err(e) => Err(e.to_string()),
        };
        match &result {
            Ok(report) => eprintln!("job {job}: {} {}", report.status, report.reason),
            Err(text) => eprintln!("job {job}: {text}"),
        }
        let mut table = self.table();
        let Some(running) = table.running.remove(&job) else { return };
        let seen = locked(&running.seen).clone();
        table.ended.push_front(Ended { job, seen, result });
        table.ended.truncate(ENDED_KEPT);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        locked(&self.0)
    }
}

impl Table {
    fn admit(&mut self, job: Uuid, entry: Running) -> Result<()> {
        let refuse = |class, text: String| Err(EngineError::new(class, text));
        if self.draining {
            return refuse(Class::Unreachable, "this engine is ending".to_owned());
        }
        if entry.rates.is_some() && self.running.len() >= RUNNING_MAX {
            return refuse(Class::Limit, format!("{RUNNING_MAX} source jobs run here already"));
        }
        let same = |other: &Running| entry.qmp.is_some() && other.qmp == entry.qmp;
        if let Some((other, _)) = self.running.iter().find(|(_, r)| same(r)) {
            return refuse(Class::Conflict, format!("job {other} moves this guest already"));
        }
        self.running.insert(job, entry);
        Ok(())
    }
}

/// Keeps what the job says of itself, and passes it on.
fn observed(job: Uuid, seen: Arc<Mutex<Seen>>, listener: Listener) -> Progress {
    Progress::observed(move |event| {
        locked(&seen).learn(&event);
        if let Event::Note(text) = &event {
            eprintln!("job {job}: {text}");
        }
        listener(News::Event(event));
    })
}

impl Seen {
    fn learn(&mut self, event: &Event) {
        match event {
            Event::Accepted { vm, fence, .. } => {
                self.vm.clone_from(vm);
                self.fence.clone_from(fence);
            }
            Event::Phase { name, .. } => self.phase.clone_from(name),
            Event::Counters(snapshot) => self.snapshot = Some(snapshot.clone()),
            Event::Note(_) => {}
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn waits_for_interrupt(interrupts: Interrupts, mut progress: Progress) -> Result<Report> {
        progress.phase("round 1", 1.0);
        while interrupts.count() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(EngineError::new(Class::Interrupted, "as asked"))
    }

    fn start(jobs: &SourceJobs, qmp: &str) -> Result<Uuid> {
        let job = Uuid::now_v7();
        let rates = bounded(1).0;
        let entry = Running::new(Some(qmp.into()), Some(rates), Seen::default());
        jobs.spawn(job, entry, Arc::new(|_| ()), waits_for_interrupt)?;
        Ok(job)
    }

    fn until(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !what() {
            assert!(Instant::now() < deadline, "waited in vain");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_job_is_watched_cancelled_and_remembered() {
        let jobs = SourceJobs::default();
        let job = start(&jobs, "a").unwrap();
        until(|| jobs.running().first().is_some_and(|(_, seen)| seen.phase == "round 1"));
        assert_eq!(jobs.cancel(job).as_deref(), Some("round 1"));
        until(|| jobs.running().is_empty());
        assert_eq!(jobs.ended()[0].result, Err("as asked".to_owned()));
        assert_eq!(jobs.cancel(job), None);
        assert_eq!(jobs.set_rate(job, 1).unwrap_err().class(), Class::Conflict);
        assert_eq!(jobs.set_rate(Uuid::nil(), 1).unwrap_err().class(), Class::NotFound);
    }

    #[test]
    fn one_guest_moves_once_and_a_draining_engine_takes_no_more() {
        let jobs = SourceJobs::default();
        start(&jobs, "a").unwrap();
        assert_eq!(start(&jobs, "a").unwrap_err().class(), Class::Conflict);
        start(&jobs, "b").unwrap();
        jobs.drain();
        assert_eq!(start(&jobs, "c").unwrap_err().class(), Class::Unreachable);
        until(|| jobs.counts() == (0, 0));
    }

    #[test]
    fn jobs_are_bounded_running_and_ended() {
        let jobs = SourceJobs::default();
        for round in 0..5 {
            for number in 0..RUNNING_MAX {
                start(&jobs, &format!("{round}.{number}")).unwrap();
            }
            assert_eq!(start(&jobs, "x").unwrap_err().class(), Class::Limit);
            for (job, _) in jobs.running() {
                jobs.cancel(job);
            }
            until(|| jobs.running().is_empty());
        }
        assert_eq!(jobs.ended().len(), ENDED_KEPT);
    }

    #[test]
    fn a_job_that_panics_ends() {
        let jobs = SourceJobs::default();
        let (told, heard) = bounded(1);
        let listener: Listener = Arc::new(move |news| {
            if let News::Ended(result) = news {
                told.send(result).unwrap();
            }
        });
        let work = |_, _| panic!("broken on purpose");
        let entry = Running::new(None, None, Seen::default());
        jobs.spawn(Uuid::now_v7(), entry, listener, work).unwrap();
        let result = heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(result.unwrap_err().class(), Class::Failed);
        assert_eq!(jobs.counts(), (0, 0));
    }
}
