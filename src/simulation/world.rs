//! The world: an admin API over a store in memory, machines with proxies, an operator, clients, and
//! everything that can happen to them. It has one source of chance and no time but its own.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::at_once;
use super::proxy::{
    Batch, Exchange, Leg, Machine, Proxy, Request, Stray, Waits, in_vain, patience,
};
use super::truth::{Truth, end};
use crate::admin::Overlap;
use crate::admin::rules;
use crate::authority::follow::{Ask, Event};
use crate::authority::{Access, Answer};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::credential::feed::{Head, Heard, PageKey, TenantRow};
use crate::credential::{
    Credential, CredentialId, Expiry, Revision, Status, TenantId, TokenDigest,
};
use crate::refusal::Refusal;
use crate::route::{Routes, Target};
use crate::source::FeedError;
use crate::store::memory::{Memory, State};
use crate::store::replicas::{Receipt, ReplicaState, Replicas};
use crate::store::{AuditEntry, Decide, Order, Origin, Record, Store, View};
use crate::telemetry::metrics::Metrics;

/// What all worlds of a thread share, and none changes.
pub struct Scene {
    config: Config,
    routes: Routes,
    metrics: Arc<Metrics>,
}

impl Scene {
    pub fn new() -> Self {
        let text = "
proxy:
  listeners: [{ address: 127.0.0.1:0 }]
  routes:
    - { tenant: z-1, path: /z-1, upstream: { url: 'http://127.0.0.1:9' } }
    - { tenant: z-2, path: /z-2, upstream: { url: 'http://127.0.0.1:9' } }
credentials:
  source: file
  file: { path: c.yaml }
  refresh: 6s
  max_stale: { reads: 60s, writes: 30s }
";
        let config = Config::parse(text, std::path::Path::new("/")).expect("valid");
        let routes = Routes::new(&config.proxy.as_ref().expect("it is there").routes);
        Self { config, routes, metrics: Arc::new(Metrics::new()) }
    }

    fn most(&self, access: Access) -> Duration {
        match access {
            Access::Read => self.config.credentials.max_stale.reads.0,
            Access::Write => self.config.credentials.max_stale.writes.0,
        }
    }
}

/// What can happen in one world. Each has its own mixture: what is rare in all is common in some.
#[derive(Debug)]
struct Temper {
    crashes: bool,
    cuts: bool,
    losses: bool,
    clocks: bool,
    compacts: bool,
    replaces: bool,
    long_pauses: bool,
    /// Pages are late.
    slow_pages: bool,
}

impl Temper {
    fn of(chance: &mut fastrand::Rng) -> Self {
        let mut likely = |percent| chance.u32(..100) < percent;
        Self {
            crashes: likely(50),
            cuts: likely(50),
            losses: likely(60),
            clocks: likely(30),
            compacts: likely(60),
            replaces: likely(40),
            long_pauses: likely(50),
            slow_pages: likely(50),
        }
    }
}

pub struct World<'a> {
    scene: &'a Scene,
    chance: fastrand::Rng,
    temper: Temper,
    trace: bool,
    /// The true time.
    time: Clock,
    machines: Vec<Machine>,
    admin: Admin,
    /// States of the store that somebody has put aside.
    copies: Vec<State>,
    strays: Vec<Stray>,
    truth: Truth,
    /// Credentials that were made, in any store.
    made: Vec<CredentialId>,
}

struct Admin {
    clock: Clock,
    store: Arc<Memory>,
    /// The memory of the process; none while it does not run.
    replicas: Option<Replicas>,
    /// When the process started.
    started: Timestamp,
    /// The revision at which the store was put in place; 0 once that is accepted.
    first: Revision,
    /// Replicas whose last report was sent before that. It says nothing of what they learned since.
    late: HashSet<String>,
}

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const TENANTS: [&str; 2] = ["z-1", "z-2"];
const PER_TENANT: usize = 3;
const MINUTE: u64 = 60;
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * MINUTE);
/// A little less than what a clock takes to believe a step.
const BELIEF: Duration = Duration::from_secs(9 * MINUTE);
/// Exchanges after which all should be said.
const CALM: usize = 100;

impl<'a> World<'a> {
    pub fn new(scene: &'a Scene, seed: u64, trace: bool) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        let temper = Temper::of(&mut chance);
        let machines = 2 + chance.usize(..2);
        let mut world = Self {
            scene,
            temper,
            trace,
            time: Clock::manual(START),
            machines: (0..machines).map(|it| Machine::new(format!("m{it}"), START)).collect(),
            admin: Admin {
                clock: Clock::manual(START),
                store: Arc::new(Memory::new(START)),
                replicas: None,
                started: START,
                first: Revision(0),
                late: HashSet::new(),
            },
            copies: Vec::new(),
            strays: Vec::new(),
            truth: Truth::new(),
            made: Vec::new(),
            chance,
        };
        world.note(|| format!("{machines} machines, {:?}", world.temper));
        world.start_admin();
        world.declare_tenants();
        for machine in 0..machines {
            world.start_proxy(machine);
        }
        world
    }

    /// Lets things happen; gives the first promise that was broken.
    pub fn run(mut self) -> Result<(), String> {
        if self.likely(80) {
            (0..4).for_each(|_| self.operate());
            for machine in 0..self.machines.len() {
                self.tick(machine);
                self.calm(machine);
            }
        }
        let acts = 150 + self.chance.usize(..150);
        for _ in 0..acts {
            self.happen();
            if let Some(broken) = self.truth.broken.take() {
                return Err(broken);
            }
        }
        self.heal();
        self.truth.broken.take().map_or(Ok(()), Err)
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.3} {}", self.now().since(START).as_secs_f64(), what());
        }
    }

    fn now(&self) -> Timestamp {
        self.time.now().wall
    }

    fn likely(&mut self, percent: u32) -> bool {
        self.chance.u32(..100) < percent
    }

    fn machine(&mut self) -> usize {
        self.chance.usize(..self.machines.len())
    }

    // Chance.

    fn happen(&mut self) {
        let machine = self.machine();
        match self.chance.u32(..1000) {
            0..280 => self.pass_on(machine),
            280..440 => (0..2).for_each(|_| self.stream(machine)),
            440..500 => self.tick(machine),
            500..620 => {
                let span = self.chance.u64(20..900);
                self.let_pass(Duration::from_millis(span));
            }
            620..640 => {
                let span = self.chance.u64(5..40);
                self.let_pass(Duration::from_secs(span));
            }
            640..780 => self.request(machine),
            780..830 => self.resume(machine),
            830..900 => (0..self.chance.u32(1..4)).for_each(|_| self.operate()),
            900..940 => self.ask_receipt(),
            940..950 if self.temper.losses => self.lose(machine),
            950..954 if self.temper.losses => self.echo(machine),
            954..960 if self.temper.cuts => self.cut(machine),
            960..964 if self.temper.crashes => self.crash_proxy(machine),
            964..968 if self.temper.crashes => self.crash_admin(),
            968..971 if self.temper.clocks => self.step_clock(machine),
            971..979 if self.temper.compacts => self.compact(),
            979..989 if self.temper.long_pauses => {
                self.let_pass(Duration::from_secs(62 * MINUTE));
            }
            989..993 if self.temper.replaces => self.copies.push(self.admin.store.state()),
            993..997 if self.temper.replaces => self.replace_store(),
            997..999 => self.accept(),
            _ => self.pass_on(machine),
        }
        if self.admin.replicas.is_none() && self.likely(20) {
            self.start_admin();
        }
        if self.machines[machine].proxy.is_none() && self.likely(20) {
            self.start_proxy(machine);
        }
    }

    // Time.

    fn let_pass(&mut self, span: Duration) {
        self.note(|| format!("{span:?} pass"));
        let now = self.now();
        for machine in &mut self.machines {
            // Before it believes a wrong wall clock: nothing is promised when both are wrong.
            if machine.astray.is_some_and(|since| now.plus(span).since(since) >= BELIEF) {
                machine.set_right(now);
            }
        }
        let clocks =
            self.machines.iter().map(|it| &it.clock).chain([&self.time, &self.admin.clock]);
        clocks.for_each(|clock| clock.advance(span));
        for machine in 0..self.machines.len() {
            self.machines[machine].clock.settle();
            self.expire(machine);
        }
    }

    /// What has waited for too long, waits no more.
    fn expire(&mut self, machine: usize) {
        let now = self.now();
        let Some(proxy) = &mut self.machines[machine].proxy else { return };
        proxy.requests.retain(|request| {
            let patience = match request.waits {
                Waits::ForLookup => 2,
                Waits::With(_) => 10,
            };
            now.since(request.begun) <= Duration::from_secs(patience)
        });
        let overdue = |it: &Exchange| now.since(it.sent) > patience(&it.ask);
        while let Some(index) = self.exchanges(machine).iter().position(overdue) {
            self.give_up(machine, index);
        }
    }

    fn step_clock(&mut self, machine: usize) {
        let now = self.now();
        if self.machines[machine].astray.is_some() && self.chance.bool() {
            self.note(|| format!("m{machine}'s wall clock is set right"));
            return self.machines[machine].set_right(now);
        }
        let minutes = [5, 30, 60][self.chance.usize(..3)];
        let minutes = if self.chance.bool() { minutes } else { -minutes };
        if self.likely(20) {
            // Never by as much as a machine's, which would believe it.
            let to = now.as_millis() + minutes * 61_000 * 7;
            self.note(|| format!("the admin's wall clock is set to {minutes} times 7 minutes"));
            return self.admin.clock.set_wall(Timestamp::from_millis(to));
        }
        self.note(|| format!("m{machine}'s wall clock is set {minutes} minutes off"));
        let to = Timestamp::from_millis(now.as_millis() + minutes * 60_000);
        self.machines[machine].clock.set_wall(to);
        self.machines[machine].astray.get_or_insert(now);
    }

    // The network.

    fn exchanges(&mut self, machine: usize) -> &mut Vec<Exchange> {
        match &mut self.machines[machine].proxy {
            Some(proxy) => &mut proxy.exchanges,
            None => panic!("m{machine} does not run"),
        }
    }

    fn tell(&mut self, machine: usize, event: Event) {
        let now = self.now();
        let Machine { proxy: Some(proxy), clock, .. } = &mut self.machines[machine] else { return };
        let answers = proxy.tell(event, clock, now);
        for (digest, answer) in answers {
            self.answered(machine, digest, answer);
        }
    }

    fn tick(&mut self, machine: usize) {
        self.tell(machine, Event::Tick);
    }

    /// Something that is on its way comes a step further, whatever was sent before it.
    fn pass_on(&mut self, machine: usize) {
        for _ in 0..self.chance.u32(1..5) {
            self.pass_one_on(machine);
        }
    }

    fn pass_one_on(&mut self, machine: usize) {
        if self.likely(3) && !self.strays.is_empty() {
            return self.deliver_stray();
        }
        let Machine { proxy: Some(proxy), cut: false, .. } = &self.machines[machine] else {
            return;
        };
        let count = proxy.exchanges.len();
        if count == 0 {
            return self.tick(machine);
        }
        let oldest = self.likely(50);
        let index = if oldest { 0 } else { self.chance.usize(..count) };
        let late = self.temper.slow_pages && self.likely(90);
        match self.exchanges(machine)[index].leg {
            Leg::Going => self.arrive(machine, index),
            Leg::Coming(Event::Page { .. }, _) if late => {}
            Leg::Coming(..) => self.deliver(machine, index),
        }
    }

    /// A question arrives at the admin API.
    fn arrive(&mut self, machine: usize, index: usize) {
        let exchange = &self.exchanges(machine)[index];
        let (ask, sent) = (exchange.ask.clone(), exchange.sent);
        let instance = self.machines[machine].proxy.as_ref().expect("it asks").instance.clone();
        let event = self.serve(&ask, &instance, sent, Some(machine));
        self.note(|| format!("m{machine} asked {ask:?}, and is answered {}", brief(&event)));
        let date = self.admin.clock.now().wall;
        self.exchanges(machine)[index].leg = Leg::Coming(event, date);
    }

    fn serve(&mut self, ask: &Ask, instance: &str, sent: Timestamp, from: Option<usize>) -> Event {
        let Some(replicas) = &self.admin.replicas else { return in_vain(ask) };
        let store = &self.admin.store;
        match ask {
            Ask::Report(report) => {
                let now = self.admin.clock.now();
                let heard = at_once(replicas.report(instance, report.clone(), &now));
                let heard = heard.expect("memory works");
                if sent < self.admin.started {
                    self.admin.late.insert(instance.to_owned());
                } else {
                    self.admin.late.remove(instance);
                }
                self.truth.noticed(&heard.head);
                self.note_read(from, sent, &heard.head);
                Event::Reported(Ok(heard))
            }
            Ask::Page { ticket, after } => {
                let page = at_once(store.page(after.as_ref(), None, 2)).expect("memory works");
                self.note_read(from, sent, &page.head);
                Event::Page { ticket: *ticket, reply: Ok(page) }
            }
            Ask::Poll { ticket, after } => {
                let most = self.chance.usize(1..4);
                let reply = at_once(store.changes(after, None, most)).expect("memory works");
                let reply = reply.map_err(FeedError::Gone);
                Event::Polled { ticket: *ticket, after: after.clone(), reply }
            }
            Ask::Lookup(digest) => {
                let (head, record) = at_once(store.lookup(digest)).expect("memory works");
                let row = record.as_ref().map(Record::row);
                Event::LookedUp { digest: *digest, reply: Ok((head, row)) }
            }
            Ask::Stream { .. } | Ask::Answer(..) => unreachable!("no exchange"),
        }
    }

    /// What the store said to a question that was sent then, a proxy knows to have been so later.
    fn note_read(&mut self, by: Option<usize>, sent: Timestamp, head: &Head) {
        if let Some(proxy) = by.and_then(|machine| self.machines[machine].proxy.as_mut()) {
            proxy.reads.push((sent, head.clone()));
        }
    }

    /// An answer arrives at the proxy.
    fn deliver(&mut self, machine: usize, index: usize) {
        let Leg::Coming(event, date) = self.exchanges(machine).remove(index).leg else {
            panic!("it is not on its way back")
        };
        self.note(|| format!("m{machine} hears {}", brief(&event)));
        self.machines[machine].clock.witness(date);
        if let Some(echo) = copy(&event)
            && let Some(proxy) = &mut self.machines[machine].proxy
        {
            proxy.echoes.push(echo);
        }
        self.tell(machine, event);
    }

    fn lose(&mut self, machine: usize) {
        let Some(proxy) = &mut self.machines[machine].proxy else { return };
        if self.chance.bool() && !proxy.streams.is_empty() {
            let index = self.chance.usize(..proxy.streams.len());
            let stream = &mut proxy.streams[index];
            let kept = self.chance.usize(..=stream.batches.len());
            stream.batches.truncate(kept);
            stream.at = None;
            stream.batches.push_back(Batch::Ended(FeedError::Unreachable("it broke".to_owned())));
            return self.note(|| format!("m{machine}: a stream breaks"));
        }
        let count = proxy.exchanges.len();
        if count > 0 {
            let index = self.chance.usize(..count);
            self.give_up(machine, index);
        }
    }

    /// The proxy waits no more for an answer. What it asked may arrive all the same.
    fn give_up(&mut self, machine: usize, index: usize) {
        let Exchange { ask, leg, .. } = self.exchanges(machine).remove(index);
        self.note(|| format!("m{machine} waits no more for an answer to {ask:?}"));
        if let (Ask::Report(report), Leg::Going) = (&ask, &leg) {
            let instance =
                self.machines[machine].proxy.as_ref().expect("it asked").instance.clone();
            self.strays.push(Stray { instance, report: report.clone() });
        }
        self.tell(machine, in_vain(&ask));
    }

    fn deliver_stray(&mut self) {
        let index = self.chance.usize(..self.strays.len());
        let Stray { instance, report } = self.strays.swap_remove(index);
        self.note(|| format!("a late report of {instance} arrives: {:?}", report.applied));
        self.serve(&Ask::Report(report), &instance, START, None);
    }

    /// An old answer comes once more.
    fn echo(&mut self, machine: usize) {
        let Some(proxy) = &mut self.machines[machine].proxy else { return };
        if proxy.echoes.is_empty() {
            return;
        }
        let index = self.chance.usize(..proxy.echoes.len());
        let event = proxy.echoes.swap_remove(index);
        self.note(|| format!("m{machine} hears once more {}", brief(&event)));
        self.tell(machine, event);
    }

    /// A stream comes a step further: the admin API sends, or the proxy hears.
    fn stream(&mut self, machine: usize) {
        let most = self.chance.usize(1..3);
        let Machine { proxy: Some(proxy), cut: false, .. } = &mut self.machines[machine] else {
            return;
        };
        if proxy.streams.is_empty() {
            return;
        }
        let index = self.chance.usize(..proxy.streams.len());
        let stream = &mut proxy.streams[index];
        let hear = self.chance.bool();
        if let Some(after) = stream.at.clone().filter(|_| !hear || stream.batches.is_empty()) {
            if self.admin.replicas.is_none() {
                let why = FeedError::Unreachable("nobody is there".to_owned());
                stream.batches.push_back(Batch::Ended(why));
                stream.at = None;
                return;
            }
            let reply = at_once(self.admin.store.changes(&after, None, most));
            match reply.expect("memory works") {
                Ok(changes) if changes.position == after => {}
                Ok(changes) => {
                    stream.at = Some(changes.position.clone());
                    stream.batches.push_back(Batch::Told(after, changes));
                }
                Err(gone) => {
                    stream.at = None;
                    stream.batches.push_back(Batch::Ended(FeedError::Gone(gone)));
                }
            }
            return;
        }
        let ticket = stream.ticket;
        let Some(batch) = stream.batches.pop_front() else { return };
        if stream.at.is_none() && stream.batches.is_empty() && !proxy.is_latest(index) {
            proxy.streams.remove(index);
        }
        let event = match batch {
            Batch::Told(after, changes) => Event::Streamed { ticket, after, changes },
            Batch::Ended(why) => Event::StreamEnded { ticket, why },
        };
        self.note(|| format!("m{machine} hears {}", brief(&event)));
        self.tell(machine, event);
    }

    fn cut(&mut self, machine: usize) {
        let cut = &mut self.machines[machine].cut;
        *cut = !*cut;
        let cut = *cut;
        self.note(|| format!("m{machine} is {}", if cut { "cut off" } else { "connected" }));
    }

    // Processes.

    fn start_admin(&mut self) {
        let max_stale = self.scene.most(Access::Read);
        let store = Arc::clone(&self.admin.store) as Arc<dyn Store>;
        let replicas = at_once(Replicas::load(store, max_stale, self.admin.clock.now()));
        self.admin.replicas = Some(replicas.expect("memory works"));
        self.admin.started = self.now();
        self.note(|| "the admin API starts".to_owned());
    }

    fn crash_admin(&mut self) {
        self.note(|| "the admin API crashes".to_owned());
        self.admin.replicas = None;
        let proxies = self.machines.iter_mut().filter_map(|machine| machine.proxy.as_mut());
        for stream in proxies.flat_map(|proxy| &mut proxy.streams) {
            if stream.at.take().is_some() {
                let why = FeedError::Unreachable("it crashed".to_owned());
                stream.batches.push_back(Batch::Ended(why));
            }
        }
    }

    fn start_proxy(&mut self, machine: usize) {
        self.note(|| format!("m{machine} starts a proxy"));
        // A process that starts has nothing to doubt a wall clock by.
        let now = self.now();
        let machine = &mut self.machines[machine];
        machine.set_right(now);
        machine.start(&self.scene.config, &self.scene.metrics);
    }

    /// A proxy is gone, now and then after saying goodbye.
    fn crash_proxy(&mut self, machine: usize) {
        let Some(proxy) = self.machines[machine].proxy.take() else { return };
        let leaves = self.likely(30) && !self.machines[machine].cut;
        self.note(|| format!("{} {}", proxy.instance, if leaves { "leaves" } else { "crashes" }));
        if leaves && let Some(replicas) = &self.admin.replicas {
            at_once(replicas.remove(&proxy.instance)).expect("memory works");
        }
        for Exchange { ask, leg, .. } in proxy.exchanges {
            if let (Ask::Report(report), Leg::Going) = (ask, leg) {
                self.strays.push(Stray { instance: proxy.instance.clone(), report });
            }
        }
    }

    // The store.

    fn compact(&mut self) {
        self.note(|| "the log is compacted".to_owned());
        let now = self.admin.clock.now().wall;
        let before = now.as_millis() - self.chance.i64(..10_000);
        at_once(self.admin.store.compact(Timestamp::from_millis(before))).expect("memory works");
    }

    /// The admin API comes back with another store: an older copy as it is, one that was restored
    /// properly, or none.
    fn replace_store(&mut self) {
        self.crash_admin();
        let copy = (!self.copies.is_empty() && self.likely(80))
            .then(|| self.copies[self.chance.usize(..self.copies.len())].clone());
        let now = self.admin.clock.now().wall;
        let (state, how) = match copy {
            None => (None, "emptied"),
            Some(copy) if self.likely(30) => (Some(copy.restored(now)), "restored"),
            Some(copy) => (Some(copy), "rewound"),
        };
        let empty = state.is_none();
        self.admin.store = Arc::new(state.map_or_else(|| Memory::new(now), Memory::with));
        let head = at_once(self.admin.store.head()).expect("memory works");
        self.note(|| format!("the store is {how}: {}", head.position));
        self.truth.replaced(&head);
        self.admin.first = head.position.revision;
        self.start_admin();
        if empty {
            self.declare_tenants();
        }
        self.look_at_requests();
    }

    fn accept(&mut self) {
        if self.admin.replicas.is_none() {
            return;
        }
        self.look_at_dispute();
        let audit = self.entry("history.accept", None);
        let head = at_once(self.admin.store.accept(audit)).expect("memory works");
        self.note(|| format!("the operator accepts the store: {}", head.position));
        self.truth.accepted_by_operator();
        self.admin.first = Revision(0);
    }

    /// What an operator is shown before accepting: once all have compared, everything is in it.
    fn look_at_dispute(&mut self) {
        let Some(replicas) = &self.admin.replicas else { return };
        let (now, store) = (self.admin.clock.now(), &self.admin.store);
        let states = at_once(replicas.all(&now)).expect("memory works");
        if replicas.compares_by(&now).is_some() || !states.iter().all(|it| it.compared) {
            return;
        }
        // What was changed in this very store, somebody has meant; and ends are for clocks.
        let first = self.admin.first;
        let tenants = at_once(store.tenants()).expect("memory works");
        let on = |row: &TenantRow| row.synchronization == Status::Enabled && row.revision <= first;
        let on: HashSet<_> = tenants.iter().filter(|row| on(row)).map(|row| &row.tenant).collect();
        let live = |it: &Record| {
            let lasts = end(&it.credential) > now.wall.plus(MONTH);
            let enabled = it.credential.status == Status::Enabled;
            lasts && enabled && it.revision <= first && on.contains(&it.credential.tenant)
        };
        let told: HashSet<_> = states.iter().flat_map(|it| &it.would_revive).collect();
        let untold = |it: &Record| live(it) && !told.contains(&it.key());
        let untold: Vec<_> = store.all().into_iter().filter(untold).collect();
        let ahead = |proxy: &&Proxy| {
            let mut heard = states.iter().filter(|it| it.applied.is_some());
            let known = heard.any(|it| it.instance == proxy.instance);
            let lost = proxy.follower.held().is_some_and(|held| self.truth.is_lost(&held.mark));
            known && lost && !self.admin.late.contains(&proxy.instance)
        };
        let proxies = self.machines.iter().filter_map(|machine| machine.proxy.as_ref());
        let revived = proxies.filter(ahead).find_map(|proxy| {
            let applier = proxy.follower.applier();
            let refused = |it: &&Record| {
                let row = applier.get(&it.key());
                row.is_some_and(|row| row.status == Status::Disabled)
                    || !applier.synchronizes(&it.credential.tenant)
            };
            Some((proxy.instance.clone(), untold.iter().find(refused)?.credential.id.clone()))
        });
        if let Some((name, id)) = revived {
            self.truth.fail(|| format!("{id} would come back to life, as {name} alone knew"));
        }
    }

    fn ask_receipt(&mut self) {
        self.look_at_dispute();
        let head = at_once(self.admin.store.head()).expect("memory works").position.revision.0;
        let revision = head.saturating_sub(self.chance.u64(..4)).max(1);
        let _ = self.receipt(Revision(revision));
    }

    fn receipt(&mut self, revision: Revision) -> Option<Receipt> {
        let now = self.admin.clock.now();
        let receipt = at_once(self.admin.replicas.as_ref()?.receipt(revision, &now));
        let receipt = receipt.expect("memory works").ok()?;
        self.note(|| {
            let of = |it: &ReplicaState| format!("{} {}", it.instance, it.state.as_str());
            let replicas: Vec<_> = receipt.replicas.iter().map(of).collect();
            format!("receipt of {}: {} {replicas:?}", revision.0, receipt.complete)
        });
        let running = self.machines.iter().filter_map(|it| it.proxy.as_ref());
        let holding = running.filter(|it| it.follower.held().is_some());
        let tables: Vec<_> = holding.map(|it| it.instance.clone()).collect();
        self.truth.receipt(&receipt, &tables);
        Some(receipt)
    }

    // The operator.

    fn declare_tenants(&mut self) {
        for tenant in TENANTS {
            self.write(tenant, None, Box::new(rules::declare));
        }
    }

    fn operate(&mut self) {
        if self.admin.replicas.is_none() {
            return;
        }
        let tenant = TENANTS[self.chance.usize(..2)];
        let filter = crate::store::Filter {
            tenant: TenantId::parse(tenant).expect("valid"),
            after: None,
            expires_by: None,
            rows: 100,
        };
        let records = at_once(self.admin.store.records(&filter)).expect("memory works").records;
        let some = (!records.is_empty())
            .then(|| records[self.chance.usize(..records.len())].credential.id.clone());
        match (some, self.chance.u32(..100)) {
            (None, _) | (_, 0..30) => self.create(tenant),
            (Some(id), 30..55) => self.set_status(tenant, id, Status::Disabled),
            (Some(id), 55..70) => self.set_status(tenant, id, Status::Enabled),
            (Some(id), 70..82) => {
                self.note(|| format!("the operator deletes {id}"));
                self.write(tenant, None, Box::new(move |view| rules::delete(view, &id)));
            }
            (Some(id), 82..92) => self.rotate(tenant, id),
            _ => {
                let status = if self.likely(40) { Status::Disabled } else { Status::Enabled };
                self.note(|| format!("the operator sets {tenant} {status:?}"));
                let rule = move |view: &View| rules::set_synchronization(view, status);
                self.write(tenant, None, Box::new(rule));
            }
        }
    }

    fn create(&mut self, tenant: &str) {
        let minted = self.likely(70);
        let new = self.record(tenant, minted);
        let digest = new.credential.digest;
        let id = &new.credential.id;
        self.note(|| format!("the operator creates {id} of {tenant}, minted: {minted}"));
        let rule = move |view: &View| rules::create(view, &new, PER_TENANT);
        self.write(tenant, Some(digest), Box::new(rule));
    }

    fn set_status(&mut self, tenant: &str, id: CredentialId, status: Status) {
        self.note(|| format!("the operator sets {id} {status:?}"));
        self.write(
            tenant,
            None,
            Box::new(move |view| {
                let patch = crate::admin::Patch { status: Some(status), label: None };
                rules::patch(view, &id, &patch)
            }),
        );
    }

    fn rotate(&mut self, tenant: &str, id: CredentialId) {
        let new = self.record(tenant, true);
        let leaked = self.chance.bool();
        let overlap = match leaked {
            true => Overlap::Leaked,
            false => Overlap::For(Duration::from_secs(self.chance.u64(1..60))),
        };
        let digest = new.credential.digest;
        let now = self.admin.clock.now().wall;
        self.note(|| format!("the operator rotates {id} to {}, {overlap:?}", new.credential.id));
        let rule = move |view: &View| rules::rotate(view, &id, &new, overlap, PER_TENANT, now);
        self.write(tenant, Some(digest), Box::new(rule));
    }

    fn record(&mut self, tenant: &str, minted: bool) -> Record {
        let id = CredentialId::parse(&format!("c-{}", self.made.len())).expect("valid");
        self.made.push(id.clone());
        self.truth.made(id.clone(), tenant, minted);
        let now = self.now();
        let life = [20, 10 * MINUTE, 180 * MINUTE, 525_600 * MINUTE][self.chance.usize(..4)];
        Record {
            credential: Credential {
                digest: digest_of(&id),
                id,
                tenant: TenantId::parse(tenant).expect("valid"),
                status: Status::Enabled,
                expiry: Expiry::At(now.plus(Duration::from_secs(life))),
            },
            revision: Revision(0),
            create_time: now,
            label: String::new(),
            hint: None,
            origin: Origin::Local,
            created_by: "operator".to_owned(),
            enrolled: !minted,
            last_used: None,
            successor: None,
        }
    }

    fn write(&mut self, tenant: &str, digest: Option<TokenDigest>, decide: Decide) {
        let tenant = TenantId::parse(tenant).expect("valid");
        let audit = self.entry("write", Some(tenant.clone()));
        let order = Order { tenant, digest, decide, audit, restricts: false };
        // What the rules deny, changes nothing.
        let _ = at_once(self.admin.store.write(order));
        self.truth.written(&self.admin.store);
        self.look_at_requests();
    }

    fn entry(&self, action: &'static str, tenant: Option<TenantId>) -> AuditEntry {
        AuditEntry {
            time: self.admin.clock.now().wall,
            actor: "operator".to_owned(),
            peer: String::new(),
            request_id: String::new(),
            action,
            tenant,
            credential_id: None,
            detail: String::new(),
        }
    }

    // Clients.

    fn request(&mut self, machine: usize) {
        if self.made.is_empty() || self.machines[machine].proxy.is_none() {
            return;
        }
        // Newer ones are more likely to be there at all.
        let first = self.made.len().saturating_sub(8);
        let id = self.made[self.chance.usize(first..self.made.len())].clone();
        let access = if self.chance.bool() { Access::Read } else { Access::Write };
        let live = self.truth.live(&id);
        let (begun, waits) = (self.now(), Waits::ForLookup);
        self.decide(machine, Request { id, access, begun, live, waits }, true);
    }

    /// A gate decides about a request.
    fn decide(&mut self, machine: usize, mut request: Request, may_ask: bool) {
        let token = &self.truth.tokens[&request.id];
        let (minted, path) = (token.minted, format!("/{}/Users", token.tenant));
        let waits = self.likely(40);
        let Machine { proxy: Some(proxy), clock, .. } = &mut self.machines[machine] else { return };
        let digest = digest_of(&request.id);
        let target = Target { host: None, path: &path, query: None };
        let place = self.scene.routes.find(&target).expect("plain");
        let outcome = proxy.gate.admit_digest(digest, place.as_ref(), request.access, &clock.now());
        match outcome {
            Ok(permit) => {
                request.waits = Waits::With(permit);
                if waits {
                    proxy.requests.push(request);
                } else {
                    self.forward(machine, request);
                }
            }
            Err(refused) => {
                let unheard_of =
                    matches!(refused.refusal, Refusal::TokenUnknown | Refusal::UnknownWhileStale);
                if unheard_of && minted && may_ask {
                    let waiting =
                        |it: &Request| it.id == request.id && matches!(it.waits, Waits::ForLookup);
                    let asked = proxy.requests.iter().any(waiting);
                    request.waits = Waits::ForLookup;
                    proxy.requests.push(request);
                    if !asked {
                        self.tell(machine, Event::Wanted(digest));
                    }
                } else {
                    self.refused(machine, &request, &refused.refusal);
                }
            }
        }
    }

    /// Lookups are answered.
    fn answered(&mut self, machine: usize, digest: TokenDigest, answer: Answer) {
        let Some(proxy) = &mut self.machines[machine].proxy else { return };
        let waiting =
            |it: &mut Request| digest_of(&it.id) == digest && matches!(it.waits, Waits::ForLookup);
        let waiting: Vec<_> = proxy.requests.extract_if(.., waiting).collect();
        if answer == Answer::Undecided {
            return;
        }
        for request in waiting {
            self.decide(machine, request, false);
        }
    }

    /// A request that has a permit gets its connection.
    fn resume(&mut self, machine: usize) {
        let Some(proxy) = &mut self.machines[machine].proxy else { return };
        let ready = |it: &Request| matches!(it.waits, Waits::With(_));
        if let Some(index) = proxy.requests.iter().position(ready) {
            let request = proxy.requests.remove(index);
            self.forward(machine, request);
        }
    }

    fn forward(&mut self, machine: usize, request: Request) {
        let now = self.now();
        let Waits::With(permit) = &request.waits else { panic!("it has no permit") };
        let Machine { proxy: Some(proxy), clock, .. } = &self.machines[machine] else { return };
        match proxy.gate.confirm(permit, &clock.now()) {
            Ok(()) => {
                let most = self.scene.most(request.access);
                self.note(|| format!("{} lets {} in", proxy.instance, request.id));
                let truth = &mut self.truth;
                proxy.with_sight(|sight| truth.accepted(sight, &request.id, most, now));
            }
            Err(refused) => self.refused(machine, &request, &refused.refusal),
        }
    }

    fn refused(&mut self, machine: usize, request: &Request, refusal: &Refusal) {
        let now = self.now();
        let Some(proxy) = &self.machines[machine].proxy else { return };
        self.note(|| format!("{} refuses {}: {}", proxy.instance, request.id, refusal.reason()));
        if refusal.status() == http::StatusCode::UNAUTHORIZED {
            let (truth, id, why) = (&mut self.truth, &request.id, refusal.reason());
            proxy.with_sight(|sight| truth.condemned(sight, id, request.live, why, now));
        }
    }

    /// Notes for each open request whether the store still has its token good.
    fn look_at_requests(&mut self) {
        let proxies = self.machines.iter_mut().filter_map(|it| it.proxy.as_mut());
        for request in proxies.flat_map(|proxy| &mut proxy.requests) {
            request.live &= self.truth.live(&request.id);
        }
    }

    // The end.

    /// Everything works again, and somebody looks after it: in the end all must know everything.
    fn heal(&mut self) {
        self.note(|| "everything works again".to_owned());
        if self.admin.replicas.is_none() {
            self.start_admin();
        }
        self.temper = Temper {
            crashes: false,
            cuts: false,
            losses: false,
            clocks: false,
            compacts: false,
            replaces: false,
            long_pauses: false,
            slow_pages: false,
        };
        for machine in 0..self.machines.len() {
            self.machines[machine].cut = false;
            if self.machines[machine].proxy.is_none() {
                self.start_proxy(machine);
            }
        }
        self.strays.clear();
        for round in 0..24 {
            let span = if round == 12 { 75 } else { 2 };
            self.let_pass(Duration::from_secs(span));
            for machine in 0..self.machines.len() {
                self.tick(machine);
                self.calm(machine);
            }
            if at_once(self.admin.store.head()).expect("memory works").disputed {
                self.accept();
            }
            if self.truth.broken.is_some() {
                return;
            }
        }
        self.look_at_the_end();
    }

    /// All that is on its way arrives.
    fn calm(&mut self, machine: usize) {
        for _ in 0..60 {
            for _ in 0..CALM {
                match self.exchanges(machine).first().map(|exchange| &exchange.leg) {
                    Some(Leg::Going) => self.arrive(machine, 0),
                    Some(Leg::Coming(..)) => self.deliver(machine, 0),
                    None => break,
                }
            }
            self.stream(machine);
        }
        if !self.exchanges(machine).is_empty() {
            self.truth.fail(|| format!("m{machine} asks and asks"));
        }
    }

    fn look_at_the_end(&mut self) {
        let head = at_once(self.admin.store.head()).expect("memory works").position;
        let mut rows: Vec<_> = self.admin.store.all().into_iter().map(|it| it.credential).collect();
        let by_id = |a: &Credential, b: &Credential| (&a.tenant, &a.id).cmp(&(&b.tenant, &b.id));
        rows.sort_by(by_id);
        for machine in &self.machines {
            let proxy = machine.proxy.as_ref().expect("all run");
            let (name, follower) = (&proxy.instance, &proxy.follower);
            let authority = follower.applier().authority();
            let mut here: Vec<_> = follower.applier().rows().cloned().collect();
            here.sort_by(by_id);
            let age = authority.age(&machine.clock.now());
            let fresh = age.is_some_and(|age| age <= Duration::from_secs(10));
            let wrong = if authority.is_disputed() {
                "is in a dispute"
            } else if follower.held() != Some(&head) {
                "is not at the head"
            } else if here != rows {
                "has other rows"
            } else if !fresh {
                "is not fresh"
            } else {
                continue;
            };
            self.truth.fail(|| {
                format!(
                    "in the end {name} {wrong}: at {:?} of {head}, {age:?}, {here:?} for {rows:?}",
                    follower.held().map(ToString::to_string)
                )
            });
        }
        if head.revision > Revision(0)
            && let Some(receipt) = self.receipt(head.revision)
            && !receipt.complete
        {
            self.truth.fail(|| format!("in the end a receipt is not complete: {receipt:?}"));
        }
    }
}

fn digest_of(id: &CredentialId) -> TokenDigest {
    TokenDigest::of(id.as_str().as_bytes())
}

/// Answers that can come twice. A report has no ticket, and is answered once by contract.
fn copy(event: &Event) -> Option<Event> {
    match event {
        Event::Polled { ticket, after, reply } => {
            Some(Event::Polled { ticket: *ticket, after: after.clone(), reply: reply.clone() })
        }
        Event::Page { ticket, reply } => {
            Some(Event::Page { ticket: *ticket, reply: reply.clone() })
        }
        Event::LookedUp { digest, reply } => {
            Some(Event::LookedUp { digest: *digest, reply: reply.clone() })
        }
        _ => None,
    }
}

/// An event in a line.
fn brief(event: &Event) -> String {
    let rows = |key: &PageKey| format!("{}", key.1);
    match event {
        Event::Page { ticket, reply: Ok(page) } => {
            let found: Vec<_> = page
                .rows
                .iter()
                .map(|it| format!("{}@{}", rows(&it.key()), it.revision.0))
                .collect();
            format!("page {ticket} at {}: {found:?}", page.head.position)
        }
        Event::Polled { ticket, after, reply: Ok(changes) } => {
            format!("poll {ticket}: {} to {}", after.revision.0, changes.position)
        }
        Event::Streamed { ticket, after, changes } => {
            format!("stream {ticket}: {} to {}", after.revision.0, changes.position)
        }
        Event::LookedUp { reply: Ok((head, row)), .. } => {
            let row = row.as_ref().map(|it| format!("{}@{}", rows(&it.key()), it.revision.0));
            format!("lookup at {}: {row:?}", head.position)
        }
        Event::Reported(Ok(Heard { head, .. })) => {
            format!("head {}{}", head.position, if head.disputed { " disputed" } else { "" })
        }
        other => format!("{other:?}"),
    }
}
