//! What is counted, under Calico's names.

use ipam::network::size;
use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::image::Image;
use crate::pass::{Census, NO_NODE, NO_POOL, Pass};
use crate::perform::Done;

/// The controller's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    in_use: IntGaugeVec,
    borrowed: IntGaugeVec,
    blocks: IntGaugeVec,
    candidates: IntGaugeVec,
    reclamations: IntCounterVec,
    size: GaugeVec,
    reserved: GaugeVec,
    /// The older names, by node alone.
    older: [IntGaugeVec; 3],
    leader: IntGauge,
    actions: IntCounterVec,
}

impl Metrics {
    /// Metrics, registered with `registry`.
    ///
    /// # Errors
    /// If one is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        fn add<C: prometheus::core::Collector + Clone + 'static>(
            registry: &Registry,
            metric: prometheus::Result<C>,
        ) -> prometheus::Result<C> {
            let metric = metric?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let by_both = ["ippool", "node"];
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &by_both);
        let pool = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &["ippool"]);
        let node = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["node"]);
        Ok(Self {
            in_use: add(registry, gauge("ipam_allocations_in_use", "Addresses that are in use, or seem leaked"))?,
            borrowed: add(registry, gauge("ipam_allocations_borrowed", "Addresses in use in a block of another node"))?,
            blocks: add(registry, gauge("ipam_blocks", "Blocks"))?,
            candidates: add(registry, gauge("ipam_allocations_gc_candidates", "Addresses that seem leaked"))?,
            reclamations: add(
                registry,
                IntCounterVec::new(
                    Opts::new("ipam_allocations_gc_reclamations", "Leaked addresses released"),
                    &by_both,
                ),
            )?,
            size: add(registry, pool("ipam_ippool_size", "Addresses of the pool"))?,
            reserved: add(registry, pool("ipam_ippool_reserved", "Addresses of the pool that are reserved"))?,
            older: [
                add(registry, node("ipam_allocations_per_node", "Addresses in use on a node"))?,
                add(registry, node("ipam_allocations_borrowed_per_node", "Borrowed addresses on a node"))?,
                add(registry, node("ipam_blocks_per_node", "Blocks of a node"))?,
            ],
            leader: add(registry, IntGauge::new("ipam_controller_leader", "1 if this replica leads, else 0"))?,
            actions: add(
                registry,
                IntCounterVec::new(Opts::new("ipam_controller_actions", "Actions, by how they ended"), &["result"]),
            )?,
        })
    }

    /// Shows whether this replica leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Shows what a pass has counted.
    pub fn counted(&self, image: &Image, pass: &Pass) {
        let show = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for vec in [&self.in_use, &self.borrowed, &self.blocks, &self.candidates].into_iter().chain(&self.older) {
            vec.reset();
        }
        let census: &Census = &pass.census;
        for ((pool, node), count) in census {
            let labels = [&**pool, &**node];
            self.in_use.with_label_values(&labels).set(show(count.in_use));
            self.borrowed.with_label_values(&labels).set(show(count.borrowed));
            self.blocks.with_label_values(&labels).set(show(count.blocks));
            self.candidates.with_label_values(&labels).set(show(count.candidates));
            for (vec, number) in self.older.iter().zip([count.in_use, count.borrowed, count.blocks]) {
                vec.with_label_values(&[&**node]).add(show(number));
            }
        }
        self.size.reset();
        self.reserved.reset();
        let reservations = image.reservations();
        for (name, cidr) in &image.pools {
            let kept = reservations.meeting(cidr).iter().map(|net| size(net).min(size(cidr))).sum::<u128>();
            self.size.with_label_values(&[&**name]).set(about(size(cidr)));
            self.reserved.with_label_values(&[&**name]).set(about(kept));
        }
    }

    /// Counts what was done.
    pub fn performed(&self, image: &Image, done: &Done) {
        for (block, node) in &done.reclaimed {
            let pool = image.pool_of(block).unwrap_or(NO_POOL);
            self.reclamations.with_label_values(&[pool, node.as_deref().unwrap_or(NO_NODE)]).inc();
        }
        for (result, number) in [("done", done.effective), ("refuted", done.refuted), ("failed", done.failed)] {
            self.actions.with_label_values(&[result]).inc_by(u64::try_from(number).unwrap_or(u64::MAX));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has nothing but floating point")]
fn about(number: u128) -> f64 {
    number as f64
}
