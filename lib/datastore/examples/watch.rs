//! Opens the store that the environment names, prints all pools, and then every change of one.
//!
//! `DATASTORE_TYPE=sqlite SQLITE_PATH=:memory: cargo run -p calico-datastore --example watch`

use std::io::Write;

use calico_api::{IPPoolSpec, Kind};
use calico_datastore::watch::{Update, watch};
use calico_datastore::{Config, Error, Filter, connect, decode, ensure_initialized};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_environment(|name| std::env::var(name).ok())?;
    let mut out = std::io::stdout();
    let store = connect(&config).await?;
    ensure_initialized(&store).await?;
    writeln!(out, "watching {}; end with Ctrl-C", store.backend().describe())?;

    let mut updates = watch(&store, vec![(Kind::IPPool, Filter::All)]);
    while let Some(update) = updates.recv().await {
        match update {
            Update::Put(entry) => match decode::<IPPoolSpec>(entry) {
                Ok(pool) => writeln!(out, "{} is {}", pool.name(), pool.spec.cidr)?,
                Err(Error::Corrupt(fault)) => writeln!(out, "{} cannot be read: {}", fault.name, fault.reason)?,
                Err(error) => return Err(error.into()),
            },
            Update::Delete(key) => writeln!(out, "{} is gone", key.name())?,
            Update::Fault(fault) => writeln!(out, "{} cannot be read: {}", fault.name, fault.reason)?,
            Update::InSync => writeln!(out, "that was all; now changes")?,
            Update::Trouble(Some(reason)) => writeln!(out, "trouble: {reason}")?,
            Update::Trouble(None) => writeln!(out, "the trouble is over")?,
        }
    }
    Ok(())
}
