//! Ctrl-C, for tasks that clean up when they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether the user wants the task to end.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for Ctrl-C and SIGTERM from now on. The second one ends this process at once.
    pub(crate) fn new() -> Result<Self> {
        let wanted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&wanted))?;
            flag::register(signal, Arc::clone(&wanted))?;
        }
        Ok(Self(wanted))
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// What came of a task: what fails after Ctrl-C fails by it.
    pub(crate) fn judge(&self, result: Result<()>) -> Result<()> {
        if self.is_wanted() { Ok(()) } else { result }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_fails_after_ctrl_c_is_no_error() {
        let interrupt = Interrupt(Arc::default());
        assert!(interrupt.judge(Err(anyhow!("etcd ended"))).is_err());
        interrupt.0.store(true, Ordering::Relaxed);
        assert!(interrupt.judge(Err(anyhow!("etcd ended"))).is_ok());
    }
}
