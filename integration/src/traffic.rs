//! Steady packets between every pair of pods, counted: what was lost, between whom, and for how long nothing came.
//!
//! One thread sends for all pairs, and one receives in each pod, so that thirty streams cost little more than one.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::pod::Pod;
use crate::wait;

/// Room for what arrives while the receiver has no CPU.
const BUFFER: usize = 16 << 20;
/// How many rounds are made up for when the sender had no CPU; more at once would overflow queues that no real sender would.
const CATCH_UP: u32 = 4;
/// How long packets are waited for that have not arrived: not only they take time, but who reads them must get a CPU for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pair: packets go from one pod to the other.
#[derive(Clone, Debug)]
struct Pair {
    from: usize,
    to: usize,
}

/// Which rounds' packets of one pair arrived: a bit each.
#[derive(Clone, Debug, Default)]
struct Arrived(Vec<u64>);

impl Arrived {
    fn set(&mut self, round: u64) {
        let Ok(word) = usize::try_from(round / 64) else { return };
        if word >= self.0.len() {
            self.0.resize(word + 1024, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (round % 64);
        }
    }

    fn has(&self, round: u64) -> bool {
        let word = usize::try_from(round / 64).ok().and_then(|word| self.0.get(word));
        word.is_some_and(|word| word >> (round % 64) & 1 == 1)
    }
}

/// A moment: how many rounds, of one packet a pair each, were sent by then.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    rounds: u64,
    at: Instant,
}

/// What became of the packets between two moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// How many were sent.
    pub sent: u64,
    /// How many of them did not arrive.
    pub lost: u64,
    /// Packets a second of each pair, as it was.
    pub rate: f64,
    /// The longest time in milliseconds in which a pair's packets were all lost.
    pub longest: f64,
    /// The pairs that lost some, and how many.
    pub pairs: Vec<(String, String, u64)>,
}

/// Packets under way between pods.
#[derive(Debug)]
pub struct Traffic {
    names: Vec<String>,
    pairs: Vec<Pair>,
    arrived: Arc<Vec<Mutex<Arrived>>>,
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Sends `rate` packets a second from every pod to every pod of another node, until this is dropped.
    ///
    /// # Errors
    /// If the pods' sockets cannot be made.
    pub fn start(pods: &[&Pod<'_, '_>], rate: u32) -> Result<Self> {
        let mut sockets = Vec::new();
        let mut addresses = Vec::new();
        for pod in pods {
            // Any port: a child that another thread is just starting may still hold the socket of the traffic before.
            let address = SocketAddr::new(pod.address()?, 0);
            let socket = calico_sys::namespace::inside(pod.network()?, || UdpSocket::bind(address))?;
            let socket = socket.with_context(|| format!("the socket of pod {}", pod.name()))?;
            calico_sys::socket::set_receive_buffer(socket.as_fd(), BUFFER)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            addresses.push(socket.local_addr()?);
            sockets.push(socket);
        }
        let all = 0..pods.len();
        let pairs: Vec<Pair> = all
            .clone()
            .flat_map(|from| all.clone().map(move |to| Pair { from, to }))
            .filter(|pair| pods[pair.from].node().name() != pods[pair.to].node().name())
            .collect();
        let arrived: Arc<Vec<_>> = Arc::new(pairs.iter().map(|_| Mutex::new(Arrived::default())).collect());
        let (rounds, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let receiving = sockets.iter().map(UdpSocket::try_clone).collect::<Result<Vec<_>, _>>()?;
        let interval = Duration::from_secs(1) / rate.max(1);
        let sender = std::thread::spawn({
            let (pairs, rounds, stop) = (pairs.clone(), rounds.clone(), stop.clone());
            move || send(&sockets, &addresses, &pairs, interval, &rounds, &stop)
        });
        let receivers = receiving.into_iter().map(|socket| {
            let (arrived, stop) = (arrived.clone(), stop.clone());
            std::thread::spawn(move || receive(&socket, &arrived, &stop))
        });
        let threads = std::iter::once(sender).chain(receivers).collect();
        let names = pods.iter().map(|pod| pod.name().to_owned()).collect();
        Ok(Self { names, pairs, arrived, rounds, stop, threads })
    }

    /// How many pairs there are.
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Now.
    pub fn moment(&self) -> Moment {
        Moment { rounds: self.rounds.load(Ordering::Acquire), at: Instant::now() }
    }

    /// How many rounds were sent between two moments.
    pub fn rounds(&self, from: Moment, to: Moment) -> u64 {
        to.rounds.saturating_sub(from.rounds)
    }

    /// Lets packets flow for so long.
    ///
    /// # Errors
    /// If the sender has ended.
    pub fn flow(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        wait::becomes(time * 4 + Duration::from_secs(10), "packets were sent for a while", || {
            if self.threads.first().is_none_or(JoinHandle::is_finished) {
                return Err(anyhow!("the sender has ended"));
            }
            Ok(start.elapsed() >= time)
        })
    }

    /// What became of the packets that were sent from one moment to another. What is missing is waited for.
    ///
    /// # Errors
    /// Not if packets were lost.
    pub fn loss(&self, from: Moment, to: Moment) -> Result<Loss> {
        self.loss_after(PATIENCE, from, to)
    }

    fn loss_after(&self, patience: Duration, from: Moment, to: Moment) -> Result<Loss> {
        let mut seen = vec![from.rounds; self.pairs.len()];
        let all = wait::becomes(patience, "all packets have arrived", || {
            for (arrived, seen) in self.arrived.iter().zip(&mut seen) {
                let arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
                while *seen < to.rounds && arrived.has(*seen) {
                    *seen += 1;
                }
            }
            Ok(seen.iter().all(|seen| *seen >= to.rounds))
        });
        // Those that have not by now are lost, and are counted.
        drop(all);
        let rounds = self.rounds(from, to);
        let seconds = to.at.duration_since(from.at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = if seconds > 0.0 { rounds as f64 / seconds } else { 0.0 };
        let mut loss = Loss { sent: rounds * u64::try_from(self.pairs.len())?, rate, ..Loss::default() };
        let mut longest = 0u64;
        for (pair, arrived) in self.pairs.iter().zip(self.arrived.iter()) {
            let arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut lost, mut row) = (0u64, 0u64);
            for round in from.rounds..to.rounds {
                row = if arrived.has(round) { 0 } else { row + 1 };
                lost += u64::from(row > 0);
                longest = longest.max(row);
            }
            if lost > 0 {
                loss.lost += lost;
                loss.pairs.push((self.names[pair.from].clone(), self.names[pair.to].clone(), lost));
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a time")]
        let longest = longest as f64;
        loss.longest = if rate > 0.0 { longest * 1000.0 / rate } else { 0.0 };
        Ok(loss)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of a thread was seen by whoever waited for packets.
            let _ = thread.join();
        }
    }
}

/// Round after round: one packet for each pair, with the pair's number and the round's.
fn send(
    sockets: &[UdpSocket],
    addresses: &[SocketAddr],
    pairs: &[Pair],
    interval: Duration,
    rounds: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut due = Instant::now();
    let mut round = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for (number, pair) in (0u32..).zip(pairs) {
            let mut packet = [0; 12];
            packet[..4].copy_from_slice(&number.to_be_bytes());
            packet[4..].copy_from_slice(&round.to_be_bytes());
            // A packet that the kernel refuses is a lost packet, not the end.
            let _ = sockets[pair.from].send_to(&packet, addresses[pair.to]);
        }
        round += 1;
        rounds.store(round, Ordering::Release);
        due += interval;
        let now = Instant::now();
        due = due.max(now.checked_sub(interval * CATCH_UP).unwrap_or(now));
        std::thread::sleep(due.saturating_duration_since(now));
    }
}

/// The receiving end in one pod.
fn receive(socket: &UdpSocket, arrived: &[Mutex<Arrived>], stop: &AtomicBool) {
    let mut packet = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut packet) else { continue };
        let Some((pair, round)) = read(&packet, length) else { continue };
        if let Some(arrived) = arrived.get(pair) {
            arrived.lock().unwrap_or_else(PoisonError::into_inner).set(round);
        }
    }
}

fn read(packet: &[u8], length: usize) -> Option<(usize, u64)> {
    let (pair, round) = packet.get(..length).filter(|packet| packet.len() == 12)?.split_at_checked(4)?;
    let pair = u32::from_be_bytes(pair.try_into().ok()?);
    Some((usize::try_from(pair).ok()?, u64::from_be_bytes(round.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_remembered_by_round_and_nothing_else_is() {
        let mut arrived = Arrived::default();
        let rounds = [0, 1, 63, 64, 100_000];
        rounds.iter().for_each(|round| arrived.set(*round));
        let seen: Vec<u64> = (0..200_000).filter(|round| arrived.has(*round)).collect();
        assert_eq!(seen, rounds);
    }

    #[test]
    fn a_packet_that_is_read_late_is_not_lost_and_one_that_never_comes_is() {
        let pairs = vec![Pair { from: 0, to: 1 }, Pair { from: 1, to: 0 }];
        let arrived: Arc<Vec<_>> = Arc::new(pairs.iter().map(|_| Mutex::new(Arrived::default())).collect());
        let traffic = Traffic {
            names: vec!["a".into(), "b".into()],
            pairs,
            arrived: arrived.clone(),
            rounds: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        // Sent long ago.
        let now = Instant::now();
        let from = Moment { rounds: 3, at: now.checked_sub(Duration::from_secs(6)).unwrap() };
        let to = Moment { rounds: 6, at: now.checked_sub(Duration::from_secs(5)).unwrap() };
        for arrived in arrived.iter() {
            (3..5).for_each(|round| arrived.lock().unwrap().set(round));
        }
        let late = std::thread::spawn({
            let arrived = arrived.clone();
            move || {
                wait::stays(Duration::from_millis(200), "the reader has no CPU", || Ok(true)).unwrap();
                arrived.iter().for_each(|arrived| arrived.lock().unwrap().set(5));
            }
        });
        let loss = traffic.loss(from, to).unwrap();
        late.join().unwrap();
        assert_eq!((loss.sent, loss.lost, loss.pairs.len()), (6, 0, 0));

        arrived[1].lock().unwrap().set(7);
        let loss = traffic.loss_after(Duration::ZERO, to, Moment { rounds: 8, ..to }).unwrap();
        assert_eq!((loss.sent, loss.lost), (4, 3));
        assert_eq!(loss.pairs, [("a".into(), "b".into(), 2), ("b".into(), "a".into(), 1)]);
    }

    #[test]
    fn only_whole_packets_are_read() {
        let packet = [0, 0, 0, 29, 0, 0, 0, 0, 0, 0, 1, 0, 9, 9];
        assert_eq!(read(&packet, 12), Some((29, 256)));
        assert_eq!(read(&packet, 11), None);
        assert_eq!(read(&packet, 13), None);
    }
}
