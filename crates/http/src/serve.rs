//! The listener: connections are served until the stop, and then finish what they have begun.

use std::{sync::Arc, time::Duration};

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{App, layers::Peer, routes};

/// How long a client may take to send a request's head. (Its body has a limit of its own.)
const HEAD_TIME: Duration = Duration::from_secs(15);
/// Pause when no connection can be taken (no file handles left).
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the API until `stop`, then waits for the requests under way.
pub async fn serve(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    run(listener, routes::api(&app), stop).await;
}

/// Serves health, and metrics to whoever has the token, until `stop`: for a process that only works.
pub async fn serve_worker(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    run(listener, routes::worker(&app), stop).await;
}

/// Serves metrics and health until `stop`, for a listener that only the operator's network reaches.
pub async fn serve_metrics(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    run(listener, routes::operations(&app), stop).await;
}

async fn run(listener: TcpListener, router: Router, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => (stream, peer.ip()),
                Err(e) => {
                    tracing::warn!(error = %e, "a connection could not be taken");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        connection(stream, Peer(peer), router.clone(), &graceful);
    }
    drop(listener);
    graceful.shutdown().await;
}

fn connection(stream: TcpStream, peer: Peer, router: Router, graceful: &GracefulShutdown) {
    // Answers are small and complete: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let service = tower::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let watched = graceful.watch(connection);
    tokio::spawn(async move {
        // A client that goes away, or sends no HTTP, concerns nobody.
        let _ = watched.await;
    });
}
