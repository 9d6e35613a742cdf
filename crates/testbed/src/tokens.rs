//! The token server of a registry (the distribution project's "token authentication").

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::fake::{FakeServer, Request};
use crate::http;
use crate::registry::{PASSWORD, USER};

/// Who issues the tokens, and whom they are for.
const ISSUER: &str = "testbed";
const SERVICE: &str = "testbed-registry";
/// The key's name in tokens.
const KEY: &str = "testbed";

/// Everybody may pull the repositories below, others only the user.
const PUBLIC: &str = "public/";

/// How long a token is good, in seconds; the least that clients must reckon with.
const LIFETIME: i64 = 60;

/// Gives out tokens at `/token`.
#[derive(Debug)]
pub(crate) struct Tokens {
    server: FakeServer,
    key: Arc<KeyPair>,
}

impl Tokens {
    pub(crate) fn start() -> Result<Self> {
        let key = Arc::new(KeyPair::generate_for(&PKCS_ED25519)?);
        let server = FakeServer::start()?;
        let signer = Arc::clone(&key);
        let sign = move |request: &Request| answer(request, &signer).unwrap_or_else(|_| Answer::status(500));
        server.answer_with("/token", sign);
        Ok(Self { server, key })
    }

    pub(crate) fn server(&self) -> &FakeServer {
        &self.server
    }

    /// The registry's configuration; `keys` is where it will find the key. Without a `realm`
    /// clients are sent straight here.
    pub(crate) fn config(&self, keys: &Path, realm: Option<&str>) -> Result<Value> {
        // RFC 8037, section 2.
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key_raw());
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": KEY, "x": x });
        std::fs::write(keys, json!({ "keys": [key] }).to_string())?;
        let own = format!("{}/token", self.server.url());
        let realm = realm.unwrap_or(&own);
        Ok(json!({ "realm": realm, "service": SERVICE, "issuer": ISSUER, "jwks": keys }))
    }

    /// A token for pushing to a repository.
    pub(crate) fn push(&self, repository: &str) -> Result<String> {
        token(&self.key, USER, &[access(repository, vec!["pull", "push"])])
    }
}

/// 401 for a wrong password; else a token, which allows what the client may do of what it asks
/// for, possibly nothing.
fn answer(request: &Request, key: &KeyPair) -> Result<Answer> {
    let user = match request.header("authorization") {
        None => None,
        Some(authorization) if authorization == http::basic((USER, PASSWORD)) => Some(USER),
        Some(_) => return Ok(Answer::status(401)),
    };
    if request.parameters("service") != [SERVICE] {
        return Ok(Answer::status(400));
    }
    let scopes = request.parameters("scope");
    let access: Vec<Value> = scopes
        .iter()
        .flat_map(|scope| scope.split(' '))
        .filter_map(|scope| {
            // repository:NAME:ACTIONS
            let (repository, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
            let allowed = user.is_some() || repository.starts_with(PUBLIC);
            let actions = actions.split(',').filter(|action| allowed && *action == "pull");
            Some(access(repository, actions.collect()))
        })
        .collect();
    let token = token(key, user.unwrap_or_default(), &access)?;
    Ok(Answer::json(&json!({ "token": token, "expires_in": LIFETIME })))
}

fn access(repository: &str, actions: Vec<&str>) -> Value {
    json!({ "type": "repository", "name": repository, "actions": actions })
}

/// A JSON Web Token (RFC 7519) with the claims that the registry looks at.
fn token(key: &KeyPair, user: &str, access: &[Value]) -> Result<String> {
    let now = Timestamp::now().as_second();
    let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": KEY });
    let claims = json!({
        "iss": ISSUER,
        "sub": user,
        "aud": SERVICE,
        "iat": now,
        "nbf": now,
        "exp": now + LIFETIME,
        "access": access,
    });
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}
