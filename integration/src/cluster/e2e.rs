//! Kubernetes' own end-to-end tests against a cluster.

use std::fs::{self, File};
use std::io::BufReader;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Cluster, kubeconfig};
use crate::programs;

/// What conformance asks of a network.
pub const CONFORMANCE: &str = r"\[sig-network\].*\[Conformance\]";

/// How many specs that is, in the version that is built here: that fewer are found and pass is no success.
pub const CONFORMANCE_SPECS: usize = 47;

/// A spec that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Its whole name.
    pub name: String,
    /// Why.
    pub message: String,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The regular expression that chose the specs.
    pub focus: String,
    /// How many passed.
    pub passed: usize,
    /// Those that failed.
    pub failed: Vec<Failure>,
    /// How many of the chosen ones were skipped, since they do not apply to this cluster.
    pub skipped: usize,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Outcome {
    /// Whether specs ran, all of them passed, and they were as many as is asked for.
    pub fn good(&self, count: Option<usize>) -> bool {
        self.passed > 0 && self.failed.is_empty() && count.is_none_or(|count| self.passed == count)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    failure: Option<SpecFailure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecFailure {
    #[serde(default)]
    message: String,
}

impl Cluster {
    /// Runs the specs whose names match `focus`, and not `skip`, several at a time. Their output goes to `e2e.log`
    /// beside the other logs; `show` lets it be seen as well.
    ///
    /// # Errors
    /// If the tests cannot be run at all. A spec that fails is in the outcome.
    pub fn e2e(&self, focus: &str, skip: Option<&str>, show: bool) -> Result<Outcome> {
        let built = programs::ensure_built(programs::END_TO_END)?;
        let [ginkgo, tests] = built.as_slice() else { anyhow::bail!("two programs were asked for") };
        let log = self.logs().join("e2e.log");
        let report = self.logs().join("e2e.json");
        let _ = fs::remove_file(&report);
        let mut command = self.command(ginkgo);
        command.args(["--procs=4", "--no-color", "--timeout=2h", "--junit-report=e2e.xml", "--json-report=e2e.json"]);
        command.arg(format!("--output-dir={}", self.logs().display())).args(["--focus", focus]);
        if let Some(skip) = skip {
            command.args(["--skip", skip]);
        }
        command.arg(tests).args(["--", "--provider=local", "--disable-log-dump"]);
        command.arg(format!("--kubeconfig={}", kubeconfig().display()));
        command.arg(format!("--num-nodes={}", self.nodes().len()));
        command.current_dir(self.logs()).stdin(Stdio::null());
        if !show {
            let file = File::create(&log).with_context(|| log.display().to_string())?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        let start = Instant::now();
        let status = command.status().with_context(|| format!("cannot start {}", ginkgo.display()))?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(report.is_file(), "the end-to-end tests did not run ({status}); see {}", log.display());
        let suites: Vec<Suite> = serde_json::from_reader(BufReader::new(File::open(&report)?))
            .with_context(|| report.display().to_string())?;
        // Seven thousand specs that were not chosen are in it as well.
        let _ = fs::remove_file(&report);
        let mut outcome = Outcome { focus: focus.to_owned(), passed: 0, failed: Vec::new(), skipped: 0, seconds };
        for spec in suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default()) {
            let of_suite = spec.leaf_node_type != "It";
            match (spec.state.as_str(), &spec.failure) {
                ("passed", _) => outcome.passed += usize::from(!of_suite),
                ("pending", _) => {}
                // Those that were not chosen have no message; those that found that they do not apply say why.
                ("skipped", failure) => {
                    let said = failure.as_ref().is_some_and(|failure| !failure.message.is_empty());
                    outcome.skipped += usize::from(said && !of_suite);
                }
                (_, failure) => outcome.failed.push(Failure {
                    name: name(&spec),
                    message: failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default(),
                }),
            }
        }
        Ok(outcome)
    }
}

fn name(spec: &Spec) -> String {
    let mut words = spec.container_hierarchy_texts.clone().unwrap_or_default();
    words.push(spec.leaf_node_text.clone());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_good_only_if_as_many_specs_pass_as_must() {
        let outcome = |passed| Outcome { focus: String::new(), passed, failed: Vec::new(), skipped: 0, seconds: 1.0 };
        assert!(outcome(CONFORMANCE_SPECS).good(Some(CONFORMANCE_SPECS)) && outcome(1).good(None));
        assert!(!outcome(CONFORMANCE_SPECS - 1).good(Some(CONFORMANCE_SPECS)) && !outcome(0).good(None));
        let failure = Failure { name: "a spec".to_owned(), message: String::new() };
        assert!(!Outcome { failed: vec![failure], ..outcome(CONFORMANCE_SPECS) }.good(Some(CONFORMANCE_SPECS)));
    }
}
