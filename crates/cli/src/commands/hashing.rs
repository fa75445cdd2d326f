//! Hashing with a progress bar, until it is done or the user stops.

use std::sync::Arc;
use std::time::Duration;

use obt_node::hash::{HashError, Watch};

use crate::output::Output;
use crate::progress::{Board, Shown};
use crate::stop::Stop;

/// How often the display looks.
const LOOK: Duration = Duration::from_millis(200);

/// Runs `work` and shows how far its hashing is. None where the user stopped it.
pub(crate) async fn watched<T, E, Work>(
    name: &str,
    output: Output,
    stop: &Stop,
    work: impl FnOnce(Arc<Watch>) -> Work,
) -> Result<Option<T>, E>
where
    Work: Future<Output = Result<T, E>>,
{
    let watch = Arc::new(Watch::default());
    let work = work(Arc::clone(&watch));
    tokio::pin!(work);
    let mut progress = Board::new(output).add(name);
    let mut look = tokio::time::interval(LOOK);
    let result = loop {
        tokio::select! {
            result = &mut work => break result.map(Some),
            () = stop.requested() => {
                watch.cancel();
                break Ok(None);
            }
            _ = look.tick() => {
                let total = watch.total();
                let doing = Some("hashing".to_owned());
                progress.show(&Shown { done: watch.done(), total: (total > 0).then_some(total), doing, ..Shown::default() });
            }
        }
    };
    progress.clear();
    result
}

/// [`watched`] for hashing that blocks: it gets a thread of its own.
pub(crate) async fn watched_blocking<T: Send + 'static>(
    name: &str,
    output: Output,
    stop: &Stop,
    work: impl FnOnce(&Watch) -> Result<T, HashError> + Send + 'static,
) -> anyhow::Result<Option<T>> {
    let on_a_thread = |watch: Arc<Watch>| async move {
        tokio::task::spawn_blocking(move || work(&watch)).await?.map_err(anyhow::Error::new)
    };
    watched(name, output, stop, on_a_thread).await
}
