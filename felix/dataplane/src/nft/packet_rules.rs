//! The one owner of this node's packet rules.

use std::collections::BTreeMap;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};

use calico_netlink::Error;
use calico_netlink::nftables::{
    self, Base, Batch, ChainKind, Commit, Element, Event, Expression, Family, Fib, FibResult, Hook, Monitor, Register,
    Rule, Set as KernelSet, Socket, Table, Verdict,
};
use felix_calc::{Change, Set};
use ipnet::IpNet;
use tracing::{debug, info};

use super::networks::Networks;
use super::render::{Facts, INPUT, chains, set_name};
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
    kernel: Option<Kernel>,
    /// What is never readable: what there is to watch where the kernel has nothing to tell.
    silence: (PipeReader, PipeWriter),
    /// How often the monitor was replaced.
    monitors: u64,
    tables: Vec<TableState>,
    members: BTreeMap<(Family, Set), Networks>,
    /// Tunnels that are desired, or still there.
    tunnels: TunnelState,
    desired_tunnels: TunnelState,
    /// [`Self::tunnels`] was called: until then, what an earlier process filtered is filtered.
    told: bool,
    /// The kernel's number of the transaction that [`Self::tables`] are of.
    generation: u32,
    findings: Vec<Finding>,
    /// What to say as soon as packet rules of a family are wanted, which this kernel has none of.
    missing: BTreeMap<Family, Finding>,
    /// Whether the kernel can translate addresses, by family: asked when that is wanted first, for to be asked loads what tracks
    /// connections.
    translates: BTreeMap<Family, bool>,
    in_sync: bool,
    /// Something desired changed since the last apply; chains must be rendered again.
    changed: bool,
    /// What is there must be read.
    stale: bool,
}

/// The kernel's sockets.
struct Kernel {
    socket: Socket,
    monitor: Monitor,
}

impl Kernel {
    fn open(tables: Vec<Table>) -> Result<Self, Error> {
        let socket = Socket::open()?;
        // Before anything is read: what changes while we look is told.
        let monitor = Monitor::open(tables, socket.port())?;
        Ok(Self { socket, monitor })
    }
}

/// Whether it says something of this process, and not of what the kernel is able to do.
fn is_of_process(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(libc::EPERM | libc::EACCES | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    )
}

impl PacketRules {
    /// Opens the kernel's sockets in the network namespace of the calling thread. Nothing is changed.
    ///
    /// A kernel without nf_tables is no error: then [`Self::supported`] is false and nothing is ever due.
    ///
    /// # Errors
    /// The kernel's, which are those of a process that may not change the network.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let wanted = if settings.ipv6 { &[Family::Ip, Family::Ip6][..] } else { &[Family::Ip] };
        let tables: Vec<Table> = wanted.iter().map(|family| Table::new(*family, TABLE)).collect();
        let mut supported = Vec::new();
        let mut missing = BTreeMap::new();
        let mut lacks = |table: &Table, error: &Error| {
            let text = format!(
                "the kernel cannot hold packet rules ({error}): pods' packets to the outside keep their source, and \
                 tunnelled packets of strangers are not dropped; use a kernel with nf_tables and nft_fib, or load these \
                 modules, and restart felix"
            );
            missing.insert(table.family, Finding { object: format!("Table/{table}"), text });
        };
        let kernel = match Kernel::open(tables.clone()) {
            Ok(mut kernel) => {
                for table in tables {
                    match kernel.socket.rehearse(example(table.family, false)) {
                        Ok(()) => supported.push(desired_table(table)),
                        Err(error) if is_of_process(&error) => return Err(error),
                        Err(error) => lacks(&table, &error),
                    }
                }
                Some(kernel)
            }
            Err(error) if is_of_process(&error) => return Err(error),
            Err(error) => {
                tables.iter().for_each(|table| lacks(table, &error));
                None
            }
        };
        let mut findings = Vec::new();
        let port = settings.vxlan_port;
        if settings.nat_port_range == Some((port, port)) {
            findings.push(Finding {
                object: "configuration".to_owned(),
                text: format!(
                    "natPortRange leaves UDP nothing but {port}, which is VXLAN's port; while there is VXLAN, UDP packets to \
                     the outside get other ports. Widen natPortRange in FelixConfiguration"
                ),
            });
        }
        Ok(Self {
            settings,
            kernel,
            silence: std::io::pipe().map_err(|error| Error::io("open a pipe", error))?,
            monitors: 0,
            tables: supported,
            members: BTreeMap::new(),
            tunnels: TunnelState::default(),
            desired_tunnels: TunnelState::default(),
            told: false,
            generation: 0,
            findings,
            missing,
            translates: BTreeMap::new(),
            in_sync: false,
            changed: true,
            stale: true,
        })
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
        self.kernel.as_ref().map_or_else(|| self.silence.0.as_fd(), |kernel| kernel.monitor.as_fd())
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
                if ipip || vxlan {
                    self.say_missing(Family::Ip);
                }
                if tunnels.vxlan_v6.is_some() {
                    self.say_missing(Family::Ip6);
                }
                // Those that are desired no more take packets still, until we are told otherwise.
                self.set_tunnels(self.tunnels);
            }
            Change::InSync => {
                self.in_sync = true;
                self.changed = true;
                if !self.settings.ipv6 {
                    self.forget_ipv6();
                }
            }
            _ => {}
        }
    }

    /// Removes what a process before us left of a family that is switched off since: nobody would keep it right.
    fn forget_ipv6(&mut self) {
        match nftables::delete_table(Family::Ip6, TABLE) {
            Ok(true) => info!("the packet rules of IPv6 are removed, for it is switched off"),
            Ok(false) => {}
            Err(error) => self.findings.push(Finding {
                object: format!("Table/{}", Table::new(Family::Ip6, TABLE)),
                text: format!(
                    "it is left of a time when IPv6 was switched on, and cannot be removed: {error}; nft delete table ip6 \
                     {TABLE} does it"
                ),
            }),
        }
    }

    /// Says which tunnels can take packets, as [`crate::Dataplane::tunnel_state`] tells after each apply: what comes by a
    /// tunnel that is desired no more is filtered as long as that can.
    pub fn tunnels(&mut self, state: TunnelState) {
        self.changed |= !std::mem::replace(&mut self.told, true);
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

    /// Packet rules of a family are wanted: says so if there are none.
    fn say_missing(&mut self, family: Family) {
        self.findings.extend(self.missing.remove(&family));
    }

    fn member(&mut self, set: Set, member: IpNet, wanted: bool) {
        let family = if member.addr().is_ipv4() { Family::Ip } else { Family::Ip6 };
        if wanted && set == Set::MasqueradedPools {
            self.say_missing(family);
        }
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
        let Some(kernel) = &mut self.kernel else { return Ok(false) };
        let events = match kernel.monitor.receive() {
            Ok(events) => events,
            Err(error) => {
                debug!(%error, "opening a new monitor of nf_tables");
                let tables = self.tables.iter().map(|state| state.table.clone()).collect();
                kernel.monitor = Monitor::open(tables, kernel.socket.port())?;
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
        let mut refused = None;
        for _ in 0..TRIES {
            if self.stale && !self.read()? {
                continue;
            }
            if self.changed {
                self.render()?;
            }
            if refused == Some(Refused::AsRead) {
                self.tables.iter_mut().for_each(TableState::rebuild);
            }
            match self.write()? {
                Written::Made => {
                    self.changed = false;
                    return Ok(applied);
                }
                Written::Outdated => {}
                Written::Refused(error) => {
                    // First what we knew is not so: a change was not told yet. Then there is something that cannot be
                    // made right piece by piece.
                    let next = match refused {
                        None => Refused::AsKnown,
                        Some(Refused::AsKnown) => Refused::AsRead,
                        Some(Refused::AsRead) => {
                            self.stale = true;
                            applied.fail("packet rules", error);
                            return Ok(applied);
                        }
                    };
                    debug!(%error, ?next, "the kernel refuses packet rules; trying otherwise");
                    refused = Some(next);
                    self.stale = true;
                }
            }
        }
        self.stale = true;
        let busy = std::io::Error::new(
            std::io::ErrorKind::ResourceBusy,
            "others change packet rules faster than ours can be written; find out who, nft monitor shows it",
        );
        applied.fail("packet rules", Error::io("write packet rules", busy));
        Ok(applied)
    }

    /// Makes one transaction of what differs from what we know.
    fn write(&mut self) -> Result<Written, Error> {
        let Some(kernel) = &mut self.kernel else { return Ok(Written::Made) };
        let plans: Vec<Vec<Operation>> = self.tables.iter().map(TableState::plan).collect();
        let mut batch = Batch::new();
        for (state, plan) in self.tables.iter().zip(&plans) {
            plan.iter().for_each(|operation| operation.encode(&state.table, &mut batch));
        }
        if batch.is_empty() {
            return Ok(Written::Made);
        }
        let only_elements = plans.iter().flatten().all(Operation::is_of_elements);
        debug!(messages = batch.len(), only_elements, "changing packet rules");
        match kernel.socket.commit(batch, Some(self.generation)) {
            Ok(Commit::Made) => {
                for (state, plan) in self.tables.iter_mut().zip(&plans).filter(|(_, plan)| !plan.is_empty()) {
                    state.made(plan);
                }
                // The kernel skips zero.
                self.generation = self.generation.checked_add(1).unwrap_or(1);
                Ok(Written::Made)
            }
            // Somebody changed something; if it was another table, what we know still holds.
            Ok(Commit::Outdated) => {
                self.generation = kernel.socket.generation()?;
                self.notice()?;
                Ok(Written::Outdated)
            }
            Err(error) => Ok(Written::Refused(error)),
        }
    }

    /// Renders the chains, of which there are few.
    ///
    /// # Errors
    /// The kernel's, which say nothing of what it can do.
    fn render(&mut self) -> Result<(), Error> {
        let mut tables = std::mem::take(&mut self.tables);
        let rendered = tables.iter_mut().try_for_each(|state| {
            let family = state.table.family;
            let masqueraded = self.members.get(&(family, Set::MasqueradedPools));
            let is_there = |facts: Facts| !self.told && state.holds(INPUT, &chains(family, facts, &self.settings));
            let (ipip, vxlan) = match family {
                Family::Ip => (self.tunnels.ipip, self.tunnels.vxlan),
                Family::Ip6 => (false, self.tunnels.vxlan_v6),
            };
            let mut facts = Facts {
                masquerade: masqueraded.is_some_and(|networks| !networks.is_empty()),
                ipip: ipip || is_there(Facts { ipip: true, ..Facts::default() }),
                vxlan: vxlan || is_there(Facts { vxlan: true, ..Facts::default() }),
                translates: false,
            };
            facts.translates = (facts.masquerade || facts.ipip || facts.vxlan) && self.translates(family)?;
            state.want_chains(chains(family, facts, &self.settings));
            Ok(())
        });
        self.tables = tables;
        rendered
    }

    /// Whether the kernel can translate addresses; that it cannot is found once.
    fn translates(&mut self, family: Family) -> Result<bool, Error> {
        let Some(kernel) = &mut self.kernel else { return Ok(false) };
        if let Some(known) = self.translates.get(&family) {
            return Ok(*known);
        }
        let known = match kernel.socket.rehearse(example(family, true)) {
            Ok(()) => true,
            Err(error) if is_of_process(&error) => return Err(error),
            Err(error) => {
                self.findings.push(Finding {
                    object: format!("Table/{}", Table::new(family, TABLE)),
                    text: format!(
                        "the kernel cannot translate addresses ({error}): pods' packets to the outside keep their source; \
                         use a kernel with nft_nat and nft_masq, or load these modules, and restart felix"
                    ),
                });
                false
            }
        };
        self.translates.insert(family, known);
        Ok(known)
    }

    /// Reads all tables; whether they are of one moment.
    fn read(&mut self) -> Result<bool, Error> {
        let Some(kernel) = &mut self.kernel else { return Ok(true) };
        let mut generation = None;
        for state in &mut self.tables {
            let (of, contents) = kernel.socket.read(&state.table)?;
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

/// What became of a transaction.
enum Written {
    Made,
    Outdated,
    Refused(Error),
}

/// What was refused already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// The difference to what we knew.
    AsKnown,
    /// The difference to what was just read.
    AsRead,
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

/// One of each of what we need of the kernel; of its address translation, or of everything else.
fn example(family: Family, translation: bool) -> Batch {
    let table = Table::new(family, "calico-example");
    let register = Register::word(0);
    let mut batch = Batch::new();
    batch.add_table(&table);
    let (kind, hook, priority, last) = match translation {
        true => (ChainKind::Nat, Hook::Postrouting, 110, Expression::Masquerade { ports: None, random: true }),
        false => (ChainKind::Filter, Hook::Input, 0, Expression::Verdict(Verdict::Drop)),
    };
    if !translation {
        batch.add_set(&table, &KernelSet::of_networks("networks", family));
    }
    let fib = Fib { source: true, mark: false, input: false, output: translation, result: FibResult::AddressType };
    let base = Base { kind, hook, priority, drop: false };
    batch.add_chain(&table, "example", Some(base));
    let expressions = vec![Expression::Fib(fib, register), Expression::Counter, last];
    batch.add_rule(&table, "example", &Rule { expressions, comment: "example".to_owned() }, None);
    batch
}
