//! The one owner of this node's packet rules.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use calico_netlink::Error;
use calico_netlink::nftables::{
    Base, Batch, ChainKind, Commit, Element, Event, Expression, Family, Fib, FibResult, Hook, Monitor, Register, Rule,
    Set as KernelSet, Socket, Table,
};
use felix_calc::{Change, Set};
use ipnet::IpNet;
use tracing::{debug, info};

use super::networks::Networks;
use super::render::{Facts, chains, set_name};
use super::table::{Operation, TableState};
use super::{Settings, TABLE};
use crate::{Applied, Finding, TunnelState};

/// All sets there are.
const SETS: [Set; 4] = [Set::Pools, Set::MasqueradedPools, Set::Hosts, Set::VxlanHosts];
/// How often a transaction is tried again that others came before.
const TRIES: usize = 20;

/// The packet rules of this node.
///
/// Nothing is written before [`Change::InSync`]: with half of the pools known, packets between pods would get the node's
/// address, and with half of the nodes, their packets would be dropped. What an earlier process left stays until then.
pub struct PacketRules {
    settings: Settings,
    socket: Socket,
    monitor: Monitor,
    /// How often the monitor was replaced.
    monitors: u64,
    tables: Vec<TableState>,
    members: BTreeMap<(Family, Set), Networks>,
    /// Tunnels that are desired, or still there.
    tunnels: TunnelState,
    desired_tunnels: TunnelState,
    /// The kernel's number of the transaction that [`Self::tables`] are of.
    generation: u32,
    findings: Vec<Finding>,
    in_sync: bool,
    /// Something desired changed since the last apply; chains must be rendered again.
    changed: bool,
    /// What is there must be read.
    stale: bool,
}

impl PacketRules {
    /// Opens the kernel's sockets in the network namespace of the calling thread. Nothing is changed.
    ///
    /// A kernel without nf_tables is no error: then [`Self::supported`] is false and nothing is ever due.
    ///
    /// # Errors
    /// The kernel's, which are those of a process that may not change the network.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let socket = Socket::open()?;
        let wanted = if settings.ipv6 { &[Family::Ip, Family::Ip6][..] } else { &[Family::Ip] };
        let tables: Vec<Table> = wanted.iter().map(|family| Table::new(*family, TABLE)).collect();
        let mut rules = Self {
            settings,
            // First of all: what changes while we look is told.
            monitor: Monitor::open(tables.clone(), socket.port())?,
            monitors: 0,
            socket,
            tables: tables.into_iter().map(desired_table).collect(),
            members: BTreeMap::new(),
            tunnels: TunnelState::default(),
            desired_tunnels: TunnelState::default(),
            generation: 0,
            findings: Vec::new(),
            in_sync: false,
            changed: true,
            stale: true,
        };
        rules.look_for_support()?;
        Ok(rules)
    }

    /// Asks the kernel whether it would make what we will need, family by family.
    fn look_for_support(&mut self) -> Result<(), Error> {
        let mut findings = Vec::new();
        let mut supported = Vec::new();
        for state in std::mem::take(&mut self.tables) {
            match self.socket.rehearse(example(state.table.family)) {
                Ok(()) => supported.push(state),
                Err(error) if error.errno() == Some(libc::EPERM) => return Err(error),
                Err(error) => findings.push(Finding {
                    object: format!("Table/{}", state.table),
                    text: format!(
                        "the kernel cannot hold packet rules ({error}): pods' packets to the outside keep their source, and \
                         tunnelled packets of strangers are not dropped; use a kernel with nf_tables, nft_nat, nft_masq and \
                         nft_fib, or load these modules, and restart felix"
                    ),
                }),
            }
        }
        self.tables = supported;
        self.findings = findings;
        Ok(())
    }

    /// Whether this kernel has nf_tables, at least for one family; see [`Self::findings`].
    pub fn supported(&self) -> bool {
        !self.tables.is_empty()
    }

    /// What the operator should know.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The descriptor that becomes readable when the kernel has told something; then call [`Self::notice`]. It is another
    /// whenever [`Self::generation`] is.
    pub fn notifications(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }

    /// How often [`Self::notifications`] became another descriptor.
    pub fn generation(&self) -> u64 {
        self.monitors
    }

    /// Takes a change of what is desired; those that packet rules do not depend on are left alone.
    pub fn change(&mut self, change: &Change) {
        match change {
            Change::Member { set, member, wanted } => self.member(*set, *member, *wanted),
            Change::Tunnels(tunnels) => {
                let (ipip, vxlan) = (tunnels.ipip.is_some(), tunnels.vxlan.is_some());
                self.desired_tunnels = TunnelState { ipip, vxlan, vxlan_v6: tunnels.vxlan_v6.is_some() };
                // Those that are desired no more take packets still, until we are told otherwise.
                self.set_tunnels(self.tunnels);
            }
            Change::InSync => {
                self.in_sync = true;
                self.changed = true;
            }
            _ => {}
        }
    }

    /// Says which tunnels can take packets, as [`crate::Dataplane::tunnel_state`] tells after each apply: what comes by a
    /// tunnel that is desired no more is filtered as long as that can.
    pub fn tunnels(&mut self, state: TunnelState) {
        self.set_tunnels(state);
    }

    fn set_tunnels(&mut self, there: TunnelState) {
        let desired = self.desired_tunnels;
        let tunnels = TunnelState {
            ipip: desired.ipip || there.ipip,
            vxlan: desired.vxlan || there.vxlan,
            vxlan_v6: desired.vxlan_v6 || there.vxlan_v6,
        };
        self.changed |= tunnels != self.tunnels;
        self.tunnels = tunnels;
    }

    fn member(&mut self, set: Set, member: IpNet, wanted: bool) {
        let family = if member.addr().is_ipv4() { Family::Ip } else { Family::Ip6 };
        let Some(state) = self.tables.iter_mut().find(|state| state.table.family == family) else { return };
        let networks = self.members.entry((family, set)).or_default();
        let changed = if wanted { networks.insert(member) } else { networks.remove(member) };
        let name = set_name(set, family);
        let gone = changed.gone.into_iter().map(|network| (network, false));
        for (network, wanted) in gone.chain(changed.come.into_iter().map(|network| (network, true))) {
            state.want_element(&name, Element::network(network), wanted);
            self.changed = true;
        }
    }

    /// Reads what the kernel has told since the last call; says whether an [`Self::apply`] has something to do.
    ///
    /// # Errors
    /// The kernel's, if a new monitor cannot be opened.
    pub fn notice(&mut self) -> Result<bool, Error> {
        let events = match self.monitor.receive() {
            Ok(events) => events,
            Err(error) => {
                debug!(%error, "opening a new monitor of nf_tables");
                let tables = self.tables.iter().map(|state| state.table.clone()).collect();
                self.monitor = Monitor::open(tables, self.socket.port())?;
                self.monitors += 1;
                vec![Event::Overrun]
            }
        };
        for event in events {
            match event {
                Event::Generation(generation) => self.generation = generation,
                Event::Overrun => self.stale = true,
                Event::Touched(table) => {
                    if !self.stale {
                        info!(%table, "somebody else changed the packet rules; they are put right");
                    }
                    self.stale = true;
                }
            }
        }
        Ok(self.is_due())
    }

    /// Whether an [`Self::apply`] has something to do.
    pub fn is_due(&self) -> bool {
        self.supported() && self.in_sync && (self.changed || self.stale)
    }

    /// Makes the next [`Self::apply`] read everything: what notifications missed is found.
    pub fn resync(&mut self) {
        self.stale = true;
    }

    /// Writes the difference between the desired and the actual state, of both families in one transaction; none if
    /// nothing differs.
    ///
    /// # Errors
    /// The kernel's, if what is there cannot be read.
    pub fn apply(&mut self) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        if !self.is_due() {
            return Ok(applied);
        }
        if self.changed {
            self.render();
        }
        for _ in 0..TRIES {
            let fresh = self.stale;
            if self.stale && !self.read()? {
                continue;
            }
            let plans: Vec<Vec<Operation>> = self.tables.iter().map(TableState::plan).collect();
            let mut batch = Batch::new();
            for (state, plan) in self.tables.iter().zip(&plans) {
                plan.iter().for_each(|operation| operation.encode(&state.table, &mut batch));
            }
            if batch.is_empty() {
                self.changed = false;
                return Ok(applied);
            }
            let only_elements = plans.iter().flatten().all(Operation::is_of_elements);
            debug!(messages = batch.len(), only_elements, "changing packet rules");
            match self.socket.commit(batch, Some(self.generation)) {
                Ok(Commit::Made) => {
                    for (state, plan) in self.tables.iter_mut().zip(&plans) {
                        if !plan.is_empty() {
                            state.made(plan);
                        }
                    }
                    // The kernel skips zero.
                    self.generation = self.generation.checked_add(1).unwrap_or(1);
                    self.changed = false;
                    return Ok(applied);
                }
                // Somebody changed something; if it was another table, what we know still holds.
                Ok(Commit::Outdated) => {
                    self.generation = self.socket.generation()?;
                    self.notice()?;
                }
                // What we knew is not so: a change was not told yet.
                Err(error) if !fresh => {
                    debug!(%error, "reading the packet rules again");
                    self.stale = true;
                }
                Err(error) if self.tables.iter().any(|state| state.exists() && !state.is_rebuilt()) => {
                    debug!(%error, "making the packet rules anew");
                    self.tables.iter_mut().for_each(TableState::rebuild);
                }
                Err(error) => {
                    self.stale = true;
                    applied.fail("packet rules", error);
                    return Ok(applied);
                }
            }
        }
        self.stale = true;
        debug!("packet rules of others change faster than ours can be written");
        Ok(applied)
    }

    /// Renders the chains, of which there are few.
    fn render(&mut self) {
        for state in &mut self.tables {
            let family = state.table.family;
            let masqueraded = self.members.get(&(family, Set::MasqueradedPools));
            let facts = Facts {
                masquerade: masqueraded.is_some_and(|networks| !networks.is_empty()),
                ipip: family == Family::Ip && self.tunnels.ipip,
                vxlan: if family == Family::Ip { self.tunnels.vxlan } else { self.tunnels.vxlan_v6 },
            };
            state.want_chains(chains(family, facts, &self.settings));
        }
    }

    /// Reads all tables; whether they are of one moment.
    fn read(&mut self) -> Result<bool, Error> {
        let mut generation = None;
        for state in &mut self.tables {
            let (of, contents) = self.socket.read(&state.table)?;
            if generation.is_some_and(|earlier| earlier != of) {
                return Ok(false);
            }
            generation = Some(of);
            state.read(contents);
        }
        self.generation = generation.unwrap_or_default();
        self.stale = false;
        Ok(true)
    }
}

/// A table with its sets, which are there whether anything uses them or not.
fn desired_table(table: Table) -> TableState {
    let family = table.family;
    let mut state = TableState::new(table);
    for set in SETS {
        state.want_set(KernelSet::of_networks(set_name(set, family), family));
    }
    state
}

/// One of each of what we need of the kernel.
fn example(family: Family) -> Batch {
    let table = Table::new(family, "calico-example");
    let set = KernelSet::of_networks("networks", family);
    let base = Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 110, drop: false };
    let fib = Fib { source: true, mark: false, input: false, output: true, result: FibResult::AddressType };
    let register = Register::word(0);
    let expressions =
        vec![Expression::Fib(fib, register), Expression::Counter, Expression::Masquerade { ports: None, random: true }];
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_set(&table, &set);
    batch.add_chain(&table, "example", Some(base));
    batch.add_rule(&table, "example", &Rule { expressions, comment: "example".to_owned() }, None);
    batch
}
