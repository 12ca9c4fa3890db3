//! What is counted; under Calico's names where it has one.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Felix' metrics; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Endpoints of this node.
    pub(crate) active_local_endpoints: IntGauge,
    /// 1 waiting for the store, 2 reading it, 3 in sync.
    pub(crate) resync_state: IntGauge,
    /// Updates that the calculation took.
    pub(crate) calc_updates: IntCounterVec,
    /// Time an apply took.
    pub(crate) apply_time: Histogram,
    /// Applies after which something was not as desired.
    pub(crate) apply_failures: IntCounter,
    /// From the start to the first complete apply.
    pub(crate) initial_resync_time: Gauge,
    /// Our routes in the kernel.
    pub(crate) routes: IntGauge,
    /// Workloads' interfaces.
    pub(crate) interfaces: IntGauge,
    /// Conversations with the CNI plugins, by request and outcome.
    pub(crate) requests: IntCounterVec,
    /// Releases that wait to be done.
    pub(crate) spooled: IntGauge,
    /// What is not as it should be and does not mend itself.
    pub(crate) findings: IntGauge,
}

impl Metrics {
    /// Metrics, registered with `registry`.
    ///
    /// # Errors
    /// If one is registered already.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        fn add<C: prometheus::core::Collector + Clone + 'static>(
            registry: &Registry,
            metric: prometheus::Result<C>,
        ) -> prometheus::Result<C> {
            let metric = metric?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let gauge = |name: &str, help: &str| add(registry, IntGauge::new(name, help));
        let updates = Opts::new("felix_calc_graph_updates_processed", "Updates of the datastore, by kind.");
        let requests = Opts::new("felix_agent_requests", "Conversations with the CNI plugins, by request and outcome.");
        let apply = HistogramOpts::new(
            "felix_int_dataplane_apply_time_seconds",
            "Time to bring the kernel to the desired state.",
        )
        .buckets(vec![0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]);
        Ok(Self {
            active_local_endpoints: gauge("felix_active_local_endpoints", "Endpoints of this node.")?,
            resync_state: gauge("felix_resync_state", "1 waiting for the datastore, 2 reading it, 3 in sync.")?,
            calc_updates: add(registry, IntCounterVec::new(updates, &["type"]))?,
            apply_time: add(registry, Histogram::with_opts(apply))?,
            apply_failures: add(
                registry,
                IntCounter::new(
                    "felix_int_dataplane_failures",
                    "Times the kernel could not be brought to the desired state.",
                ),
            )?,
            initial_resync_time: add(
                registry,
                Gauge::new(
                    "felix_int_dataplane_initial_resync_time_seconds",
                    "From the start to the first complete apply.",
                ),
            )?,
            routes: gauge("felix_route_table_num_routes", "Routes of Felix in the kernel.")?,
            interfaces: gauge("felix_route_table_num_ifaces", "Interfaces of workloads.")?,
            requests: add(registry, IntCounterVec::new(requests, &["request", "outcome"]))?,
            findings: gauge(
                "felix_findings",
                "What is found that is not as it should be; calicoctl node status names it.",
            )?,
            spooled: gauge("felix_agent_spooled_releases", "Releases that wait to be done.")?,
        })
    }
}
