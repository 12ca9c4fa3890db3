//! How fast do sessions follow from the resources? `README.md` beside this says what each figure is to be.

use std::collections::BTreeMap;
use std::hint::black_box;

use bgp_plan::inputs::{Change, Inputs};
use bgp_plan::policies::{PolicyBook, Settings, Surroundings};
use bgp_plan::sessions::{self, Cluster, Origin, SessionConfig};
use bgp_plan::topology;
use calico_api::{Key, Kind};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};

fn put(inputs: &mut Inputs, kind: Kind, value: Value) {
    let key = Key::of_value(kind, &value).expect("it has a name");
    inputs.apply("n0", Change::Put { key, value }).expect("it is understood");
}

/// A Node with the labels that Kubernetes gives, and a reflector's.
fn node(index: usize, reflector: bool) -> Value {
    let name = format!("n{index}");
    let mut labels = json!({
        "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux", "kubernetes.io/hostname": name, "topology.kubernetes.io/region": "region-1",
        "topology.kubernetes.io/zone": format!("zone-{}", index % 3), "node.kubernetes.io/instance-type": "large",
    });
    let mut bgp = json!({"ipv4Address": format!("10.{}.{}.{}/16", index / 62500, index / 250 % 250, index % 250 + 1)});
    if reflector {
        labels["route-reflector"] = json!("true");
        bgp["routeReflectorClusterID"] = json!("244.0.0.1");
    }
    json!({"metadata": {"name": name, "labels": labels}, "spec": {"bgp": bgp}})
}

fn mesh(count: usize) -> Inputs {
    let mut inputs = Inputs::default();
    (0..count).for_each(|index| put(&mut inputs, Kind::Node, node(index, false)));
    inputs
}

/// Nodes with some reflectors among them, chosen by label.
fn reflected(count: usize, reflectors: usize) -> Inputs {
    let mut inputs = mesh(count);
    (0..reflectors).for_each(|index| put(&mut inputs, Kind::Node, node(index, true)));
    let mesh_off = json!({"metadata": {"name": "default"}, "spec": {"nodeToNodeMeshEnabled": false}});
    put(&mut inputs, Kind::BGPConfiguration, mesh_off);
    let spec = json!({"nodeSelector": "all()", "peerSelector": "route-reflector == 'true'"});
    put(&mut inputs, Kind::BGPPeer, json!({"metadata": {"name": "reflectors"}, "spec": spec}));
    inputs
}

/// Nodes in racks, each with a router of its own.
fn racks(count: usize, racks: usize) -> Inputs {
    let mut inputs = Inputs::default();
    for index in 0..count {
        let mut node = node(index, false);
        node["metadata"]["labels"]["rack"] = json!(format!("r{}", index % racks));
        put(&mut inputs, Kind::Node, node);
    }
    for rack in 0..racks {
        let router = format!("10.200.{}.{}", rack / 250, rack % 250 + 1);
        let spec = json!({"nodeSelector": format!("rack == 'r{rack}'"), "peerIP": router, "asNumber": 65000});
        put(&mut inputs, Kind::BGPPeer, json!({"metadata": {"name": format!("tor-{rack}")}, "spec": spec}));
    }
    inputs
}

/// A Service of traffic policy Local.
fn service(index: usize) -> Value {
    let (cluster, external) = (format!("10.96.{}.{}", index / 250, index % 250), format!("203.0.{}.7", index % 250));
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilies": ["IPv4"], "clusterIP": cluster,
        "clusterIPs": [cluster], "externalIPs": [external],
    });
    json!({"metadata": {"namespace": "shop", "name": format!("s{index}")}, "spec": spec})
}

/// Its EndpointSlice, with one endpoint on `n0`.
fn slice(index: usize, ready: bool) -> Value {
    let labels = json!({"kubernetes.io/service-name": format!("s{index}")});
    let endpoint = json!({"addresses": ["10.244.0.7"], "nodeName": "n0", "conditions": {"ready": ready}});
    let metadata = json!({"namespace": "shop", "name": format!("s{index}-x"), "labels": labels});
    json!({"metadata": metadata, "addressType": "IPv4", "endpoints": [endpoint]})
}

/// Of many services one has an endpoint on the node or loses it: routes and policies follow.
fn one_endpoint(bench: &mut Criterion) {
    let mut inputs = Inputs::default();
    let entries: Vec<_> = (0..250).map(|index| json!({"cidr": format!("203.0.{index}.7/32")})).collect();
    let spec = json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}], "serviceExternalIPs": entries});
    put(&mut inputs, Kind::BGPConfiguration, json!({"metadata": {"name": "default"}, "spec": spec}));
    for index in 0..10_000 {
        put(&mut inputs, Kind::Service, service(index));
        put(&mut inputs, Kind::EndpointSlice, slice(index, true));
    }
    let (settings, mut book, mut ready) = (Settings::default(), PolicyBook::default(), true);
    let session = SessionConfig::new(Origin::Mesh, "10.0.0.2:179".parse().expect("it is an address"), 64512, 64512);
    let _held = book.export(&session);
    bench.bench_function("10000 services: one endpoint changes, routes and policies follow", |bencher| {
        bencher.iter(|| {
            ready = !ready;
            put(&mut inputs, Kind::EndpointSlice, slice(7, ready));
            let surroundings = Surroundings::refresh(&mut inputs, "n0", &settings);
            book.set(surroundings, &inputs.filters)
        });
    });
}

fn plans(inputs: &Inputs) -> usize {
    Cluster::new(inputs).plans().map(|(_, plan)| black_box(plan).sessions.len()).sum()
}

/// One node gets or loses the reflector's label; the sessions of every node follow anew.
fn one_label(bench: &mut Criterion, name: &str, inputs: &Inputs) {
    let mut inputs = inputs.clone();
    let mut reflects = false;
    bench.bench_function(name, |bencher| {
        bencher.iter_batched(
            || {
                reflects = !reflects;
                node(7, reflects)
            },
            |value| {
                put(&mut inputs, Kind::Node, value);
                plans(&inputs)
            },
            BatchSize::PerIteration,
        );
    });
}

fn all(bench: &mut Criterion) {
    one_label(bench, "100 nodes in a mesh: one label changes, all plans", &mesh(100));
    one_label(bench, "100 nodes with 3 reflectors: one label changes, all plans", &reflected(100, 3));

    let mesh_5000 = mesh(5000);
    bench.bench_function("5000 nodes in a mesh: the plan of one", |bencher| {
        bencher.iter(|| sessions::plan(black_box(&mesh_5000), "n2500"));
    });
    let reflected_5000 = reflected(5000, 5);
    bench.bench_function("5000 nodes with 5 reflectors: the plan of a client", |bencher| {
        bencher.iter(|| sessions::plan(black_box(&reflected_5000), "n2500"));
    });
    bench.bench_function("5000 nodes with 5 reflectors: the plan of a reflector", |bencher| {
        bencher.iter(|| sessions::plan(black_box(&reflected_5000), "n1"));
    });

    let racks_5000 = racks(5000, 500);
    bench.bench_function("5000 nodes and a BGPPeer for each of 500 racks: the plan of one", |bencher| {
        bencher.iter(|| sessions::plan(black_box(&racks_5000), "n2500"));
    });
    one_endpoint(bench);

    for (name, inputs) in [
        ("500 nodes in a mesh: who reaches whom", mesh(500)),
        ("500 nodes with 3 reflectors: who reaches whom", reflected(500, 3)),
    ] {
        let plans: BTreeMap<_, _> = Cluster::new(&inputs).plans().map(|(node, plan)| (node.to_owned(), plan)).collect();
        bench.bench_function(name, |bencher| bencher.iter(|| topology::check(black_box(&plans))));
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
