//! A bridge, a network namespace for each member, and who hears whom.
//!
//! A member that does not hear another drops what comes from it, in silence, as a broken line does; the other direction
//! is a matter of the other member. Whether a direction is cut is seen by a datagram to a port where nobody listens:
//! each side counts what arrives and what is dropped.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::isolation::run;

/// A member's place on the bridge, from 0.
pub(crate) type Place = usize;

/// Where a probe is sent: "discard".
const PROBED: u16 = 9;

pub(crate) struct Network {
    places: usize,
}

impl Network {
    pub(crate) fn new(places: usize) -> Self {
        let this = Self { places };
        std::fs::create_dir_all("/run/netns").unwrap();
        ip("link set lo up");
        ip("link add name nemesis type bridge");
        ip("addr add 10.77.0.1/24 dev nemesis");
        ip("link set nemesis up");
        for place in 0..places {
            this.add(place);
        }
        this
    }

    fn add(&self, place: Place) {
        let (name, addr) = (name(place), self.addr(place));
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name eth0 netns {name}"));
        ip(&format!("link set {name} master nemesis up"));
        ip(&format!("-n {name} addr add {addr}/24 dev eth0"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        let table = format!(
            "table inet nemesis {{ set cut {{ type ipv4_addr; }}; counter dropped {{ }}; counter heard {{ }}; \
             chain arriving {{ type filter hook input priority 0; policy accept; \
             ip saddr @cut counter name dropped drop; udp dport {PROBED} counter name heard drop; }}; }}"
        );
        run(self.inside(place, "nft").arg(table)).unwrap();
    }

    pub(crate) fn addr(&self, place: Place) -> Ipv4Addr {
        assert!(place < self.places);
        Ipv4Addr::new(10, 77, 0, 11 + u8::try_from(place).unwrap())
    }

    /// A program in the member's namespace.
    pub(crate) fn inside(&self, place: Place, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", name(place))).arg(program);
        command
    }

    /// From here on nobody hears those in `cuts` (who sends, who does not hear it), and everybody all others.
    pub(crate) fn cut(&self, cuts: &BTreeSet<(Place, Place)>) {
        for to in 0..self.places {
            let from: Vec<String> =
                cuts.iter().filter(|cut| cut.1 == to).map(|cut| self.addr(cut.0).to_string()).collect();
            let mut commands = "flush set inet nemesis cut;".to_owned();
            if !from.is_empty() {
                commands += &format!("add element inet nemesis cut {{ {} }}", from.join(", "));
            }
            run(self.inside(to, "nft").arg(commands)).unwrap();
        }
    }

    /// That exactly these directions are cut, by a datagram in each.
    pub(crate) fn prove(&self, cuts: &BTreeSet<(Place, Place)>) -> Result<(), String> {
        for from in 0..self.places {
            for to in (0..self.places).filter(|to| *to != from) {
                let before = self.counted(to, "heard");
                let datagram = format!("echo > /dev/udp/{}/{PROBED}", self.addr(to));
                run(self.inside(from, "bash").args(["-c", &datagram]))?;
                let heard = self.counted(to, "heard") > before;
                if heard == cuts.contains(&(from, to)) {
                    let (from, to) = (name(from), name(to));
                    return Err(format!("{to} hears {from}: {heard}, among the cuts {cuts:?}"));
                }
            }
        }
        Ok(())
    }

    /// What arrived at a member and was dropped there, packets.
    pub(crate) fn dropped(&self, place: Place) -> u64 {
        self.counted(place, "dropped")
    }

    fn counted(&self, place: Place, counter: &str) -> u64 {
        let told = run(self.inside(place, "nft").args(["list", "counter", "inet", "nemesis", counter])).unwrap();
        let mut words = told.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        words.next().and_then(|count| count.parse().ok()).unwrap()
    }
}

pub(crate) fn name(place: Place) -> String {
    format!("m{}", place + 1)
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' '))).unwrap();
}
