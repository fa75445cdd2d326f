//! The program under test as processes: started in a folder of their own, watched through what they print, and ended,
//! kindly or not, before the test is.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take that should happen at once: generous, for machines with other things to do.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How often a condition is looked at that nothing tells about.
const LOOK: Duration = Duration::from_millis(20);

/// The program: the one that was built with the tests, or the one that `OBT_BIN` names.
pub(crate) fn binary() -> PathBuf {
    let built = option_env!("CARGO_BIN_EXE_obt").map(PathBuf::from);
    std::env::var_os("OBT_BIN").map(PathBuf::from).or(built).expect("OBT_BIN names the program")
}

/// A folder of a test: its data, the states of its processes, and the home that they see. Removed with it.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("obt-e2e-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(path)
    }

    /// A folder in it, made if it is not there.
    pub(crate) fn folder(&self, path: impl AsRef<Path>) -> PathBuf {
        let folder = self.path(path);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Writes a file, and the folders that lead to it.
    pub(crate) fn file(&self, path: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The program with these arguments: any free port of the loopback, nothing of the user's, its input closed.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OBT_")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HOME", self.path("home"))
            .env_remove("XDG_DATA_HOME")
            .env("OBT_PEER_LISTEN", "127.0.0.1:0")
            .env("OBT_TRACKER_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn start<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Obt {
        Obt::spawn(self.command(arguments))
    }

    /// Runs it to its end, which must come within [`SOON`].
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ended {
        self.start(arguments).ends_within(SOON)
    }

    /// A tracker alone.
    pub(crate) fn tracker(&self) -> Tracker {
        Tracker::of(self.start(["tracker", "--json", "--state", "tracker"]))
    }

    /// `obt share` with a tracker of its own.
    pub(crate) fn share<A: AsRef<OsStr>>(&self, state: &str, arguments: impl IntoIterator<Item = A>) -> Tracker {
        let mut command = self.command(["share", "--json", "--state", state]);
        command.args(arguments);
        Tracker::of(Obt::spawn(command))
    }

    /// `obt share` through `tracker`, with the tracker's own key, up to where it serves what it was given.
    pub(crate) fn publish<A: AsRef<OsStr>>(
        &self,
        tracker: &Tracker,
        state: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Obt {
        self.share_through(tracker, state, &["--key-file", "tracker/publish.key"], arguments)
    }

    /// `obt share` through `tracker`, with a key that is not known there: it can only join.
    pub(crate) fn join<A: AsRef<OsStr>>(
        &self,
        tracker: &Tracker,
        state: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Obt {
        self.share_through(tracker, state, &[], arguments)
    }

    fn share_through<A: AsRef<OsStr>>(
        &self,
        tracker: &Tracker,
        state: &str,
        key: &[&str],
        arguments: impl IntoIterator<Item = A>,
    ) -> Obt {
        let mut command = self.command(["share", "--json", "--state", state, "--tracker", &tracker.address()]);
        command.args(key).args(arguments);
        let share = Obt::spawn(command);
        share.event("sharing");
        share
    }

    /// A share with a tracker of its own that holds these bytes under this name, and sends them at this rate.
    pub(crate) fn serve(&self, name: &str, bytes: &[u8], rate: &str) -> Tracker {
        let path = self.file(format!("data/{name}"), bytes);
        let share = self.share("one", [path.as_os_str(), "--upload-rate".as_ref(), rate.as_ref()]);
        share.obt.event("sharing");
        share.until_held(name, 1);
        share
    }

    /// `obt get` into `folder`, which is made.
    pub(crate) fn get(&self, tracker: &Tracker, name: &str, folder: &str) -> Obt {
        self.get_with(tracker, name, folder, &[])
    }

    /// `obt get` with more flags.
    pub(crate) fn get_with(&self, tracker: &Tracker, name: &str, folder: &str, flags: &[&str]) -> Obt {
        let folder = self.folder(folder);
        let mut command = self.command(["get", "--json", "127.0.0.1", &tracker.port.to_string(), name]);
        command.arg("-o").arg(folder).args(flags);
        Obt::spawn(command)
    }
}

/// A process with a tracker in it.
pub(crate) struct Tracker {
    pub(crate) obt: Obt,
    pub(crate) port: u16,
}

impl Tracker {
    pub(crate) fn of(obt: Obt) -> Self {
        let port = obt.event("listening")["tracker_port"].as_u64().unwrap();
        Self { port: u16::try_from(port).unwrap(), obt }
    }

    pub(crate) fn address(&self) -> String {
        self.socket().to_string()
    }

    pub(crate) fn socket(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Waits until `holders` peers have all of `name`.
    pub(crate) fn until_held(&self, name: &str, holders: u64) {
        let path = format!("/api/v1/items/{}", crate::http::escaped(name));
        eventually(&format!("{holders} holders of {name:?}"), SOON, || {
            let item = crate::http::get(self.socket(), &path).json();
            (item["holders"] == holders).then_some(())
        });
    }
}

/// A running process. Killed when it is dropped.
pub(crate) struct Obt {
    child: Child,
    said: Arc<Said>,
    readers: Vec<thread::JoinHandle<()>>,
    began: Instant,
}

/// What a process has printed so far.
#[derive(Default)]
struct Said {
    texts: Mutex<Texts>,
    more: Condvar,
}

#[derive(Default, Clone)]
struct Texts {
    out: Vec<u8>,
    err: Vec<u8>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
    /// From its start.
    pub(crate) took: Duration,
}

impl Obt {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let began = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::<Said>::default();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = vec![
            listen(out, Arc::clone(&said), |texts| &mut texts.out),
            listen(err, Arc::clone(&said), |texts| &mut texts.err),
        ];
        Self { child, said, readers, began }
    }

    /// Whether its process is over.
    pub(crate) fn has_ended(&self) -> bool {
        self.readers.iter().all(thread::JoinHandle::is_finished)
    }

    /// Its process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// The first JSON line that is this event.
    pub(crate) fn event(&self, name: &str) -> Value {
        self.events(name, 1).remove(0)
    }

    /// The first `count` JSON lines that are this event.
    pub(crate) fn events(&self, name: &str, count: usize) -> Vec<Value> {
        self.until(&format!("{count} of the event {name:?}"), SOON, |texts| {
            let events: Vec<Value> = values(&texts.out).into_iter().filter(|value| value["event"] == name).collect();
            (events.len() >= count).then_some(events)
        })
    }

    /// The last JSON line so far, once there is one.
    pub(crate) fn last(&self) -> Value {
        self.until("a line of JSON", SOON, |texts| values(&texts.out).pop())
    }

    /// Waits until it has said `text` on standard error.
    pub(crate) fn says(&self, text: &str) {
        self.until(&format!("the words {text:?}"), SOON, |texts| {
            String::from_utf8_lossy(&texts.err).contains(text).then_some(())
        });
    }

    /// Waits until it has said `text` on standard output: of a terminal, that is both.
    pub(crate) fn prints(&self, text: &str) {
        self.until(&format!("the words {text:?}"), SOON, |texts| {
            String::from_utf8_lossy(&texts.out).contains(text).then_some(())
        });
    }

    /// Waits until `ready` finds something in what it has said.
    fn until<T>(&self, what: &str, within: Duration, ready: impl Fn(&Texts) -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        let mut texts = self.said.texts.lock().unwrap();
        loop {
            if let Some(found) = ready(&texts) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self.readers.iter().all(thread::JoinHandle::is_finished);
            if left.is_zero() || ended {
                let (out, err) = (String::from_utf8_lossy(&texts.out), String::from_utf8_lossy(&texts.err));
                panic!("waited {within:?} for {what} (ended: {ended})\nstdout: {out}\nstderr: {err}");
            }
            texts = self.said.more.wait_timeout(texts, left.min(Duration::from_millis(100))).unwrap().0;
        }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to stop, which it must within the 5 seconds that are promised.
    pub(crate) fn stop(self) -> Ended {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        let ended = self.ends_within(SOON);
        assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?} to stop: {ended}", asked.elapsed());
        ended
    }

    pub(crate) fn ends(self) -> Ended {
        self.ends_within(SOON)
    }

    /// Waits for its end.
    pub(crate) fn ends_within(mut self, within: Duration) -> Ended {
        let deadline = Instant::now() + within;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                let texts = self.said.texts.lock().unwrap().clone();
                let (out, err) = (String::from_utf8_lossy(&texts.out), String::from_utf8_lossy(&texts.err));
                panic!("it still runs after {within:?}\nstdout: {out}\nstderr: {err}");
            }
            thread::sleep(LOOK / 4);
        };
        let took = self.began.elapsed();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let Texts { out, err } = self.said.texts.lock().unwrap().clone();
        Ended { status, out, err: String::from_utf8_lossy(&err).into_owned(), took }
    }
}

impl Drop for Obt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, out, err, took } = self;
        write!(f, "{status} after {took:?}\nstdout: {}\nstderr: {err}", String::from_utf8_lossy(out))
    }
}

impl Ended {
    /// That it ended with this exit status.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// That it failed with this exit status and one sentence, which holds `part`; and that nothing panicked. What it
    /// says is plain text: it was no terminal.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, part: &str) -> Self {
        let ended = self.exits(code);
        let errors: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{ended}");
        assert!(errors[0].contains(part), "no {part:?} in {ended}");
        assert!(!ended.err.contains("panicked"), "{ended}");
        assert!(!ended.err.contains('\x1b'), "colours where nobody sees them: {ended:?}");
        ended
    }

    /// The JSON that it printed, line by line.
    pub(crate) fn values(&self) -> Vec<Value> {
        values(&self.out)
    }

    /// The last JSON line.
    #[track_caller]
    pub(crate) fn last(&self) -> Value {
        self.values().pop().unwrap_or_else(|| panic!("no JSON: {self}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Bytes of payload that came, by address, of a `get` or `download`.
    #[track_caller]
    pub(crate) fn from(&self) -> Vec<(String, u64)> {
        let last = self.last();
        let from = last["from"].as_array().unwrap_or_else(|| panic!("no holders: {self}"));
        from.iter().map(|one| (one["address"].as_str().unwrap().to_owned(), one["bytes"].as_u64().unwrap())).collect()
    }
}

impl Ended {
    /// Bytes of payload that came, of a `get` or `download`, whoever sent them.
    #[track_caller]
    pub(crate) fn fetched(&self) -> usize {
        self.from().iter().map(|(_, bytes)| usize::try_from(*bytes).unwrap()).sum()
    }
}

fn values(out: &[u8]) -> Vec<Value> {
    let lines = out.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines
        .map(|line| {
            serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
        })
        .collect()
}

fn listen(
    from: impl Read + Send + 'static,
    said: Arc<Said>,
    text: fn(&mut Texts) -> &mut Vec<u8>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        loop {
            let heard = match from.fill_buf() {
                Ok(heard) if !heard.is_empty() => heard,
                _ => break,
            };
            let count = heard.len();
            text(&mut said.texts.lock().unwrap()).extend_from_slice(heard);
            from.consume(count);
            said.more.notify_all();
        }
        said.more.notify_all();
    })
}

/// Looks until there is something to see.
pub(crate) fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {within:?} for {what}");
        thread::sleep(LOOK);
    }
}

/// Bytes that no compression and no accident makes equal.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

/// That the file at `path` has these bytes.
#[track_caller]
pub(crate) fn assert_holds(path: impl AsRef<Path>, bytes: &[u8]) {
    let path = path.as_ref();
    let there = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(there.len(), bytes.len(), "length of {}", path.display());
    assert!(there == bytes, "{} has other bytes", path.display());
}
