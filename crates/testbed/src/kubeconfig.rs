//! Access to the API server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// What every kubeconfig of a cluster has in common.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// URL of the API server.
    pub(crate) server: String,
    /// The certificates that it identifies itself with, PEM.
    pub(crate) ca: Vec<u8>,
    /// The administrator's token.
    pub(crate) admin: String,
}

impl Access {
    /// Writes a kubeconfig (JSON is YAML) for the owner of `token`.
    pub(crate) fn write(&self, path: &Path, token: &str) -> Result<()> {
        self.write_user(path, json!({ "token": token }))
    }

    /// Writes a kubeconfig for any user: the administrator may impersonate everybody, so that
    /// identities need not be known before the API server starts.
    pub(crate) fn write_as(&self, path: &Path, user: &str, groups: &[&str]) -> Result<()> {
        let user = json!({ "token": self.admin, "as": user, "as-groups": groups });
        self.write_user(path, user)
    }

    /// Writes a kubeconfig for the owner of the token that is in a file.
    pub(crate) fn write_with_token_file(&self, path: &Path, token: &Path) -> Result<()> {
        self.write_user(path, json!({ "tokenFile": token }))
    }

    fn write_user(&self, path: &Path, user: serde_json::Value) -> Result<()> {
        let name = "testbed";
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
            "users": [{ "name": name, "user": user }],
            "clusters": [{ "name": name, "cluster": {
                "server": self.server,
                "certificate-authority-data": STANDARD.encode(&self.ca),
            }}],
        });
        let write = || {
            fs::write(path, serde_json::to_vec_pretty(&config)?)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            anyhow::Ok(())
        };
        write().with_context(|| path.display().to_string())
    }
}
