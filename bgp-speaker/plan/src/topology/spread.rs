//! How far does a route get from the node where it begins?

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::rc::Rc;

/// How many ways in which one node knows a route are followed; more hardly differ in where they lead.
const WAYS: usize = 8;

/// A session that exists on both ends, seen from one of them.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// Who is at the other end; `None` is the outside.
    pub(super) to: Option<usize>,
    /// The AS number with which we speak.
    pub(super) local_as: u32,
    /// Whether it is eBGP.
    pub(super) external: bool,
    /// Whether they are our client.
    pub(super) client: bool,
    /// Whether we are their client.
    pub(super) far_client: bool,
    /// The AS number with which they speak, which they do not want to find in a path.
    pub(super) far_as: u32,
    /// Whether they bear to find it.
    pub(super) far_allowed: bool,
}

/// A node.
#[derive(Debug)]
pub(super) struct Vertex {
    cluster_id: Option<Ipv4Addr>,
    pub(super) links: Vec<Link>,
    /// The links to external peers.
    external: Vec<usize>,
    /// The links to external peers and to clients.
    external_or_client: Vec<usize>,
}

impl Vertex {
    pub(super) fn new(cluster_id: Option<Ipv4Addr>, links: Vec<Link>) -> Self {
        let those = |which: &dyn Fn(&Link) -> bool| {
            (0..).zip(&links).filter(|(_, link)| which(link)).map(|(index, _)| index).collect()
        };
        let external = those(&|link| link.external);
        let external_or_client = those(&|link| link.external || link.client);
        Self { cluster_id, links, external, external_or_client }
    }
}

/// From whom a node has a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// It is its own, or an external peer's.
    Outside,
    /// A client's.
    Client,
    /// That of an internal peer that is no client.
    Inside,
}

/// A way in which a node knows a route.
#[derive(Clone, Debug)]
struct Way {
    from: From,
    /// The AS numbers in its AS_PATH, ascending.
    numbers: Rc<[u32]>,
    /// Its CLUSTER_LIST, ascending.
    clusters: Rc<[Ipv4Addr]>,
}

impl Way {
    /// Whether where `other` leads, this leads too.
    fn covers(&self, other: &Self) -> bool {
        let at_least = self.from == other.from || self.from == From::Outside;
        at_least && subset(&self.numbers, &other.numbers) && subset(&self.clusters, &other.clusters)
    }
}

fn subset<T: Ord>(few: &[T], many: &[T]) -> bool {
    few.iter().all(|one| many.binary_search(one).is_ok())
}

fn with<T: Ord + Copy>(set: &Rc<[T]>, one: T) -> Rc<[T]> {
    match set.binary_search(&one) {
        Ok(_) => set.clone(),
        Err(at) => {
            let (before, after) = set.split_at(at);
            before.iter().chain([&one]).chain(after).copied().collect()
        }
    }
}

/// Who learns a route.
pub(super) enum Seen<'a> {
    /// Everybody who has a session at all.
    ByAll,
    /// Those for whom this says so, by index.
    By(&'a [bool]),
}

/// Follows routes, one after another.
pub(super) struct Spread<'a> {
    vertices: &'a [Vertex],
    /// Who has sessions with the outside, and by which.
    attached: Vec<(usize, Link)>,
    /// How many nodes have sessions at all.
    linked: usize,
    seen: Vec<bool>,
    ways: Vec<Vec<Way>>,
    /// Nodes with a way that was not followed yet.
    queue: VecDeque<(usize, Way)>,
    outside_knows: bool,
}

impl<'a> Spread<'a> {
    pub(super) fn new(vertices: &'a [Vertex], linked: usize) -> Self {
        let outside = |(index, vertex): (usize, &'a Vertex)| {
            vertex.links.iter().filter(|link| link.to.is_none()).map(move |link| (index, link.clone()))
        };
        let attached = vertices.iter().enumerate().flat_map(outside).collect();
        Self {
            vertices,
            attached,
            linked,
            seen: vec![false; vertices.len()],
            ways: vec![Vec::new(); vertices.len()],
            queue: VecDeque::new(),
            outside_knows: false,
        }
    }

    /// Who learns a route that begins at `origin`.
    pub(super) fn from(&mut self, origin: usize) -> Seen<'_> {
        self.seen.fill(false);
        self.ways.iter_mut().for_each(Vec::clear);
        self.queue.clear();
        self.outside_knows = false;
        let mut count = 0;
        let nothing = Way { from: From::Outside, numbers: Rc::new([]), clusters: Rc::new([]) };
        self.arrive(origin, nothing, &mut count);
        while let Some((at, way)) = self.queue.pop_front() {
            if count == self.linked {
                return Seen::ByAll;
            }
            self.pass_on(at, &way, &mut count);
        }
        if count == self.linked { Seen::ByAll } else { Seen::By(&self.seen) }
    }

    fn arrive(&mut self, at: usize, way: Way, count: &mut usize) {
        let (Some(seen), Some(ways)) = (self.seen.get_mut(at), self.ways.get_mut(at)) else { return };
        if !*seen {
            *seen = true;
            *count += 1;
        }
        if ways.len() < WAYS && !ways.iter().any(|known| known.covers(&way)) {
            ways.push(way.clone());
            self.queue.push_back((at, way));
        }
    }

    fn pass_on(&mut self, at: usize, way: &Way, count: &mut usize) {
        let vertices = self.vertices;
        let Some(vertex) = vertices.get(at) else { return };
        let reflects = vertex.cluster_id.is_some();
        // RFC 4456 §6: what is from a client goes to all, what is from others to clients; externals get all anyway.
        match (way.from, reflects) {
            (From::Outside, _) | (From::Client, true) => {
                vertex.links.iter().for_each(|link| self.tell(vertex, link, way, count));
            }
            (From::Inside, true) => {
                let links = vertex.external_or_client.iter().filter_map(|index| vertex.links.get(*index));
                links.for_each(|link| self.tell(vertex, link, way, count));
            }
            (From::Client | From::Inside, false) => {
                let links = vertex.external.iter().filter_map(|index| vertex.links.get(*index));
                links.for_each(|link| self.tell(vertex, link, way, count));
            }
        }
    }

    fn tell(&mut self, vertex: &Vertex, link: &Link, way: &Way, count: &mut usize) {
        let Some(to) = link.to else {
            return self.tell_outside(count);
        };
        let (numbers, clusters) = if link.external {
            (with(&way.numbers, link.local_as), Rc::new([]) as Rc<[Ipv4Addr]>)
        } else {
            let clusters = match (way.from, vertex.cluster_id) {
                (From::Client | From::Inside, Some(id)) => with(&way.clusters, id),
                _ => way.clusters.clone(),
            };
            (way.numbers.clone(), clusters)
        };
        let looped = numbers.binary_search(&link.far_as).is_ok() && !link.far_allowed;
        let far_id = self.vertices.get(to).and_then(|vertex| vertex.cluster_id);
        if looped || far_id.is_some_and(|id| clusters.binary_search(&id).is_ok()) {
            return;
        }
        self.arrive(to, Way { from: from(link.external, link.far_client), numbers, clusters }, count);
    }

    /// The outside tells all who have sessions with it, and sees to it that they can take what it tells.
    fn tell_outside(&mut self, count: &mut usize) {
        if std::mem::replace(&mut self.outside_knows, true) {
            return;
        }
        let attached = std::mem::take(&mut self.attached);
        for (at, link) in &attached {
            let way = Way { from: from(link.external, link.client), numbers: Rc::new([]), clusters: Rc::new([]) };
            self.arrive(*at, way, count);
        }
        self.attached = attached;
    }
}

/// From whom a route is that came by a session.
fn from(external: bool, client: bool) -> From {
    match (external, client) {
        (true, _) => From::Outside,
        (false, true) => From::Client,
        (false, false) => From::Inside,
    }
}
