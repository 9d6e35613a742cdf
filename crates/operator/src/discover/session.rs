//! Requests to a registry about one repository: first without a login, then as the registry's challenge requires.
//!
//! A login is only sent after a challenge, because registries such as ghcr.io answer an unexpected one with 403 and no
//! challenge. Tokens: <https://distribution.github.io/distribution/spec/auth/token/> and
//! <https://distribution.github.io/distribution/spec/auth/oauth/>.

use drop_core::discovery::SourceFailure;
use http::StatusCode;
use http::header::HeaderValue;
use reqwest::Url;
use serde::Deserialize;

use super::challenge::{Challenge, challenges};
use super::client::{Access, Client, Request, Response, Wanted, host, invalid};
use super::credentials::Login;

/// The most requests for one answer: as a guest, with the login, with a token, and with another token.
const MOST_TRIES: usize = 4;
/// Drop's name at token services.
const CLIENT_ID: &str = "drop";

/// Requests about one repository.
pub struct Session<'a> {
    client: &'a Client<'a>,
    /// The repository, as the registry names it.
    name: String,
    login: Option<&'a Login>,
    /// The token service that the registry named last.
    service: Option<Service>,
    pass: Pass,
    /// Whether the registry has seen the login.
    is_login_shown: bool,
    /// Whether the registry has denied a request without a login.
    refuses_guests: bool,
}

/// The credentials of a request.
enum Pass {
    Nothing,
    Login,
    Token(Box<Token>),
}

/// A token that the registry's token service issued.
struct Token {
    header: HeaderValue,
    service: Service,
    access: Access,
    /// Whether the registry has accepted it, so that a denial means that it has expired.
    has_served: bool,
}

/// A token service, and the parameters of a request to it.
#[derive(Clone)]
struct Service {
    realm: Url,
    name: Option<String>,
    scope: String,
}

/// The answer of a token service: a token under the one name, the other, or both.
#[derive(Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Session<'a> {
    /// Makes a session for the repository of this name.
    pub fn new(client: &'a Client<'a>, name: String) -> Self {
        let login = client.login(&name);
        let (is_login_shown, refuses_guests) = (false, false);
        Self { client, name, login, service: None, pass: Pass::Nothing, is_login_shown, refuses_guests }
    }

    /// Whether the registry, or its token service, is known to have accepted the login for the last answer. A registry
    /// that has not required a login may not have checked it.
    pub fn is_logged_in(&self) -> bool {
        match &self.pass {
            Pass::Nothing => false,
            Pass::Login => self.refuses_guests,
            Pass::Token(token) => token.access == Access::Login,
        }
    }

    /// Requests `url`, again with more credentials if the registry denies it. An answer of any status is no error.
    ///
    /// # Errors
    /// If there is no answer, or no token.
    pub async fn ask(&mut self, url: &Url, wanted: Wanted) -> Result<Response, SourceFailure> {
        for _ in 1..MOST_TRIES {
            let response = self.send(url, wanted).await?;
            let is_refused = matches!(response.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            self.refuses_guests |= matches!(self.pass, Pass::Nothing) && is_refused;
            if self.is_sent_away(url, &response) {
                self.refuses_guests = true;
                self.pass = Pass::Login;
            } else if response.status.is_success()
                || !self.client.is_own(&response.url)
                || !self.advance(&response).await?
            {
                return Ok(response);
            }
        }
        self.send(url, wanted).await
    }

    /// Sends a token, or the login, to the registry itself only.
    async fn send(&mut self, url: &Url, wanted: Wanted) -> Result<Response, SourceFailure> {
        let is_own = self.client.is_own(url);
        let header = match &self.pass {
            Pass::Nothing => None,
            Pass::Login => self.login.and_then(Login::header),
            Pass::Token(token) => Some(&token.header),
        };
        let authorization = header.filter(|_| is_own);
        let request = Request { url: url.clone(), wanted, form: None, is_private: false, authorization };
        let mut response = self.client.send(request).await?;
        let is_own = self.client.is_own(&response.url);
        response.access = match &mut self.pass {
            _ if !is_own => Access::of(self.login.is_some(), false, &response.url),
            Pass::Token(token) => {
                token.has_served |= response.status.is_success();
                match self.login {
                    Some(Login::Other(_)) if self.is_login_shown => Access::Token,
                    _ if self.is_login_shown => Access::Login,
                    _ => token.access.clone(),
                }
            }
            Pass::Login => {
                self.is_login_shown = true;
                Access::Login
            }
            // The login was not usable, such as an identity token without a token service.
            Pass::Nothing if self.login.is_some() => Access::Login,
            Pass::Nothing => Access::None,
        };
        Ok(response)
    }

    /// Whether a guest was redirected to a login page, instead of being denied: proxies in front of registries do so.
    fn is_sent_away(&self, url: &Url, response: &Response) -> bool {
        let may_log_in = matches!(self.pass, Pass::Nothing) && self.login.is_some_and(|login| login.header().is_some());
        let is_page = response.status.is_success() && self.client.web_page(response).is_some();
        may_log_in && self.client.is_own(url) && is_page
    }

    /// Takes the next step that a denial allows; `false` if there is none.
    async fn advance(&mut self, refusal: &Response) -> Result<bool, SourceFailure> {
        if !matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) {
            return Ok(false);
        }
        let is_challenged = refusal.status == StatusCode::UNAUTHORIZED;
        let challenges = challenges(&refusal.headers);
        let service = challenges.iter().find_map(|challenge| self.service(challenge, &refusal.url));
        if service.is_some() {
            self.service.clone_from(&service);
        }
        let header = self.login.and_then(Login::header);
        let service = match (&self.pass, service) {
            // The token has expired. Harbor answers that with a challenge for Basic, others with 403.
            (Pass::Token(token), service) if token.has_served && refusal.status != StatusCode::NOT_FOUND => {
                service.unwrap_or_else(|| token.service.clone())
            }
            (Pass::Token(_), _) => return Ok(false),
            (Pass::Nothing, Some(service)) => {
                let offers_basic = challenges.iter().any(|challenge| challenge.is("basic"));
                let goes_to_the_registry = match self.login {
                    Some(Login::Basic(_)) => offers_basic && !self.is_trusted(&service.realm, &refusal.url),
                    Some(Login::Other(_)) => true,
                    Some(Login::Identity(_)) | None => false,
                };
                if goes_to_the_registry {
                    self.pass = Pass::Login;
                    return Ok(true);
                }
                service
            }
            // 403 and 404 without a challenge may only apply to guests.
            (Pass::Nothing, None) if header.is_some() => {
                self.pass = Pass::Login;
                return Ok(true);
            }
            (Pass::Login, Some(service)) if is_challenged => service,
            // ghcr.io answers like this to a personal access token, which is no token of its own.
            (Pass::Login, None) if refusal.status != StatusCode::NOT_FOUND => match (self.login, &self.service) {
                (Some(Login::Other(_)), Some(service)) => service.clone(),
                _ => return Ok(false),
            },
            (Pass::Nothing | Pass::Login, _) => return Ok(false),
        };
        self.pass = Pass::Token(Box::new(self.token(&refusal.url, service).await?));
        Ok(true)
    }

    /// Returns the token service that a challenge names. A realm may be relative, and a registry behind a proxy that
    /// ends TLS may name itself by `http`.
    fn service(&self, challenge: &Challenge, registry: &Url) -> Option<Service> {
        let realm = challenge.get("realm").filter(|_| challenge.is("bearer"))?;
        let lower = realm.to_ascii_lowercase();
        // Other realms are names for people, like those of Basic.
        if !["http://", "https://", "/"].iter().any(|start| lower.starts_with(start)) {
            return None;
        }
        let mut realm = registry.join(realm).ok()?;
        if let Some(own) = self.client.as_own(&realm).filter(|own| own.scheme() == "https" && realm.scheme() == "http")
        {
            realm = own;
        }
        Some(Service {
            realm,
            name: challenge.get("service").map(str::to_owned),
            scope: challenge.get("scope").map_or_else(|| format!("repository:{}:pull", self.name), str::to_owned),
        })
    }

    /// Whether a realm gets the login: it is at the registry itself, or both use TLS, so that no other server can have
    /// named it.
    fn is_trusted(&self, realm: &Url, registry: &Url) -> bool {
        self.client.is_own(realm) || (registry.scheme() == "https" && realm.scheme() == "https")
    }

    async fn token(&mut self, registry: &Url, service: Service) -> Result<Token, SourceFailure> {
        let mut url = service.realm.clone();
        let login = self.login.filter(|_| self.is_trusted(&url, registry));
        let asked = service.name.iter().map(|name| ("service", name)).chain([("scope", &service.scope)]);
        let (mut authorization, mut form) = (None, None);
        match login {
            Some(Login::Identity(identity)) => {
                let fixed = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", identity)];
                let mut fields = url.clone();
                fields.set_query(None);
                fields.query_pairs_mut().extend_pairs(fixed).extend_pairs(asked);
                form = fields.query().map(str::to_owned);
            }
            login => {
                url.query_pairs_mut().extend_pairs(asked);
                authorization = login.filter(|login| matches!(login, Login::Basic(_))).and_then(Login::header);
            }
        }
        let is_shown = authorization.is_some() || form.is_some();
        let access = match self.login {
            _ if is_shown => Access::Login,
            None | Some(Login::Other(_)) => Access::Guest,
            Some(_) => Access::HeldBack(url.clone()),
        };
        let is_private = form.is_some();
        let mut response =
            self.client.send(Request { url, wanted: Wanted::Content, form, is_private, authorization }).await?;
        response.access = access.clone();
        let Issued { token, access_token } = self.client.json(&mut response).await?;
        let token = token.filter(|token| !token.is_empty()).or(access_token).filter(|token| !token.is_empty());
        let header = token.as_ref().and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut header = header.ok_or_else(|| invalid(format!("{} issues no token", host(&response.url))))?;
        header.set_sensitive(true);
        self.client.hide(token);
        Ok(Token { header, service, access, has_served: false })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, OnceLock};

    use axum::response::Response as Reply;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use drop_core::discovery::SourceReason;
    use serde_json::json;

    use super::super::Limits;
    use super::super::credentials::{Credentials, secret};
    use super::super::seat::Seat;
    use super::*;
    use crate::fake::{Authority, Fake, Got, reply};

    const LOGIN: [(&str, &str); 2] = [("username", "me"), ("password", "pw")];
    const BASIC: Option<&str> = Some("Basic bWU6cHc=");

    /// Asks for the tags of `team/app`, and returns the status, or the failure.
    async fn ask(url: &str, credentials: &Credentials, times: usize) -> Result<u16, SourceFailure> {
        let seat = Seat::default();
        let client = Client::new(url, credentials, Limits::default(), &seat)?;
        let mut session = Session::new(&client, "team/app".to_owned());
        let mut status = 0;
        for _ in 0..times {
            let response = session.ask(&client.url("v2/team/app/tags/list", &[]), Wanted::Content).await?;
            if !response.status.is_success() {
                return Err(client.refusal(&response));
            }
            status = response.status.as_u16();
        }
        Ok(status)
    }

    /// Starts a registry that knows its own address.
    async fn start(answer: impl Fn(&Got, &str) -> Reply + Clone + Send + Sync + 'static) -> Fake {
        let own = Arc::new(OnceLock::<String>::new());
        let known = own.clone();
        let fake = Fake::start(move |got| answer(got, known.get().unwrap())).await;
        own.set(fake.url.clone()).unwrap();
        fake
    }

    fn bearer(parameters: &str) -> Reply {
        reply(401, &[("www-authenticate", &format!("Bearer {parameters}"))], "")
    }

    /// Returns the credentials that the fake got, request by request.
    fn shown(fake: &Fake) -> Vec<String> {
        let name = |got: &Got| got.authorization().unwrap_or("-").to_owned();
        fake.got().iter().map(name).collect()
    }

    #[tokio::test]
    async fn a_registry_that_forbids_basic_is_asked_for_a_token() {
        // Like ghcr.io.
        let registry = start(|got, own| match (got.target.starts_with("/token"), got.authorization()) {
            (true, BASIC) => reply(200, &[], r#"{"token":"t0k"}"#),
            (true, _) => reply(403, &[], r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#),
            (false, Some("Bearer t0k")) => reply(200, &[], "{}"),
            (false, Some(_)) => reply(403, &[], r#"{"errors":[{"code":"DENIED","message":"invalid token"}]}"#),
            (false, None) => bearer(&format!(r#"realm="{own}/token",service="x",scope="repository:team/app:pull""#)),
        })
        .await;
        assert_eq!(ask(&registry.url, &secret(&LOGIN), 1).await.unwrap(), 200);
        assert_eq!(shown(&registry), ["-", "Basic bWU6cHc=", "Bearer t0k"]);
        // The message tells a guest to log in, and not that access is forbidden.
        let failure = ask(&registry.url, &secret(&[]), 1).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::Unauthorized);
        assert!(failure.message.contains("name a Secret") && failure.message.contains("is denied"), "{failure}");
        let wrong = secret(&[("username", "me"), ("password", "no")]);
        let failure = ask(&registry.url, &wrong, 1).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::Forbidden);
    }

    #[tokio::test]
    async fn a_guest_whose_token_does_not_do_is_told_to_log_in() {
        // Docker Hub and Quay answer 401, others 403. For a client that logs in, 403 means forbidden.
        for (status, data, reason) in [
            (401, &[][..], SourceReason::Unauthorized),
            (403, &[][..], SourceReason::Unauthorized),
            (401, &LOGIN[..], SourceReason::Unauthorized),
            (403, &LOGIN[..], SourceReason::Forbidden),
        ] {
            let registry = start(move |got, own| match (got.target.starts_with("/token"), got.authorization()) {
                (true, _) => reply(200, &[], r#"{"access_token":"t0k","token":""}"#),
                (false, None) => bearer(&format!(r#"realm="{own}/token""#)),
                (false, Some(_)) => reply(status, &[], r#"{"errors":[{"code":"DENIED"}]}"#),
            })
            .await;
            let failure = ask(&registry.url, &secret(data), 1).await.unwrap_err();
            assert_eq!(failure.reason, reason, "{failure}");
            assert_eq!(failure.message.contains("name a Secret"), data.is_empty(), "{failure}");
            assert_eq!(registry.got().len(), 3, "it is asked once more, not again and again");
        }
    }

    #[tokio::test]
    async fn what_guests_do_not_see_is_asked_for_with_the_login() {
        // Artifactory, Nexus and zot with guest access hide private repositories, without a challenge.
        for status in [403, 404] {
            let registry = start(move |got, _| match got.authorization() {
                BASIC => reply(200, &[], "{}"),
                _ => reply(status, &[], ""),
            })
            .await;
            assert_eq!(ask(&registry.url, &secret(&LOGIN), 2).await.unwrap(), 200);
            assert_eq!(shown(&registry), ["-", "Basic bWU6cHc=", "Basic bWU6cHc="]);
            assert!(ask(&registry.url, &secret(&[]), 1).await.is_err());
            assert_eq!(registry.got().len(), 4, "a guest asks once");
        }
    }

    #[tokio::test]
    async fn a_guest_who_is_led_to_a_login_page_asks_again_with_the_login() {
        let page = || reply(200, &[("content-type", "text/html")], "<!doctype html><title>Sign in</title>");
        let elsewhere = Fake::start(move |_| page()).await;
        for away in ["/sign_in".to_owned(), elsewhere.url.clone()] {
            let registry = start(move |got, _| match (got.target.as_str(), got.authorization()) {
                ("/sign_in", _) => page(),
                (_, BASIC) => reply(200, &[], "{}"),
                _ => reply(302, &[("location", &away)], ""),
            })
            .await;
            assert_eq!(ask(&registry.url, &secret(&LOGIN), 2).await.unwrap(), 200);
            assert_eq!(registry.got().iter().filter(|got| got.authorization() == BASIC).count(), 2);
        }
        assert!(elsewhere.got().iter().all(|got| got.authorization().is_none()));
    }

    #[tokio::test]
    async fn realms_are_found_however_they_are_written() {
        let cases = [
            r#"realm="/token",service="zot""#,
            r#"realm="OWN/token""#,
            "realm=OWN/token,service=x",
            r#"realm="OWN/token";service="x""#,
            r#"realm="OWN/token",scope="",service="""#,
            r#"REALM="OWN/token""#,
            r#"error="invalid_token",realm="OWN/token""#,
        ];
        for case in cases {
            let registry = start(move |got, own| match (got.target.starts_with("/token?"), got.authorization()) {
                (true, BASIC) if got.parameter("scope").as_deref() == Some("repository:team/app:pull") => {
                    reply(200, &[], r#"{"token":"t0k"}"#)
                }
                (false, Some("Bearer t0k")) => reply(200, &[], "{}"),
                (false, None) => bearer(&case.replace("OWN", own)),
                _ => reply(400, &[], ""),
            })
            .await;
            assert_eq!(ask(&registry.url, &secret(&LOGIN), 1).await.unwrap_or_default(), 200, "{case}");
        }
        // A realm for people names no service: the login is sent to the registry itself.
        for case in [r#"realm="Registry""#, "realm=\"\"", "realm=\"file:///etc\"", ""] {
            let registry = start(move |got, _| match got.authorization() {
                BASIC => reply(200, &[], "{}"),
                _ => bearer(case),
            })
            .await;
            assert_eq!(ask(&registry.url, &secret(&LOGIN), 1).await.unwrap(), 200, "{case}");
        }
    }

    #[tokio::test]
    async fn a_registry_over_tls_gets_no_credentials_without_it() {
        let authority = Authority::new();
        let data = [LOGIN[0], LOGIN[1], ("ca.crt", authority.pem.as_str())];
        let own = Arc::new(OnceLock::<String>::new());
        let known = own.clone();
        // The registry is behind a proxy that ends TLS, so it names itself by http.
        let registry = Fake::start_tls(authority.server("127.0.0.1", None), move |got| {
            match (got.target.starts_with("/token"), got.authorization()) {
                (true, BASIC) => reply(200, &[], r#"{"token":"t0k"}"#),
                (false, Some("Bearer t0k")) => reply(200, &[], "{}"),
                _ => bearer(&format!(r#"realm="http://{}/token""#, known.get().unwrap())),
            }
        })
        .await;
        own.set(registry.host.clone()).unwrap();
        assert_eq!(ask(&registry.url, &secret(&data), 1).await.unwrap(), 200);
        // Another host is asked without the login, and the message says so.
        let service = Fake::start(|_| reply(200, &[], r#"{"token":"guest"}"#)).await;
        let realm = service.url.clone();
        let registry =
            Fake::start_tls(authority.server("127.0.0.1", None), move |_| bearer(&format!(r#"realm="{realm}""#))).await;
        let failure = ask(&registry.url, &secret(&data), 1).await.unwrap_err();
        assert_eq!((failure.reason, shown(&service)), (SourceReason::Unauthorized, vec!["-".to_owned()]));
        assert!(failure.message.contains(&service.url) && failure.message.contains("with https://"), "{failure}");
    }

    #[tokio::test]
    async fn a_token_that_has_expired_is_renewed_once() {
        // The registry's answer to an expired token, and whether renewed tokens expire too.
        for (status, challenge, renewed) in [
            (401, Some("Bearer"), true),
            (401, Some("Basic"), true),
            (401, None, true),
            (403, None, true),
            (401, Some("Bearer"), false),
            (403, None, false),
        ] {
            let (issued, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (tokens, requests) = (issued.clone(), asked.clone());
            let registry = start(move |got, own| {
                let realm = format!(r#"realm="{own}/token""#);
                if got.target.starts_with("/token") {
                    let number = tokens.fetch_add(1, Ordering::Relaxed);
                    return reply(200, &[], json!({"token": format!("t{number}"), "expires_in": 1}).to_string());
                }
                match got.authorization() {
                    None => bearer(&realm),
                    // Each token serves one request.
                    Some(token) if requests.fetch_add(1, Ordering::Relaxed) == 0 || renewed && token != "Bearer t0" => {
                        reply(200, &[], "{}")
                    }
                    Some(_) => {
                        let challenge = challenge.map(|scheme| ("www-authenticate", format!("{scheme} {realm}")));
                        let headers: Vec<_> = challenge.iter().map(|(name, value)| (*name, value.as_str())).collect();
                        reply(status, &headers, "")
                    }
                }
            })
            .await;
            let asked = ask(&registry.url, &secret(&[]), 2).await;
            assert_eq!(asked.is_ok(), renewed, "{status} {challenge:?}");
            assert_eq!(issued.load(Ordering::Relaxed), 2, "{status} {challenge:?}");
        }
    }

    #[tokio::test]
    async fn a_token_of_the_secret_goes_to_the_registry_itself_and_guests_tokens_are_the_last_resort() {
        let registry = start(|got, own| match (got.target.starts_with("/token"), got.authorization()) {
            (true, None) => reply(200, &[], r#"{"token":"guest"}"#),
            (false, Some("Bearer s3cr3t")) => reply(200, &[], "{}"),
            (false, Some("Bearer guest")) => reply(200, &[], "{}"),
            (true, Some(_)) => reply(400, &[], ""),
            (false, _) => bearer(&format!(r#"realm="{own}/token""#)),
        })
        .await;
        assert!(ask(&registry.url, &secret(&[("token", "s3cr3t")]), 1).await.is_ok());
        assert!(ask(&registry.url, &secret(&[("headers.Authorization", "Bearer s3cr3t")]), 1).await.is_ok());
        assert_eq!(shown(&registry), ["-", "Bearer s3cr3t", "-", "Bearer s3cr3t"]);
        assert!(ask(&registry.url, &secret(&[("token", "expired")]), 1).await.is_ok());
        assert_eq!(shown(&registry)[4..], ["-", "Bearer expired", "-", "Bearer guest"]);
        for got in registry.got() {
            assert!(got.headers.get_all("authorization").iter().count() <= 1);
        }
    }

    #[tokio::test]
    async fn a_personal_access_token_that_a_registry_forbids_leaves_the_access_of_guests() {
        // Like ghcr.io: a token that it has not issued is forbidden, without a challenge.
        let registry = |is_public: bool| {
            start(move |got, own| match (got.target.starts_with("/token"), got.authorization()) {
                (true, None) => reply(200, &[], r#"{"token":"guest"}"#),
                (true, Some(_)) => reply(403, &[], ""),
                (false, Some("Bearer guest")) if is_public => reply(200, &[], "{}"),
                (false, Some(_)) => reply(403, &[], r#"{"errors":[{"code":"DENIED","message":"invalid token"}]}"#),
                (false, None) => bearer(&format!(r#"realm="{own}/token""#)),
            })
        };
        let token = secret(&[("token", "ghp_s3cr3t")]);
        assert_eq!(ask(&registry(true).await.url, &token, 1).await.unwrap(), 200);
        let failure = ask(&registry(false).await.url, &token, 1).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::Unauthorized);
        assert!(failure.message.contains("into the key password, beside username: invalid token"), "{failure}");
    }

    #[tokio::test]
    async fn an_authorization_of_ones_own_is_the_login() {
        let registry = start(|got, own| match (got.target.starts_with("/token"), got.authorization()) {
            (true, BASIC) => reply(200, &[], r#"{"token":"t0k"}"#),
            (false, Some("Bearer t0k")) => reply(200, &[], "{}"),
            (false, None) => bearer(&format!(r#"realm="{own}/token""#)),
            _ => reply(400, &[], ""),
        })
        .await;
        let own = secret(&[("headers.Authorization", "Basic bWU6cHc="), ("headers.X-Key", "k3y")]);
        assert!(ask(&registry.url, &own, 1).await.is_ok());
        assert!(registry.got().iter().all(|got| got.headers.get_all("authorization").iter().count() <= 1));
    }

    /// A Docker config for the registry at `host`.
    fn docker(host: &str, auth: &serde_json::Value) -> Credentials {
        let config = json!({"auths": {host: auth, format!("{host}/other"): {"auth": "b3RoZXI6b3RoZXI="}, "evil.example": {"auth": "ZXZpbDpldmls"}}});
        secret(&[(".dockerconfigjson", &config.to_string())])
    }

    #[tokio::test]
    async fn a_docker_config_logs_in_and_an_identity_token_is_exchanged() {
        let registry = start(|got, own| {
            let is_exchanged = got.method == "POST" && got.parameter("refresh_token").as_deref() == Some("1d+/");
            match (got.target.starts_with("/token"), got.authorization()) {
                (true, BASIC) => reply(200, &[], r#"{"token":"t0k"}"#),
                (true, None) if is_exchanged && got.parameter("grant_type").as_deref() == Some("refresh_token") => {
                    assert_eq!(got.parameter("scope").as_deref(), Some("repository:team/app:pull"));
                    reply(200, &[], r#"{"access_token":"t0k"}"#)
                }
                (true, _) => reply(401, &[], r#"{"error":"invalid_grant","error_description":"expired"}"#),
                (false, Some("Bearer t0k" | "Bearer r3g")) => reply(200, &[], "{}"),
                (false, _) => bearer(&format!(r#"realm="{own}/token",service="x""#)),
            }
        })
        .await;
        let host = registry.host.clone();
        for auth in [json!({"auth": "bWU6cHc="}), json!({"identitytoken": "1d+/"}), json!({"registrytoken": "r3g"})] {
            assert!(ask(&registry.url, &docker(&host, &auth), 1).await.is_ok(), "{auth}");
        }
        let failure = ask(&registry.url, &docker(&host, &json!({"identitytoken": "old"})), 1).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::Unauthorized);
        assert!(
            failure.message.ends_with("refuses the credentials of the Secret: invalid_grant: expired"),
            "{failure}"
        );
        // Entries for other repositories and hosts are not sent.
        let config = json!({"auths": {format!("{host}/other"): {"auth": "b3RoZXI6b3RoZXI="}, "evil.example": {"auth": "ZXZpbDpldmls"}}});
        let failure = ask(&registry.url, &secret(&[(".dockerconfigjson", &config.to_string())]), 1).await.unwrap_err();
        assert!(failure.message.contains("name a Secret"), "{failure}");
        let all: String =
            registry.got().iter().map(|got| format!("{:?}{}{}", got.headers, got.target, got.body)).collect();
        assert!(!all.contains("b3RoZXI6b3RoZXI=") && !all.contains("ZXZpbDpldmls"), "{all}");
    }

    #[tokio::test]
    async fn the_answer_to_a_form_is_got_where_a_redirect_says() {
        for (status, is_got) in [(303, true), (302, true), (301, true), (307, false), (308, false)] {
            let registry =
                start(move |got, own| match (got.method.as_str(), got.target.as_str(), got.authorization()) {
                    ("POST", "/token", _) => reply(status, &[("location", "/issued")], ""),
                    ("GET", "/issued", _) if is_got && got.body.is_empty() => reply(200, &[], r#"{"token":"t0k"}"#),
                    ("POST", "/issued", _) if !is_got && !got.body.is_empty() => reply(200, &[], r#"{"token":"t0k"}"#),
                    (_, _, Some("Bearer t0k")) => reply(200, &[], "{}"),
                    (_, "/v2/team/app/tags/list", None) => bearer(&format!(r#"realm="{own}/token""#)),
                    _ => reply(400, &[], ""),
                })
                .await;
            let credentials = docker(&registry.host, &json!({"identitytoken": "1d"}));
            assert_eq!(ask(&registry.url, &credentials, 1).await.unwrap_or_default(), 200, "{status}");
        }
    }

    /// Returns every kind of login, with the texts that must not be seen.
    fn logins(host: &str) -> Vec<(Credentials, Vec<String>)> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let encoded = STANDARD.encode("me:pw-s3c+r3t");
        let basic = format!("Basic {encoded}");
        let config = |auth: serde_json::Value| docker(host, &auth);
        vec![
            (secret(&[("username", "me"), ("password", "pw-s3c+r3t")]), texts(&["s3c", &encoded])),
            (secret(&[("token", "t-s3c+r3t"), ("headers.X-Key", "k-s3c+r3t-longer")]), texts(&["s3c", "longer"])),
            (secret(&[("headers.Authorization", &basic)]), texts(&["s3c", &encoded])),
            (secret(&[("headers.Authorization", "Key a-s3c+r3t")]), texts(&["s3c"])),
            (config(json!({"auth": encoded})), texts(&["s3c", &encoded])),
            (config(json!({"identitytoken": "i-s3c+r3t"})), texts(&["s3c"])),
            (config(json!({"registrytoken": "r-s3c+r3t"})), texts(&["s3c"])),
        ]
    }

    #[tokio::test]
    async fn no_error_repeats_a_secret() {
        // The server's answer repeats its request, in every shape of an error, at the registry and at its token
        // service.
        type Shape = fn(&str) -> (u16, &'static str, String);
        let shapes: [Shape; 9] = [
            |said| (401, "application/json", json!({"errors": [{"code": "X", "message": said}]}).to_string()),
            |said| (403, "application/json", json!({"error": {"message": said}}).to_string()),
            |said| (400, "application/json", json!({"error": "x", "error_description": said}).to_string()),
            |said| (404, "text/plain", said.to_owned()),
            |said| (500, "text/html", format!("<html><title>{said}</title></html>")),
            |said| (429, "application/xml", format!("<Error><Message>{said}</Message></Error>")),
            |said| (200, "application/json", json!(said).to_string()),
            |said| (200, "text/html", format!("<!doctype html><title>{said}</title>")),
            |said| (200, "text/plain", said.to_owned()),
        ];
        for shape in shapes {
            for at_service in [false, true] {
                let registry = start(move |got, own| {
                    let is_service = got.target.starts_with("/token");
                    if !is_service && got.authorization().is_none() {
                        return bearer(&format!(r#"realm="{own}/token""#));
                    }
                    if is_service && !at_service {
                        return reply(200, &[], r#"{"token":"issued-s3c+r3t"}"#);
                    }
                    let shown = got.authorization().unwrap_or_default();
                    let decoded = shown.strip_prefix("Basic ").and_then(|shown| STANDARD.decode(shown).ok());
                    let decoded = decoded.map(|decoded| String::from_utf8(decoded).unwrap()).unwrap_or_default();
                    let key = got.header("x-key").unwrap_or_default();
                    let (status, kind, body) = shape(&format!("{shown} {decoded} {key} {}", got.body));
                    reply(status, &[("content-type", kind)], body)
                })
                .await;
                for (credentials, secrets) in logins(&registry.host) {
                    let seat = Seat::default();
                    let client = Client::new(&registry.url, &credentials, Limits::default(), &seat).unwrap();
                    let mut session = Session::new(&client, "team/app".to_owned());
                    let failure = match session.ask(&client.url("v2/team/app/tags/list", &[]), Wanted::Content).await {
                        Ok(mut response) => client.json::<Vec<u8>>(&mut response).await.unwrap_err(),
                        Err(failure) => failure,
                    };
                    for secret in secrets {
                        assert!(!failure.message.contains(&secret), "{secret}: {failure}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn no_login_reaches_another_origin() {
        type Away = fn(&str, &str) -> Reply;
        let ways: [Away; 4] = [
            |stranger, _| reply(307, &[("location", stranger)], ""),
            |_, own| bearer(&format!(r#"realm="{own}/token""#)),
            |stranger, _| bearer(&format!(r#"realm="{stranger}/token""#)),
            |stranger, _| {
                let challenge = format!(r#"Basic realm="x", Bearer realm="{stranger}/token""#);
                reply(401, &[("www-authenticate", &challenge)], "")
            },
        ];
        for way in ways {
            let stranger = Fake::start(|_| reply(200, &[], r#"{"token":"t0k"}"#)).await;
            let away = stranger.url.clone();
            let registry = start(move |got, own| match got.target.starts_with("/token") {
                true => reply(307, &[("location", &away)], ""),
                false => way(&away, own),
            })
            .await;
            for (credentials, secrets) in logins(&registry.host) {
                let _ = ask(&registry.url, &credentials, 1).await;
                for got in stranger.got() {
                    let all = format!("{:?}{}{}", got.headers, got.target, got.body);
                    assert!(secrets.iter().all(|secret| !all.contains(secret)), "{all}");
                }
            }
        }
    }
}
