//! Exchanges against a naive model: whatever batches are lost, doubled or overtake each other, and whichever links are cut
//! meanwhile, in the end every member knows the last word of every peer.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obt_tracker::exchange::wire::MemberId;
use obt_tracker::exchange::{Action, Event, Exchange, ExchangeConfig, Memory};
use obt_tracker::leases::Leases;
use obt_tracker::limits::Limits;
use obt_tracker::{
    Advertised, Announce, Asker, Client, CompactPeers, PeerLists, Remember, Standing, StoreConfig, Swarms, swarms,
};
use obt_wire::{InfoHash, PeerId};
use proptest::prelude::*;

const MEMBERS: usize = 3;
const SWARMS: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    Announce {
        member: usize,
        swarm: u8,
        peer: u8,
        standing: Standing,
        completed: bool,
    },
    /// One batch under way arrives, maybe once more later, or not at all.
    Batch {
        which: usize,
        fate: Fate,
    },
    Cut {
        one: usize,
        other: usize,
    },
    Link {
        one: usize,
        other: usize,
    },
    Pass {
        tenths: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    ArrivesTwice,
    IsLost,
}

fn step() -> impl Strategy<Value = Step> {
    let standing = prop_oneof![3 => Just(Standing::Seed), 2 => Just(Standing::Leecher), 1 => Just(Standing::Stopped)];
    let fate = prop_oneof![6 => Just(Fate::Arrives), 1 => Just(Fate::ArrivesTwice), 1 => Just(Fate::IsLost)];
    let pair = (0..MEMBERS, 1..MEMBERS).prop_map(|(one, more)| (one, (one + more) % MEMBERS));
    prop_oneof![
        6 => (0..MEMBERS, 0..SWARMS, 0u8..12, standing, any::<bool>()).prop_map(
            |(member, swarm, peer, standing, completed)| Step::Announce { member, swarm, peer, standing, completed }
        ),
        12 => (any::<usize>(), fate).prop_map(|(which, fate)| Step::Batch { which, fate }),
        1 => pair.clone().prop_map(|(one, other)| Step::Cut { one, other }),
        1 => pair.prop_map(|(one, other)| Step::Link { one, other }),
        4 => (1u64..20).prop_map(|tenths| Step::Pass { tenths }),
    ]
}

struct World {
    nodes: Vec<(Exchange, Memory)>,
    linked: [[bool; MEMBERS]; MEMBERS],
    underway: Vec<(usize, usize, Vec<u8>, Instant)>,
    now: Instant,
    /// The last word of each peer: whether it is a seed; None where it left.
    model: BTreeMap<(u8, u8), Option<bool>>,
    completed: BTreeMap<u8, u32>,
}

fn id(member: usize) -> MemberId {
    MemberId(member as u64 + 1)
}

fn hash(swarm: u8) -> InfoHash {
    InfoHash([swarm + 1; 20])
}

fn addr(peer: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, peer + 1], 6_881))
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let node = |member: usize| {
            let limits = Limits { torrents_per_hour: u16::MAX, ..Limits::default() };
            let secret = [u8::try_from(member).unwrap(); 32];
            let config = StoreConfig { shard_bits: 2, limits, advertised: Advertised::default(), secret };
            let store = Memory { swarms: Swarms::new(&config, now), leases: Some(Leases::new(limits)) };
            let config = ExchangeConfig { me: id(member), home: Advertised::default() };
            (Exchange::new(&config, member as u64 + 9, now), store)
        };
        let mut this = Self {
            nodes: (0..MEMBERS).map(node).collect(),
            linked: [[false; MEMBERS]; MEMBERS],
            underway: Vec::new(),
            now,
            model: BTreeMap::new(),
            completed: BTreeMap::new(),
        };
        let members: Vec<MemberId> = (0..MEMBERS).map(id).collect();
        for member in 0..MEMBERS {
            this.event(member, Event::Members(&members));
            for swarm in 0..SWARMS {
                // Held, so that completed counts outlive the peers.
                swarms::pin(&mut this.nodes[member].1, &hash(swarm), 0, now);
            }
        }
        this
    }

    fn event(&mut self, member: usize, event: Event<'_>) {
        let (exchange, store) = &mut self.nodes[member];
        exchange.handle_event(event, store, self.now);
        self.collect(member);
    }

    fn collect(&mut self, from: usize) {
        while let Some(action) = self.nodes[from].0.poll_action() {
            match action {
                Action::Send { to, batch } => {
                    let to = usize::try_from(to.0 - 1).unwrap();
                    if self.linked[from][to] {
                        self.underway.push((from, to, batch, self.now));
                    }
                }
                Action::Close { why, .. } => panic!("{why}"),
            }
        }
        self.nodes[from].0.check().unwrap();
    }

    fn link(&mut self, one: usize, other: usize, up: bool) {
        if self.linked[one][other] == up {
            return;
        }
        self.underway.retain(|(from, to, ..)| (*from, *to) != (one, other) && (*from, *to) != (other, one));
        (self.linked[one][other], self.linked[other][one]) = (up, up);
        for (from, to) in [(one, other), (other, one)] {
            self.event(from, if up { Event::LinkUp(id(to)) } else { Event::LinkDown(id(to)) });
        }
        // A link that has just come up carries at once.
        self.carry(one, other);
    }

    fn pass(&mut self, tenths: u64) {
        for _ in 0..tenths {
            self.now += Duration::from_millis(100);
            for member in 0..MEMBERS {
                let (exchange, store) = &mut self.nodes[member];
                exchange.handle_timeout(store, self.now);
                self.collect(member);
            }
            // A link on which nothing arrives for longer is none.
            let old = self.underway.iter().find(|(.., sent)| self.now - *sent > Duration::from_secs(10));
            if let Some((from, to, ..)) = old.cloned() {
                self.carry(from, to);
            }
        }
    }

    /// Lets everything arrive that is under way between two, in order.
    fn carry(&mut self, one: usize, other: usize) {
        let between = |from: usize, to: usize| (from, to) == (one, other) || (from, to) == (other, one);
        while let Some(at) = self.underway.iter().position(|(from, to, ..)| between(*from, *to)) {
            let (from, to, batch, _) = self.underway.remove(at);
            self.event(to, Event::Batch(id(from), &batch));
        }
    }

    fn announce(&mut self, member: usize, swarm: u8, peer: u8, standing: Standing, completed: bool) {
        // Each member knows to a second or so when it was; two words within three seconds may be the same to it.
        self.pass(35);
        let announce = Announce {
            hash: hash(swarm),
            asker: Asker::new(addr(peer).ip(), None),
            port: addr(peer).port(),
            standing,
            completed,
            want: 0,
            client: Client { peer_id: PeerId([7; 20]), key: None },
            remember: Remember::Named,
        };
        let store = &mut self.nodes[member].1;
        let before = swarms::stats(store, &hash(swarm), self.now).completed;
        let mut lists = PeerLists { v4: CompactPeers::new(&mut []), v6: CompactPeers::new(&mut []) };
        let answer = swarms::announce(store, &announce, &mut lists, self.now).unwrap();
        *self.completed.entry(swarm).or_default() += answer.stats.completed - before;
        let word = (standing != Standing::Stopped).then_some(standing == Standing::Seed);
        self.model.insert((swarm, peer), word);
    }

    fn deliver(&mut self, which: usize, fate: Fate) {
        if self.underway.is_empty() {
            return;
        }
        let (from, to, batch, sent) = self.underway.swap_remove(which % self.underway.len());
        match fate {
            Fate::IsLost => return,
            Fate::ArrivesTwice => self.underway.push((from, to, batch.clone(), sent)),
            Fate::Arrives => {}
        }
        self.event(to, Event::Batch(id(from), &batch));
    }

    fn settle(&mut self) {
        for one in 0..MEMBERS {
            (one + 1..MEMBERS).for_each(|other| self.link(one, other, true));
        }
        for _ in 0..80 {
            self.pass(1);
            // In order, as over a link that is well.
            while !self.underway.is_empty() {
                let (from, to, batch, _) = self.underway.remove(0);
                self.event(to, Event::Batch(id(from), &batch));
            }
        }
    }

    fn known(&mut self, member: usize, swarm: u8) -> BTreeMap<SocketAddr, bool> {
        let peers = swarms::peers(&mut self.nodes[member].1, &hash(swarm), self.now);
        peers.iter().map(|peer| (peer.addr, peer.seed)).collect()
    }
}

/// Does the steps, lets everything settle, and looks whether all members know what the model says.
fn check(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new();
    world.settle();
    for step in steps {
        match step {
            Step::Announce { member, swarm, peer, standing, completed } => {
                world.announce(member, swarm, peer, standing, completed);
            }
            Step::Batch { which, fate } => world.deliver(which, fate),
            Step::Cut { one, other } => world.link(one, other, false),
            Step::Link { one, other } => world.link(one, other, true),
            Step::Pass { tenths } => world.pass(tenths),
        }
    }
    world.settle();
    for swarm in 0..SWARMS {
        let words = world.model.iter().filter(|((of, _), _)| *of == swarm);
        let expected: BTreeMap<SocketAddr, bool> =
            words.filter_map(|((_, peer), word)| word.map(|seed| (addr(*peer), seed))).collect();
        let counted = world.completed.get(&swarm).copied().unwrap_or(0);
        for member in 0..MEMBERS {
            prop_assert_eq!(world.known(member, swarm), expected.clone(), "swarm {} at member {}", swarm, member);
            let stats = swarms::stats(&mut world.nodes[member].1, &hash(swarm), world.now);
            // One that completes at two members within a minute is one.
            prop_assert!(stats.completed <= counted);
            let first = swarms::stats(&mut world.nodes[0].1, &hash(swarm), world.now);
            prop_assert_eq!(stats, first, "swarm {} at member {}", swarm, member);
        }
        prop_assert_eq!(world.nodes.iter().map(|(exchange, _)| exchange.size().underway).sum::<usize>(), 0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]
    #[test]
    fn all_members_come_to_know_the_last_word_of_every_peer(steps in prop::collection::vec(step(), 0..120)) {
        check(steps)?;
    }
}

#[test]
fn news_of_who_went_elsewhere_and_left_there_just_now_leave_no_ghost() {
    // Whatever the moment at which the first member's news arrive, before or after the last one has told of the leaving.
    for tenths in 0..40 {
        let announce = |member, standing| Step::Announce { member, swarm: 1, peer: 0, standing, completed: false };
        let steps = vec![
            announce(0, Standing::Seed),
            announce(2, Standing::Seed),
            announce(2, Standing::Stopped),
            Step::Pass { tenths },
        ];
        check(steps).unwrap();
    }
}
