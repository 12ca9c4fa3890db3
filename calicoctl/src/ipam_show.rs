//! `calicoctl ipam show`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use calico_api::{IPAMBlockSpec, IPAMConfigurationSpec, IPPoolSpec, IPReservationSpec, Key, Kind};
use calico_datastore::{Error, Fault, Filter, List, Store};
use ipam::{Holder, PoolUsage, Reservations};
use ipnet::IpNet;

use crate::arguments::{Globals, IpamShow};
use crate::output::{Align, boxed};
use crate::{client, output};

/// Runs it.
pub(crate) async fn run(flags: &IpamShow, globals: &Globals) -> Result<ExitCode> {
    let address = match flags.ip.as_deref().map(|text| (text, text.parse::<IpAddr>())) {
        None => None,
        Some((_, Ok(address))) => Some(address),
        Some((text, Err(_))) => {
            output::print(&format!("Error executing command: invalid IP address specified: {text}\n"))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let store = client::open_gated(globals).await?;
    if let Some(address) = address {
        let blocks = list::<IPAMBlockSpec>(&store).await?;
        output::print(&holder_text(address, ipam::who_has(&blocks.items, address)))?;
        return tell_faults(&blocks.faults);
    }
    if flags.show_configuration {
        output::print(&configuration_table(&configuration(&store).await?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (pools, blocks) = (list::<IPPoolSpec>(&store).await?, list::<IPAMBlockSpec>(&store).await?);
    let reserved = list::<IPReservationSpec>(&store).await?;
    let ranges = reserved.items.iter().flat_map(|item| item.spec.reserved_cidrs.iter().flatten());
    let reservations: Reservations = ranges.filter_map(|range| network(range)).collect();
    output::print(&usage_table(&ipam::usage(&pools.items, &blocks.items, &reservations), flags.show_blocks))?;
    let mut faults = [pools.faults, blocks.faults, reserved.faults].concat();
    let unsound = blocks.items.iter().filter_map(|block| {
        let fault = ipam::block::check_usable(&block.spec).err()?;
        let key = block.key();
        Some(Fault { kind: key.kind(), name: key.name(), key: Some(key), reason: fault.to_string() })
    });
    faults.extend(unsound);
    tell_faults(&faults)
}

/// A range as users write it: a network, or a single address.
fn network(range: &str) -> Option<IpNet> {
    range.parse().ok().or_else(|| range.parse::<IpAddr>().ok().map(IpNet::from))
}

async fn list<S: calico_api::Spec>(store: &Store) -> Result<List<S>> {
    store.list::<S>(&Filter::All).await.with_context(|| format!("cannot list {}", S::KIND.plural()))
}

async fn configuration(store: &Store) -> Result<IPAMConfigurationSpec> {
    match store.get::<IPAMConfigurationSpec>(&Key::named(Kind::IPAMConfiguration, "default")).await {
        Ok(configuration) => Ok(configuration.spec),
        Err(Error::NotFound(_)) => Ok(IPAMConfigurationSpec::default()),
        Err(error) => Err(error.into()),
    }
}

/// Says what could not be read; everything else was shown.
fn tell_faults(faults: &[Fault]) -> Result<ExitCode> {
    for fault in faults {
        output::errors(&format!("{}\n", Error::Corrupt(fault.clone())))?;
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn usage_table(pools: &[PoolUsage], blocks: bool) -> String {
    let header = [
        ("GROUPING", Align::Left),
        ("CIDR", Align::Left),
        ("IPS TOTAL", Align::Right),
        ("IPS IN USE", Align::Right),
        ("IPS RESERVED", Align::Right),
        ("IPS FREE", Align::Right),
    ];
    let row = |grouping: &str, cidr: String, total: u128, in_use: u128, reserved: u128, free: u128| {
        let share = |part| format!("{} ({}%)", short(part), percent(part, total));
        vec![grouping.to_owned(), cidr, short(total), share(in_use), share(reserved), share(free)]
    };
    let mut rows = Vec::new();
    for pool in pools {
        // Blocks of no pool have no pool's row.
        if pool.name != ipam::usage::ORPHANED {
            rows.push(row("IP Pool", pool.cidr.to_string(), pool.total, pool.in_use, pool.reserved, pool.free));
        }
        for block in pool.blocks.iter().filter(|_| blocks) {
            rows.push(row("Block", block.cidr.to_string(), block.total, block.in_use, block.reserved, block.free));
        }
    }
    boxed(&header, &rows)
}

/// As C's `%.5g` prints a count.
#[expect(clippy::cast_precision_loss, reason = "five digits are shown")]
fn short(count: u128) -> String {
    if count < 100_000 {
        return count.to_string();
    }
    let number = format!("{:.4e}", count as f64);
    match number.split_once('e') {
        Some((digits, exponent)) => {
            let digits = digits.trim_end_matches('0').trim_end_matches('.');
            format!("{digits}e+{exponent:0>2}")
        }
        None => number,
    }
}

/// Rounded to a whole number.
fn percent(part: u128, total: u128) -> u128 {
    part.saturating_mul(100).saturating_add(total / 2).checked_div(total).unwrap_or(0)
}

fn holder_text(address: IpAddr, holder: Option<Holder>) -> String {
    let Some(holder) = holder else {
        return format!("{address} is not assigned\n");
    };
    if let Some(released) = &holder.released_at {
        return format!("{address} is not assigned\nIt was released at {released} and cools down.\n");
    }
    let mut text = format!("IP {address} is in use\nHandle ID: {}\n", holder.handle.as_deref().unwrap_or("<none>"));
    let attributes = |title: &str, map: &BTreeMap<String, String>| {
        map.iter().fold(format!("{title}:\n"), |text, (key, value)| format!("{text}  {key}: {value}\n"))
    };
    if holder.attributes.is_empty() {
        text += "No Active Owner attributes defined\n";
    } else {
        text += &attributes("Active Owner Attributes", &holder.attributes);
    }
    if !holder.alternate_attributes.is_empty() {
        text += &attributes("Alternate Owner Attributes", &holder.alternate_attributes);
    }
    text
}

fn configuration_table(it: &IPAMConfigurationSpec) -> String {
    let rows = [
        ("StrictAffinity", it.strict_affinity.to_string()),
        ("AutoAllocateBlocks", it.auto_allocate_blocks.to_string()),
        ("MaxBlocksPerHost", it.max_blocks_per_host.unwrap_or(0).to_string()),
        (
            "KubeVirtVMAddressPersistence",
            it.kube_virt_vm_address_persistence.clone().unwrap_or_else(|| "Enabled".into()),
        ),
        ("IPCooldownSeconds", it.ip_cooldown_seconds.unwrap_or(0).to_string()),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    boxed(&[("PROPERTY", Align::Left), ("VALUE", Align::Left)], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipam::BlockUsage;

    #[test]
    fn numbers_are_as_go_prints_them() {
        assert_eq!(short(65536), "65536");
        assert_eq!(short(1 << 64), "1.8447e+19");
        assert_eq!(short(1_048_576), "1.0486e+06");
        assert_eq!(short(100_000), "1e+05");
        assert_eq!((percent(12, 64), percent(12, 65536), percent(65524, 65536), percent(1, 0)), (19, 0, 100, 0));
    }

    #[test]
    fn the_table_is_that_of_the_tip() {
        let pool: ipnet::IpNet = "10.20.0.0/16".parse().unwrap();
        let block = BlockUsage {
            cidr: "10.20.8.64/26".parse().unwrap(),
            owner: None,
            total: 64,
            in_use: 12,
            reserved: 0,
            free: 52,
        };
        let usage = PoolUsage {
            name: "a".into(),
            cidr: pool,
            total: 65536,
            in_use: 12,
            reserved: 4,
            free: 65520,
            blocks: vec![block],
        };
        let expected = "\
+----------+---------------+-----------+------------+--------------+--------------+
| GROUPING | CIDR          | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE     |
+----------+---------------+-----------+------------+--------------+--------------+
| IP Pool  | 10.20.0.0/16  |     65536 |    12 (0%) |       4 (0%) | 65520 (100%) |
| Block    | 10.20.8.64/26 |        64 |   12 (19%) |       0 (0%) |     52 (81%) |
+----------+---------------+-----------+------------+--------------+--------------+
";
        assert_eq!(usage_table(&[usage], true), expected);
    }

    #[test]
    fn a_held_address_tells_by_whom() {
        let address = "10.20.8.66".parse().unwrap();
        assert_eq!(holder_text(address, None), "10.20.8.66 is not assigned\n");
        let holder = Holder {
            block: "10.20.8.64/26".parse().unwrap(),
            handle: Some("k8s-pod-network.0a1b2c".into()),
            attributes: [("pod".to_owned(), "cart".to_owned()), ("namespace".to_owned(), "shop".to_owned())].into(),
            alternate_attributes: BTreeMap::new(),
            released_at: None,
            sequence_number: 1,
        };
        let expected = "\
IP 10.20.8.66 is in use
Handle ID: k8s-pod-network.0a1b2c
Active Owner Attributes:
  namespace: shop
  pod: cart
";
        assert_eq!(holder_text(address, Some(holder)), expected);
    }
}
