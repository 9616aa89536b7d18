//! Every route there is. What is not listed here does not exist; what is listed is in the OpenAPI document.

use std::sync::Arc;

use axum::{Router, middleware::from_fn_with_state, routing::get};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    App, layers,
    resources::{
        audit_log, callbacks, catalog, explain, health, inbound_messages, invitations, keys, me, members, messages, provider_test,
        providers, sandbox, suppression_files, suppressions, tenant, tenants, unsubscribe, usage,
    },
};

/// The API's routes, with their documentation.
#[must_use]
pub fn documented() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(messages::send, messages::list))
        .routes(routes!(messages::find))
        .routes(routes!(explain::explain))
        .routes(routes!(sandbox::list))
        .routes(routes!(messages::send_as_human, messages::list_as_human))
        .routes(routes!(messages::find_as_human))
        .routes(routes!(explain::explain_as_human))
        .routes(routes!(me::me))
        .routes(routes!(tenants::create, tenants::list))
        .routes(routes!(tenant::find, tenant::update))
        .routes(routes!(tenant::suspend))
        .routes(routes!(tenant::reactivate))
        .routes(routes!(tenant::archive))
        .routes(routes!(tenant::restore))
        .routes(routes!(tenant::transfer))
        .routes(routes!(members::list, invitations::create))
        .routes(routes!(members::update, members::remove))
        .routes(routes!(invitations::list))
        .routes(routes!(invitations::revoke))
        .routes(routes!(invitations::list_own))
        .routes(routes!(invitations::accept))
        .routes(routes!(invitations::decline))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::find, keys::update, keys::revoke))
        .routes(routes!(keys::rotate))
        .routes(routes!(usage::find))
        .routes(routes!(audit_log::list))
        .routes(routes!(catalog::catalog))
        .routes(routes!(providers::create, providers::list))
        .routes(routes!(providers::find, providers::update, providers::delete))
        .routes(routes!(providers::verify))
        .routes(routes!(provider_test::send))
        .routes(routes!(inbound_messages::list))
        .routes(routes!(inbound_messages::list_as_human))
        .routes(routes!(callbacks::to_tenant, callbacks::ask_tenant))
        .routes(routes!(callbacks::to_config, callbacks::ask_config))
        .routes(routes!(callbacks::to_config_with_token, callbacks::ask_config_with_token))
        .routes(routes!(suppressions::create, suppressions::list))
        .routes(routes!(suppressions::delete))
        .routes(routes!(suppression_files::export))
        .routes(routes!(suppression_files::import))
        .routes(routes!(unsubscribe::show, unsubscribe::unsubscribe))
        .routes(routes!(health::openapi))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// The API.
pub(crate) fn api(app: &Arc<App>) -> Router {
    let (router, _) = documented().split_for_parts();
    finish(router, app)
}

/// Health, and metrics with the token: what a process that only works has on the API's address.
pub(crate) fn worker(app: &Arc<App>) -> Router {
    let router =
        Router::new().route("/metrics", get(health::metrics)).route("/healthz", get(health::healthz)).route("/readyz", get(health::readyz));
    finish(router, app)
}

/// Metrics and health alone, no token needed.
pub(crate) fn operations(app: &Arc<App>) -> Router {
    let router = Router::new()
        .route("/metrics", get(health::open_metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz));
    finish(router, app)
}

fn finish(router: Router<Arc<App>>, app: &Arc<App>) -> Router {
    router
        .fallback(layers::no_route)
        .method_not_allowed_fallback(layers::no_method)
        .layer(from_fn_with_state(app.clone(), layers::surround))
        .with_state(app.clone())
}

/// The API as a service in memory, for tests.
pub fn service(app: &Arc<App>) -> Router {
    api(app)
}
