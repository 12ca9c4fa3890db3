//! Which policies are in force, who shares them, and which take the place of which?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bgp_proto::{Family, Policy, Verdict};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Surroundings;
use super::export::{Export, Scene};
use crate::filter::{BgpFilter, Direction, Rules};
use crate::nets::Nets;
use crate::sessions::SessionConfig;

/// Policies that took the place of others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// Old and new, all at once.
    pub policies: Vec<(Policy, Policy)>,
    /// Their verdicts differ only for prefixes equal to or inside one of these; `None` is all.
    pub within: Option<Vec<IpNet>>,
    /// Some sessions shared a policy and no longer do, which pairs cannot say: after the exchange, each session's
    /// policies are to be asked for again, and set where they are others.
    pub split: bool,
}

/// The policies in force. Sessions that are treated alike get the same [`Policy`], so that they share their updates.
///
/// What a policy says of a path depends on the session only by what the [`Candidate`](bgp_proto::Candidate) tells, so
/// sessions are treated alike if their filters have the same rules.
#[derive(Debug, Default)]
pub struct PolicyBook {
    scene: Arc<Scene>,
    filters: BTreeMap<String, BgpFilter>,
    imports: Shelf,
    exports: Shelf,
}

/// The policies of one direction.
#[derive(Debug, Default)]
struct Shelf {
    /// By names of filters as sessions have them.
    by_names: BTreeMap<Vec<String>, usize>,
    policies: BTreeMap<usize, (Vec<Rules>, Policy)>,
    next: usize,
}

impl PolicyBook {
    /// Takes over what policies depend on; says which policies in use take the place of which, and for which prefixes.
    /// Policies that nobody holds any more are forgotten.
    pub fn set(&mut self, surroundings: Surroundings, filters: &BTreeMap<String, BgpFilter>) -> Exchange {
        self.imports.retain_used();
        self.exports.retain_used();
        let scene = Scene::new(&surroundings);
        let unknown = surroundings.unknown_filters.into_iter().map(|name| (name, BgpFilter::reject_all()));
        let filters: BTreeMap<_, _> = unknown.chain(filters.clone()).collect();
        let moved = *self.scene != scene;
        if !moved && self.filters == filters {
            return Exchange::default();
        }
        let mut within = self.scene.difference(&scene);
        if moved {
            self.scene = Arc::new(scene);
        }
        self.filters = filters;
        let filters = &self.filters;
        let mut exchange = Exchange::default();
        self.imports.renew(false, |names| chain(filters, names, Direction::Import), import, &mut exchange, &mut within);
        let scene = &self.scene;
        let export = |chain: &[Rules]| export(chain, scene);
        self.exports.renew(moved, |names| chain(filters, names, Direction::Export), export, &mut exchange, &mut within);
        exchange.within = within.map(|within| within.outermost());
        exchange
    }

    /// Judges what the peer of this session tells; `None` believes all.
    pub fn import(&mut self, session: &SessionConfig) -> Option<Policy> {
        let chain = |names: &[String]| chain(&self.filters, names, Direction::Import);
        // With a policy even if the filters say nothing of imports: so it can be exchanged once they do.
        (!session.filters.is_empty()).then(|| self.imports.get(&session.filters, chain, import))
    }

    /// Judges what the peer of this session is told.
    pub fn export(&mut self, session: &SessionConfig) -> Policy {
        let chain = |names: &[String]| chain(&self.filters, names, Direction::Export);
        let scene = &self.scene;
        self.exports.get(&session.filters, chain, |chain| export(chain, scene))
    }
}

#[cfg(test)]
impl PolicyBook {
    /// How many policies there are.
    pub(super) fn held(&self) -> usize {
        self.imports.policies.len() + self.exports.policies.len()
    }
}

impl Shelf {
    fn get(
        &mut self,
        names: &[String],
        chain: impl Fn(&[String]) -> Vec<Rules>,
        make: impl Fn(&[Rules]) -> Policy,
    ) -> Policy {
        let known = self.by_names.get(names).and_then(|number| self.policies.get(number));
        if let Some((_, policy)) = known {
            return policy.clone();
        }
        let number = self.number(chain(names), make);
        self.by_names.insert(names.to_vec(), number);
        let (_, policy) = self.policies.get(&number).expect("a number that was just given is there");
        policy.clone()
    }

    /// The number of the policy with these rules, which is made if there is none.
    fn number(&mut self, chain: Vec<Rules>, make: impl Fn(&[Rules]) -> Policy) -> usize {
        let same = self.policies.iter().find(|(_, (other, _))| *other == chain);
        if let Some((number, _)) = same {
            return *number;
        }
        let number = self.next;
        self.next += 1;
        let policy = make(&chain);
        self.policies.insert(number, (chain, policy));
        number
    }

    /// Forgets what nobody else holds.
    fn retain_used(&mut self) {
        self.policies.retain(|_, (_, policy)| !policy.is_unshared());
        self.by_names.retain(|_, number| self.policies.contains_key(number));
    }

    /// Makes the policies anew whose rules changed, or all; adds to `exchange` and `within` what changed.
    fn renew(
        &mut self,
        all: bool,
        chain: impl Fn(&[String]) -> Vec<Rules>,
        make: impl Fn(&[Rules]) -> Policy,
        exchange: &mut Exchange,
        within: &mut Option<Nets>,
    ) {
        let old = std::mem::take(&mut self.policies);
        let names = std::mem::take(&mut self.by_names);
        let mut became: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (names, before) in names {
            let chain = chain(&names);
            // The same rules keep their policy, whoever had it.
            let kept = old.iter().find(|(_, (other, _))| !all && *other == chain);
            let number = match kept {
                Some((number, kept)) => {
                    self.policies.entry(*number).or_insert_with(|| kept.clone());
                    *number
                }
                None => self.number(chain, &make),
            };
            self.by_names.insert(names, number);
            became.entry(before).or_default().insert(number);
        }
        for (before, after) in became {
            let Some((rules, policy)) = old.get(&before) else { continue };
            let mut after = after.iter().filter_map(|number| self.policies.get(number));
            match (after.next(), after.next()) {
                (Some((_, same)), None) if same == policy => {}
                (Some((new_rules, new)), None) => {
                    exchange.policies.push((policy.clone(), new.clone()));
                    let differs = |family| !agree(rules, new_rules, family);
                    let families = [
                        (Family::Ipv4Unicast, Ipv4Net::default().into()),
                        (Family::Ipv6Unicast, Ipv6Net::default().into()),
                    ];
                    let differing = families.into_iter().filter(|(family, _)| differs(*family)).map(|(_, net)| net);
                    within.iter_mut().for_each(|within| within.extend(differing.clone()));
                }
                _ => exchange.split = true,
            }
        }
    }
}

/// Whether two chains have the same rules for a family.
fn agree(a: &[Rules], b: &[Rules], family: Family) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.agree(b, family))
}

/// The rules of filters in order, without filters that have none. One that does not exist is skipped, as Calico does.
fn chain(filters: &BTreeMap<String, BgpFilter>, names: &[String], direction: Direction) -> Vec<Rules> {
    let filters = names.iter().filter_map(|name| filters.get(name));
    filters.map(|filter| filter.rules(direction).clone()).filter(|rules| !rules.is_empty()).collect()
}

fn import(chain: &[Rules]) -> Policy {
    let chain = chain.to_vec();
    Policy::new(move |candidate| chain.iter().find_map(|rules| rules.judge(candidate)).unwrap_or(Verdict::Accept))
}

fn export(chain: &[Rules], scene: &Arc<Scene>) -> Policy {
    let export = Export { chain: chain.to_vec(), scene: Arc::clone(scene) };
    Policy::new(move |candidate| export.judge(candidate))
}
