//! The executor of the control plane: one thread runs every task. It sleeps by itself and leaves waiting for the
//! kernel to the thread that `async-io` has for that; where an executor's thread waits for the kernel too, the two
//! take turns by timers, which costs a quiet message more wake-ups than its work does.

use std::future::Future;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use smol::{Executor, Task};

/// Starts a task. Dropping what this gives cancels it.
///
/// # Panics
/// When the machine has no thread for the executor, at the first call.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    static EXECUTOR: OnceLock<Arc<Executor<'static>>> = OnceLock::new();
    // As one type, so that the executor's code is in the program once and not once for each task.
    let future: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(future);
    EXECUTOR.get_or_init(start).spawn(future)
}

/// Runs what blocks on a thread made for that, from now on. Dropping what this gives cancels it, if it has not begun.
///
/// # Panics
/// When it is waited for and `work` panicked.
pub fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Unblocked<T> {
    let result = Arc::new(Mutex::new(None));
    let filled = result.clone();
    // As one type, as above.
    let work: Box<dyn FnOnce() + Send> = Box::new(move || {
        let done = work();
        *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
    });
    Unblocked { task: smol::unblock(work), result }
}

/// What [`unblock`] gives: the result, once it is there.
#[derive(Debug)]
#[must_use = "dropping it cancels the work"]
pub struct Unblocked<T> {
    task: Task<()>,
    result: Arc<Mutex<Option<T>>>,
}

impl<T> Unblocked<T> {
    /// Lets it go on with nobody waiting.
    pub fn detach(self) {
        self.task.detach();
    }
}

impl<T> Future for Unblocked<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Panics where the work did.
        if Pin::new(&mut self.task).poll(cx).is_pending() {
            return Poll::Pending;
        }
        match self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(done) => Poll::Ready(done),
            // Only for whoever polls it again after its end.
            None => Poll::Pending,
        }
    }
}

/// Runs a future to its end, also when whoever waits for it goes away in the middle: a client that hangs up must not
/// leave an act half done. `None` when it panicked.
pub async fn unbroken<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let (sender, receiver) = smol::channel::bounded(1);
    spawn(async move {
        let _ = sender.try_send(future.await);
    })
    .detach();
    receiver.recv().await.ok()
}

/// Waits for a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    smol::future::block_on(future)
}

#[expect(clippy::expect_used, reason = "nothing of the control plane can run without it")]
fn start() -> Arc<Executor<'static>> {
    let executor = Arc::new(Executor::new());
    let run = executor.clone();
    std::thread::Builder::new()
        .name("tasks".to_owned())
        .spawn(move || {
            loop {
                // A task that panics tells whoever waits for it; the others go on.
                let _ = catch_unwind(|| smol::future::block_on(run.run(smol::future::pending::<()>())));
            }
        })
        .expect("a thread for the executor");
    executor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blocks_gives_its_result_or_its_panic_to_whoever_waits() {
        assert_eq!(block_on(unblock(|| 7)), 7);
        let panicked = catch_unwind(|| block_on(unblock(|| -> u8 { panic!("on purpose") })));
        assert!(panicked.is_err());
        let (sender, receiver) = std::sync::mpsc::channel();
        unblock(move || sender.send(())).detach();
        receiver.recv().unwrap();
    }

    #[test]
    fn it_begins_before_somebody_waits() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let work = unblock(move || sender.send(()));
        receiver.recv().unwrap();
        assert_eq!(block_on(work), Ok(()));
    }
}
