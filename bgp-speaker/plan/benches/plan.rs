//! How fast do sessions follow from the resources? `README.md` beside this says what each figure is to be.

use std::collections::BTreeMap;
use std::hint::black_box;

use bgp_plan::inputs::{Change, Inputs};
use bgp_plan::sessions::{self, Cluster};
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
