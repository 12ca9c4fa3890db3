//! Assigning: for several requests at once, so that a burst of pods costs one write of their block.
//!
//! Each round plans for all requests what is still missing ([`crate::plan`]), claims a block if the plan needs one, else
//! brings the handles to what the plan takes (concurrently), and only then writes the blocks. Who lost a race
//! reads the block again and takes part in the next round; its handle is not written again if it ends in the same block.
//! A store that makes several writes in one transaction is given all of a round's in one, whatever else the caller wants to be
//! written with an address included.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_api::{AffinityState, AllocationAttribute, IPAMBlock, IPAMBlockSpec, IPAMHandleSpec, Key};
use calico_datastore::{COMMIT_LIMIT, Error, Write};
use futures::future::join_all;
use ipnet::IpNet;
use jiff::Timestamp;

use super::{Allocator, AssignRequest, Assigned};
use crate::claim::{claim, found, is_race};
use crate::handle_store::{Counts, HandleError, adjust, counted};
use crate::network::Family;
use crate::plan::{Draft, Refusal, Step, View, Want, cooldown};
use crate::pool::{Labels, Pool, Wanted, is_enabled, select};
use crate::release::{After, Which, release_in_block};
use crate::{AssignError, ClaimError, TRIES, block};

/// A request on its way.
struct Job<'a> {
    request: &'a AssignRequest,
    holder: AllocationAttribute,
    needs: Vec<Need>,
    /// What the handle counts because of this request, and what may be taken from it if the request fails.
    charged: BTreeMap<IpNet, u64>,
    error: Option<AssignError>,
    /// The caller knows its addresses already; it gets these or none.
    told: bool,
    /// What the caller wants written together with them.
    also: Vec<Write>,
    /// Whether that was written.
    accompanied: bool,
}

/// Says which addresses a request (by its index) is about to get, and hears what is to be written together with them.
pub type Tell<'a> = dyn FnMut(usize, &[Assigned]) -> Vec<Write> + Send + 'a;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its addresses.
    pub assigned: Vec<Assigned>,
    /// Whether what was to be written together with them is; otherwise none of it is.
    pub accompanied: bool,
}

/// One address of a request.
struct Need {
    want: Want,
    /// Taken in this round's draft.
    planned: Option<Assigned>,
    /// Taken in the store.
    got: Option<Assigned>,
    /// Whether `got` was the handle's before this request.
    was_held: bool,
}

impl Job<'_> {
    fn is_open(&self) -> bool {
        self.error.is_none() && self.needs.iter().any(|need| need.got.is_none())
    }

    fn fail(&mut self, error: AssignError) {
        self.error.get_or_insert(error);
    }

    /// The addresses that it has or is about to get.
    fn assigned(&self) -> Vec<Assigned> {
        self.needs.iter().filter_map(|need| need.got.or(need.planned)).collect()
    }

    /// From now on it gets what is planned or nothing.
    fn pin(&mut self) {
        self.told = true;
        for need in &mut self.needs {
            if let (Want::Any(pools), Some(planned)) = (&need.want, need.planned)
                && let Some(pool) = pools.iter().find(|pool| pool.cidr.contains(&planned.address))
            {
                need.want = Want::Exactly(planned.address, pool.clone());
            }
        }
    }

    /// What the handle has to count, with this round's plan.
    fn counts(&self) -> BTreeMap<IpNet, u64> {
        let mut counts = BTreeMap::new();
        let needs = self.needs.iter().filter(|need| !need.was_held);
        for assigned in needs.filter_map(|need| need.got.or(need.planned)) {
            *counts.entry(assigned.block).or_default() += 1;
        }
        counts
    }
}

impl Allocator {
    /// Assigns the addresses of one request, all or none.
    ///
    /// # Errors
    /// An [`AssignError`].
    pub async fn assign(&mut self, request: &AssignRequest, now: Timestamp) -> Result<Vec<Assigned>, AssignError> {
        self.assign_many(std::slice::from_ref(request), now).await.pop().expect("one request has one result")
    }

    /// Assigns the addresses of several requests, each all or none; results are in the order of the requests, and within
    /// one the given addresses come first, then IPv4, then IPv6.
    pub async fn assign_many(
        &mut self,
        requests: &[AssignRequest],
        now: Timestamp,
    ) -> Vec<Result<Vec<Assigned>, AssignError>> {
        let settled = self.settle(requests, now, None).await;
        settled.into_iter().map(|result| result.map(|settled| settled.assigned)).collect()
    }

    /// As [`Self::assign_many`], and tells each request's addresses before they are written, so that the caller can begin
    /// with what nobody else sees yet. Only the result says that they are the request's; it has these or none.
    ///
    /// What `tell` returns is written together with them, where the store can ([`Backend::is_atomic`]).
    ///
    /// [`Backend::is_atomic`]: calico_datastore::Backend::is_atomic
    pub async fn assign_telling(
        &mut self,
        requests: &[AssignRequest],
        now: Timestamp,
        tell: &mut Tell<'_>,
    ) -> Vec<Result<Settled, AssignError>> {
        self.settle(requests, now, Some(tell)).await
    }

    async fn settle(
        &mut self,
        requests: &[AssignRequest],
        now: Timestamp,
        mut tell: Option<&mut Tell<'_>>,
    ) -> Vec<Result<Settled, AssignError>> {
        if !self.watched
            && let Err(error) = self.load().await
        {
            let error = datastore("read pools and blocks", error);
            return requests.iter().map(|_| Err(error.clone())).collect();
        }
        let mut jobs: Vec<Job<'_>> = requests.iter().map(|request| self.job(request)).collect();
        let mut refused = BTreeSet::new();
        let mut setbacks = 0;
        while jobs.iter().any(Job::is_open) {
            if setbacks >= TRIES {
                let error = AssignError::Contended { what: "the node's blocks".to_owned(), tries: TRIES };
                jobs.iter_mut().filter(|job| job.is_open()).for_each(|job| job.fail(error.clone()));
                break;
            }
            setbacks += self.round(&mut jobs, &mut refused, now, &mut tell).await;
        }
        let mut results = Vec::new();
        for job in jobs {
            results.push(match &job.error {
                Some(error) => {
                    let error = error.clone();
                    self.undo(job, now).await;
                    Err(error)
                }
                None => Ok(Settled { assigned: job.assigned(), accompanied: job.accompanied }),
            });
        }
        results
    }

    fn job<'a>(&self, request: &'a AssignRequest) -> Job<'a> {
        let holder = block::holder(&request.handle, &request.attributes);
        let mut job = Job {
            request,
            holder,
            needs: Vec::new(),
            charged: BTreeMap::new(),
            error: None,
            told: false,
            also: Vec::new(),
            accompanied: false,
        };
        match self.wants(request) {
            Ok(wants) => {
                let need = |want| Need { want, planned: None, got: None, was_held: false };
                job.needs = wants.into_iter().map(need).collect();
            }
            Err(error) => job.fail(error),
        }
        job
    }

    fn wants(&self, request: &AssignRequest) -> Result<Vec<Want>, AssignError> {
        let mut wants = Vec::new();
        for address in &request.addresses {
            let pools = self.cache.pools.values().filter(|pool| is_enabled(pool));
            let pool = pools
                .filter(|pool| pool.spec.allows(request.pool_use))
                .filter_map(|pool| Pool::of(pool).ok())
                .find(|pool| pool.cidr.contains(address))
                .ok_or(AssignError::NotInPool(*address))?;
            wants.push(Want::Exactly(*address, pool));
        }
        let nothing = Labels::new();
        let namespace = request.attributes.get("namespace").and_then(|name| self.cache.namespaces.get(name));
        let families =
            [(Family::V4, request.ipv4, &request.ipv4_pools), (Family::V6, request.ipv6, &request.ipv6_pools)];
        for (family, wanted, requested) in families {
            if !wanted || request.addresses.iter().any(|address| Family::of(address) == family) {
                continue;
            }
            let wanted = Wanted {
                family,
                pool_use: request.pool_use,
                requested,
                node: self.owner.name(),
                node_labels: self.cache.node_labels.as_ref(),
                namespace_labels: namespace.unwrap_or(&nothing),
            };
            wants.push(Want::Any(select(self.cache.pools.values(), &wanted)?));
        }
        Ok(wants)
    }

    /// One round; returns how often others were first.
    async fn round(
        &mut self,
        jobs: &mut [Job<'_>],
        refused: &mut BTreeSet<IpNet>,
        now: Timestamp,
        tell: &mut Option<&mut Tell<'_>>,
    ) -> u32 {
        self.read_doubtful(refused).await;
        jobs.iter_mut().flat_map(|job| &mut job.needs).for_each(|need| need.planned = None);
        let mut draft = Draft::default();
        let (mut gave_up, mut to_claim) = (false, None);
        let mut waiting: Vec<(usize, IpNet)> = Vec::new();
        for (index, job) in jobs.iter_mut().enumerate().filter(|(_, job)| job.is_open()) {
            let view = self.view(now);
            for need in job.needs.iter_mut().filter(|need| need.got.is_none()) {
                match draft.next_step(&view, &need.want, &job.holder, refused) {
                    Step::Take { block, address } => need.planned = Some(Assigned { address, block }),
                    Step::Held { block, address } => {
                        (need.got, need.was_held) = (Some(Assigned { address, block }), true);
                    }
                    Step::Claim(cidr) => {
                        to_claim.get_or_insert(cidr);
                        waiting.push((index, cidr));
                    }
                    Step::GiveUp(refusal) => {
                        let error = match job.told {
                            false => self.give_up(refusal, &need.want),
                            true => AssignError::Contended { what: "the chosen address".to_owned(), tries: 1 },
                        };
                        job.error.get_or_insert(error);
                        gave_up = true;
                        break;
                    }
                }
            }
        }
        if gave_up {
            // Plan again without what the draft has for those that failed.
            return 0;
        }
        if let Some(cidr) = to_claim {
            let Err((error, setback)) = self.claim_block(cidr, refused, now).await else { return 0 };
            if let Some(error) = error {
                let failing = waiting.iter().filter(|(_, wanted)| *wanted == cidr);
                failing.for_each(|(index, _)| jobs.iter_mut().skip(*index).take(1).for_each(|j| j.fail(error.clone())));
            }
            return setback;
        }
        if let Some(tell) = tell {
            for (index, job) in jobs.iter_mut().enumerate().filter(|(_, job)| job.is_open() && !job.told) {
                job.pin();
                job.also = tell(index, &job.assigned());
            }
        }
        let count: usize = jobs.iter().filter(|job| job.is_open()).map(|job| 1 + job.also.len()).sum();
        if self.store.backend().is_atomic() && count + draft.changed.len() <= COMMIT_LIMIT {
            return self.commit(jobs, draft).await;
        }
        match self.write_handles(jobs).await {
            true => self.write_blocks(jobs, draft).await,
            false => 0,
        }
    }

    fn view(&self, now: Timestamp) -> View<'_> {
        View {
            node: self.owner.name(),
            own: &self.cache.own,
            affinities: &self.cache.affinities,
            taken: &self.cache.taken,
            reservations: &self.cache.reservations,
            config: &self.cache.config,
            now,
        }
    }

    /// Claims a block, and notes what became known by it. An error for those who wait for it, if they are to fail, and
    /// whether others were first.
    async fn claim_block(
        &mut self,
        cidr: IpNet,
        refused: &mut BTreeSet<IpNet>,
        now: Timestamp,
    ) -> Result<(), (Option<AssignError>, u32)> {
        let begun = self.cache.affinities.contains_key(&cidr) || self.cache.own.contains_key(&cidr);
        match claim(&self.store, &self.owner, cidr, begun, now).await {
            Ok(block) => {
                tracing::info!(block = %cidr, node = self.owner.name(), "claimed a block");
                self.cache.block(&self.owner, block, true);
                self.cache.affinities.insert(cidr, AffinityState::Confirmed);
                Ok(())
            }
            Err(ClaimError::Taken(_)) => {
                tracing::debug!(block = %cidr, "a block was claimed by another first");
                self.cache.own.remove(&cidr);
                self.cache.affinities.remove(&cidr);
                self.cache.taken.insert(&cidr);
                refused.insert(cidr);
                Err((None, 1))
            }
            Err(ClaimError::Corrupt(_, fault)) => {
                self.cache.fault(Some(&Key::Block(cidr)), &fault);
                refused.insert(cidr);
                Err((None, 1))
            }
            Err(ClaimError::Contended(_)) => {
                Err((Some(AssignError::Contended { what: format!("block {cidr}"), tries: TRIES }), 0))
            }
            Err(ClaimError::Datastore(_, error)) => Err((Some(datastore(format!("claim block {cidr}"), error)), 0)),
        }
    }

    /// Writes handles, blocks and what goes with them in one transaction; returns how often others were first.
    async fn commit(&mut self, jobs: &mut [Job<'_>], draft: Draft) -> u32 {
        let mut changes: BTreeMap<&str, Counts> = BTreeMap::new();
        for job in jobs.iter().filter(|job| job.is_open()) {
            let all = changes.entry(&job.request.handle).or_default();
            for (block, more) in difference(&job.charged, &job.counts()) {
                *all.entry(block).or_default() += more;
            }
        }
        changes.retain(|_, counts| counts.values().any(|count| *count != 0));
        let (mut writes, mut handles) = (Vec::new(), Vec::new());
        for (id, counts) in changes {
            let (handle, write) = counted(id, self.cache.handles.get(id).cloned(), &counts);
            writes.push(write);
            handles.push((id.to_owned(), handle));
        }
        let mut blocks: Vec<IPAMBlock> = self.drafted(draft).map(|(_, _, block)| block).collect();
        writes.extend(blocks.iter().map(Write::update));
        let also = jobs.iter().filter(|job| job.is_open() && !job.accompanied).flat_map(|job| &job.also);
        writes.extend(also.cloned().map(Ok));
        let result = match writes.into_iter().collect::<Result<Vec<_>, Error>>() {
            Ok(writes) if writes.is_empty() => Ok(Vec::new()),
            Ok(writes) => self.store.backend().commit(writes).await,
            Err(error) => Err(error),
        };
        let error = match result {
            Ok(revisions) => {
                let mut revisions = revisions.into_iter().map(|revision| Some(revision.0));
                for (id, mut handle) in handles {
                    handle.metadata.resource_version = revisions.next().flatten();
                    self.cache.handles.insert(id, handle);
                }
                for job in jobs.iter_mut().filter(|job| job.is_open()) {
                    job.charged = job.counts();
                    job.accompanied = !job.also.is_empty();
                }
                for block in &mut blocks {
                    block.metadata.resource_version = revisions.next().flatten();
                    landed(jobs, &block.spec.cidr.trunc(), None);
                    self.cache.block(&self.owner, block.clone(), true);
                }
                return 0;
            }
            Err(error) => error,
        };
        self.missed(jobs, &error).await.unwrap_or_else(|| {
            // All was written or nothing: a handle counts what its blocks hold, and the release by handle finds it.
            handles.iter().for_each(|(id, _)| drop(self.cache.handles.remove(id)));
            self.cache.doubtful.extend(blocks.iter().map(|block| block.spec.cidr.trunc()));
            let error = datastore("write handles and blocks", error);
            jobs.iter_mut().filter(|job| job.is_open()).for_each(|job| job.fail(error.clone()));
            0
        })
    }

    /// Looks at what kept a transaction from being made, if that was only one of its keys; returns how often others were first.
    async fn missed(&mut self, jobs: &mut [Job<'_>], error: &Error) -> Option<u32> {
        let (Error::NotFound(key)
        | Error::AlreadyExists(key)
        | Error::Conflict(key)
        | Error::Rejected { key, .. }
        | Error::Encode { key, .. }) = error
        else {
            return None;
        };
        let accompanying = |job: &&mut Job<'_>| job.also.iter().any(|write| write.key() == key);
        let mut found_one = false;
        for job in jobs.iter_mut().filter(accompanying) {
            (job.also, found_one) = (Vec::new(), true);
        }
        match key {
            _ if found_one => {}
            _ if !is_race(error) => return None,
            Key::Handle(id) => match found(self.store.get::<IPAMHandleSpec>(key).await) {
                Ok(Some(handle)) => drop(self.cache.handles.insert(id.clone(), handle)),
                Ok(None) => drop(self.cache.handles.remove(id)),
                Err(error) => {
                    let error = datastore(format!("read handle {id}"), error);
                    let of_handle = |job: &&mut Job<'_>| job.request.handle == *id;
                    jobs.iter_mut().filter(of_handle).for_each(|job| job.fail(error.clone()));
                }
            },
            Key::Block(cidr) => {
                tracing::debug!(block = %cidr, "others wrote a block first; reading it again");
                self.cache.doubtful.insert(*cidr);
                self.read_doubtful(&mut BTreeSet::new()).await;
            }
            _ => return None,
        }
        Some(1)
    }

    /// The changed blocks of a draft as they are to be stored, each with its CIDR and the sequence number of its allocations.
    fn drafted(&self, draft: Draft) -> impl Iterator<Item = (IpNet, u64, IPAMBlock)> {
        let Draft { blocks, changed } = draft;
        blocks.into_iter().filter(move |(cidr, _)| changed.contains(cidr)).filter_map(|(cidr, spec)| {
            let stored = self.cache.own.get(&cidr)?;
            let before = spec.sequence_number;
            let mut block = IPAMBlock::new(stored.metadata.clone(), spec);
            block::advance(&mut block.spec);
            Some((cidr, before, block))
        })
    }

    /// Brings the handles to what the plan takes; false if a request failed by it, and so the plan is void.
    async fn write_handles(&mut self, jobs: &mut [Job<'_>]) -> bool {
        let writes = jobs.iter_mut().filter(|job| job.is_open()).map(async |job| {
            let counts = job.counts();
            match adjust(&self.store, &job.request.handle, &difference(&job.charged, &counts), None).await {
                Ok(stored) => {
                    job.charged = counts;
                    Some(stored.map(|stored| (job.request.handle.clone(), stored)))
                }
                Err(HandleError::Contended) => {
                    let what = format!("handle {}", job.request.handle);
                    job.fail(AssignError::Contended { what, tries: TRIES });
                    None
                }
                Err(HandleError::Datastore(error)) => {
                    job.fail(datastore(format!("write handle {}", job.request.handle), error));
                    None
                }
            }
        });
        let written = join_all(writes).await;
        let all = written.iter().all(Option::is_some);
        self.cache.handles.extend(written.into_iter().flatten().flatten());
        all
    }

    /// Writes the planned blocks; returns how often others were first.
    async fn write_blocks(&mut self, jobs: &mut [Job<'_>], draft: Draft) -> u32 {
        let planned: Vec<_> = self.drafted(draft).collect();
        let writes = planned.iter().map(|(_, _, block)| self.store.update(block));
        let results = join_all(writes).await;
        let mut setbacks = 0;
        for ((cidr, before, _), result) in planned.iter().zip(results) {
            let error = match result {
                Ok(block) => {
                    self.cache.block(&self.owner, block, true);
                    landed(jobs, cidr, None);
                    continue;
                }
                Err(error) => error,
            };
            if is_race(&error) {
                tracing::debug!(block = %cidr, "others wrote a block first; reading it again");
                setbacks += 1;
                self.cache.doubtful.insert(*cidr);
                self.read_doubtful(&mut BTreeSet::new()).await;
                if let Some(block) = self.cache.own.get(cidr).filter(|_| !self.cache.doubtful.contains(cidr)) {
                    landed(jobs, cidr, Some((&block.spec, *before)));
                }
                continue;
            }
            // Unless the store refused it, the write may still be on its way: the handle has to go on counting it.
            let unknown = error.is_temporary();
            self.cache.doubtful.insert(*cidr);
            let error = datastore(format!("write block {cidr}"), error);
            let of_block = |job: &&mut Job<'_>| {
                job.needs.iter().any(|need| need.got.is_none() && need.planned.is_some_and(|p| p.block == *cidr))
            };
            for job in jobs.iter_mut().filter(of_block) {
                job.fail(error.clone());
                if unknown {
                    let sure = job.needs.iter().filter(|need| !need.was_held).filter_map(|need| need.got);
                    let sure = sure.filter(|got| got.block == *cidr).count();
                    job.charged.insert(*cidr, u64::try_from(sure).unwrap_or_default());
                }
            }
        }
        setbacks
    }

    /// Reads blocks again of which it is not known how they are; those that cannot be read are refused for now.
    async fn read_doubtful(&mut self, refused: &mut BTreeSet<IpNet>) {
        for cidr in self.cache.doubtful.clone() {
            match found(self.store.get::<calico_api::IPAMBlockSpec>(&Key::Block(cidr)).await) {
                Ok(Some(block)) => self.cache.after(&self.owner, &cidr, After::Is(Box::new(block))),
                Ok(None) => self.cache.gone(&cidr),
                Err(Error::Corrupt(fault)) => self.cache.fault(Some(&Key::Block(cidr)), &fault.reason),
                Err(error) => {
                    tracing::warn!(block = %cidr, %error, "a block cannot be read again and is left out for now");
                    refused.insert(cidr);
                }
            }
        }
    }

    /// Releases what a failed request holds, then takes it from the handle. What cannot be released stays counted.
    async fn undo(&mut self, mut job: Job<'_>, now: Timestamp) {
        let mut addresses: BTreeMap<IpNet, Vec<IpAddr>> = BTreeMap::new();
        for assigned in job.needs.iter().filter(|need| !need.was_held).filter_map(|need| need.got) {
            addresses.entry(assigned.block).or_default().push(assigned.address);
        }
        let handle = &job.request.handle;
        for (cidr, addresses) in addresses {
            let (result, after) = release_in_block(
                &self.store,
                cidr,
                self.cache.own.get(&cidr).filter(|_| !self.cache.doubtful.contains(&cidr)).cloned(),
                handle,
                Which::These(&addresses),
                cooldown(&self.cache.config),
                now,
            )
            .await;
            self.cache.after(&self.owner, &cidr, after);
            if let Err(failure) = result {
                tracing::warn!(block = %cidr, handle, ?failure, "an address of a failed request stays until its handle is released");
                job.charged.remove(&cidr);
            }
        }
        let changes = difference(&job.charged, &BTreeMap::new());
        self.cache.handles.remove(handle);
        if let Err(error) = adjust(&self.store, handle, &changes, None).await {
            tracing::warn!(handle, ?error, "the handle of a failed request counts too much until it is released");
        }
    }

    fn give_up(&self, refusal: Refusal, want: &Want) -> AssignError {
        let pools: Vec<IpNet> = match want {
            Want::Any(pools) => pools.iter().map(|pool| pool.cidr).collect(),
            Want::Exactly(_, pool) => vec![pool.cidr],
        };
        let family = pools.first().map_or(Family::V4, Family::of_net);
        let in_pools = |cidr: &IpNet| pools.iter().any(|pool| pool.contains(cidr));
        let faults = self.cache.faults.iter().filter(|(cidr, _)| in_pools(cidr));
        let notes = faults.map(|(cidr, fault)| format!("block {cidr} is not used: it is corrupt: {fault}")).collect();
        match (refusal, want) {
            (Refusal::BlockLimit(limit), _) => AssignError::BlockLimit { family, limit, notes },
            (Refusal::NoAutoAllocate, _) => AssignError::NoAutoAllocate { family, notes },
            (Refusal::Held(attribute), Want::Exactly(address, _)) => {
                let holder = match (&attribute.released_at, &attribute.handle_id) {
                    (Some(time), _) => format!("cools down since {time}"),
                    (None, Some(handle)) => format!("is held under handle {handle}"),
                    (None, None) => "is held without a handle".to_owned(),
                };
                AssignError::Held { address: *address, holder }
            }
            (Refusal::Foreign(block), Want::Exactly(address, _)) => AssignError::Foreign { address: *address, block },
            (Refusal::Held(_) | Refusal::Foreign(_) | Refusal::Exhausted, _) => {
                // strictAffinity forbids to take addresses of other nodes' blocks; without it that is not done yet either.
                let advice = match self.cache.config.strict_affinity {
                    true => {
                        "No more free affine blocks and strict affinity enabled: add a pool, or release unused blocks"
                    }
                    false => {
                        "all blocks are taken, and addresses of other nodes' blocks are not borrowed: add a pool, or release unused blocks"
                    }
                };
                AssignError::Exhausted { family, pools, advice, notes }
            }
        }
    }
}

/// Notes which planned addresses of a block are in the store: all, or those that `written` has from our write.
fn landed(jobs: &mut [Job<'_>], cidr: &IpNet, written: Option<(&IPAMBlockSpec, u64)>) {
    // Also of requests that failed by another block meanwhile: they have to give it back.
    for job in jobs {
        for need in job.needs.iter_mut().filter(|need| need.got.is_none()) {
            let Some(planned) = need.planned.filter(|planned| planned.block == *cidr) else { continue };
            let is_ours = written
                .is_none_or(|(spec, before)| block::who_has(spec, planned.address) == Some((&job.holder, before)));
            if is_ours {
                need.got = need.planned.take();
            }
        }
    }
}

/// What leads from one set of counts to another.
fn difference(from: &BTreeMap<IpNet, u64>, to: &BTreeMap<IpNet, u64>) -> Counts {
    let number = |count: Option<&u64>| i64::try_from(count.copied().unwrap_or_default()).unwrap_or(i64::MAX);
    let blocks: BTreeSet<&IpNet> = from.keys().chain(to.keys()).collect();
    blocks.into_iter().map(|block| (*block, number(to.get(block)) - number(from.get(block)))).collect()
}

fn datastore(action: impl Into<String>, error: Error) -> AssignError {
    AssignError::Datastore { action: action.into(), source: Arc::new(error) }
}
