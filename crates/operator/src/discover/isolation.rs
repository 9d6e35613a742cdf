//! A panic during a query to a source is a failure of that source. Any other panic ends the process, because its state
//! is then unknown; the next process starts from the state in the API.

use std::any::Any;
use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::process::abort;

use drop_core::discovery::{SourceFailure, SourceReason};
use futures::FutureExt as _;

thread_local! {
    /// Whether this thread works for a source now.
    static IS_ISOLATED: Cell<bool> = const { Cell::new(false) };
}

/// Makes every panic outside of [`isolated`] and [`on_a_thread`] end the process, after it was logged.
pub fn end_with_panics() {
    let log = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        log(info);
        if !IS_ISOLATED.get() {
            abort();
        }
    }));
}

/// Returns the output of `work`, or a failure if it panicked.
pub async fn isolated<T>(work: impl Future<Output = Result<T, SourceFailure>>) -> Result<T, SourceFailure> {
    let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
    poll_fn(|context| flagged(|| work.as_mut().poll(context))).await.unwrap_or_else(|panic| Err(failure(panic)))
}

/// Does the same for work that would block other tasks.
pub async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SourceFailure> {
    // A destructor may panic too, so the work is dropped inside.
    let work = move || flagged(|| catch_unwind(AssertUnwindSafe(work)));
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(failure),
        Err(_) => Err(SourceFailure::new(SourceReason::InvalidResponse, "Drop ends")),
    }
}

/// Runs work that catches its own panics.
fn flagged<T>(work: impl FnOnce() -> T) -> T {
    let before = IS_ISOLATED.replace(true);
    let done = work();
    IS_ISOLATED.set(before);
    done
}

/// The message of a panic may contain a secret, so it only goes to the log.
fn failure(panic: Box<dyn Any + Send>) -> SourceFailure {
    drop(panic);
    SourceFailure::new(SourceReason::InvalidResponse, "a fault in Drop, which its log describes: please report it")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    const ROLE: &str = "DROP_TEST_PANICS";

    #[test]
    fn a_panic_elsewhere_ends_the_process() {
        let name = "a_panic_elsewhere_ends_the_process";
        if std::env::var_os(ROLE).is_some() {
            end_with_panics();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let failure = runtime.block_on(isolated(async { on_a_thread(|| panic!("of a source")).await }));
            assert!(failure.map(|never: ()| never).is_err());
            let _ = std::thread::spawn(|| panic!("of something else")).join();
            unreachable!("a thread has panicked");
        }
        let test = Command::new(std::env::current_exe().unwrap())
            .args([name, "--nocapture"])
            .env(ROLE, "1")
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&test.stderr);
        assert!(said.contains("of a source") && said.contains("of something else"), "{said}");
        assert!(!said.contains("unreachable"), "{said}");
        assert_eq!(test.status.signal(), Some(6), "{}", test.status);
    }

    #[tokio::test]
    async fn a_panic_is_the_failure_of_its_source_and_of_no_other() {
        let broken = isolated(async {
            tokio::task::yield_now().await;
            let s3cr3t: Result<(), SourceFailure> = [][..].first().cloned().expect("s3cr3t");
            s3cr3t
        });
        let (broken, well) = tokio::join!(broken, isolated(async { Ok(7) }));
        assert_eq!(well.unwrap(), 7);
        let broken_thread = on_a_thread(|| panic!("s3cr3t")).await.map(|never: ()| never);
        for failure in [broken.unwrap_err(), broken_thread.unwrap_err()] {
            assert_eq!(failure.reason, SourceReason::InvalidResponse);
            assert!(failure.message.starts_with("a fault in Drop") && !failure.message.contains("s3cr3t"), "{failure}");
        }
        assert_eq!(on_a_thread(|| 7).await.unwrap(), 7);
        assert!(!IS_ISOLATED.get());
    }
}
