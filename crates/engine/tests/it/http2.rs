//! Calls over HTTP/2, for providers that insist on it.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use raven_engine::transport::{CALL_CAP, ExtraRoots, Transport};
use tokio::net::TcpListener;

/// A server that speaks nothing but HTTP/2, and counts its connections.
async fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let (address, connections) = (listener.local_addr().expect("an address"), Arc::new(AtomicUsize::new(0)));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(async |request: Request<hyper::body::Incoming>| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(format!("{:?} {}", request.version(), request.uri().path())))))
            });
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, connections)
}

#[tokio::test]
async fn requests_of_version_2_share_one_connection_and_the_others_do_not_use_it() {
    let (address, connections) = server().await;
    let transport = Transport::new(&ExtraRoots::default(), CALL_CAP).expect("a transport");
    let request =
        |n: usize, version| Request::post(format!("http://{address}/{n}")).version(version).body(Bytes::from("x")).expect("a request");
    transport.call(request(0, Version::HTTP_2), Duration::ZERO).await.expect("an answer");
    let calls = (1..50).map(|n| transport.call(request(n, Version::HTTP_2), Duration::ZERO));
    for (n, answer) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.expect("an answer").body(), &Bytes::from(format!("HTTP/2.0 /{}", n + 1)));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert!(transport.call(request(0, Version::HTTP_11), Duration::ZERO).await.is_err(), "the server takes no HTTP/1.1");
}
