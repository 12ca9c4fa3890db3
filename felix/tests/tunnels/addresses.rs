//! The address of a tunnel: on the device before on the Node, and nobody else's as long as it is announced.

use calico_api::{IPAMHandleSpec, IPReservation, IPReservationSpec};
use calico_netlink::nftables;

use super::*;

/// The addresses of the device, as the kernel shows them.
fn on_device(bed: &Bed) -> Vec<String> {
    let shown = say(bed, "ip", "-o -4 addr show dev vxlan.calico");
    let words = shown.lines().filter_map(|line| line.split_whitespace().skip_while(|word| *word != "inet").nth(1));
    words.map(str::to_owned).collect()
}

/// The blocks that the tunnel's handle counts.
fn blocks(bed: &Bed) -> Vec<String> {
    let handle = bed.stored::<IPAMHandleSpec>(&Key::Handle("vxlan-tunnel-addr-east".to_owned()));
    handle.map(|handle| handle.spec.block.into_keys().collect()).unwrap_or_default()
}

/// Whether the tunnel is said to lack an address, or another.
fn is_named(bed: &Bed, why: &str) -> bool {
    let findings = status(bed).findings;
    findings.iter().any(|finding| finding.object == "Interface/vxlan.calico" && finding.text.contains(why))
}

#[test]
fn a_device_has_its_address_before_the_node_says_so() {
    let mut bed = Bed::new(&[POOL, NO_BGP]);
    bed.start();
    // Nobody can write the address onto the Node.
    let store = rusqlite::Connection::open(bed.path("store.db")).unwrap();
    let held = "CREATE TRIGGER held BEFORE INSERT ON log WHEN NEW.kind = 'Node' AND NEW.value LIKE '%ipv4VXLANTunnelAddr%' \
                BEGIN SELECT RAISE(ABORT, 'held by a test'); END";
    store.execute_batch(held).unwrap();
    pool_mode(&bed, |pool| pool.vxlan_mode = Some(EncapMode::Always));
    bed.until("the Node cannot be written", |bed| is_named(bed, "could not write the Node"));
    assert_eq!(tunnel_address(&bed), None);
    let early = on_device(&bed);
    assert_eq!(early.len(), 1, "{early:?}");

    store.execute_batch("DROP TRIGGER held").unwrap();
    drop(store);
    bed.until("the Node says it", |bed| tunnel_address(bed).is_some());
    assert_eq!(tunnel_address(&bed).map(|address| format!("{address}/32")), Some(early[0].clone()));
    bed.until("nothing is to be told", |bed| status(bed).findings.is_empty());
    assert_eq!(on_device(&bed), early);
}

#[test]
fn an_address_is_released_only_when_another_is_announced_and_one_whose_pool_is_gone_is_kept() {
    let mut bed = Bed::new(&[POOL, NO_BGP]);
    bed.start();
    pool_mode(&bed, |pool| pool.vxlan_mode = Some(EncapMode::Always));
    bed.until("the Node says an address", |bed| tunnel_address(bed).is_some());
    let (address, before) = (tunnel_address(&bed), blocks(&bed));

    // The only other pool has no room, and the first is not for tunnels any more.
    let other = "10.66.0.0/32";
    bed.on_store(async |store| {
        let spec = IPReservationSpec { reserved_cidrs: Some(vec![other.to_owned()]) };
        store.create(&IPReservation::new(ObjectMeta::named("full"), spec)).await.unwrap();
        let (size, vxlan_mode) = (Some(32), Some(EncapMode::Always));
        let spec = IPPoolSpec { block_size: size, vxlan_mode, ..IPPoolSpec::new(other) };
        store.create(&calico_api::IPPool::new(ObjectMeta::named("other"), spec)).await.unwrap();
    });
    pool_mode(&bed, |pool| pool.vxlan_mode = None);
    bed.until("it is told that there is no other", |bed| is_named(bed, "keeps it until it has another"));
    assert_eq!((tunnel_address(&bed), blocks(&bed)), (address.clone(), before));
    assert_eq!(on_device(&bed), [format!("{}/32", address.as_deref().unwrap())]);

    // Then there is.
    bed.on_store(async |store| store.delete_key(&Key::named(Kind::IPReservation, "full")).await.unwrap());
    bed.until("the Node says the other", |bed| tunnel_address(bed).as_deref() == Some("10.66.0.0"));
    bed.until("the device has it, and no more than that", |bed| on_device(bed) == [other]);
    bed.until("the first is released", |bed| blocks(bed) == [other]);
    bed.until("nothing is to be told", |bed| status(bed).findings.is_empty());

    // Its pool asks for what cannot be, and a felix that starts now has no good version of it.
    bed.kill();
    bed.on_store(async |store| {
        let key = Key::named(Kind::IPPool, "other");
        let mut pool = store.get::<IPPoolSpec>(&key).await.unwrap();
        pool.spec.ipip_mode = Some(EncapMode::Always);
        store.update(&pool).await.unwrap();
    });
    let said = bed.log().len();
    bed.start();
    bed.until("the pool is named", |bed| status(bed).findings.iter().any(|finding| finding.object == "IPPool/other"));
    bed.until("the address was thought about", |bed| {
        let decided = |line: &str| line.contains("address of a tunnel") && line.contains("vxlan.calico");
        bed.log()[said..].lines().any(decided)
    });
    assert_eq!(tunnel_address(&bed).as_deref(), Some("10.66.0.0"));
    assert_eq!((blocks(&bed), on_device(&bed)), (vec![other.to_owned()], vec![other.to_owned()]));
    let findings = status(&bed).findings;
    assert!(!findings.iter().any(|finding| finding.object == "Interface/vxlan.calico"), "{findings:?}");
}

#[test]
fn the_filter_of_a_tunnel_that_lingers_is_not_touched_by_a_restart() {
    let mut bed = Bed::new(&[POOL, NO_BGP]);
    bed.start();
    west(&bed, "192.0.2.2/24");
    pool_mode(&bed, |pool| pool.vxlan_mode = Some(EncapMode::Always));
    bed.until("the route goes through the tunnel", is_vxlan);
    pool_mode(&bed, |pool| pool.vxlan_mode = None);
    bed.until("the tunnel lingers", |bed| status(bed).tunnels.iter().any(|one| one.up && !one.wanted));
    bed.until("nothing is masqueraded by way of it", is_plain);
    let filtered = |bed: &Bed| say(bed, "nft", "list table ip calico").contains("dport 4789");
    assert!(filtered(&bed), "{}", say(&bed, "nft", "list table ip calico"));

    bed.kill();
    let transactions = |bed: &Bed| {
        let open = || nftables::Socket::open().unwrap().generation().unwrap();
        namespace::inside(&bed.namespace, open).unwrap()
    };
    let before = transactions(&bed);
    bed.start();
    bed.until("the tunnel lingers on", |bed| status(bed).tunnels.iter().any(|one| one.up && !one.wanted));
    assert!(filtered(&bed));
    assert_eq!(transactions(&bed), before, "not even for a moment");
}
