//! What both daemons of a node weigh when nothing happens, with the pods and the learned routes of a busy node.

use std::fmt::Write as _;
use std::fs;
use std::ops::Add;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_api::Owner;
use ipnet::Ipv4Net;

use crate::lab::{Lab, Options, Progress, routed};
use crate::net::{Net, StoreKind};
use crate::node::Node;

/// How many there are of everything.
#[derive(Clone, Copy, Debug)]
pub struct IdlePlan {
    /// Nodes, at least two.
    pub nodes: u8,
    /// Pods on the first node.
    pub pods: u16,
    /// Routes that the first node learns by BGP from the last, beside those to the nodes' own blocks.
    pub routes: u32,
    /// How long nothing happens before it is looked for the first time, in seconds.
    pub rest: u32,
    /// How long it is looked every ten seconds, in seconds.
    pub watch: u32,
}

/// Between two looks.
const STEP: Duration = Duration::from_secs(10);

/// Pods on each of the other nodes, and on the first before the rest of its own.
const PODS: u16 = 2;

/// Room for 2,048 blocks that only the last node has.
const LEARNED: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 128, 0, 0), 15);

/// What both are to take at most with 110 pods and 1,000 routes, in octets.
const AIM: f64 = 12e6;

/// Plays a lab on SQLite and adds up `smaps_rollup` of the daemons. PSS shares what programs have in common, so the lab's
/// other nodes, which run the same files, make each lighter than a single node would be: Private and RSS are told beside it.
///
/// # Errors
/// If the lab fails.
pub fn idle(plan: IdlePlan) -> Result<String> {
    ensure!(plan.nodes >= 2, "routes are learned from another node: --nodes 2 at least");
    ensure!(plan.routes <= 2048, "2,048 blocks fit {LEARNED}");
    let options = Options { nodes: plan.nodes, pods: PODS.min(plan.pods), store: StoreKind::Sqlite };
    let mut progress = Progress::default();
    let net = Net::new(options.store)?;
    let nodes = Lab::nodes(&net, options, &mut progress)?;
    let _lab = Lab::start(&nodes, options, &mut progress)?;
    let [first, .., last] = nodes.as_slice() else { unreachable!("there are two at least") };
    let _pods = progress.step(&format!("{} pods on {}", plan.pods, first.name()), || {
        (options.pods..plan.pods).map(|number| first.pod(&format!("more{number}"))).collect::<Result<Vec<_>>>()
    })?;
    progress.step(&format!("{} more blocks of {}", plan.routes, last.name()), || {
        learn(&net, last, plan.routes)?;
        routed(first, usize::try_from(plan.routes)? + nodes.len() - 1)
    })?;
    // What the programs ran through for all this alone is given back meanwhile.
    progress.step(&format!("{} s of rest", plan.rest), || {
        std::thread::sleep(Duration::from_secs(plan.rest.into()));
        Ok(())
    })?;
    let weights = progress.step(&format!("{} s of weighing", plan.watch), || {
        let looks = u64::from(plan.watch) / STEP.as_secs() + 1;
        let mut weights: Vec<_> = nodes.iter().map(|_| Weights::default()).collect();
        for look in 0..looks {
            if look > 0 {
                std::thread::sleep(STEP);
            }
            for (node, weights) in nodes.iter().zip(&mut weights) {
                let (felix, speaker) = (memory(node, "felix")?, memory(node, "bgp-speaker")?);
                weights.felix.push(felix);
                weights.speaker.push(speaker);
                weights.together.push(felix + speaker);
            }
        }
        Ok(weights)
    })?;
    let mut text = format!(
        "\n{:<10} {:<12} {:>9} {:>12} {:>9} {:>12}\n",
        "node", "program", "PSS kB", "private kB", "RSS kB", "most PSS kB"
    );
    for (node, weights) in nodes.iter().zip(&weights) {
        for (program, looks) in
            [("felix", &weights.felix), ("bgp-speaker", &weights.speaker), ("together", &weights.together)]
        {
            let Memory { pss, private, rss } = median(looks);
            let most = looks.iter().map(|look| look.pss).max().unwrap_or_default();
            writeln!(text, "{:<10} {program:<12} {pss:>9} {private:>12} {rss:>9} {most:>12}", node.name())?;
        }
    }
    let first_weights = weights.first().map(|weights| weights.together.as_slice()).unwrap_or_default();
    let Memory { pss, rss, .. } = median(first_weights);
    let most = first_weights.iter().map(|look| look.pss).max().unwrap_or_default();
    let octets = |kilobytes: u64| anyhow::Ok(f64::from(u32::try_from(kilobytes)?) * 1024.0);
    writeln!(
        text,
        "\n{} with {} pods and {} learned routes: {:.1} MB PSS, {:.2} of the aim of {:.0} MB; {:.1} MB in the heaviest moment; \
         {:.1} MB (RSS) is the most it can be where no other node shares the programs",
        first.name(),
        plan.pods,
        plan.routes,
        octets(pss)? / 1e6,
        octets(pss)? / AIM,
        AIM / 1e6,
        octets(most)? / 1e6,
        octets(rss)? / 1e6,
    )?;
    Ok(text)
}

/// What a node's programs weighed at each look.
#[derive(Default)]
struct Weights {
    felix: Vec<Memory>,
    speaker: Vec<Memory>,
    together: Vec<Memory>,
}

/// Of each figure by itself.
fn median(looks: &[Memory]) -> Memory {
    let of = |figure: fn(&Memory) -> u64| {
        let mut figures: Vec<_> = looks.iter().map(figure).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    Memory { pss: of(|look| look.pss), private: of(|look| look.private), rss: of(|look| look.rss) }
}

/// Gives a node so many blocks, which its speaker tells the others.
fn learn(net: &Net, node: &Node<'_>, count: u32) -> Result<()> {
    node.apply(&format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: learned}}\n\
         spec: {{cidr: {LEARNED}, blockSize: 26, nodeSelector: '!all()'}}\n"
    ))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = net.datastore().open().await?;
        let owner = Owner::Host(node.name().to_owned());
        for block in LEARNED.subnets(26)?.take(usize::try_from(count)?) {
            ipam::claim(&store, &owner, block.into(), false, jiff::Timestamp::now()).await?;
        }
        Ok(())
    })
}

/// Kilobytes.
#[derive(Clone, Copy)]
struct Memory {
    pss: u64,
    private: u64,
    rss: u64,
}

impl Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { pss: self.pss + other.pss, private: self.private + other.private, rss: self.rss + other.rss }
    }
}

fn memory(node: &Node<'_>, program: &str) -> Result<Memory> {
    let pid = node.daemon(program, |process| Ok(process.pid()))?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| -> Result<u64> {
        let line = rollup.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
        let number = line.split_whitespace().nth(1).context("no number")?;
        Ok(number.parse()?)
    };
    Ok(Memory {
        pss: field("Pss:")?,
        private: field("Private_Clean:")? + field("Private_Dirty:")?,
        rss: field("Rss:")?,
    })
}
