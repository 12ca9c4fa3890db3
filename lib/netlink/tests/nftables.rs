//! What the kernel makes of our packet rules, and `nft` of what it then tells, in network namespaces of our own.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use calico_netlink::namespace;
use calico_netlink::nftables::{
    Base, Batch, ChainKind, Commit, Comparison, Element, Event, Expression, Family, Fib, FibResult, Header, Hook,
    KeyType, Meta, Monitor, Register, Rule, Set, Socket, Table, Track, Verdict, delete_table, has_table,
};

fn inside<T: Send>(work: impl FnOnce(&mut Socket) -> T + Send) -> T {
    namespace::inside(namespace::create().unwrap(), || work(&mut Socket::open().unwrap())).unwrap()
}

/// Runs the real `nft`.
#[track_caller]
fn nft(script: &str) -> String {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Of one that ends before it has read, the output says why.
    let _ = child.stdin.take().unwrap().write_all(script.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft: {script}");
    String::from_utf8(output.stdout).unwrap()
}

fn ours() -> Table {
    Table::new(Family::Ip, "ours")
}

const R: Register = Register::word(0);

fn rule(comment: &str, expressions: Vec<Expression>) -> Rule {
    Rule { expressions, comment: comment.to_owned() }
}

fn source() -> Expression {
    Expression::Payload { header: Header::Network, offset: 12, length: 4, to: R }
}

fn lookup(set: &str, inverted: bool) -> Expression {
    Expression::Lookup { set: set.to_owned(), key: R, inverted }
}

fn networks(texts: &[&str]) -> Vec<Element> {
    texts.iter().map(|text| Element::network(text.parse().unwrap())).collect()
}

#[test]
fn what_is_written_is_printed_by_nft_and_read_back() {
    inside(|socket| {
        let table = ours();
        let pools = Set::of_networks("pools", Family::Ip);
        let all = Set::of_networks("all", Family::Ip);
        let pods = Set { name: "pods".into(), key: vec![KeyType::InterfaceName], interval: false, verdicts: true };
        let key = vec![KeyType::Ipv4, KeyType::Protocol, KeyType::Port];
        let ports = Set { name: "ports".into(), key, interval: true, verdicts: false };
        let neighbours = networks(&["10.0.0.0/8", "11.0.0.0/8", "192.168.1.7/32", "255.255.255.0/24"]);
        let interface = |name: &str| {
            let mut octets = name.as_bytes().to_vec();
            octets.resize(16, 0);
            octets
        };
        let pod = Element::key(interface("cali0")).with_verdict(Verdict::Goto("pod".into()));
        let from = [10, 0, 0, 0, 6, 0, 0, 0, 0, 80, 0, 0].to_vec();
        let to = [10, 0, 0, 255, 6, 0, 0, 0, 0, 90, 0, 0].to_vec();
        let range = Element { first: from, last: Some(to), verdict: None };

        let mut batch = Batch::new();
        batch.add_table(&table);
        for set in [&pools, &all, &pods, &ports] {
            batch.add_set(&table, set);
        }
        let base = Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 110, drop: false };
        batch.add_chain(&table, "out", Some(base));
        batch.add_chain(&table, "pod", None);
        batch.add_elements(&table, &pools, &neighbours);
        batch.add_elements(&table, &all, &networks(&["0.0.0.0/0"]));
        batch.add_elements(&table, &pods, [&pod]);
        batch.add_elements(&table, &ports, [&range]);
        let (two, three) = (Register::word(4), Register::word(8));
        let local = Fib { source: true, mark: false, input: false, output: true, result: FibResult::AddressType };
        let range_of_ports = [
            Expression::Immediate(two, 1024_u16.to_be_bytes().to_vec()),
            Expression::Immediate(three, 2000_u16.to_be_bytes().to_vec()),
        ];
        let mut snat = vec![
            source(),
            lookup("pools", true),
            Expression::Meta(Meta::Protocol, R),
            Expression::Compare(R, Comparison::Equal, vec![17]),
            Expression::Immediate(R, vec![192, 0, 2, 1]),
        ];
        snat.extend(range_of_ports);
        snat.push(Expression::SourceNat { family: Family::Ip, address: R, ports: Some((two, three)), random: true });
        let masquerade = vec![
            Expression::Fib(local, R),
            Expression::Compare(R, Comparison::Unequal, 2_u32.to_ne_bytes().to_vec()),
            Expression::Counter,
            Expression::Masquerade { ports: None, random: true },
        ];
        let dispatch =
            vec![Expression::Meta(Meta::OutputName, R), Expression::VerdictMap { map: "pods".into(), key: R }];
        let marked = vec![
            Expression::Track(Track::Status, R),
            Expression::Bitwise { register: R, mask: 0x20_u32.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expression::Compare(R, Comparison::Unequal, vec![0; 4]),
            Expression::Verdict(Verdict::Return),
        ];
        batch.add_rule(&table, "out", &rule("snat", snat), None);
        batch.add_rule(&table, "out", &rule("masquerade", masquerade), None);
        batch.add_rule(&table, "out", &rule("dispatch", dispatch), None);
        batch.add_rule(&table, "pod", &rule("marked", marked), None);
        assert_eq!(socket.commit(batch, None).unwrap(), Commit::Made);

        let printed = nft("list table ip ours");
        for line in [
            "type ipv4_addr\n\t\tflags interval\n\t\telements = { 10.0.0.0/8, 11.0.0.0/8,\n\t\t\t     192.168.1.7, 255.255.255.0/24 }",
            "elements = { 0.0.0.0/0 }",
            "type ifname : verdict\n\t\telements = { \"cali0\" : goto pod }",
            "type ipv4_addr . inet_proto . inet_service\n\t\tflags interval\n\t\telements = { 10.0.0.0/24 . tcp . 80-90 }",
            "type nat hook postrouting priority srcnat + 10; policy accept;",
            "ip saddr != @pools meta l4proto udp snat to 192.0.2.1:1024-2000 fully-random comment \"snat\"",
            "fib saddr . oif type != local counter packets 0 bytes 0 masquerade fully-random comment \"masquerade\"",
            "oifname vmap @pods comment \"dispatch\"",
            "ct status dnat return comment \"marked\"",
        ] {
            assert!(printed.contains(line), "{line}\nis not in\n{printed}");
        }

        let contents = socket.read(&table).unwrap().1.unwrap();
        assert!(!contents.others);
        let comments =
            |chain: &str| contents.chains[chain].rules.iter().map(|rule| rule.comment.as_str()).collect::<Vec<_>>();
        assert_eq!((comments("out"), comments("pod")), (vec!["snat", "masquerade", "dispatch"], vec!["marked"]));
        assert_eq!(contents.chains["out"].base, Some(base));
        let expected =
            [(&pools, neighbours), (&all, networks(&["0.0.0.0/0"])), (&pods, vec![pod]), (&ports, vec![range])];
        for (set, elements) in expected {
            let found = &contents.sets[&set.name];
            assert_eq!((found.shape, found.strange, &found.elements), (set.shape(), false, &elements), "{}", set.name);
        }

        assert!(has_table(Family::Ip, "ours").unwrap() && !has_table(Family::Ip6, "ours").unwrap());
        assert!(delete_table(Family::Ip, "ours").unwrap());
        assert!(!delete_table(Family::Ip, "ours").unwrap());
    });
}

#[test]
fn what_is_refused_is_named_and_nothing_of_it_is_made() {
    inside(|socket| {
        let table = ours();
        let good = |batch: &mut Batch| {
            batch.add_table(&table);
            batch.add_chain(&table, "in", None);
        };
        let mut batch = Batch::new();
        good(&mut batch);
        batch.add_rule(&table, "in", &rule("lost", vec![source(), lookup("nowhere", false)]), None);
        batch.add_chain(&table, "after", None);
        let error = socket.commit(batch, None).unwrap_err();
        assert!(error.to_string().starts_with("add rule lost to chain in of table ip ours: "), "{error}");
        assert!(error.is_not_found());
        assert_eq!(socket.read(&table).unwrap().1, None);

        // Somebody else's transaction in between, in another table.
        let generation = socket.generation().unwrap();
        nft("add table ip theirs");
        let mut batch = Batch::new();
        good(&mut batch);
        assert_eq!(socket.commit(batch, Some(generation)).unwrap(), Commit::Outdated);
        assert_eq!(socket.read(&table).unwrap().1, None);

        let mut batch = Batch::new();
        good(&mut batch);
        socket.rehearse(batch).unwrap();
        let (now, contents) = socket.read(&table).unwrap();
        assert_eq!((now, contents), (generation + 1, None), "a rehearsal makes nothing, and no generation");

        let mut batch = Batch::new();
        good(&mut batch);
        assert_eq!(socket.commit(batch, Some(now)).unwrap(), Commit::Made);
        assert_eq!(socket.generation().unwrap(), now + 1);
    });
}

#[test]
fn many_elements_go_in_one_transaction_and_overlaps_are_refused_whole() {
    inside(|socket| {
        let table = ours();
        let set = Set::of_networks("nodes", Family::Ip);
        let nodes: Vec<Element> = (0..60_000_u32)
            .map(|number| Element::network(Ipv4Addr::from(0x0a00_0000 + 2 * number).into_net()))
            .collect();
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_set(&table, &set);
        batch.add_elements(&table, &set, &nodes);
        let before = socket.generation().unwrap();
        socket.commit(batch, Some(before)).unwrap();
        assert_eq!(socket.generation().unwrap(), before + 1);
        assert_eq!(socket.read(&table).unwrap().1.unwrap().sets["nodes"].elements, nodes);

        let (gone, kept) = nodes.split_at(50_000);
        let mut batch = Batch::new();
        batch.delete_elements(&table, &set, gone);
        // In the place of what goes in the same step.
        batch.add_elements(&table, &set, &networks(&["10.0.0.0/17"]));
        socket.commit(batch, None).unwrap();
        let elements = socket.read(&table).unwrap().1.unwrap().sets.remove("nodes").unwrap().elements;
        assert_eq!((elements.len(), &elements[1..]), (10_001, kept));

        let mut batch = Batch::new();
        batch.add_elements(&table, &set, &networks(&["172.16.0.0/12", "10.0.0.0/8"]));
        let error = socket.commit(batch, None).unwrap_err();
        assert!(error.to_string().starts_with("add elements to set nodes of table ip ours: "), "{error}");
        assert_eq!(socket.read(&table).unwrap().1.unwrap().sets["nodes"].elements, elements);
    });
}

trait IntoNet {
    fn into_net(self) -> ipnet::IpNet;
}

impl IntoNet for Ipv4Addr {
    fn into_net(self) -> ipnet::IpNet {
        ipnet::IpNet::from(std::net::IpAddr::from(self))
    }
}

#[test]
fn a_monitor_tells_of_others_in_our_table_alone() {
    inside(|socket| {
        let table = ours();
        let mut monitor = Monitor::open(vec![table.clone()], socket.port()).unwrap();
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_set(&table, &Set::of_networks("nodes", Family::Ip));
        socket.commit(batch, None).unwrap();
        nft("add table ip theirs; add table ip6 ours");
        let generation = socket.generation().unwrap();
        let mut told = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut until = |last: Event, monitor: &mut Monitor| {
            while !told.contains(&last) {
                assert!(Instant::now() < deadline, "not told of {last:?}; only {told:?}");
                told.extend(monitor.receive().unwrap());
                std::thread::yield_now();
            }
            std::mem::take(&mut told)
        };
        let quiet = until(Event::Generation(generation), &mut monitor);
        assert!(quiet.iter().all(|event| matches!(event, Event::Generation(_))), "{quiet:?}");

        nft("add element ip ours nodes { 10.0.0.1 }");
        let touched = until(Event::Generation(generation + 1), &mut monitor);
        assert_eq!(touched, [Event::Touched(table.clone()), Event::Generation(generation + 1)]);
        nft("flush ruleset");
        assert!(until(Event::Generation(generation + 2), &mut monitor).contains(&Event::Touched(table)));
    });
}
