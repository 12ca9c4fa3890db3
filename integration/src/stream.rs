//! A steady stream of packets between two pods, that counts what is lost.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::pod::Pod;

/// The stream's port in the receiving pod.
const PORT: u16 = 7000;

/// A stream of numbered UDP packets.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<HashSet<u64>>>,
}

/// What became of a stream's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How many were sent.
    pub sent: u64,
    /// How many of them did not arrive.
    pub lost: u64,
}

impl Stream {
    /// Sends `rate` packets a second from one pod to the other until told to stop.
    ///
    /// # Errors
    /// If the pods' sockets cannot be made.
    pub fn start(from: &Pod<'_, '_>, to: &Pod<'_, '_>, rate: u32) -> Result<Self> {
        Self::between((from.network()?, from.address()?), (to.network()?, to.address()?), PORT, rate)
    }

    /// Sends `rate` packets a second from an address in one network namespace to `port` of one in another.
    ///
    /// # Errors
    /// If the sockets cannot be made.
    pub fn between(from: (OwnedFd, IpAddr), to: (OwnedFd, IpAddr), port: u16, rate: u32) -> Result<Self> {
        let there = SocketAddr::new(to.1, port);
        let receiving = calico_sys::namespace::inside(to.0, || UdpSocket::bind(there))?.context("receiver")?;
        receiving.set_read_timeout(Some(Duration::from_millis(200)))?;
        let here = SocketAddr::new(from.1, 0);
        let sending = calico_sys::namespace::inside(from.0, || UdpSocket::bind(here))?.context("sender")?;
        sending.connect(there)?;

        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sender = std::thread::spawn({
            let (stop, sent) = (stop.clone(), sent.clone());
            let interval = Duration::from_secs(1) / rate;
            move || {
                let start = Instant::now();
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    // An unreachable destination is a lost packet, not the end of the stream.
                    let _ = sending.send(&number.to_be_bytes());
                    number += 1;
                    sent.store(number, Ordering::Relaxed);
                    let due = start + interval * u32::try_from(number).unwrap_or(u32::MAX);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                Ok(number)
            }
        });
        let receiver = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut seen = HashSet::new();
                let mut octets = [0; 8];
                loop {
                    match receiving.recv(&mut octets) {
                        Ok(8) => drop(seen.insert(u64::from_be_bytes(octets))),
                        Ok(_) => {}
                        // Nothing came for a while: the end, if no more will be sent.
                        Err(_) if stop.load(Ordering::Relaxed) => return Ok(seen),
                        Err(_) => {}
                    }
                }
            }
        });
        Ok(Self { stop, sent, sender, receiver })
    }

    /// How many packets were sent by now.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the stream and counts.
    ///
    /// # Errors
    /// If a thread failed.
    pub fn stop(self) -> Result<Count> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        let seen = self.receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        Ok(Count { sent, lost: sent - u64::try_from(seen.len())? })
    }
}
