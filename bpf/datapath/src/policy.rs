//! The policy lookup: the true maximum over all entries of a table that match.

use oxilium_abi::{
    AuthRequirement, Be16, Direction, DropReason, IDENTITY_UNRESOLVED, POLICY_CLASS_ALLOW,
    PolicyCountKey, PolicyKey, PolicyValue, Precedence, ShapeMask, ShapeWord, shape_word_index,
};

use crate::maps::Maps;

/// Lookups of one key until its value is whole.
const TRIES: u32 = 3;

const AGGREGATE_CLUSTER: u32 = 11;
const AGGREGATE_CLUSTER_MESH: u32 = 12;
const AGGREGATE_WORLD: u32 = 13;
const AGGREGATE_REMOTE_NODE: u32 = 14;

/// What is asked of a policy table.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Policy table; 0 for none.
    pub table: u32,
    /// Direction of the flow.
    pub direction: Direction,
    /// Remote identity.
    pub identity: u32,
    /// IP protocol.
    pub protocol: u8,
    /// Destination port or ICMP type, in host order.
    pub port: u16,
}

/// What a policy table answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Precedence of the entry that decided, 0 for none.
    pub precedence: u32,
    /// As [`oxilium_abi::Event::matched`].
    pub matched: u8,
    /// Why not, or allowed.
    pub denied: Option<DropReason>,
}

/// The aggregate that an identity belongs to; 0 for those below 100, which have none.
#[inline(always)]
pub const fn aggregate(identity: u32, cluster_id: u32) -> u32 {
    match identity >> 24 {
        _ if identity >= AGGREGATE_CLUSTER && identity <= AGGREGATE_REMOTE_NODE => identity,
        _ if identity < 100 => 0,
        1 => AGGREGATE_WORLD,
        2 => AGGREGATE_REMOTE_NODE,
        0 if identity >> 16 == cluster_id => AGGREGATE_CLUSTER,
        _ => AGGREGATE_CLUSTER_MESH,
    }
}

/// A lookup that goes on: shape by shape, so that the verifier need not follow it through all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    query: Query,
    aggregate: u32,
    /// Shapes to look up, for the three kinds of identity.
    specific: u32,
    aggregates: u32,
    any: u32,
    /// The best entry so far.
    best: Best,
    raced: bool,
}

/// The best entry so far.
#[derive(Clone, Copy, Debug, Default)]
struct Best {
    /// Precedence, shape and kind of identity (3 its own, 2 aggregate, 1 any): numbers in the order of rank.
    rank: u64,
    word: u64,
    /// Strongest authentication among entries of the best priority.
    auth: u8,
}

impl Best {
    #[inline(always)]
    fn offer(&mut self, word: u64, shape: u32, kind: u32) {
        let value = PolicyValue { word, check: 0 };
        // The class is the precedence's low byte: 8 bits of it, 5 of shape, 2 of kind.
        let rank = ((value.precedence().0 as u64) << 7) | ((shape << 2) | kind) as u64;
        let auth = value.auth().kind();
        let (priority, best) = (rank >> 15, self.rank >> 15);
        if self.rank == 0 || priority > best || (priority == best && auth > self.auth) {
            self.auth = auth;
        }
        if rank >= self.rank {
            self.rank = rank;
            self.word = word;
        }
    }
}

impl Search {
    /// Nothing to look up.
    #[inline(always)]
    pub(crate) const fn none() -> Self {
        Self {
            query: Query {
                table: 0,
                direction: Direction::Ingress,
                identity: 0,
                protocol: 0,
                port: 0,
            },
            aggregate: 0,
            specific: 0,
            aggregates: 0,
            any: 0,
            best: Best {
                rank: 0,
                word: 0,
                auth: 0,
            },
            raced: false,
        }
    }

    /// Reads which shapes the table has.
    #[inline(always)]
    pub(crate) fn begin<M: Maps>(&mut self, maps: M, query: Query) {
        let mut shapes = if query.table == 0 {
            ShapeWord(0)
        } else {
            ShapeWord(maps.shapes(shape_word_index(query.table, query.direction)))
        };
        if query.identity == IDENTITY_UNRESOLVED && shapes.restricts() {
            // It may be whoever is restricted.
            shapes = ShapeWord(0);
        }
        let aggregate = aggregate(query.identity, maps.cluster_id());
        self.specific = 0;
        self.aggregates = 0;
        self.raced = false;
        self.best.rank = 0;
        self.best.word = 0;
        self.best.auth = 0;
        // No entry is met twice, as the identity's own and as its aggregate's or any identity's.
        if query.identity != 0 && query.identity != aggregate {
            self.specific = shapes.specific().0;
        }
        if aggregate != 0 {
            self.aggregates = shapes.aggregate().0;
        }
        self.any = shapes.any().0;
        self.aggregate = aggregate;
        self.query = query;
    }

    /// The shapes to go through, each with [`Search::step`].
    #[inline(always)]
    pub(crate) const fn shapes(&self) -> u32 {
        self.specific | self.aggregates | self.any
    }

    /// Looks up the entries of one shape.
    #[inline(always)]
    pub(crate) fn step<M: Maps>(&mut self, maps: M, shape: u32) {
        let query = &self.query;
        let mut key = key(query, shape, query.identity);
        // By hand: BPF has no cheap indexing of a list that lives in registers.
        let own = query.identity;
        let best = &mut self.best;
        self.raced |= probe(maps, &mut key, self.specific, own, 3, best)
            || probe(maps, &mut key, self.aggregates, self.aggregate, 2, best)
            || probe(maps, &mut key, self.any, 0, 1, best);
    }

    /// The entry that decided, in the table of `endpoint`.
    #[inline(always)]
    pub(crate) fn decided(&self, endpoint: u16) -> Option<PolicyCountKey> {
        let query = &self.query;
        let shape = (self.best.rank >> 2) as u32 & 0x1F;
        let identity = match self.best.rank & 3 {
            0 => return None,
            1 => 0,
            2 => self.aggregate,
            _ => query.identity,
        };
        let key = key(query, shape, identity);
        Some(PolicyCountKey::of(endpoint, &key))
    }

    /// What was found.
    #[inline(always)]
    pub(crate) fn end(&self) -> Answer {
        if self.raced {
            Answer {
                denied: Some(DropReason::MapRace),
                ..Answer::default()
            }
        } else {
            let mut answer = answer(&self.best);
            if self.query.identity == IDENTITY_UNRESOLVED && answer.denied.is_some() {
                answer.denied = Some(DropReason::NoRoomForIdentity);
            }
            answer
        }
    }
}

/// Key of the entry of this shape that matches.
#[inline(always)]
const fn key(query: &Query, shape: u32, identity: u32) -> PolicyKey {
    PolicyKey {
        table: query.table,
        identity,
        port: Be16::new(query.port & ShapeMask::port_mask(shape)),
        protocol: if shape == 0 { 0 } else { query.protocol },
        direction_shape: PolicyKey::pack(query.direction, shape),
    }
}

/// The lowest shape of a set that is not empty, and the set without it.
#[inline(always)]
pub(crate) const fn take_shape(set: u32) -> (u32, u32) {
    (set.trailing_zeros() & 31, set & (set - 1))
}

/// Looks a flow up.
pub fn lookup<M: Maps>(maps: M, query: Query) -> Answer {
    let mut search = Search::none();
    search.begin(maps, query);
    let mut left = search.shapes();
    while left != 0 {
        let (shape, rest) = take_shape(left);
        search.step(maps, shape);
        left = rest;
    }
    search.end()
}

/// Looks one kind of identity up if its mask has the key's shape; true where the map would not hold still.
#[inline(always)]
fn probe<M: Maps>(
    maps: M,
    key: &mut PolicyKey,
    mask: u32,
    identity: u32,
    kind: u32,
    best: &mut Best,
) -> bool {
    let shape = key.shape();
    if mask >> shape & 1 == 0 {
        return false;
    }
    key.identity = identity;
    match entry(maps, key) {
        Found::Word(word) => best.offer(word, shape, kind),
        Found::Nothing => {}
        Found::Race => return true,
    }
    false
}

enum Found {
    Nothing,
    Word(u64),
    Race,
}

#[inline(always)]
fn entry<M: Maps>(maps: M, key: &PolicyKey) -> Found {
    for _ in 0..TRIES {
        match maps.policy(key) {
            None => return Found::Nothing,
            Some(value) if PolicyValue::seal(key, value.word) == value.check => {
                return Found::Word(value.word);
            }
            Some(_) => {}
        }
    }
    Found::Race
}

#[inline(always)]
fn answer(best: &Best) -> Answer {
    if best.rank == 0 {
        return Answer {
            denied: Some(DropReason::PolicyDenied),
            ..Answer::default()
        };
    }
    let value = PolicyValue {
        word: best.word,
        check: 0,
    };
    let precedence: Precedence = value.precedence();
    let own: AuthRequirement = value.auth();
    let auth = if own.is_explicit() {
        own.kind()
    } else {
        best.auth
    };
    let denied = if precedence.is_deny() {
        Some(DropReason::PolicyDeny)
    } else if precedence.class() < POLICY_CLASS_ALLOW {
        // No such verdict in the kernel's tables.
        Some(DropReason::PolicyDenied)
    } else if precedence.is_redirect() || value.proxy_port() != 0 {
        Some(DropReason::ProxyUnavailable)
    } else if auth != 0 {
        Some(DropReason::AuthRequired)
    } else {
        None
    };
    let shape = (best.rank >> 2) as u8 & 0x1F;
    let kind = 4 - (best.rank as u8 & 3);
    Answer {
        precedence: precedence.0,
        matched: shape | (kind << 5),
        denied,
    }
}
