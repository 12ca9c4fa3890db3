//! As many packets, and as many octets, as a path carries.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::End;

/// What a path carried.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Small UDP packets a second that arrived.
    pub(super) packets: f64,
    /// Gigabits a second that arrived by TCP.
    pub(super) gigabits: f64,
}

impl Load {
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
    let stop = AtomicBool::new(false);
    let (count, seconds) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut octets = [0; 64];
            let mut count = 0u64;
            let start = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                count += u64::from(receiving.recv(&mut octets).is_ok());
            }
            (count, start.elapsed().as_secs_f64())
        });
        let start = Instant::now();
        while start.elapsed() < time {
            // A look at the clock costs as much as a packet: a hundred at a time.
            for _ in 0..100 {
                let _ = sending.send(&[0; 18]);
            }
        }
        stop.store(true, Ordering::Relaxed);
        receiver.join().map_err(|_| anyhow!("the receiver panicked"))
    })?;
    ensure!(count > 0, "no packet arrived");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = count as f64 / seconds;
    Ok(rate)
}

fn gigabits(from: &End, to: &End, time: Duration) -> Result<f64> {
    let there = SocketAddr::new(to.address, 7101);
    let listener = calico_sys::namespace::inside(&to.network, || TcpListener::bind(there))??;
    let received = std::thread::scope(|scope| -> Result<_> {
        let receiver = scope.spawn(|| -> Result<_> {
            let (mut stream, _) = listener.accept()?;
            let mut octets = vec![0; 1 << 17];
            let (mut count, start) = (0u64, Instant::now());
            loop {
                match stream.read(&mut octets)? {
                    0 => return Ok((count, start.elapsed().as_secs_f64())),
                    length => count += length as u64,
                }
            }
        });
        let connect = || TcpStream::connect_timeout(&there, Duration::from_secs(5));
        let mut stream = calico_sys::namespace::inside(&from.network, connect)?.context("TCP between the pods")?;
        let octets = vec![0; 1 << 17];
        let start = Instant::now();
        while start.elapsed() < time {
            stream.write_all(&octets)?;
        }
        drop(stream);
        receiver.join().map_err(|_| anyhow!("the receiver panicked"))?
    });
    let (count, seconds) = received?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = count as f64 * 8.0 / seconds / 1e9;
    Ok(rate)
}
