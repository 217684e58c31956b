//! What is true, whatever anybody believes: every state that a store was ever in, which of them
//! is the present one, and what must never happen given that. It is written from the promises, and
//! shares no rule with what it judges.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::at_once;
use crate::clock::Timestamp;
use crate::credential::feed::{Change, Head, Mark, Position};
use crate::credential::{Credential, CredentialId, Expiry, Status, TenantId};
use crate::store::Store;
use crate::store::memory::Memory;
use crate::store::replicas::Receipt;

#[derive(Default)]
pub struct Truth {
    /// By mark, which tells apart what was written; histories are only names.
    states: HashMap<Mark, State>,
    present: Mark,
    pub tokens: BTreeMap<CredentialId, Token>,
    /// What must be refused everywhere, since a receipt has said so.
    dead: HashMap<CredentialId, Receipted>,
    /// Whether the store was replaced, and neither it nor an operator knows.
    replaced_unnoticed: bool,
    /// The first promise that was broken.
    pub broken: Option<String>,
}

#[derive(Clone, Default)]
struct State {
    revision: u64,
    before: Option<Mark>,
    rows: BTreeMap<CredentialId, Credential>,
    switched_off: BTreeSet<TenantId>,
}

impl State {
    fn live(&self, id: &CredentialId) -> bool {
        let row = self.rows.get(id).filter(|row| row.status == Status::Enabled);
        row.is_some_and(|row| !self.switched_off.contains(&row.tenant))
    }
}

pub struct Token {
    pub tenant: TenantId,
    /// One of ours, which can be asked for.
    pub minted: bool,
    /// No store has ever taken anything from it.
    untouched: bool,
    /// Since when all must know an enrolled one.
    known: Option<Receipted>,
}

/// A receipt was complete for the change that led to a state.
struct Receipted {
    at: Mark,
    /// Replicas that the store cannot know of: it was put in the place of the one that did.
    except: HashSet<String>,
}

/// A replica as the truth needs to see it.
pub struct Sight<'a> {
    pub instance: &'a str,
    pub held: Option<&'a Position>,
    /// When its reports and listings were sent, and with what they were answered.
    pub reads: &'a [(Timestamp, Head)],
}

impl Truth {
    pub fn new() -> Self {
        let states = HashMap::from([(Mark::default(), State::default())]);
        Self { states, ..Self::default() }
    }

    pub fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    fn present(&self) -> &State {
        &self.states[&self.present]
    }

    pub fn live(&self, id: &CredentialId) -> bool {
        self.present().live(id)
    }

    fn is_past(&self, mark: &Mark, of: &Mark) -> bool {
        self.states.get(mark).is_some_and(|it| self.back_to(it.revision, of) == Some(*mark))
    }

    /// Whether the present store was never there.
    pub fn is_lost(&self, mark: &Mark) -> bool {
        !self.is_past(mark, &self.present)
    }

    /// The state of an earlier revision that another one came from.
    fn back_to(&self, revision: u64, from: &Mark) -> Option<Mark> {
        self.past(from).find(|mark| self.states[mark].revision == revision)
    }

    /// A state and all before it.
    fn past(&self, from: &Mark) -> impl Iterator<Item = Mark> {
        let first = self.states.contains_key(from).then_some(*from);
        std::iter::successors(first, |mark| self.states[mark].before)
    }

    // What happens to the store.

    /// Notes what was written since the last look.
    pub fn written(&mut self, store: &Memory) {
        let head = at_once(store.head()).expect("it works");
        let history = head.position.history;
        while self.present != head.position.mark {
            let revision = crate::credential::Revision(self.present().revision);
            let at = Position { history: history.clone(), revision, mark: self.present };
            let next = at_once(store.changes(&at, None, 1)).expect("it works").expect("it is new");
            let mut state = State {
                revision: next.position.revision.0,
                before: Some(self.present),
                ..self.present().clone()
            };
            match &next.changes[0] {
                Change::Credential(row) => {
                    let row = Credential::clone(&row.credential);
                    state.rows.insert(row.id.clone(), row);
                }
                Change::CredentialDeleted { id, .. } => drop(state.rows.remove(id)),
                Change::Tenant(row) if row.synchronization == Status::Disabled => {
                    state.switched_off.insert(row.tenant.clone());
                }
                Change::Tenant(row) => drop(state.switched_off.remove(&row.tenant)),
                Change::TenantDeleted { .. } => {}
            }
            for (id, old) in &self.present().rows.clone() {
                let same = state
                    .rows
                    .get(id)
                    .is_some_and(|new| new.status == Status::Enabled && end(new) >= end(old));
                if !same && let Some(token) = self.tokens.get_mut(id) {
                    token.untouched = false;
                }
            }
            self.dead.retain(|id, _| !state.live(id));
            self.present = next.position.mark;
            self.states.insert(self.present, state);
        }
    }

    pub fn made(&mut self, id: CredentialId, tenant: &str, minted: bool) {
        let tenant = TenantId::parse(tenant).expect("valid");
        self.tokens.insert(id, Token { tenant, minted, untouched: true, known: None });
    }

    /// An operator stands for what the store says.
    pub fn accepted_by_operator(&mut self) {
        self.replaced_unnoticed = false;
        let present = self.states[&self.present].clone();
        self.dead.retain(|id, _| !present.live(id));
    }

    /// Another state was put in the place of the present one.
    pub fn replaced(&mut self, head: &Head) {
        self.present = head.position.mark;
        self.replaced_unnoticed = true;
        // What was told of states that it has lost, is told of nothing now.
        let mut dead = std::mem::take(&mut self.dead);
        dead.retain(|id, it| self.is_here(it) && self.never_live_since(id, &it.at));
        self.dead = dead;
        let mut tokens = std::mem::take(&mut self.tokens);
        for token in tokens.values_mut() {
            token.known = token.known.take().filter(|it| self.is_here(it));
        }
        self.tokens = tokens;
    }

    fn is_here(&self, receipted: &Receipted) -> bool {
        self.is_past(&receipted.at, &self.present)
    }

    fn never_live_since(&self, id: &CredentialId, at: &Mark) -> bool {
        let first = self.states[at].revision;
        self.past(&self.present)
            .map(|mark| &self.states[&mark])
            .take_while(|state| state.revision >= first)
            .all(|state| !state.live(id))
    }

    pub fn noticed(&mut self, head: &Head) {
        self.replaced_unnoticed &= !head.disputed;
    }

    /// A receipt was given; `tables` are the replicas that hold one.
    pub fn receipt(&mut self, receipt: &Receipt, tables: &[String]) {
        if !receipt.complete {
            return;
        }
        let at = self.back_to(receipt.revision.0, &self.present).expect("it is of this store");
        // Of one without a table it has only heard what was sent before it came to be.
        let told = receipt.replicas.iter().filter(|it| it.applied.is_some());
        let told: HashSet<_> = told.map(|it| it.instance.as_str()).collect();
        let unheard = |it: &&String| self.replaced_unnoticed && !told.contains(it.as_str());
        let except: HashSet<String> = tables.iter().filter(unheard).cloned().collect();
        let receipted = || Receipted { at, except: except.clone() };
        let restricted: Vec<_> = self
            .tokens
            .keys()
            .filter(|id| {
                self.past(&at).any(|mark| self.states[&mark].live(id))
                    && self.never_live_since(id, &at)
            })
            .cloned()
            .collect();
        for id in restricted {
            self.dead.entry(id).or_insert_with(receipted);
        }
        let known: Vec<_> = self.states[&at].rows.keys().cloned().collect();
        for id in known {
            let token = self.tokens.get_mut(&id).expect("made here");
            token.known.get_or_insert_with(receipted);
        }
    }

    // What replicas decide.

    /// A request was let through.
    pub fn accepted(&mut self, by: &Sight<'_>, id: &CredentialId, most: Duration, now: Timestamp) {
        let name = by.instance;
        if let Some(death) = self.dead.get(id).filter(|it| !it.except.contains(name)) {
            let revision = self.states[&death.at].revision;
            self.fail(|| format!("{name} let {id} in after the receipt of {revision}"));
        }
        let Some(held) = by.held else {
            return self.fail(|| format!("{name} let {id} in without a table"));
        };
        let state = &self.states[&held.mark];
        if !state.live(id) {
            return self.fail(|| format!("{name} let {id} in, which {held} refuses"));
        }
        if end(&state.rows[id]) <= now {
            return self.fail(|| format!("{name} let {id} in after its end"));
        }
        let confirms = |(sent, head): &(Timestamp, Head)| {
            now.since(*sent) <= most
                && !head.disputed
                && head.position.revision.0 <= state.revision
                && self.is_past(&head.position.mark, &held.mark)
        };
        if !by.reads.iter().any(confirms) {
            self.fail(|| format!("{name} let {id} in by a table that is too old"));
        }
    }

    /// A request was answered with 401; `live` is whether the store had its token good throughout.
    pub fn condemned(
        &mut self,
        by: &Sight<'_>,
        id: &CredentialId,
        live: bool,
        why: &str,
        now: Timestamp,
    ) {
        let token = &self.tokens[id];
        if !token.untouched {
            return;
        }
        let good = |state: &State| state.rows.get(id).is_some_and(|row| end(row) > now);
        let held = by.held.is_some_and(|held| good(&self.states[&held.mark]));
        let known = token.known.as_ref().is_some_and(|it| !it.except.contains(by.instance));
        let owed = live && good(self.present()) && (token.minted || known);
        if held || owed {
            let name = by.instance;
            self.fail(|| format!("{name} refused {id}, which is good: {why}"));
        }
    }
}

pub fn end(row: &Credential) -> Timestamp {
    match row.expiry {
        Expiry::At(end) => end,
        Expiry::Never => Timestamp::from_millis(i64::MAX),
    }
}
