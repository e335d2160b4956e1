//! The stage between the daemon and a sandbox: a fresh, single-threaded process of this executable that takes from
//! its standard input first its cgroups, which it joins at once, then a plan and the session key, and becomes
//! `runsc` or builds a native cage. Joining takes milliseconds, in which the daemon makes the plan.
//! Nothing of it is in arguments, environment or files. Touches only what it is told.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::seen::{self, Seen};
use super::{cage, memory};

/// The hidden first word that starts this role.
pub const ROLE: &str = "cage-init";

/// The exit status of a stage that failed before the sandbox existed.
pub const FAILED: u8 = 125;

/// Bytes of key that travel with a plan.
pub const KEY_BYTES: usize = 32;

/// A plan longer than this is refused; the largest real one is about 4 KiB, and 1 KiB for each package and mount.
const PLAN_LIMIT: usize = 60 * 1024;

/// What the stage is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What it becomes.
    pub task: Task,
    /// What it shows to that first; only root can.
    pub seen: Vec<Seen>,
    /// The faults that the stage shares with the daemon, since it has no environment.
    #[cfg(feature = "faults")]
    pub faults: String,
}

/// The two kinds of sandbox, and the question whether one is possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Become this program, with the key as standard input.
    Exec {
        /// Its path.
        program: PathBuf,
        /// Its arguments, the program's own name not included.
        args: Vec<OsString>,
    },
    /// Build a native cage and run the sandbox in it.
    Cage(cage::Cage),
    /// Enter the namespaces a cage needs, and say whether it worked.
    Probe(cage::Who),
}

impl Plan {
    /// A plan that knows the faults of this process.
    pub fn new(task: Task) -> Self {
        Self {
            task,
            seen: Vec::new(),
            #[cfg(feature = "faults")]
            faults: crate::contract::fault::all().to_owned(),
        }
    }

    /// The same with directories to show.
    pub fn showing(self, seen: Vec<Seen>) -> Self {
        Self { seen, ..self }
    }

    /// The bytes that the stage reads second: a length, the plan, `g`, the key. The caller wipes them after writing.
    pub fn encode(&self, key: &[u8; KEY_BYTES]) -> Vec<u8> {
        let mut out = Encoder::default();
        match &self.task {
            Task::Exec { program, args } => {
                out.number(1);
                out.bytes(program.as_os_str().as_bytes());
                out.list(args, |out, arg| out.bytes(arg.as_bytes()));
            }
            Task::Cage(cage) => {
                out.number(2);
                cage.encode(&mut out);
            }
            Task::Probe(who) => {
                out.number(3);
                who.encode(&mut out);
            }
        }
        out.list(&self.seen, |out, seen| seen.encode(out));
        #[cfg(feature = "faults")]
        out.bytes(self.faults.as_bytes());
        let mut all = out.framed(1 + KEY_BYTES);
        all.push(b'g');
        all.extend_from_slice(key);
        all
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Decoder(bytes);
        let task = match from.number()? {
            1 => Task::Exec { program: from.path()?, args: from.list(Decoder::word)? },
            2 => Task::Cage(cage::Cage::decode(&mut from)?),
            3 => Task::Probe(cage::Who::decode(&mut from)?),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let seen = from.list(Seen::decode)?;
        #[cfg(feature = "faults")]
        let faults = String::from_utf8(from.bytes()?).map_err(|_| io::ErrorKind::InvalidData)?;
        if !from.0.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Plan {
            task,
            seen,
            #[cfg(feature = "faults")]
            faults,
        })
    }

    /// The plan within what [`Plan::encode`] made.
    #[cfg(test)]
    pub(super) fn read_from(bytes: &[u8]) -> io::Result<Self> {
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        Plan::decode(&bytes[4..4 + length])
    }
}

/// The bytes that the stage reads first: a length and the files into which it writes `0` to move itself into its
/// cgroups.
pub fn encode_cgroups(procs: &[PathBuf]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.list(procs, |out, path| out.bytes(path.as_os_str().as_bytes()));
    out.framed(0)
}

fn decode_cgroups(bytes: &[u8]) -> io::Result<Vec<PathBuf>> {
    let mut from = Decoder(bytes);
    let procs = from.list(Decoder::path)?;
    if from.0.is_empty() { Ok(procs) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Writes the fields of a plan: numbers as eight bytes, everything else with its length before it.
#[derive(Default)]
pub(super) struct Encoder(Vec<u8>);

impl Encoder {
    /// What was written with its length before it, and room for so much more.
    fn framed(&self, room: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(4 + self.0.len() + room);
        all.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        all.extend_from_slice(&self.0);
        all
    }

    pub(super) fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn list<T>(&mut self, items: &[T], each: impl Fn(&mut Self, &T)) {
        self.number(items.len() as u64);
        for item in items {
            each(self, item);
        }
    }
}

/// Reads what [`Encoder`] wrote.
pub(super) struct Decoder<'a>(&'a [u8]);

impl Decoder<'_> {
    pub(super) fn number(&mut self) -> io::Result<u64> {
        let (head, rest) = self.0.split_first_chunk::<8>().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*head))
    }

    pub(super) fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.number()?).map_err(|_| io::ErrorKind::InvalidData)?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(head.to_vec())
    }

    pub(super) fn word(&mut self) -> io::Result<OsString> {
        Ok(OsString::from_vec(self.bytes()?))
    }

    pub(super) fn path(&mut self) -> io::Result<PathBuf> {
        Ok(PathBuf::from(self.word()?))
    }

    pub(super) fn list<T>(&mut self, each: impl Fn(&mut Self) -> io::Result<T>) -> io::Result<Vec<T>> {
        let count = self.number()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(each(self)?);
        }
        Ok(items)
    }
}

/// A step that failed, with what was being done.
#[derive(Debug)]
pub struct Failure {
    /// The step, such as `unshare`.
    pub step: String,
    /// The system's answer.
    pub error: io::Error,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}

/// Names the step whose error is passed on.
pub(super) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure { step: step(), error: error.into() })
    }
}

/// The line with which a stage reports a failure: `E ERRNO TEXT`. See [`Report::parse`].
pub(super) fn failure_line(failure: &Failure) -> String {
    format!("E {} {failure}\n", failure.error.raw_os_error().unwrap_or(0))
}

/// What a stage said on its standard output before it closed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The host's number for the cage's first process.
    pub init: Option<u32>,
    /// The error number and text of what failed.
    pub failure: Option<(i32, String)>,
}

impl Report {
    /// Reads the lines `P PID` and `E ERRNO TEXT`; anything else is passed over.
    pub fn parse(text: &str) -> Self {
        let mut report = Report::default();
        for line in text.lines() {
            if let Some(pid) = line.strip_prefix("P ") {
                report.init = pid.parse().ok();
            } else if let Some((number, text)) = line.strip_prefix("E ").and_then(|rest| rest.split_once(' '))
            {
                report.failure = Some((number.parse().unwrap_or(0), text.to_owned()));
            }
        }
        report
    }
}

/// Runs the role: reads plan and key from standard input, reports on standard output, and ends as the sandbox
/// ended. Only ever called from `main`, in a process that has one thread.
pub fn run() -> u8 {
    let Ok(status) = take_status() else { return FAILED };
    let mut status = Some(status);
    match carry_out(&mut status) {
        Ok(code) => code,
        Err(failure) => {
            if let Some(status) = status {
                let _ = rustix::io::write(&status, failure_line(&failure).as_bytes());
            }
            FAILED
        }
    }
}

/// Moves the status pipe from descriptor 1 to 3 (close-on-exec), makes 1 the same as 2, closes all the rest.
fn take_status() -> io::Result<OwnedFd> {
    // SAFETY: this process has one thread and owns no descriptor above 2 but what it inherited by mistake, so
    // nothing in it can be using the numbers that are replaced and closed here.
    unsafe {
        if libc::dup3(1, 3, libc::O_CLOEXEC) < 0 || libc::dup2(2, 1) < 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::close_range(4, libc::c_uint::MAX, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(3))
    }
}

fn carry_out(status: &mut Option<OwnedFd>) -> Result<u8, Failure> {
    let procs =
        read_frame().and_then(|frame| decode_cgroups(&frame)).step(|| "reading the cgroups".to_owned())?;
    for procs in &procs {
        std::fs::write(procs, "0").step(|| format!("joining the cgroup {}", procs.display()))?;
    }
    let mut key = [0u8; KEY_BYTES];
    let plan = read_plan(&mut key).step(|| "reading the plan".to_owned())?;
    #[cfg(feature = "faults")]
    crate::contract::fault::set(&plan.faults);
    let sealed = memory::memfd_sealed(&key).step(|| "making the key's memory file".to_owned());
    memory::wipe(&mut key);
    let sealed = sealed?;
    seen::bind(&plan.seen)?;
    match plan.task {
        Task::Exec { program, args } => {
            let error = become_program(&program, &args, &sealed);
            Err(Failure { step: format!("starting {}", program.display()), error })
        }
        Task::Cage(cage) => cage::supervise(&cage, sealed, status),
        Task::Probe(who) => cage::enter_namespaces(&who).map(|()| 0),
    }
}

/// Reads a length and as many bytes from descriptor 0, unbuffered.
fn read_frame() -> io::Result<Vec<u8>> {
    let mut length = [0u8; 4];
    super::process::read_stdin(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > PLAN_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0u8; length];
    super::process::read_stdin(&mut frame)?;
    Ok(frame)
}

/// Reads plan, `g` and key, so that the key is in no memory but `key`.
fn read_plan(key: &mut [u8; KEY_BYTES]) -> io::Result<Plan> {
    let plan = read_frame()?;
    let mut go = [0u8; 1];
    super::process::read_stdin(&mut go)?;
    if go != *b"g" {
        return Err(io::ErrorKind::InvalidData.into());
    }
    super::process::read_stdin(key)?;
    Plan::decode(&plan)
}

/// Replaces this process; returns only when that failed.
fn become_program(program: &std::path::Path, args: &[OsString], stdin: &OwnedFd) -> io::Error {
    if let Err(error) = super::process::replace_stdin(stdin.as_fd()) {
        return error;
    }
    execve(program.as_os_str(), program.as_os_str(), args, &[])
}

/// Replaces this process by `program`; returns only when that failed.
pub(super) fn execve(program: &OsStr, name: &OsStr, args: &[OsString], env: &[OsString]) -> io::Error {
    fn strings<'a>(words: impl Iterator<Item = &'a OsStr>) -> io::Result<Vec<CString>> {
        words.map(|word| CString::new(word.as_bytes()).map_err(io::Error::from)).collect()
    }
    fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
        strings.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
    }
    let made = strings([program].into_iter()).and_then(|program| {
        let args = strings([name].into_iter().chain(args.iter().map(OsString::as_os_str)))?;
        Ok((program, args, strings(env.iter().map(OsString::as_os_str))?))
    });
    let (program, args, env) = match made {
        Ok(made) => made,
        Err(error) => return error,
    };
    let Some(path) = program.first() else { return io::ErrorKind::InvalidInput.into() };
    // SAFETY: the path and both null-terminated arrays of NUL-terminated strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), pointers(&args).as_ptr(), pointers(&env).as_ptr()) };
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_the_pipe() {
        let procs: Vec<PathBuf> = vec!["/c/a b".into(), "/c/new\nline".into()];
        let bytes = encode_cgroups(&procs);
        assert_eq!(decode_cgroups(&bytes[4..]).unwrap(), procs);
        assert!((4..bytes.len()).all(|cut| decode_cgroups(&bytes[4..cut]).is_err()));
        let plan =
            Plan::new(Task::Exec { program: "/usr/bin/runsc".into(), args: vec!["".into(), "--x".into()] })
                .showing(vec![Seen { source: "/a b".into(), device: 1, inode: 2, at: "/c".into() }]);
        let bytes = plan.encode(&[9; KEY_BYTES]);
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert_eq!(Plan::decode(&bytes[4..4 + length]).unwrap(), plan);
        assert_eq!(&bytes[4 + length..4 + length + 1], b"g");
        assert_eq!(&bytes[4 + length + 1..], &[9; KEY_BYTES]);
        for cut in 0..length {
            assert!(Plan::decode(&bytes[4..4 + cut]).is_err());
        }
    }

    #[test]
    fn a_report_is_read_line_by_line() {
        assert_eq!(Report::parse("P 12\n"), Report { init: Some(12), failure: None });
        let report = Report::parse("noise\nE 1 unshare: Operation not permitted\n");
        assert_eq!(report.failure, Some((1, "unshare: Operation not permitted".to_owned())));
    }
}
