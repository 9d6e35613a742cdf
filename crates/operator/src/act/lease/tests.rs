//! Replicas on virtual time, and an API server that serves one Lease to them in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use futures::stream;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

const DURATIONS: Durations = Durations { lease: Duration::from_secs(15) };
/// How often the tests check which replica may write.
const TICK: Duration = Duration::from_millis(50);
/// The number of random sequences of events, and their steps.
const SEEDS: u64 = 20;
const STEPS: usize = 200;

/// An API server with at most one Lease.
#[derive(Default)]
struct Server {
    store: Mutex<Store>,
    /// The newest resource version.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Store {
    lease: Option<Lease>,
    /// Each change: its version, and the event that a watch shows.
    history: Vec<(u64, Value)>,
}

impl Server {
    fn lease(&self) -> Option<Lease> {
        self.store.lock().unwrap().lease.clone()
    }

    /// Stores the Lease under a new version, or deletes it.
    fn put(&self, lease: Option<Lease>) -> Option<Lease> {
        let mut store = self.store.lock().unwrap();
        let version = *self.version.borrow() + 1;
        let before = store.lease.take();
        let kind = match (&before, &lease) {
            (None, None) => return None,
            (None, Some(_)) => "ADDED",
            (Some(_), Some(_)) => "MODIFIED",
            (Some(_), None) => "DELETED",
        };
        let uid = before.as_ref().map_or_else(|| Some(version.to_string()), |lease| lease.metadata.uid.clone());
        let stamp = |mut lease: Lease| {
            lease.metadata =
                ObjectMeta { uid: uid.clone(), resource_version: Some(version.to_string()), ..lease.metadata };
            lease
        };
        store.lease = lease.map(stamp);
        let shown = store.lease.clone().or_else(|| before.map(stamp));
        store.history.push((version, json!({ "type": kind, "object": shown })));
        self.version.send_replace(version);
        store.lease.clone()
    }

    /// Changes the Lease as `kubectl edit` does.
    fn edit(&self, change: impl FnOnce(&mut Lease)) {
        if let Some(mut lease) = self.lease() {
            change(&mut lease);
            self.put(Some(lease));
        }
    }

    fn set_holder(&self, holder: &str) {
        self.edit(|lease| lease.spec.as_mut().unwrap().holder_identity = Some(holder.to_owned()));
    }

    fn holder(&self) -> Option<String> {
        Some(holder(&self.lease()?).to_owned())
    }

    fn handle(&self, method: &Method, path: &str, body: &[u8]) -> Response<Body> {
        let is_list = path.ends_with("/leases");
        let sent = || serde_json::from_slice::<Lease>(body).unwrap();
        match (method, self.lease()) {
            (&Method::GET, found) if is_list => {
                let metadata = json!({ "resourceVersion": self.version.borrow().to_string() });
                let items = Vec::from_iter(found);
                answer(200, &json!({ "apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items }))
            }
            (&Method::GET, Some(found)) => answer(200, &json!(found)),
            (&Method::GET, None) => failure(404),
            (&Method::POST, None) => answer(201, &json!(self.put(Some(sent())))),
            (&Method::PUT, Some(found)) => {
                let sent = sent();
                let is_current = |sent: &ObjectMeta, found: &ObjectMeta| {
                    (&sent.uid, &sent.resource_version) == (&found.uid, &found.resource_version)
                };
                match is_current(&sent.metadata, &found.metadata) {
                    true => answer(200, &json!(self.put(Some(sent)))),
                    false => failure(409),
                }
            }
            // The API server answers the same if the Lease with this UID is gone.
            _ => failure(409),
        }
    }
}

fn answer(status: u16, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(body.to_string().into()).unwrap()
}

fn failure(code: u16) -> Response<Body> {
    let status =
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "", "reason": "", "code": code });
    answer(code, &status)
}

/// The effect of a connection to the server on requests and watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Fine,
    /// Watches are silent; requests work.
    NoWatch,
    /// The server carries out requests, but never answers them. Watches are silent.
    NoAnswer,
    /// Requests arrive when the connection is back. Watches are silent.
    Cut,
}

/// A connection to the server.
struct Link {
    server: Arc<Server>,
    weather: watch::Sender<Weather>,
}

impl Link {
    /// Waits until the weather is one of these.
    async fn wait(&self, of: &[Weather]) {
        self.weather.subscribe().wait_for(|weather| of.contains(weather)).await.unwrap();
    }

    async fn send(self: Arc<Self>, request: Request<kube::client::Body>) -> Response<Body> {
        use Weather::{Fine, NoAnswer, NoWatch};
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default().to_owned();
        if query.contains("watch=") {
            let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).unwrap();
            return self.watch(from.parse().unwrap());
        }
        let body = body.collect_bytes().await.unwrap();
        // If a client gives up, the server still carries out the request.
        let carried_out = tokio::spawn(async move {
            self.wait(&[Fine, NoWatch, NoAnswer]).await;
            let answer = self.server.handle(&head.method, head.uri.path(), &body);
            self.wait(&[Fine, NoWatch]).await;
            answer
        });
        carried_out.await.unwrap()
    }

    /// Returns the events after the version `from`, and all later ones.
    fn watch(self: Arc<Self>, from: u64) -> Response<Body> {
        let events = stream::unfold((self, from), |(link, from)| async move {
            link.server.version.subscribe().wait_for(|version| *version > from).await.unwrap();
            link.wait(&[Weather::Fine]).await;
            let history = &link.server.store.lock().unwrap().history;
            let (version, event) = history.iter().find(|(version, _)| *version > from).unwrap().clone();
            Some((Ok::<_, Infallible>(format!("{event}\n")), (link.clone(), version)))
        });
        Response::new(Body::from_stream(events))
    }
}

/// A running candidate.
struct Replica {
    identity: String,
    link: Arc<Link>,
    leadership: Leadership,
    candidate: Arc<Candidate>,
    running: JoinHandle<()>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// A server, its replicas, and a check that no two replicas write.
struct Lab {
    server: Arc<Server>,
    replicas: Vec<Replica>,
    started: usize,
    /// When each replica, by its identity, was last allowed to write.
    wrote: BTreeMap<String, Instant>,
}

impl Lab {
    fn new(replicas: usize) -> Self {
        let mut lab = Self { server: Arc::default(), replicas: Vec::new(), started: 0, wrote: BTreeMap::new() };
        for _ in 0..replicas {
            let replica = lab.start();
            lab.replicas.push(replica);
        }
        lab
    }

    /// Two replicas, of which the first one leads.
    async fn led() -> Self {
        let mut lab = Self::new(1);
        lab.pass(DURATIONS.lease * 2).await;
        let standby = lab.start();
        lab.replicas.push(standby);
        lab.pass(DURATIONS.lease).await;
        assert_eq!(lab.leaders(), ["replica-1"]);
        lab
    }

    fn start(&mut self) -> Replica {
        self.started += 1;
        let identity = format!("replica-{}", self.started);
        let link = Arc::new(Link { server: self.server.clone(), weather: watch::Sender::new(Weather::Fine) });
        let service = {
            let link = link.clone();
            tower::service_fn(move |request| {
                let link = link.clone();
                async move { Ok::<_, Infallible>(link.send(request).await) }
            })
        };
        let leadership = Leadership::new();
        let client = Client::new(service, "drop-system");
        let candidate = Arc::new(Candidate::new(client, "drop-system", &identity, DURATIONS, leadership.clone()));
        let running = tokio::spawn({
            let candidate = candidate.clone();
            async move { candidate.run().await }
        });
        Replica { identity, link, leadership, candidate, running }
    }

    fn set_weather(&self, replica: usize, weather: Weather) {
        self.replicas[replica].link.weather.send_replace(weather);
    }

    /// Ends a replica as SIGTERM does.
    async fn stop(&mut self, replica: usize) {
        let replica = self.replicas.remove(replica);
        replica.running.abort();
        if replica.leadership.resign() {
            // No request of the replica is under way.
            self.wrote.remove(&replica.identity);
            replica.candidate.release().await;
        }
    }

    fn leaders(&self) -> Vec<&str> {
        let leaders = self.replicas.iter().filter(|replica| replica.leadership.is_held());
        leaders.map(|replica| &*replica.identity).collect()
    }

    /// Lets time pass; meanwhile no replica may write as long as a request of another one can be under way.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            tokio::time::sleep(TICK).await;
            let now = Instant::now();
            for leader in self.replicas.iter().filter(|replica| replica.leadership.is_held()) {
                for (other, wrote_at) in self.wrote.iter().filter(|(other, _)| **other != leader.identity) {
                    let since = now - *wrote_at;
                    assert!(since >= DURATIONS.request(), "{} writes {since:?} after {other}", leader.identity);
                }
            }
            for leader in self.replicas.iter().filter(|replica| replica.leadership.is_held()) {
                self.wrote.insert(leader.identity.clone(), now);
            }
        }
    }

    /// Lets time pass until some replica leads, and returns how long that takes.
    async fn until_led(&mut self) -> Duration {
        let began = Instant::now();
        while self.leaders().is_empty() {
            assert!(began.elapsed() < DURATIONS.lease * 4, "nobody leads: {:?}", self.server.lease());
            self.pass(TICK).await;
        }
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_replica_leads_after_one_duration() {
    let mut lab = Lab::new(2);
    let elapsed = lab.until_led().await;
    assert!((DURATIONS.lease..DURATIONS.lease + TICK * 2).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_keeps_a_lease_that_is_deleted_or_annotated() {
    let mut lab = Lab::led().await;
    let changes: [fn(&Server); 3] = [
        |server| drop(server.put(None)),
        |server| {
            server.edit(|lease| drop(lease.metadata.annotations.get_or_insert_default().insert("a".into(), "b".into())))
        },
        |server| server.set_holder(""),
    ];
    for change in changes {
        for weather in [Weather::Fine, Weather::NoWatch] {
            lab.set_weather(0, weather);
            // At every point of the leader's period.
            for _ in 0..20 {
                change(&lab.server);
                for _ in 0..22 {
                    lab.pass(TICK * 15).await;
                    assert_eq!(lab.leaders(), ["replica-1"]);
                }
            }
        }
    }
    assert_eq!(lab.server.holder().as_deref(), Some("replica-1"));
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_finds_no_lease_waits_for_a_leader_that_is_cut_off() {
    for weather in [Weather::Cut, Weather::NoAnswer] {
        let mut lab = Lab::led().await;
        lab.set_weather(0, weather);
        lab.server.put(None);
        lab.pass(DURATIONS.lease * 3).await;
        assert_eq!(lab.leaders(), ["replica-2"], "{weather:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_sees_another_holder_resigns_at_once() {
    // The watch shows the other holder. If it is silent, the replica's own renewal does.
    for (weather, limit) in [(Weather::Fine, TICK), (Weather::NoWatch, DURATIONS.request() + TICK)] {
        for new_holder in ["somebody", "replica-2"] {
            let mut lab = Lab::led().await;
            lab.set_weather(0, weather);
            lab.server.set_holder(new_holder);
            lab.pass(limit).await;
            assert!(lab.leaders().is_empty(), "{weather:?}: {:?}", lab.leaders());
            let elapsed = lab.until_led().await + limit;
            assert!((DURATIONS.lease..DURATIONS.lease + TICK * 2).contains(&elapsed), "{elapsed:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lost_ends_as_soon_as_the_leader_resigns() {
    let mut lab = Lab::led().await;
    let leadership = lab.replicas[0].leadership.clone();
    let lost = tokio::spawn(async move { leadership.lost().await });
    lab.pass(DURATIONS.lease).await;
    assert!(!lost.is_finished());
    lab.server.set_holder("somebody");
    lab.pass(TICK).await;
    assert!(lost.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_once() {
    let mut lab = Lab::led().await;
    lab.stop(0).await;
    assert!(lab.until_led().await <= TICK);
    assert_eq!(lab.leaders(), ["replica-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_in_time_and_leads_again_if_nobody_else_did() {
    let mut lab = Lab::led().await;
    lab.set_weather(0, Weather::Cut);
    lab.pass(DURATIONS.reliance()).await;
    assert!(lab.leaders().is_empty());
    lab.pass(DURATIONS.lease).await;
    assert_eq!(lab.leaders(), ["replica-2"]);
    drop(lab.replicas.remove(0));
    lab.set_weather(0, Weather::Cut);
    lab.pass(DURATIONS.lease * 5).await;
    assert!(lab.leaders().is_empty());
    lab.set_weather(0, Weather::Fine);
    lab.pass(DURATIONS.lease * 2).await;
    assert_eq!(lab.leaders(), ["replica-2"]);
}

/// Numbers that look random, by xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn no_two_replicas_write_at_once_whatever_happens() {
    use Weather::{Cut, Fine, NoAnswer, NoWatch};
    let mut times_led = 0;
    for seed in 1..=SEEDS {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let mut lab = Lab::new(3);
        let mut copies: Vec<Lease> = Vec::new();
        for _ in 0..STEPS {
            copies.extend(lab.server.lease().filter(|lease| !is_released(lease)));
            let replica = dice.roll(lab.replicas.len());
            match dice.roll(24) {
                0..=5 => lab.set_weather(replica, [Fine, Fine, NoWatch, NoAnswer, Cut][dice.roll(5)]),
                6 => drop(lab.server.put(None)),
                7 => lab.server.set_holder(["", "somebody"][dice.roll(2)]),
                8 => lab.server.set_holder(&lab.replicas[replica].identity),
                9 => lab.server.edit(|lease| lease.metadata.labels = Some([("a".into(), seed.to_string())].into())),
                // A user restores a backup, over the existing Lease or in place of it.
                10 if !copies.is_empty() => {
                    if dice.roll(2) == 0 {
                        lab.server.put(None);
                    }
                    lab.server.put(Some(copies.swap_remove(dice.roll(copies.len()))));
                }
                11 => lab.stop(replica).await,
                12 => drop(lab.replicas.remove(replica)),
                _ => {}
            }
            while lab.replicas.len() < 3 {
                let replica = lab.start();
                lab.replicas.push(replica);
            }
            lab.pass(Duration::from_millis(500) * u32::try_from(dice.roll(8)).unwrap()).await;
            times_led += lab.leaders().len();
        }
        for replica in 0..lab.replicas.len() {
            lab.set_weather(replica, Fine);
        }
        lab.pass(DURATIONS.lease * 4).await;
        assert_eq!(lab.leaders().len(), 1, "seed {seed}: {:?}", lab.server.lease());
    }
    assert!(times_led > usize::try_from(SEEDS).unwrap() * STEPS / 8, "leaders were rare: {times_led}");
}
