//! A text beside the resources, written by compare-and-swap: what several processes agree by on who of them leads.

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::{Etcd, revision};
use crate::{Error, Result, Revision};

impl Etcd {
    /// The text under `path` and its revision, if there is one. The path should be under `/calico/`, where the users
    /// that an operator has made for us have their rights.
    ///
    /// # Errors
    /// If etcd does not answer, or refuses.
    pub async fn record(&self, path: &str) -> Result<Option<(String, Revision)>> {
        let response = self.get_kv(path.to_owned(), None).await?;
        Ok(response
            .kvs()
            .first()
            .map(|kv| (String::from_utf8_lossy(kv.value()).into_owned(), revision(kv.mod_revision()))))
    }

    /// Writes a text where there is none, or in place of the one at revision `expected`; whether it was written.
    ///
    /// # Errors
    /// If etcd does not answer, or refuses.
    pub async fn put_record(&self, path: &str, text: &str, expected: Option<&Revision>) -> Result<bool> {
        let compare = match expected.map(|expected| expected.0.parse()) {
            None => Compare::version(path, CompareOp::Equal, 0),
            Some(Ok(number)) => Compare::mod_revision(path, CompareOp::Equal, number),
            Some(Err(_)) => return Ok(false),
        };
        let txn = Txn::new().when([compare]).and_then([TxnOp::put(path, text, None)]);
        let mut client = self.client.kv_client();
        let response =
            self.answer(async { client.txn(txn).await }).await.map_err(|trouble| match self.explain(&trouble) {
                Error::Unauthorized(reason) => Error::Unauthorized(format!("{path}: {reason}")),
                error => error,
            })?;
        Ok(response.succeeded())
    }
}
