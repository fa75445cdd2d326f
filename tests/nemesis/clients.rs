//! Clients that publish, replace, withdraw and read a few names at the same time, at any member, and write down what
//! they were told. A change that has no answer is asked for again at another member with the same signature: it counts
//! once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use obt_catalogue::signing::{Authorization, Call as Signed, Keypair, body_digest};
use obt_wire::metainfo::Metainfo;

use crate::checker::Operation;
use crate::history::{History, Recorded, kind};
use crate::http::{Heard, Request, Response};
use crate::members::{Member, Members};
use crate::model::{Answer, Call, Content, Publisher};

/// Between two requests of a client, and of one that only reads, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 80..420;
const GLANCE_MS: std::ops::Range<u64> = 30..130;
/// Members that are asked for the same change.
const TRIES: usize = 3;
const READ: Duration = Duration::from_secs(6);
/// How long after its answer a change may be asked for once more.
const REPLAY: std::ops::Range<u64> = 0..20;

/// What clients publish, and as whom.
pub(crate) struct Wares {
    torrents: Vec<Vec<u8>>,
    /// By their info-hash, as members tell it.
    contents: BTreeMap<String, Content>,
    keys: Vec<Keypair>,
}

impl Wares {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let torrent = |content: u8| {
            let piece = [content; 20];
            let head = b"d4:infod6:lengthi1e4:name1:x12:piece lengthi16384e6:pieces20:";
            [&head[..], &piece[..], b"ee"].concat()
        };
        let torrents: Vec<Vec<u8>> = (1..=6).map(torrent).collect();
        let hash = |torrent: &Vec<u8>| Metainfo::parse(torrent).unwrap().info.hashes.v1.unwrap().to_string();
        let contents = torrents.iter().map(hash).zip(0..).collect();
        let keys = (0..4).map(|_| Keypair::from_seed(&std::array::from_fn(|_| rng.u8(..)))).collect();
        Self { torrents, contents, keys }
    }

    /// What to do next with a name. Publishers keep to names of their own, mostly.
    fn choose(&self, name: &str, rng: &mut Rng) -> Call {
        let number: usize = name.trim_start_matches("name-").parse().unwrap();
        let by = if rng.u8(..10) == 0 { rng.usize(..self.keys.len()) } else { number % self.keys.len() };
        let by = Publisher::try_from(by).unwrap();
        let content = rng.u8(..u8::try_from(self.torrents.len()).unwrap());
        match rng.u8(..100) {
            0..12 => Call::Publish { content, replace: false, by },
            12..40 => Call::Publish { content, replace: true, by },
            40..46 => Call::Withdraw { version: Some(rng.u32(1..12)), by },
            46..54 => Call::Withdraw { version: None, by },
            _ => Call::Read,
        }
    }
}

/// A signed change on its way.
struct Change {
    call: Call,
    method: &'static str,
    path: String,
    body: Vec<u8>,
    signed: Authorization,
    /// Where it was sent: there it is refused when it comes again.
    asked: Vec<usize>,
}

/// A member's word on a change.
enum Word {
    Final(Answer),
    /// This request did nothing.
    Refused,
    Unknown,
}

pub(crate) struct Client<'a> {
    pub(crate) members: &'a Members,
    pub(crate) history: &'a History,
    pub(crate) wares: &'a Wares,
    pub(crate) rng: Rng,
}

impl Client<'_> {
    /// Works until it is told to stop.
    pub(crate) fn work(mut self, stop: &AtomicBool) {
        let mut again: VecDeque<(Instant, Change, Answer)> = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            let name = self.history.name(self.rng.usize(..));
            match self.wares.choose(&name, &mut self.rng) {
                Call::Read => {
                    let member = self.any();
                    self.read(&name, member);
                }
                call => again.extend(self.change(&name, call)),
            }
            if again.front().is_some_and(|(due, ..)| *due <= Instant::now())
                && let Some((_, change, answer)) = again.pop_front()
            {
                self.replay(change, &answer);
            }
            std::thread::sleep(Duration::from_millis(self.rng.u64(PAUSE_MS)));
        }
    }

    /// Reads what members have, which no fault delays, until it is told to stop.
    pub(crate) fn look(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let name = self.history.name(self.rng.usize(..));
            let member = self.any();
            self.ask(&name, &self.members.all[member], "");
            std::thread::sleep(Duration::from_millis(self.rng.u64(GLANCE_MS)));
        }
    }

    fn any(&mut self) -> usize {
        self.rng.usize(..self.members.all.len())
    }

    /// Asks for what is true now.
    pub(crate) fn read(&self, name: &str, member: usize) -> bool {
        self.ask(name, &self.members.all[member], "&consistent=1").is_some()
    }

    fn ask(&self, name: &str, member: &Member, how: &str) -> Option<()> {
        let path = format!("/api/v1/items/{name}?files=false{how}");
        let called = self.history.now();
        let heard = Request::get(&path, READ).send(member.socket);
        let at = self.history.now();
        let Heard::Answer(response) = heard else {
            self.history.count("reads without an answer");
            return None;
        };
        let age = response.header("obt-as-of").and_then(|age| age.parse().ok()).map(Duration::from_millis);
        if how.is_empty() && age.is_none() {
            self.history.count("reads of unknown age");
            return None;
        }
        let answer = match response.status {
            200 => self.versions(&response),
            404 => Some(Answer::NotFound),
            503 | 500 => {
                self.history.count(format!("reads answered {}", response.status));
                return None;
            }
            _ => None,
        };
        let Some(answer) = answer else {
            self.history.broken(format!("{}: a strange answer to a read: {response:?}", member.name()));
            return None;
        };
        let operation = Operation { call: Call::Read, called, answered: Some((at, answer)) };
        let age = age.filter(|_| how.is_empty());
        self.history.count(if age.is_some() { "plain reads" } else { "consistent reads" });
        self.history.record(name, Recorded { operation, age, asked: member.name() });
        Some(())
    }

    /// All versions in the answer to a read.
    fn versions(&self, response: &Response) -> Option<Answer> {
        let item = response.json();
        let others = item["versions"].as_array().cloned().unwrap_or_default();
        let version = |item: &serde_json::Value| {
            let number = u32::try_from(item["version"].as_u64()?).ok()?;
            Some((number, *self.wares.contents.get(item["info_hash_v1"].as_str()?)?))
        };
        let versions: Option<BTreeMap<_, _>> = others.iter().chain([&item]).map(version).collect();
        versions.map(Answer::Versions)
    }

    /// Has a change done, at one member after the other. Where it was answered, it may be asked for again.
    fn change(&mut self, name: &str, call: Call) -> Option<(Instant, Change, Answer)> {
        let mut change = self.sign(name, call);
        let called = self.history.now();
        let mut unknown = false;
        let mut final_answer = None;
        for _ in 0..TRIES {
            let patience = Duration::from_millis(self.rng.u64(300..2_500));
            match self.submit(&mut change, patience) {
                Word::Final(answer) => final_answer = Some(answer),
                Word::Refused => {}
                Word::Unknown => unknown = true,
            }
            if final_answer.is_some() {
                break;
            }
        }
        let at = self.history.now();
        let kind = kind(&call);
        let answered = final_answer.clone().map(|answer| (at, answer));
        match (&answered, unknown) {
            (Some(_), true) => self.history.count(format!("{kind} answered at a later try")),
            (Some(_), false) => self.history.count(kind),
            (None, true) => self.history.count(format!("{kind} without an answer")),
            (None, false) => {
                self.history.count(format!("{kind} refused"));
                return None;
            }
        }
        let asked = change.asked.iter().map(|place| self.members.all[*place].name()).collect::<Vec<_>>().join(",");
        let operation = Operation { call, called, answered };
        self.history.record(name, Recorded { operation, age: None, asked });
        let due = Instant::now() + Duration::from_secs(self.rng.u64(REPLAY));
        let again = self.rng.u8(..4) == 0 && change.asked.len() < self.members.all.len();
        final_answer.filter(|_| again).map(|answer| (due, change, answer))
    }

    fn sign(&mut self, name: &str, call: Call) -> Change {
        let (method, path, body, by) = match call {
            Call::Publish { content, replace, by } => {
                let query = if replace { "?replace=true" } else { "" };
                let body = self.wares.torrents[usize::from(content)].clone();
                ("PUT", format!("/api/v1/items/{name}{query}"), body, by)
            }
            Call::Withdraw { version, by } => {
                let version = version.map_or_else(String::new, |version| format!("@{version}"));
                ("DELETE", format!("/api/v1/items/{name}{version}"), Vec::new(), by)
            }
            Call::Read => unreachable!("reads are not signed"),
        };
        let to_sign = Signed { method, path_and_query: &path, body_sha256: body_digest(&body) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let nonce = std::array::from_fn(|_| self.rng.u8(..));
        let signed =
            self.wares.keys[usize::from(by)].authorize(&to_sign, nonce, u64::try_from(now.as_millis()).unwrap());
        Change { call, method, path, body, signed, asked: Vec::new() }
    }

    /// Sends it to a member that has not seen it yet.
    fn submit(&mut self, change: &mut Change, patience: Duration) -> Word {
        let fresh: Vec<usize> = (0..self.members.all.len()).filter(|place| !change.asked.contains(place)).collect();
        let Some(place) = self.rng.choice(fresh) else { return Word::Refused };
        let member = &self.members.all[place];
        let authorization = change.signed.to_string();
        let Change { method, path, body, .. } = &*change;
        let request = Request { method, path, authorization: Some(&authorization), body, patience };
        let heard = request.send(member.socket);
        let response = match heard {
            Heard::NotSent => return Word::Refused,
            Heard::Nothing => {
                change.asked.push(place);
                return Word::Unknown;
            }
            Heard::Answer(response) => response,
        };
        change.asked.push(place);
        let word = word(&response, change.call);
        word.unwrap_or_else(|| {
            self.history.broken(format!("{}: a strange answer to {:?}: {response:?}", member.name(), change.call));
            Word::Unknown
        })
    }

    /// The same request at one more member changes nothing, and has the answer that it had.
    fn replay(&mut self, mut change: Change, answer: &Answer) {
        match self.submit(&mut change, READ) {
            Word::Final(again) if again == *answer => self.history.count("repeated with the same answer"),
            Word::Final(again) => self.history.broken(format!(
                "{} {} at {} was answered {answer:?}, and repeated at the last of them {again:?}",
                change.method,
                change.path,
                change.asked.iter().map(|place| self.members.all[*place].name()).collect::<Vec<_>>().join(","),
            )),
            Word::Refused | Word::Unknown => self.history.count("repeated without an answer"),
        }
    }

    /// Has each member publish something, again and again until the deadline; those that could not.
    pub(crate) fn publish_everywhere(&mut self, within: Duration) -> Vec<String> {
        let deadline = Instant::now() + within;
        let members = self.members;
        let mut late = Vec::new();
        for member in &members.all {
            let mut done = false;
            while !done && Instant::now() < deadline {
                done = self.publish_at(member.place);
            }
            if !done {
                late.push(member.name());
            }
        }
        late
    }

    fn publish_at(&mut self, place: usize) -> bool {
        let name = format!("name-9999{place}");
        let call = Call::Publish { content: self.rng.u8(..6), replace: true, by: 0 };
        let mut change = self.sign(&name, call);
        change.asked = (0..self.members.all.len()).filter(|other| *other != place).collect();
        let called = self.history.now();
        let answered = match self.submit(&mut change, READ) {
            Word::Final(answer) => Some((self.history.now(), answer)),
            Word::Unknown => None,
            Word::Refused => return false,
        };
        let done = answered.is_some();
        let operation = Operation { call, called, answered };
        self.history.record(&name, Recorded { operation, age: None, asked: self.members.all[place].name() });
        done
    }
}

/// What a response says of a change; None where no member should say that.
fn word(response: &Response, call: Call) -> Option<Word> {
    let json = response.json();
    let version = || u32::try_from(json["version"].as_u64()?).ok();
    let code = json["error"]["code"].as_str().unwrap_or_default();
    let message = json["error"]["message"].as_str().unwrap_or_default();
    let publishes = matches!(call, Call::Publish { .. });
    let answer = match (response.status, code) {
        (201, _) => Answer::Published(version()?),
        (200, _) if publishes => Answer::AlreadyThere(version()?),
        (200, _) => {
            let versions = json["versions"].as_array()?.iter();
            let versions = versions.map(|version| u32::try_from(version.as_u64()?).ok());
            Answer::Withdrawn(versions.collect::<Option<_>>()?)
        }
        (409, "owned") => Answer::Owned,
        (409, "exists") => {
            let (_, version) = message.rsplit_once("(version ")?;
            Answer::NeedsReplace(version.trim_end_matches(')').parse().ok()?)
        }
        (404, "not_found") if !publishes => Answer::NotFound,
        // Signed at another time than that member's, or used there before.
        (401, "unauthorized") if message.contains("signed") => return Some(Word::Refused),
        (429, "too_fast") | (408, _) => return Some(Word::Refused),
        // The member's disk is full: the torrent is stored before anything is proposed.
        (507, "no_room") => return Some(Word::Refused),
        (503 | 500, _) => return Some(Word::Unknown),
        _ => return None,
    };
    Some(Word::Final(answer))
}
