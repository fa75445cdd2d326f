//! Being asked to stop: the first SIGINT or SIGTERM ends things in order, the second ends the process.

use std::sync::Arc;

use tokio::sync::watch;

use crate::output::Status;

/// Whether the process was asked to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Starts to listen for signals.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let stop = Self(Arc::new(watch::Sender::new(false)));
        let asked = stop.clone();
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            signals.next().await;
            asked.request();
            signals.next().await;
            std::process::exit(i32::from(Status::Interrupted.code()));
        });
        Ok(stop)
    }

    /// Returns once the process was asked to stop.
    pub(crate) async fn requested(&self) {
        // Its sender is this.
        let _ = self.0.subscribe().wait_for(|stop| *stop).await;
    }

    /// Asks the process to stop, as the first signal does.
    pub(crate) fn request(&self) {
        self.0.send_replace(true);
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
