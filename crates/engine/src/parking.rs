//! Messages that no config takes at present: they wait in the database, and are due again when something changed.

use raven_core::{Channel, TenantId, problem::chain};
use raven_store::Store;

/// Jobs made due in one transaction.
const CHUNK: usize = 500;

/// Makes what waits of a tenant's channel due again; how many. What the store can't do now is done by a later chore.
pub async fn unpark(store: &dyn Store, tenant: TenantId, channel: Channel) -> usize {
    let mut all = 0;
    loop {
        match store.unpark(tenant, channel, CHUNK).await {
            Ok(done) => {
                all += done;
                if done > 0 {
                    store.announce();
                }
                if done < CHUNK {
                    return all;
                }
            }
            Err(e) => {
                tracing::error!(error = chain(&e), "messages that wait for a provider config can't be woken yet");
                return all;
            }
        }
    }
}
