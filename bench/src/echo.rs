//! The yardstick: an axum server that does nothing but read a small JSON body and answer one. What it answers a second on
//! this machine, with this load, is what every throughput is a share of. It runs in a process of its own, as Raven does.

use std::io::{Read, Write};

use anyhow::Result;
use axum::{Json, Router, http::StatusCode, routing::post, serve::ListenerExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Deserialize)]
struct Message {
    channel: String,
    to: String,
    body: String,
}

#[derive(Serialize)]
struct Accepted {
    id: Uuid,
    status: &'static str,
    channel: String,
    to: String,
    body: String,
}

async fn accept(Json(message): Json<Message>) -> (StatusCode, Json<Accepted>) {
    let Message { channel, to, body } = message;
    (StatusCode::ACCEPTED, Json(Accepted { id: Uuid::from_u128(7), status: "queued", channel, to, body }))
}

/// Serves on a free port, which is printed, until standard input ends: whoever started it is gone then.
pub(crate) fn run() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
        std::io::stdout().flush()?;
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, Router::new().route("/v1/messages", post(accept))).await?;
        Ok(())
    })
}
