//! Requests become the engine's own values here, once: every field is checked, and a refusal names the
//! field and what is allowed. May look at files and resolve names, so it runs where blocking is fine.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use dwcp_proto::engine_v3 as pb;
use uuid::Uuid;

use super::names::Folder;
use crate::cli::{
    DOWNTIME_MS_DEFAULT, DOWNTIME_MS_MAX, LEVEL_MAX, LINK_TIMEOUT_S_DEFAULT, LINK_TIMEOUT_S_MAX,
    OnStall, PAUSE_TIMEOUT_MS_MAX, STREAMS_MAX, TIMEOUT_S_DEFAULT, TIMEOUT_S_MAX, Tls,
    checked_address,
};
use crate::error::{Class, EngineError, Result};
use crate::ipc::{Hash, Poll, WantedMode};
use crate::source::Options;
use crate::target::{LaunchFile, PreparedTarget, QemuSource};
use crate::units::RATE_BIT_PER_S_MIN;

/// Longest ticket or address read.
const TEXT_BYTES_MAX: usize = 255;
const BITS_PER_BYTE: u64 = 8;

/// What requests are checked against.
#[derive(Debug, Clone)]
pub struct Checks {
    /// QMP sockets.
    pub qmp: Folder,
    /// Launch files.
    pub launch: Folder,
    /// Whether plaintext was asked for.
    pub tls: Option<Tls>,
    /// Folder of records.
    pub state: PathBuf,
}

impl Checks {
    /// A target as it was asked for.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn target(&self, request: &pb::PrepareTargetRequest) -> Result<PreparedTarget> {
        use pb::prepare_target_request::Qemu;
        let qemu = match &request.qemu {
            Some(Qemu::QmpSocket(name)) => QemuSource::Given(self.qmp.socket("qmp_socket", name)?),
            Some(Qemu::LaunchProfile(name)) => {
                QemuSource::Launch(LaunchFile::read(&self.launch.file("launch_profile", name)?)?)
            }
            None => return Err(wrong("qemu: give qmp_socket or launch_profile")),
        };
        Ok(PreparedTarget { qemu, leave_paused: request.leave_paused })
    }

    /// A source job as it was asked for.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn source(&self, request: &pb::RunSourceRequest) -> Result<Options> {
        let streams = optional("streams", request.streams.map(u64::from), 1..=STREAMS_MAX as u64)?;
        let level = optional("level", request.level.map(u64::from), 0..=LEVEL_MAX as u64)?;
        let max_downtime = request.max_downtime_ms.map(u64::from);
        let max_downtime = optional("max_downtime_ms", max_downtime, 1..=DOWNTIME_MS_MAX)?;
        let max_downtime = Duration::from_millis(max_downtime.unwrap_or(DOWNTIME_MS_DEFAULT));
        let timeout = optional("timeout_s", request.timeout_s.map(u64::from), 1..=TIMEOUT_S_MAX)?;
        let link_timeout = request.link_timeout_s.map(u64::from);
        let link_timeout = optional("link_timeout_s", link_timeout, 1..=LINK_TIMEOUT_S_MAX)?;
        let pause = request.pause_timeout_ms.map(u64::from);
        let pause = optional("pause_timeout_ms", pause, 1..=PAUSE_TIMEOUT_MS_MAX)?;
        let rate = request.rate_bit_per_s.map(|rate| checked_rate(rate, "absent for none"));
        Ok(Options {
            job: Uuid::now_v7(),
            mode: mode(request.mode)?,
            on_stall: on_stall(request.on_stall)?,
            hash: hash(request.hash)?,
            poll: poll(request.poll)?,
            streams: streams.map(|n| n as u16),
            level: level.map(|n| n as i64),
            rate_bytes_per_s: rate.transpose()?,
            new_rates: crossbeam::channel::never(),
            max_downtime,
            timeout: Duration::from_secs(timeout.unwrap_or(TIMEOUT_S_DEFAULT)),
            link_timeout: Duration::from_secs(link_timeout.unwrap_or(LINK_TIMEOUT_S_DEFAULT)),
            pause_timeout: pause.map_or(max_downtime * 2, Duration::from_millis),
            check: request.check_only,
            ticket: ticket(&request.ticket)?,
            to: self.address(&request.target_address)?,
            qmp: self.qmp.socket("qmp_socket", &request.qmp_socket)?,
            state: self.state.clone(),
            checkpoint: None,
        })
    }

    fn address(&self, text: &str) -> Result<SocketAddr> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(wrong(format!("target_address: HOST:PORT of 1 to {TEXT_BYTES_MAX} bytes")));
        }
        let address = checked_address("target_address", text, self.tls)?;
        if address.port() == 0 {
            return Err(wrong(format!("target_address {text:?}: a port from 1 to 65535")));
        }
        Ok(address)
    }
}

/// A new ceiling in bytes per second; 0 stays 0 and means none.
///
/// # Errors
/// Too slow a rate.
pub fn new_rate(rate_bit_per_s: u64) -> Result<u64> {
    match rate_bit_per_s {
        0 => Ok(0),
        rate => checked_rate(rate, "0 for none"),
    }
}

/// A job's id.
///
/// # Errors
/// Not an id.
pub fn job(text: &str) -> Result<Uuid> {
    text.parse().map_err(|_| wrong(format!("job {text:?} is no job id: Status lists them")))
}

fn wrong(text: impl Into<String>) -> EngineError {
    EngineError::new(Class::Usage, text)
}

fn checked_rate(rate: u64, none: &str) -> Result<u64> {
    if rate < RATE_BIT_PER_S_MIN {
        let text = format!("rate_bit_per_s is {rate}: at least {RATE_BIT_PER_S_MIN}, or {none}");
        return Err(wrong(text));
    }
    Ok(rate / BITS_PER_BYTE)
}

fn optional(field: &str, value: Option<u64>, allowed: RangeInclusive<u64>) -> Result<Option<u64>> {
    match value {
        Some(value) if !allowed.contains(&value) => {
            let (low, high) = allowed.into_inner();
            Err(wrong(format!("{field} is {value}: allowed are {low} to {high}, or absent")))
        }
        value => Ok(value),
    }
}

fn ticket(text: &str) -> Result<Option<String>> {
    let sound = text.len() <= TEXT_BYTES_MAX && text.chars().all(|c| c.is_ascii_alphanumeric());
    match (sound, text) {
        (false, _) => Err(wrong("ticket: letters and digits as PrepareTarget gave them, or empty")),
        (true, "") => Ok(None),
        (true, text) => Ok(Some(text.to_owned())),
    }
}

fn unknown(field: &str, value: i32, allowed: &str) -> EngineError {
    wrong(format!("{field} is {value}: allowed are {allowed}"))
}

fn mode(value: i32) -> Result<WantedMode> {
    Ok(match pb::Mode::try_from(value) {
        Ok(pb::Mode::Unspecified) => WantedMode::Auto,
        Ok(pb::Mode::Direct) => WantedMode::Direct,
        Ok(pb::Mode::Plain) => WantedMode::Plain,
        Err(_) => return Err(unknown("mode", value, "MODE_DIRECT and MODE_PLAIN")),
    })
}

fn on_stall(value: i32) -> Result<OnStall> {
    Ok(match pb::OnStall::try_from(value) {
        Ok(pb::OnStall::Unspecified | pb::OnStall::Wait) => OnStall::Wait,
        Ok(pb::OnStall::Abort) => OnStall::Abort,
        Ok(pb::OnStall::Force) => OnStall::Force,
        Err(_) => {
            let allowed = "ON_STALL_ABORT, ON_STALL_WAIT and ON_STALL_FORCE";
            return Err(unknown("on_stall", value, allowed));
        }
    })
}

fn hash(value: i32) -> Result<Hash> {
    Ok(match pb::Hash::try_from(value) {
        Ok(pb::Hash::Unspecified | pb::Hash::Xxh3) => Hash::Xxh3,
        Ok(pb::Hash::Blake3) => Hash::Blake3,
        Err(_) => return Err(unknown("hash", value, "HASH_XXH3 and HASH_BLAKE3")),
    })
}

fn poll(value: i32) -> Result<Poll> {
    Ok(match pb::Poll::try_from(value) {
        Ok(pb::Poll::Unspecified) => Poll::Adaptive,
        Ok(pb::Poll::Spin) => Poll::Spin,
        Ok(pb::Poll::Sleep) => Poll::Sleep,
        Err(_) => return Err(unknown("poll", value, "POLL_SPIN and POLL_SLEEP")),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    struct Fixture {
        dir: PathBuf,
        checks: Checks,
        _socket: UnixListener,
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    fn fixture() -> Fixture {
        let dir = std::env::temp_dir().join(format!("dwcp-orders-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        let _socket = UnixListener::bind(dir.join("vm.sock")).unwrap();
        std::fs::write(dir.join("vm"), "qemu-system-x86_64\n-m\n64\n").unwrap();
        let checks = Checks {
            qmp: Folder::open("--qmp-dir", Some(&dir)).unwrap(),
            launch: Folder::open("--launch-dir", Some(&dir)).unwrap(),
            tls: None,
            state: dir.clone(),
        };
        Fixture { dir, checks, _socket }
    }

    fn request() -> pb::RunSourceRequest {
        pb::RunSourceRequest {
            qmp_socket: "vm.sock".into(),
            target_address: "127.0.0.1:8085".into(),
            ..Default::default()
        }
    }

    #[test]
    fn absent_fields_take_the_defaults_of_the_command_line() {
        let options = fixture().checks.source(&request()).unwrap();
        assert_eq!((options.streams, options.level, options.rate_bytes_per_s), (None, None, None));
        assert_eq!(options.max_downtime, Duration::from_millis(300));
        assert_eq!(options.pause_timeout, Duration::from_millis(600));
        assert_eq!(options.timeout, Duration::from_secs(3600));
        assert_eq!(options.link_timeout, Duration::from_secs(120));
        assert_eq!((options.mode, options.on_stall), (WantedMode::Auto, OnStall::Wait));
        assert_eq!((options.hash, options.poll), (Hash::Xxh3, Poll::Adaptive));
        assert!(!options.check && options.ticket.is_none());
    }

    #[test]
    fn every_field_reaches_the_options_in_its_unit() {
        let full = pb::RunSourceRequest {
            ticket: "abc123".into(),
            mode: pb::Mode::Plain.into(),
            streams: Some(256),
            level: Some(0),
            rate_bit_per_s: Some(8_000),
            max_downtime_ms: Some(20_000),
            timeout_s: Some(5),
            link_timeout_s: Some(7),
            pause_timeout_ms: Some(9),
            on_stall: pb::OnStall::Force.into(),
            hash: pb::Hash::Blake3.into(),
            poll: pb::Poll::Sleep.into(),
            check_only: true,
            ..request()
        };
        let options = fixture().checks.source(&full).unwrap();
        assert_eq!((options.streams, options.level), (Some(256), Some(0)));
        assert_eq!(options.rate_bytes_per_s, Some(1_000));
        assert_eq!(options.max_downtime, Duration::from_secs(20));
        assert_eq!(options.timeout, Duration::from_secs(5));
        assert_eq!(options.link_timeout, Duration::from_secs(7));
        assert_eq!(options.pause_timeout, Duration::from_millis(9));
        assert_eq!((options.mode, options.on_stall), (WantedMode::Plain, OnStall::Force));
        assert_eq!((options.hash, options.poll), (Hash::Blake3, Poll::Sleep));
        assert!(options.check && options.ticket.as_deref() == Some("abc123"));
    }

    #[test]
    fn a_wrong_field_is_refused_by_name() {
        type Change = fn(&mut pb::RunSourceRequest);
        let wrongs: [(&str, Change); 15] = [
            ("streams", |r| r.streams = Some(0)),
            ("streams", |r| r.streams = Some(257)),
            ("level", |r| r.level = Some(20)),
            ("rate_bit_per_s", |r| r.rate_bit_per_s = Some(7_999)),
            ("max_downtime_ms", |r| r.max_downtime_ms = Some(0)),
            ("max_downtime_ms", |r| r.max_downtime_ms = Some(120_001)),
            ("timeout_s", |r| r.timeout_s = Some(604_801)),
            ("link_timeout_s", |r| r.link_timeout_s = Some(0)),
            ("pause_timeout_ms", |r| r.pause_timeout_ms = Some(600_001)),
            ("mode", |r| r.mode = 99),
            ("on_stall", |r| r.on_stall = -1),
            ("hash", |r| r.hash = 3),
            ("poll", |r| r.poll = 3),
            ("ticket", |r| r.ticket = "a b".into()),
            ("qmp_socket", |r| r.qmp_socket = "../vm.sock".into()),
        ];
        let fixture = fixture();
        for (field, change) in wrongs {
            let mut request = request();
            change(&mut request);
            let error = fixture.checks.source(&request).unwrap_err();
            assert_eq!(error.class(), Class::Usage, "{field}: {error}");
            assert!(error.to_string().starts_with(field), "{field}: {error}");
        }
    }

    #[test]
    fn addresses_are_checked_like_those_of_the_command_line() {
        let fixture = fixture();
        let class = |address: &str| {
            let request = pb::RunSourceRequest { target_address: address.into(), ..request() };
            fixture.checks.source(&request).unwrap_err().class()
        };
        assert_eq!(class(""), Class::Usage);
        assert_eq!(class("127.0.0.1"), Class::Usage);
        assert_eq!(class("127.0.0.1:0"), Class::Usage);
        assert_eq!(class("192.0.2.1:8085"), Class::Trust);
    }

    #[test]
    fn a_target_names_its_qemu() {
        use pb::prepare_target_request::Qemu;
        let fixture = fixture();
        let ask =
            |qemu| fixture.checks.target(&pb::PrepareTargetRequest { qemu, leave_paused: true });
        let given = ask(Some(Qemu::QmpSocket("vm.sock".into()))).unwrap();
        assert!(given.leave_paused && matches!(given.qemu, QemuSource::Given(_)));
        let launched = ask(Some(Qemu::LaunchProfile("vm".into()))).unwrap();
        assert!(matches!(launched.qemu, QemuSource::Launch(_)));
        assert_eq!(ask(None).unwrap_err().class(), Class::Usage);
        let absent = ask(Some(Qemu::LaunchProfile("other".into()))).unwrap_err();
        assert_eq!(absent.class(), Class::NotFound);
    }

    #[test]
    fn rates_and_ids() {
        assert_eq!(new_rate(0).unwrap(), 0);
        assert_eq!(new_rate(80_000_000).unwrap(), 10_000_000);
        assert!(new_rate(1).unwrap_err().to_string().contains("0 for none"));
        assert!(job("018f3c00-0000-7000-8000-000000000000").is_ok());
        assert_eq!(job("x").unwrap_err().class(), Class::Usage);
    }
}
