//! How one process asks the daemon of the same state folder for something: to share a path, to admit a key, who is in the
//! cluster. A local socket, one JSON line each
//! way. The socket lies in the state folder, which only its owner can enter; that is its access control.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::api_types::Item;
use crate::server::ClusterStatus;
use crate::sharer::How;

/// Longest line, bytes: 4,096 bytes of path, escaped, and room for the rest.
#[cfg(unix)]
const LINE_BYTES: u64 = 64 << 10;

/// What another process asks of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlRequest {
    /// Publish and serve a path.
    Share {
        /// Absolute.
        path: PathBuf,
        /// The name to publish it under.
        name: String,
        /// Whether it may become the next version of a name that has other content.
        replace: bool,
        /// What a new torrent is made for: `v1`, `v2` or `hybrid`.
        protocol: String,
    },
    /// Let a key publish.
    AddKey {
        /// 64 digits.
        key: String,
        /// For people.
        label: String,
    },
    /// Let a key publish no longer.
    RevokeKey {
        /// The key, or its first 8 or more digits.
        prefix: String,
    },
    /// Show the cluster.
    ClusterStatus,
    /// Make a line with which one more machine joins.
    ClusterInvite {
        /// How long it is good.
        seconds: u64,
    },
    /// Have a member leave.
    ClusterLeave {
        /// Which; None is the one that is asked.
        member: Option<u64>,
    },
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlReply {
    /// It is shared.
    Shared {
        /// As the catalogue has it.
        item: Box<Item>,
        /// How it came to be shared.
        how: How,
        /// `HOST:PORT` of the tracker.
        tracker: String,
        /// What lies below the path and was left out.
        #[serde(default)]
        skipped: Vec<String>,
    },
    /// It is done, and there is nothing to say.
    Done,
    /// The key that is meant; it is done.
    Key {
        /// 64 digits.
        key: String,
    },
    /// The cluster.
    ClusterStatus {
        /// As this member sees it.
        status: Box<ClusterStatus>,
    },
    /// Somebody may join.
    Invited {
        /// For `--join`.
        line: String,
    },
    /// This tracker is a member no more, and stops.
    Left,
    /// It is not done.
    Refused {
        /// One sentence.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// Why the daemon could not be asked.
#[derive(Debug, Error)]
pub enum ControlError {
    /// No daemon takes requests there.
    #[error("no obt runs with this state")]
    NoDaemon(#[source] io::Error),
    /// It answered something else, or nothing.
    #[error("the obt that runs with this state did not answer: {0}")]
    NoAnswer(String),
}

#[cfg(unix)]
pub use unix::{ControlServer, ask};

#[cfg(unix)]
mod unix {
    use std::future::Future;
    use std::sync::Arc;

    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::JoinSet;

    use super::*;

    /// Requests under way at once; more wait in the listener's backlog.
    const REQUESTS: usize = 16;

    /// The daemon's end.
    #[derive(Debug)]
    pub struct ControlServer {
        listener: UnixListener,
        path: PathBuf,
    }

    impl ControlServer {
        /// Listens at `path`; the caller holds the state's lock, so a socket that lies there is a dead daemon's.
        ///
        /// # Errors
        /// Those of the system; a path of more than about 100 bytes is one.
        pub fn bind(path: &Path) -> io::Result<Self> {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            Ok(Self { listener, path: path.to_owned() })
        }

        /// Answers requests until it is dropped; `answered` hears of each answer once it has been sent.
        pub async fn serve<F, Answer>(self, answer: F, answered: impl Fn(&ControlReply) + Send + Sync + 'static)
        where
            F: Fn(ControlRequest) -> Answer + Send + Sync + 'static,
            Answer: Future<Output = ControlReply> + Send,
        {
            let both = Arc::new((answer, answered));
            let mut requests = JoinSet::new();
            loop {
                while requests.len() >= REQUESTS {
                    requests.join_next().await;
                }
                let Ok((stream, _)) = self.listener.accept().await else {
                    tokio::time::sleep(crate::limits::ACCEPT_PAUSE).await;
                    continue;
                };
                let both = Arc::clone(&both);
                requests.spawn(async move {
                    let (answer, answered) = &*both;
                    match answer_one(stream, answer).await {
                        Ok(reply) => answered(&reply),
                        Err(error) => tracing::debug!(%error, "a request over the control socket failed"),
                    }
                });
            }
        }
    }

    impl Drop for ControlServer {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    async fn answer_one<F, Answer>(stream: UnixStream, answer: &F) -> io::Result<ControlReply>
    where
        F: Fn(ControlRequest) -> Answer,
        Answer: Future<Output = ControlReply>,
    {
        let mut stream = BufReader::new(stream);
        let line = read_line(&mut stream).await?;
        let reply = match serde_json::from_str(&line) {
            Ok(request) => answer(request).await,
            Err(error) => ControlReply::Refused { message: format!("not a request: {error}"), hint: None },
        };
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        stream.get_mut().write_all(&line).await?;
        Ok(reply)
    }

    async fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<String> {
        let mut line = String::new();
        stream.take(LINE_BYTES).read_line(&mut line).await?;
        Ok(line)
    }

    /// Asks the daemon that listens at `path`.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn ask(path: &Path, request: &ControlRequest) -> Result<ControlReply, ControlError> {
        let stream = UnixStream::connect(path).await.map_err(ControlError::NoDaemon)?;
        let no_answer = |error: &dyn std::fmt::Display| ControlError::NoAnswer(error.to_string());
        let mut stream = BufReader::new(stream);
        let mut line = serde_json::to_vec(request).map_err(|error| no_answer(&error))?;
        line.push(b'\n');
        stream.get_mut().write_all(&line).await.map_err(|error| no_answer(&error))?;
        let mut reply = String::new();
        stream.read_line(&mut reply).await.map_err(|error| no_answer(&error))?;
        serde_json::from_str(&reply).map_err(|error| no_answer(&error))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn a_request_reaches_the_daemon_and_its_answer_comes_back() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("control.sock");
            let server = ControlServer::bind(&path).unwrap();
            let answer = |request| async move {
                let ControlRequest::Share { name, .. } = request else { panic!("{request:?}") };
                ControlReply::Refused { message: format!("no {name}"), hint: None }
            };
            let task = tokio::spawn(server.serve(answer, |_| ()));
            let request = ControlRequest::Share {
                path: "/x".into(),
                name: "x".into(),
                replace: false,
                protocol: "hybrid".into(),
            };
            let reply = ask(&path, &request).await.unwrap();
            assert_eq!(reply, ControlReply::Refused { message: "no x".into(), hint: None });
            task.abort();
            let _ = task.await;
            assert!(!path.exists());
        }
    }
}
