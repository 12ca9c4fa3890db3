//! The typed face of a back end.

use std::sync::Arc;

use calico_api::{Key, Resource, Spec};

use crate::{Backend, Entry, Error, Fault, Filter, Result, Revision, Write};

/// A store of typed resources; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

/// The resources of a kind at one revision.
#[derive(Clone, Debug)]
pub struct List<S: Spec> {
    /// Those that could be read.
    pub items: Vec<Resource<S>>,
    /// Those that could not.
    pub faults: Vec<Fault>,
    /// From where a watch continues.
    pub revision: Revision,
}

impl Store {
    /// A typed face for `backend`.
    pub fn new(backend: impl Backend + 'static) -> Self {
        Self { backend: Arc::new(backend) }
    }

    /// The back end itself, for code that handles every kind alike.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The present value under `key`.
    ///
    /// # Errors
    /// As [`Backend::get`]; [`Error::Corrupt`] also if the value is not an `S`.
    pub async fn get<S: Spec>(&self, key: &Key) -> Result<Resource<S>> {
        decode(self.backend.get(key).await?)
    }

    /// All resources of the kind that the filter lets through.
    ///
    /// # Errors
    /// As [`Backend::list`].
    pub async fn list<S: Spec>(&self, filter: &Filter) -> Result<List<S>> {
        let listing = self.backend.list(S::KIND, filter).await?;
        let mut list = List { items: Vec::new(), faults: listing.faults, revision: listing.revision };
        for entry in listing.entries {
            match decode(entry) {
                Ok(item) => list.items.push(item),
                Err(Error::Corrupt(fault)) => list.faults.push(fault),
                Err(other) => return Err(other),
            }
        }
        Ok(list)
    }

    /// Stores a resource that is not there yet; returns it as stored, with its revision.
    ///
    /// # Errors
    /// As [`Backend::create`].
    pub async fn create<S: Spec>(&self, resource: &Resource<S>) -> Result<Resource<S>> {
        let key = resource.key();
        let value = encode(&key, resource)?;
        decode(self.backend.create(&key, value).await?)
    }

    /// Replaces the version of the resource that `metadata.resource_version` names.
    ///
    /// # Errors
    /// As [`Backend::update`]; [`Error::Encode`] if the resource has no revision.
    pub async fn update<S: Spec>(&self, resource: &Resource<S>) -> Result<Resource<S>> {
        let key = resource.key();
        let value = encode(&key, resource)?;
        let revision = revision_of(&key, resource)?;
        decode(self.backend.update(&key, value, &revision).await?)
    }

    /// As [`Self::update`], for the status alone.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub async fn update_status<S: Spec>(&self, resource: &Resource<S>) -> Result<Resource<S>> {
        let key = resource.key();
        let value = encode(&key, resource)?;
        let revision = revision_of(&key, resource)?;
        decode(self.backend.update_status(&key, value, &revision).await?)
    }

    /// Deletes exactly this version of the resource.
    ///
    /// # Errors
    /// As [`Backend::delete`]; [`Error::Encode`] if the resource has no revision.
    pub async fn delete<S: Spec>(&self, resource: &Resource<S>) -> Result<()> {
        let key = resource.key();
        let revision = revision_of(&key, resource)?;
        self.backend.delete(&key, Some(&revision)).await.map(drop)
    }

    /// Deletes whatever is stored under `key`.
    ///
    /// # Errors
    /// As [`Backend::delete`].
    pub async fn delete_key(&self, key: &Key) -> Result<()> {
        self.backend.delete(key, None).await.map(drop)
    }
}

impl Write {
    /// Stores a resource that is not there yet.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn create<S: Spec>(resource: &Resource<S>) -> Result<Self> {
        let key = resource.key();
        Ok(Self::Create { value: encode(&key, resource)?, key })
    }

    /// Replaces the version of the resource that `metadata.resource_version` names.
    ///
    /// # Errors
    /// [`Error::Encode`], also if the resource has no revision.
    pub fn update<S: Spec>(resource: &Resource<S>) -> Result<Self> {
        let key = resource.key();
        Ok(Self::Update { value: encode(&key, resource)?, revision: revision_of(&key, resource)?, key })
    }

    /// Deletes exactly this version of the resource.
    ///
    /// # Errors
    /// [`Error::Encode`] if the resource has no revision.
    pub fn delete<S: Spec>(resource: &Resource<S>) -> Result<Self> {
        let key = resource.key();
        Ok(Self::Delete { revision: revision_of(&key, resource)?, key })
    }
}

/// The typed form of an entry.
///
/// # Errors
/// [`Error::Corrupt`] if its value is not an `S`.
pub fn decode<S: Spec>(entry: Entry) -> Result<Resource<S>> {
    let Entry { key, value, revision } = entry;
    match calico_api::strict::lenient_from_value::<Resource<S>>(value) {
        Ok(mut resource) => {
            resource.metadata.resource_version = Some(revision.0);
            Ok(resource)
        }
        Err(error) => {
            Err(Error::Corrupt(Fault { kind: S::KIND, name: key.name(), key: Some(key), reason: error.to_string() }))
        }
    }
}

fn encode<S: Spec>(key: &Key, resource: &Resource<S>) -> Result<serde_json::Value> {
    serde_json::to_value(resource).map_err(|error| Error::Encode { key: key.clone(), reason: error.to_string() })
}

fn revision_of<S: Spec>(key: &Key, resource: &Resource<S>) -> Result<Revision> {
    match &resource.metadata.resource_version {
        Some(revision) if !revision.is_empty() => Ok(Revision(revision.clone())),
        _ => Err(Error::Encode { key: key.clone(), reason: "it has no resourceVersion".to_owned() }),
    }
}
