//! As many packets, and as many octets, as a path carries.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::End;

/// So many packets are under way at most. As many as could be sent would mostly be thrown away before the receiver, and of one
/// CPU the receiver would have what the scheduler likes: that is what would be measured.
const WINDOW: u64 = 128;
/// What has not arrived after this time will not.
const LOST: Duration = Duration::from_millis(20);
/// How long a path may carry nothing before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a path carried.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Small UDP packets a second that arrived.
    pub(super) packets: f64,
    /// Gigabits a second that arrived by TCP.
    pub(super) gigabits: f64,
}

impl Load {
    /// How this compares with another.
    fn over(self, other: Self) -> Self {
        Self { packets: self.packets / other.packets, gigabits: self.gigabits / other.gigabits }
    }

    /// The middle of each figure.
    pub(super) fn median(all: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Self { packets: middle(|load| load.packets), gigabits: middle(|load| load.gigabits) }
    }
}

/// Paths that were loaded in turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) ours: Vec<Load>,
    pub(super) by_hand: Vec<Load>,
    /// By hand as well, on nodes that track connections as kube-proxy has them do; where that is another path.
    pub(super) tracked: Vec<Load>,
}

impl Turns {
    /// The middle of how ours compares with another that was measured just before or after it; not a number without any.
    /// What else the machine does changes from one turn to the next by far more than the paths differ.
    pub(super) fn ratio(&self, to: &[Load]) -> Load {
        let ratios: Vec<Load> = self.ours.iter().zip(to).map(|(ours, other)| ours.over(*other)).collect();
        Load::median(&ratios)
    }
}

/// Loads the path from one end to the other.
///
/// # Errors
/// If nothing arrives.
pub(super) fn measure(from: &End, to: &End, time: Duration) -> Result<Load> {
    Ok(Load { packets: packets(from, to, time)?, gigabits: gigabits(from, to, time)? })
}

fn packets(from: &End, to: &End, time: Duration) -> Result<f64> {
    let there = SocketAddr::new(to.address, 7100);
    let receiving = calico_sys::namespace::inside(&to.network, || UdpSocket::bind(there))??;
    receiving.set_read_timeout(Some(Duration::from_millis(100)))?;
    let here = SocketAddr::new(from.address, 0);
    let sending = calico_sys::namespace::inside(&from.network, || UdpSocket::bind(here))??;
    sending.connect(there)?;
    let (stop, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    let (count, seconds) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut octets = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if receiving.recv(&mut octets).is_ok() {
                    arrived.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let (mut sent, start) = (0u64, Instant::now());
        while start.elapsed() < time {
            // A look at the clock costs as much as a packet.
            for _ in 0..WINDOW / 2 {
                let _ = sending.send(&[0; 18]);
            }
            sent += WINDOW / 2;
            let before = Instant::now();
            while sent.saturating_sub(arrived.load(Ordering::Relaxed)) > WINDOW / 2 {
                std::thread::yield_now();
                if before.elapsed() > LOST {
                    sent = arrived.load(Ordering::Relaxed);
                }
            }
        }
        let (count, seconds) = (arrived.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
        stop.store(true, Ordering::Relaxed);
        receiver.join().map_err(|_| anyhow!("the receiver panicked")).map(|()| (count, seconds))
    })?;
    ensure!(count > 0, "no packet arrived");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = count as f64 / seconds;
    Ok(rate)
}

fn gigabits(from: &End, to: &End, time: Duration) -> Result<f64> {
    let there = SocketAddr::new(to.address, 7101);
    let listener = calico_sys::namespace::inside(&to.network, || TcpListener::bind(there))??;
    // Connected before anybody waits for it: a path that carries nothing fails here, and nobody is left waiting.
    let connect = || TcpStream::connect_timeout(&there, PATIENCE);
    let mut sender = calico_sys::namespace::inside(&from.network, connect)?.context("TCP between the pods")?;
    let (mut receiver, _) = listener.accept()?;
    // A path that breaks under way, too.
    sender.set_write_timeout(Some(PATIENCE))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let received = std::thread::scope(|scope| -> Result<_> {
        let counter = scope.spawn(move || -> Result<_> {
            let mut octets = vec![0; 1 << 17];
            let (mut count, start) = (0u64, Instant::now());
            loop {
                match receiver.read(&mut octets).context("TCP between the pods")? {
                    0 => return Ok((count, start.elapsed().as_secs_f64())),
                    length => count += length as u64,
                }
            }
        });
        let octets = vec![0; 1 << 17];
        let start = Instant::now();
        while start.elapsed() < time {
            sender.write_all(&octets).context("TCP between the pods")?;
        }
        drop(sender);
        counter.join().map_err(|_| anyhow!("the receiver panicked"))?
    });
    let (count, seconds) = received?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = count as f64 * 8.0 / seconds / 1e9;
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An end at an address of a new namespace, which nothing leads to.
    fn lonely(address: &str) -> End {
        let network = calico_sys::namespace::create().expect("root makes namespaces");
        let address: std::net::IpAddr = address.parse().expect("an address");
        let up = || {
            for line in [format!("address add {address}/24 dev lo"), "link set lo up".to_owned()] {
                assert!(
                    std::process::Command::new("ip")
                        .args(line.split(' '))
                        .status()
                        .is_ok_and(|status| status.success())
                );
            }
        };
        calico_sys::namespace::inside(&network, up).expect("the namespace is entered");
        End { network, address }
    }

    #[test]
    fn the_ratio_is_of_pairs_and_not_of_a_slow_hour_to_a_quick_one() {
        let load = |packets| Load { packets, gigabits: 1.0 };
        let (ours, by_hand) = ([10.0, 98.0, 51.0].map(load).into(), [10.0, 100.0, 50.0].map(load).into());
        let turns = Turns { ours, by_hand, tracked: Vec::new() };
        assert!((turns.ratio(&turns.by_hand).packets - 1.0).abs() < 1e-9);
        assert!((Load::median(&turns.ours).packets - 51.0).abs() < 1e-9);
        assert!(turns.ratio(&turns.tracked).packets.is_nan());
    }

    #[test]
    fn a_path_that_carries_nothing_is_an_error_and_is_not_waited_for() {
        let (from, to) = (lonely("192.0.2.1"), lonely("192.0.2.2"));
        let start = Instant::now();
        let error = gigabits(&from, &to, Duration::from_millis(10)).expect_err("there is no path");
        assert!(format!("{error:#}").contains("TCP between the pods"), "{error:#}");
        assert!(start.elapsed() < 3 * PATIENCE);
        assert!(packets(&from, &to, Duration::from_millis(10)).is_err());
        // And one that does is measured.
        assert!(gigabits(&from, &from, Duration::from_millis(50)).expect("its own address") > 0.0);
        assert!(packets(&from, &from, Duration::from_millis(50)).expect("its own address") > 0.0);
    }
}
