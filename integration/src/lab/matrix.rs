//! All pods ping all pods.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::pod::Pod;

/// One ping.
#[derive(Clone, Debug, Serialize)]
pub struct Ping {
    /// The pod that asked.
    pub from: String,
    /// The pod that was asked.
    pub to: String,
    /// Round trip in milliseconds, if it answered.
    pub milliseconds: Option<f64>,
    /// Why not, if it did not.
    pub error: Option<String>,
}

/// Every pod's ping of every other.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Matrix {
    /// The pods, in order of rows and columns.
    pub pods: Vec<String>,
    /// The pings, row by row.
    pub pings: Vec<Ping>,
}

impl Matrix {
    /// Has every pod ping every other once, the pods of different nodes at the same time.
    pub fn of(pods: &[Pod<'_, '_>]) -> Self {
        let targets: Vec<(String, Option<IpAddr>)> =
            pods.iter().map(|pod| (pod.name().to_owned(), pod.address().ok())).collect();
        let pings = std::thread::scope(|scope| {
            let rows: Vec<_> = pods.iter().map(|pod| scope.spawn(|| row(pod, &targets))).collect();
            rows.into_iter().flat_map(|row| row.join().unwrap_or_default()).collect()
        });
        Self { pods: pods.iter().map(|pod| pod.name().to_owned()).collect(), pings }
    }

    /// How many pings were not answered.
    pub fn failures(&self) -> usize {
        self.pings.iter().filter(|ping| ping.milliseconds.is_none()).count()
    }

    /// As a table of milliseconds.
    pub fn table(&self) -> String {
        let width = self.pods.iter().map(String::len).max().unwrap_or(0).max(5);
        let mut text = format!("{:width$}", "");
        for pod in &self.pods {
            text += &format!("  {pod:>width$}");
        }
        for from in &self.pods {
            text += &format!("\n{from:width$}");
            for to in &self.pods {
                let ping = self.pings.iter().find(|ping| ping.from == *from && ping.to == *to);
                let cell = match ping.map(|ping| ping.milliseconds) {
                    None => "-".to_owned(),
                    Some(Some(milliseconds)) => format!("{milliseconds:.2}"),
                    Some(None) => "LOST".to_owned(),
                };
                text += &format!("  {cell:>width$}");
            }
        }
        text
    }
}

fn row(pod: &Pod<'_, '_>, targets: &[(String, Option<IpAddr>)]) -> Vec<Ping> {
    let others = targets.iter().filter(|(name, _)| name != pod.name());
    others
        .map(|(name, address)| {
            let answer = match address {
                Some(address) => pod.ping(*address),
                None => Err(anyhow::anyhow!("it has no address")),
            };
            let (milliseconds, error) = match answer {
                Ok(time) => (Some(milliseconds(time)), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            };
            Ping { from: pod.name().to_owned(), to: name.clone(), milliseconds, error }
        })
        .collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
