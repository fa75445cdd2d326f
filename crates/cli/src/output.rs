//! What people and programs get to read: data on stdout, talk on stderr, one way to tell an error.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// What failed where standard output takes nothing.
pub(crate) const CANNOT_WRITE: &str = "cannot write to standard output";

/// How a command ended, as its exit status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// 0.
    Done,
    /// 1: not found, unavailable, or incomplete.
    Incomplete,
    /// 2: usage or error.
    Failed,
    /// 130: stopped by a second signal.
    Interrupted,
}

impl Status {
    /// The number for the shell.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Incomplete => 1,
            Self::Failed => 2,
            Self::Interrupted => 130,
        }
    }
}

/// An error as it is told: a sentence, what to do about it, and the exit status.
#[derive(Debug)]
pub(crate) struct Told {
    sentence: String,
    hint: Option<String>,
    status: Status,
}

impl Told {
    /// Usage or error: exit 2.
    pub(crate) fn failed(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), hint: None, status: Status::Failed }
    }

    /// Not found, unavailable, incomplete: exit 1.
    pub(crate) fn incomplete(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), hint: None, status: Status::Incomplete }
    }

    /// With a line about what to do.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        self.hint_if(Some(hint.into()))
    }

    /// With a line about what to do, if there is one.
    pub(crate) fn hint_if(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Told {}

/// Where a command writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// JSON on stdout, or text.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read this.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// One line of data. A closed pipe ends the program in silence, as `head` expects.
    pub(crate) fn line(self, text: impl fmt::Display) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        checked(writeln!(out, "{text}").and_then(|()| out.flush()))
    }

    /// A value for programs, on one line.
    pub(crate) fn value(self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string(value)?)
    }

    /// A sentence for people; never data. Failing to talk is no failure.
    pub(crate) fn talk(self, text: impl fmt::Display) {
        tell_line(&text);
    }
}

/// One write: lines of several programs at one terminal, or in one log, stay whole. Standard error has no buffer.
fn tell_line(text: &impl fmt::Display) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

fn checked(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(anyhow::Error::new(error).context(CANNOT_WRITE)),
        Ok(()) => Ok(()),
    }
}

/// Tells an error: the sentence, what caused it, and a hint. Text from outside is escaped.
pub(crate) fn tell(error: &anyhow::Error, json: bool) -> Status {
    let told = error.downcast_ref::<Told>();
    let status = told.map_or(Status::Failed, |told| told.status);
    let hint = told.and_then(|told| told.hint.as_deref());
    let sentence = sentence(error);
    if json {
        let body = serde_json::json!({"error": {"message": sentence, "hint": hint, "exit": status.code()}});
        let _ = writeln!(io::stdout().lock(), "{body}");
    }
    tell_line(&format_args!("error: {}", plain(&sentence)));
    if let Some(hint) = hint {
        tell_line(&format_args!("hint: {}", plain(hint)));
    }
    status
}

/// An error and what caused it, in one sentence.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !sentence.contains(&cause) {
            sentence.push_str(": ");
            sentence.push_str(&cause);
        }
    }
    sentence
}

/// Text from outside, safe for a terminal: control and direction characters escaped (HOSTILE P07).
pub(crate) fn plain(text: &str) -> String {
    obt_wire::files::escaped(text).to_string()
}

/// Whether a person watches stderr.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
