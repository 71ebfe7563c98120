//! The thread that Raft and the appender live on: a runtime of its own, so that elections and group
//! commit never wait behind requests.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The thread. It ends with [`RaftThread::stop`], or when dropped.
pub(crate) struct RaftThread {
    runtime: Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl RaftThread {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("raft".to_owned())
            .spawn(move || runtime.block_on(stopped.cancelled()))?;
        Ok(Self { runtime: handle, stop, thread: Some(thread) })
    }

    /// Starts a task there.
    pub(crate) fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.spawn(task)
    }

    /// Runs a task there and waits for it.
    ///
    /// # Panics
    ///
    /// If the task panics.
    pub(crate) async fn run<F>(&self, task: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn(task).await.expect("the task neither panics nor is it cancelled")
    }

    /// Ends the thread, with all tasks that are still there.
    pub(crate) fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the raft thread panicked");
        }
    }
}

impl Drop for RaftThread {
    fn drop(&mut self) {
        self.stop();
    }
}
