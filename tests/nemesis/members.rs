//! The members: the real program, each with a network, a disk and a clock of its own. Whoever ends one without being
//! told to is a finding.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use obt_catalogue::signing::{Call, Keypair, body_digest};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::disk::Disk;
use crate::http::{Heard, Request};
use crate::isolation::{faketime, run};
use crate::network::{Network, Place, name};

const TRACKER_PORT: u16 = 6969;
const MEMBERS_PORT: u16 = 7070;
/// Between two looks at something that nobody tells about.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// How long a member may take to start or to stop on a machine with other things to do.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Whether the end of a member's process is a surprise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Runs,
    /// Its disk fails, or it is not in the cluster: it may end by itself.
    MayEnd,
}

struct Process {
    child: Option<Child>,
    expected: Expected,
    /// Its id in the cluster, when it was last asked.
    id: Option<String>,
    join: Option<String>,
    /// It lost its state and has no line to join with: started like that it would found a cluster of its own.
    outside: bool,
}

/// A member's place: whoever is there has its address, its disk and its clock.
pub(crate) struct Member {
    pub(crate) place: Place,
    pub(crate) disk: Disk,
    pub(crate) socket: SocketAddr,
    folder: PathBuf,
    process: Mutex<Process>,
}

pub(crate) struct Members {
    pub(crate) network: Network,
    pub(crate) all: Vec<Member>,
}

impl Members {
    /// A cluster of so many, all of which vote.
    pub(crate) fn found(folder: &Path, count: usize) -> Self {
        let network = Network::new(count);
        let all: Vec<Member> = (0..count).map(|place| Member::new(folder, place, &network)).collect();
        let this = Self { network, all };
        this.all[0].start(&this.network).unwrap();
        for member in &this.all[1..] {
            this.join(member, SOON).unwrap();
        }
        this
    }

    /// Lets a member with an empty disk in, by a line from any other.
    pub(crate) fn join(&self, member: &Member, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        let mut why = "nobody invites".to_owned();
        while Instant::now() < deadline {
            let invited = self.others(member).find_map(|other| other.control(&["invite"]).ok());
            let Some(line) = invited.and_then(|told| told["join"].as_str().map(str::to_owned)) else {
                std::thread::sleep(LOOK);
                continue;
            };
            {
                let mut process = member.process();
                (process.join, process.outside) = (Some(line), false);
            }
            match member.start(&self.network) {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(format!("{} is not let in within {within:?}: {why}", member.name()))
    }

    /// Those that may be asked in place of `member`, another one first each time.
    pub(crate) fn others<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a Member> {
        let turn = fastrand::usize(..self.all.len());
        let turned = self.all.iter().cycle().skip(turn).take(self.all.len());
        turned.filter(|other| other.place != member.place)
    }

    /// The one that leads, as far as anybody knows; of several the one of the newest term.
    pub(crate) fn leader(&self) -> Option<&Member> {
        let told = self.all.iter().filter_map(|member| Some((member, member.told()?)));
        let leads = told.filter(|(member, status)| {
            let own = |known: &&Value| known["address"] == member.socket.to_string();
            let own = status["members"].as_array().and_then(|members| members.iter().find(own));
            own.is_some_and(|own| own["id"] == status["leader"])
        });
        leads.max_by_key(|(_, status)| status["term"].as_u64()).map(|(member, _)| member)
    }

    /// Members that ended without being told to; they are started again.
    pub(crate) fn surprises(&self) -> Vec<String> {
        self.all.iter().filter_map(|member| member.surprise(&self.network)).collect()
    }
}

impl Member {
    fn new(folder: &Path, place: Place, network: &Network) -> Self {
        let disk = Disk::new(folder, &name(place));
        let socket = SocketAddr::new(network.addr(place).into(), TRACKER_PORT);
        let process = Process { child: None, expected: Expected::MayEnd, id: None, join: None, outside: false };
        let this = Self { place, disk, socket, folder: folder.to_owned(), process: Mutex::new(process) };
        this.set_clock(0);
        this
    }

    pub(crate) fn name(&self) -> String {
        name(self.place)
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.disk.path("state")
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name()))
    }

    fn clock(&self) -> PathBuf {
        self.folder.join(format!("{}.clock", self.name()))
    }

    /// Its id, when it was last asked.
    pub(crate) fn id(&self) -> Option<String> {
        self.process().id.clone()
    }

    /// Starts it, and waits until it answers; from then on it shall not end.
    pub(crate) fn start(&self, network: &Network) -> Result<(), String> {
        if self.process().outside {
            return Err(format!("{} was not let in again", self.name()));
        }
        self.spawn(network);
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Err(format!("{} ended with {status}: {}", self.name(), self.last_words()));
            }
            if self.answers() {
                let id = self.status().ok().and_then(|status| status["id"].as_str().map(str::to_owned));
                let mut process = self.process();
                process.expected = Expected::Runs;
                process.id = id.or(process.id.take());
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        Err(format!("{} does not answer {SOON:?} after its start: {}", self.name(), self.last_words()))
    }

    fn spawn(&self, network: &Network) {
        let addr = network.addr(self.place);
        let mut command = network.inside(self.place, "env");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OBT_")) {
            command.env_remove(name);
        }
        command
            .env("HOME", self.folder.join("home"))
            .arg(format!("LD_PRELOAD={}", faketime().unwrap().display()))
            .arg(format!("FAKETIME_TIMESTAMP_FILE={}", self.clock().display()))
            .args(["FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"])
            .arg(crate::binary())
            .args(["tracker", "-v", "--tracker-listen"])
            .arg(self.socket.to_string())
            .arg("--cluster-listen")
            .arg(format!("{addr}:{MEMBERS_PORT}"))
            .arg("--peer-listen")
            .arg(format!("{addr}:0"))
            .arg("--state")
            .arg(self.state());
        let mut process = self.process();
        if process.child.is_some() {
            // Whoever saw it end was faster.
            return;
        }
        if let Some(line) = &process.join {
            command.arg("--join").arg(line);
        } else if !self.state().exists() {
            // The founder, who says it once.
            command.args(["--publish", "open"]);
        }
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        process.expected = Expected::MayEnd;
        process.child = Some(command.spawn().unwrap());
    }

    fn ended(&self) -> Option<ExitStatus> {
        let mut process = self.process();
        let status = process.child.as_mut()?.try_wait().unwrap()?;
        process.child = None;
        Some(status)
    }

    /// Whether its process has ended; nobody was told yet how.
    pub(crate) fn is_over(&self) -> bool {
        // A process that nobody waited for is a zombie.
        matches!(self.kernel_state(), None | Some('Z'))
    }

    pub(crate) fn runs(&self) -> bool {
        self.process().child.is_some()
    }

    fn surprise(&self, network: &Network) -> Option<String> {
        if self.process().expected == Expected::MayEnd {
            return None;
        }
        let status = self.ended()?;
        self.process().expected = Expected::MayEnd;
        let said = self.last_words();
        let again = self.start(network).err().unwrap_or_default();
        Some(format!("{} ended by itself with {status}, saying: {said} {again}", self.name()))
    }

    /// From here on its end is a surprise; it is started where it has ended.
    pub(crate) fn shall_run(&self, network: &Network) -> Result<(), String> {
        if self.runs() && self.ended().is_none() {
            self.process().expected = Expected::Runs;
            return Ok(());
        }
        self.start(network)
    }

    /// From here on it may end by itself.
    pub(crate) fn may_end(&self) {
        self.process().expected = Expected::MayEnd;
    }

    /// Sends a signal to its process, where there is one.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), String> {
        let process = self.process();
        let child = process.child.as_ref().ok_or_else(|| format!("{} does not run", self.name()))?;
        kill_process(Pid::from_child(child), signal).map_err(|error| error.to_string())
    }

    /// How its process ended, which was told to.
    pub(crate) fn end(&self, signal: Signal) -> Result<ExitStatus, String> {
        self.may_end();
        self.signal(signal)?;
        self.wait()
    }

    pub(crate) fn wait(&self) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(format!("{} still runs after {SOON:?}", self.name()));
            }
            std::thread::sleep(LOOK / 4);
        }
    }

    /// Ends it as a crash does, whatever it is at.
    pub(crate) fn kill(&self) -> Result<(), String> {
        let status = self.end(Signal::KILL)?;
        match status.signal() == Some(Signal::KILL.as_raw()) {
            true => Ok(()),
            false => Err(format!("{} ended with {status} before it was killed", self.name())),
        }
    }

    /// The state of its process as the kernel tells it: `R`, `S`, `D`, `T`.
    pub(crate) fn kernel_state(&self) -> Option<char> {
        let pid = self.process().child.as_ref()?.id();
        let told = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        told.rsplit_once(") ")?.1.chars().next()
    }

    /// Sets its clock of the time of day so many seconds off.
    pub(crate) fn set_clock(&self, off: i64) {
        let next = self.folder.join(format!("{}.next", self.name()));
        fs::write(&next, format!("{off:+}\n")).unwrap();
        fs::rename(next, self.clock()).unwrap();
    }

    /// How far its clock is off, in its own words, seconds: it refuses what was signed in 1970, and says how long ago
    /// that was.
    pub(crate) fn clock_off(&self) -> Option<i64> {
        let path = "/api/v1/items/clock";
        let call = Call { method: "DELETE", path_and_query: path, body_sha256: body_digest(b"") };
        let signed = Keypair::from_seed(&[9; 32]).authorize(&call, [9; 16], 0).to_string();
        let patience = Duration::from_secs(2);
        let request = Request { method: "DELETE", path, authorization: Some(&signed), body: b"", patience };
        let Heard::Answer(answer) = request.send(self.socket) else { return None };
        let answer = answer.json();
        let (_, ago) = answer["error"]["message"].as_str()?.split_once("signed ")?;
        let told: i64 = ago.strip_suffix(" s ago")?.parse().ok()?;
        let own = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(told - i64::try_from(own).ok()?)
    }

    fn answers(&self) -> bool {
        let heard = Request::get("/healthz", Duration::from_secs(2)).send(self.socket);
        matches!(heard, Heard::Answer(answer) if answer.status == 200)
    }

    /// The cluster as it tells clients.
    pub(crate) fn told(&self) -> Option<Value> {
        match Request::get("/api/v1/status", Duration::from_secs(1)).send(self.socket) {
            Heard::Answer(answer) if answer.status == 200 => Some(answer.json()),
            _ => None,
        }
    }

    /// What `obt cluster` with these arguments tells of it.
    pub(crate) fn control(&self, arguments: &[&str]) -> Result<Value, String> {
        if !self.runs() || self.kernel_state() == Some('T') {
            return Err(format!("{} cannot be asked", self.name()));
        }
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "20"]).arg(crate::binary()).args(["cluster", "--json"]).args(arguments);
        let told = run(command.arg("--state").arg(self.state()).env("HOME", self.folder.join("home")))?;
        Ok(told.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default())
    }

    /// The cluster as it sees it.
    pub(crate) fn status(&self) -> Result<Value, String> {
        let status = self.control(&["status"])?;
        self.process().id = status["id"].as_str().map(str::to_owned);
        Ok(status)
    }

    /// Makes it a machine that has lost everything.
    pub(crate) fn wipe(&self) {
        assert!(!self.runs(), "{} runs", self.name());
        fs::remove_dir_all(self.state()).unwrap();
        let mut process = self.process();
        (process.id, process.join, process.outside) = (None, None, true);
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n    ")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.disk.thaw();
        if self.runs() {
            let _ = self.end(Signal::KILL);
        }
    }
}
