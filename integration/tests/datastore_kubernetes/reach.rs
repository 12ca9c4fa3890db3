//! Is a server in another network namespace reached?

use super::*;

#[test]
fn a_server_in_a_network_namespace_is_reached_from_there_and_driven_from_here() {
    let script = "ip link add seg0 type bridge\nip addr add 10.0.0.1/16 dev seg0\nip link set seg0 up";
    let holder = Holder::new("the segment", script).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let listen = Listen { address: "10.0.0.1".parse().unwrap(), port: Some(6443) };
    let server = ApiServer::start(listen, Some(&holder), Some(directory.path())).unwrap();
    assert_eq!(server.url(), "https://10.0.0.1:6443");
    server.create_node("node-1").unwrap();
    server.create_pod("default", "web-0", "node-1").unwrap();

    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open(&server, Group::Classic).await;
            let node = store.get::<calico_api::NodeSpec>(&Key::named(Kind::Node, "node-1")).await.unwrap();
            let mine = Filter::Node("node-1".to_owned());
            (node.name().to_owned(), store.list::<WorkloadEndpointSpec>(&mine).await.unwrap().items.len())
        })
    };
    let seen = calico_sys::namespace::inside(holder.network().unwrap(), inside).unwrap();
    assert_eq!(seen, ("node-1".to_owned(), 1));
}
