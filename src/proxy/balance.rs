//! Whose turn it is among the addresses of an upstream. It opens no connection and knows no clock.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// All addresses that are known now.
#[derive(Default)]
pub struct Balance {
    peers: Vec<Peer>,
    /// Where the search for the next one begins.
    next: usize,
    /// How many there ever were.
    count: u32,
}

/// One address of one server.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Unique within the balance: one that comes back is another.
    pub number: u32,
    /// Which of the upstream's servers, by its index.
    pub server: usize,
    pub address: Address,
    /// Passed over until then; 0 if the last attempt to connect was a success.
    rests_until: u64,
}

impl Balance {
    /// Takes these as all addresses of a server, and forgets the others that it had. Those that
    /// stay keep their connections and their rest.
    pub fn learn(&mut self, server: usize, addresses: &[Address]) {
        self.peers.retain(|peer| peer.server != server || addresses.contains(&peer.address));
        for address in addresses {
            let known = |peer: &Peer| peer.server == server && peer.address == *address;
            if !self.peers.iter().any(known) {
                self.count += 1;
                let (number, address) = (self.count, address.clone());
                self.peers.push(Peer { number, server, address, rests_until: 0 });
            }
        }
        if self.next >= self.peers.len() {
            self.next = 0;
        }
    }

    /// The next one that is not among those `tried`. One that failed some seconds ago is passed
    /// over unless there is no other.
    pub fn turn(&mut self, tried: &[u32], now: u64) -> Option<u32> {
        let count = self.peers.len();
        let find = |rested: bool| {
            let from_next = (self.next..count).chain(0..self.next);
            let may =
                |peer: &Peer| !tried.contains(&peer.number) && (!rested || peer.rests_until <= now);
            from_next.into_iter().find(|&place| may(&self.peers[place]))
        };
        let place = find(true).or_else(|| find(false))?;
        self.next = if place + 1 == count { 0 } else { place + 1 };
        Some(self.peers[place].number)
    }

    /// Somebody is about to connect. One that has failed before is tried by one request alone.
    pub fn connecting(&mut self, number: u32, now: u64) {
        let failed = |peer: &&mut Peer| peer.number == number && peer.rests_until > 0;
        self.peers.iter_mut().filter(failed).for_each(|peer| peer.rests_until = now + REST);
    }

    /// Whether that is news.
    pub fn connected(&mut self, number: u32) -> bool {
        self.rest(number, 0) > 0
    }

    /// Whether that is news.
    pub fn failed(&mut self, number: u32, now: u64) -> bool {
        self.rest(number, now + REST) == 0
    }

    /// How long it was to rest until now.
    fn rest(&mut self, number: u32, until: u64) -> u64 {
        let named = self.peers.iter_mut().find(|peer| peer.number == number);
        named.map_or(0, |peer| std::mem::replace(&mut peer.rests_until, until))
    }

    pub fn peer(&self, number: u32) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.number == number)
    }

    pub fn knows(&self, number: u32) -> bool {
        self.peer(number).is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

/// In milliseconds: long enough that a dead server costs little, short enough that one that came
/// back is soon at work.
pub const REST: u64 = 5000;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// A server for each port.
    fn balance(ports: &[u16]) -> Balance {
        let mut balance = Balance::default();
        for (server, port) in ports.iter().enumerate() {
            balance.learn(server, &[address(*port)]);
        }
        balance
    }

    /// The numbers of the next turns.
    fn turns(balance: &mut Balance, count: usize, now: u64) -> Vec<u32> {
        let turn = |_| balance.turn(&[], now).unwrap_or(0);
        (0..count).map(turn).collect()
    }

    #[test]
    fn requests_take_turns() {
        assert_eq!(turns(&mut balance(&[1, 2, 3]), 7, 0), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(turns(&mut balance(&[1]), 2, 0), [1, 1]);
        assert!(Balance::default().turn(&[], 0).is_none());
    }

    #[test]
    fn who_failed_is_passed_over_for_some_seconds_unless_all_have() {
        let mut balance = balance(&[1, 2, 3]);
        assert!(balance.failed(2, 1000));
        assert!(!balance.failed(2, 1000), "it is known");
        assert_eq!(turns(&mut balance, 4, 1000), [1, 3, 1, 3]);
        assert_eq!(turns(&mut balance, 3, 1000 + REST - 1), [1, 3, 1]);
        assert_eq!(turns(&mut balance, 3, 1000 + REST), [2, 3, 1]);
        for number in [1, 2, 3] {
            balance.failed(number, 2000);
        }
        assert_eq!(turns(&mut balance, 3, 2000), [2, 3, 1]);
    }

    #[test]
    fn who_comes_back_is_tried_by_one_request_first() {
        let mut balance = balance(&[1, 2]);
        balance.failed(1, 0);
        assert_eq!(turns(&mut balance, 1, REST), [1]);
        balance.connecting(1, REST);
        assert_eq!(turns(&mut balance, 2, REST), [2, 2]);
        assert!(balance.connected(1) && !balance.connected(1));
        balance.connecting(1, REST);
        assert_eq!(turns(&mut balance, 2, REST), [1, 2], "a sound one waits for nobody");
    }

    #[test]
    fn a_request_tries_each_once_and_the_resting_ones_last() {
        let mut balance = balance(&[1, 2, 3]);
        balance.failed(1, 0);
        let mut tried = Vec::new();
        while let Some(peer) = balance.turn(&tried, 0) {
            tried.push(peer);
        }
        assert_eq!(tried, [2, 3, 1]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_changes_its_own_addresses_only() {
        let mut balance = balance(&[1, 2]);
        balance.failed(2, 0);
        balance.learn(0, &[address(3), address(1), address(3)]);
        assert_eq!(turns(&mut balance, 3, 0), [1, 3, 1], "2 goes on resting");
        balance.learn(0, &[address(3)]);
        assert!(!balance.knows(1) && balance.knows(3));
        balance.learn(0, &[address(1)]);
        assert_eq!(turns(&mut balance, 2, REST), [4, 2], "what came back is another");
    }
}
