//! What both daemons of a node weigh when nothing happens.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use crate::lab::{Lab, Options, Progress};
use crate::net::{Net, StoreKind};
use crate::node::Node;

/// Plays a lab on SQLite and adds up `smaps_rollup` of the daemons. PSS shares what programs have in common,
/// so the lab's other nodes make each a little lighter than a single node would be: Private is told beside it.
///
/// # Errors
/// If the lab fails.
pub fn idle(nodes: u8) -> Result<String> {
    let options = Options { nodes, pods: 2, store: StoreKind::Sqlite };
    let mut progress = Progress::default();
    let net = Net::new(options.store)?;
    let nodes = Lab::nodes(&net, options, &mut progress)?;
    let _lab = Lab::start(&nodes, options, &mut progress)?;
    let mut text = format!("\n{:<10} {:<12} {:>9} {:>12} {:>9}\n", "node", "program", "PSS kB", "private kB", "RSS kB");
    for node in &nodes {
        let mut sum = 0;
        for program in ["felix", "bgp-speaker"] {
            let memory = memory(node, program)?;
            sum += memory.pss;
            let Memory { pss, private, rss } = memory;
            writeln!(text, "{:<10} {program:<12} {pss:>9} {private:>12} {rss:>9}", node.name())?;
        }
        writeln!(text, "{:<10} {:<12} {sum:>9}", node.name(), "together")?;
    }
    Ok(text)
}

/// Kilobytes.
struct Memory {
    pss: u64,
    private: u64,
    rss: u64,
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
