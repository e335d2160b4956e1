//! The executor of the control plane: one thread runs every task. It sleeps by itself and leaves waiting for the
//! kernel to the thread that `async-io` has for that; where an executor's thread waits for the kernel too, the two
//! take turns by timers, which costs a quiet message more wake-ups than its work does.

use std::future::Future;
use std::panic::catch_unwind;
use std::sync::{Arc, OnceLock};

use smol::{Executor, Task};

/// Starts a task. Dropping what this gives cancels it.
///
/// # Panics
/// When the machine has no thread for the executor, at the first call.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    static EXECUTOR: OnceLock<Arc<Executor<'static>>> = OnceLock::new();
    EXECUTOR.get_or_init(start).spawn(future)
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
