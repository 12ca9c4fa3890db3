//! What every store must do, of either API group.

use super::*;

/// One API group of the server of this file, as a store that must do what every store does.
struct Subject {
    server: Mutex<MutexGuard<'static, ApiServer>>,
    group: Group,
    store: Store,
}

impl Subject {
    async fn new(group: Group) -> Self {
        let server = server().await;
        server.create_namespace(integration::conformance::NAMESPACE).unwrap();
        let store = open(&server, group).await;
        // A server that an earlier check restarted fills its caches at the first watch of a kind, and knows nothing of
        // what was before that: a check that lists, writes and then watches would be told so.
        for kind in [Kind::IPPool, Kind::BGPPeer, Kind::NetworkSet, Kind::IPAMBlock, Kind::BlockAffinity] {
            let from_whenever = Revision("0".to_owned());
            store.backend().watch(kind, &Filter::All, &from_whenever).await.map(drop).unwrap();
        }
        Self { server: Mutex::new(server), group, store }
    }
}

impl integration::conformance::Subject for Subject {
    fn store(&self) -> &Store {
        &self.store
    }

    fn makes(&self, kind: Kind) -> bool {
        !matches!(kind, Kind::Node | Kind::Profile | Kind::WorkloadEndpoint) && !kind.is_core()
    }

    fn watches(&self, kind: Kind) -> bool {
        kind != Kind::IPAMHandle
    }

    async fn spoil(&self, block: &Key) -> anyhow::Result<()> {
        let server = self.server.lock().await;
        let path = path(self.group, "ipamblocks", &block.name());
        let mut object = server.request("GET", &path, &Value::Null)?;
        object["spec"]["unallocated"] = json!([-1]);
        server.request("PUT", &path, &object).map(drop)
    }

    /// A server that has just been started remembers nothing of what was before.
    async fn compact(&self) -> anyhow::Result<()> {
        let mut server = self.server.lock().await;
        server.kill()?;
        server.restart()
    }

    async fn take_away(&self) -> anyhow::Result<()> {
        self.server.lock().await.kill()
    }

    async fn give_back(&self) -> anyhow::Result<()> {
        self.server.lock().await.restart()
    }
}

mod classic {
    integration::conformance!(super::Subject::new(super::Group::Classic));
}

mod native {
    integration::conformance!(super::Subject::new(super::Group::Native));
}
