//! The place of a cluster, or of servers without one: directories that one process owns.

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::cleanup;
use crate::paths::Dirs;
use crate::state::StateFile;

/// Directories and processes of one name, owned by this process. When it is dropped, its
/// processes end and its data is removed; configuration and logs stay for a look at them.
#[derive(Debug)]
pub struct Home {
    pub(crate) dirs: Dirs,
    pub(crate) state: Arc<StateFile>,
    _lock: File,
}

impl Home {
    /// Takes the name, and cleans up what its last owner has left.
    ///
    /// # Errors
    /// If a running process has the name, or it is not 1 to 32 lower-case letters, digits and
    /// dashes.
    pub fn open(name: &str) -> Result<Self> {
        let dirs = Dirs::new(name)?;
        let lock = try_lock(&dirs)?.with_context(|| in_use(name))?;
        cleanup::cluster(&dirs)?;
        cleanup::remove(&dirs.root())?;
        for directory in [dirs.etc(), dirs.logs(), dirs.data()] {
            fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        let state = Arc::new(StateFile::create(&dirs.state())?);
        Ok(Self { dirs, state, _lock: lock })
    }

    /// Where the logs are.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dirs.logs()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Nobody is left to tell; the next owner cleans up what stays.
        let _ = cleanup::cluster(&self.dirs);
    }
}

pub(crate) fn in_use(name: &str) -> String {
    format!(
        "cluster {name:?} belongs to a running process; end it (`cargo xtask cluster down` for one \
         that `up` has started) or use another name"
    )
}

/// Makes this process the only one that may use or clean up the place; none if another is.
pub(crate) fn try_lock(dirs: &Dirs) -> Result<Option<File>> {
    let path = dirs.lock();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context("lock"),
    }
}
